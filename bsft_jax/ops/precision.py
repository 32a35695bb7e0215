"""Precision of matmuls by dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def precision_for(dtype) -> str | None:
    """Returns the matmul precision for a dtype.

    float32 is computed in float32, also where a TPU or GPU would round its inputs by default.
    """
    return 'highest' if dtype == jnp.float32 else None


def einsum(spec: str, x: jax.Array, y: jax.Array, dtype) -> jax.Array:
    """Returns the einsum of two arrays of one dtype, accumulated and returned in `dtype`."""
    return jnp.einsum(spec, x, y, precision=precision_for(x.dtype), preferred_element_type=dtype)
