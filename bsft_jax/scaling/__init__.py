"""Fits of scaling studies: loss against parameters and tokens, macro-F1 against either; no JAX."""
