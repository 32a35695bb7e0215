"""Predictions in, numbers out; numpy only."""
