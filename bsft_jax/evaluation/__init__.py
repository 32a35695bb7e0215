"""What is scored, and predictions in, numbers out; no jax."""
