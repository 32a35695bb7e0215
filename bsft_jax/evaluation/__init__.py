"""Metrics and statistics: predictions in, numbers out. Numpy only, no jax."""
