"""Benchmarks, each a script that answers one question; `results/` holds what they measured."""
