"""Fingerprints: one integer per array that tells whether any bit of it changed.

Orbax restores a data file with flipped bytes without a word; a checkpoint therefore carries the
fingerprints of what was saved, and a restore compares them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bsft_jax.trees import flatten

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _fingerprint(x: jax.Array) -> jax.Array:
    """Σ (2·i + 1) · bits_i modulo 2³² over the elements in row-major order.

    Odd factors are invertible modulo 2³², so a change of one element always changes the sum; an
    integer sum does not depend on its order, and so neither on mesh nor on processes.
    """
    bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
    index, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)


@jax.jit
def _fingerprints(tree: Any) -> Any:
    return jax.tree.map(_fingerprint, tree)


def compute(tree: Any) -> dict[str, int]:
    """`{path: fingerprint}` of every array of a tree."""
    return {path: int(value) for path, value in flatten(jax.device_get(_fingerprints(tree))).items()}


def changed(expected: dict[str, int], actual: dict[str, int]) -> list[str]:
    """Paths whose fingerprints differ or that only one side has."""
    return sorted(p for p in expected.keys() | actual.keys() if expected.get(p) != actual.get(p))
