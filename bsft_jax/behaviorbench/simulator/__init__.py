"""Simulator of clinical cases and the medical tables it draws from."""
