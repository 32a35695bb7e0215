"""Fingerprints: one integer per array that tells whether it changed.

Orbax restores a data file with flipped bytes without a word; a checkpoint therefore carries the
fingerprints of what was saved, and a restore compares them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bsft_jax.trees import flatten

KIND = 'murmur3'  # of the sums below: those of another kind cannot be compared
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _mixed(x: jax.Array) -> jax.Array:
    """Every bit of uint32 into every other: the finalizer of MurmurHash3 (A. Appleby), which is invertible."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _fingerprint(x: jax.Array) -> jax.Array:
    """Σ mixed(bits_i ^ mixed(i)) modulo 2³² over the elements in row-major order.

    A change of one element always changes the sum, one of several goes unseen once in 2³² times. An integer sum
    does not depend on its order, and so neither on mesh nor on processes.
    """
    bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
    index, stride = jnp.ones(x.shape, jnp.uint32), 1  # from 1: `mixed` leaves 0 what it is
    for axis in reversed(range(x.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum(_mixed(bits ^ _mixed(index)), dtype=jnp.uint32)


@jax.jit
def _fingerprints(tree: Any) -> Any:
    return jax.tree.map(_fingerprint, tree)


def compute(tree: Any) -> dict[str, int]:
    """`{path: fingerprint}` of every array of a tree."""
    return {path: int(value) for path, value in flatten(jax.device_get(_fingerprints(tree))).items()}


def changed(expected: dict[str, int], actual: dict[str, int]) -> list[str]:
    """Paths whose fingerprints differ or that only one side has."""
    return sorted(p for p in expected.keys() | actual.keys() if expected.get(p) != actual.get(p))
