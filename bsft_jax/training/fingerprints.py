"""Fingerprints: one integer per array, and a digest per JSON value, that tell whether it changed.

Orbax silently restores a data file with flipped bytes. A checkpoint therefore carries the
fingerprints of what was saved, and a restore compares them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

from bsft_jax.pytrees import flatten

# Names the hash below; fingerprints of another kind cannot be compared.
KIND = 'murmur3'
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _mix(x: jax.Array) -> jax.Array:
    """Mixes the bits of uint32 by the finalizer of MurmurHash3 (A. Appleby), a bijection."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _fingerprint(x: jax.Array) -> jax.Array:
    """Returns Σ mix(bits_i ^ mix(i)) modulo 2³² over the elements in row-major order.

    A change of one element always changes the sum; changes of several elements cancel once in 2³²
    times. An integer sum does not depend on its order, so neither on mesh nor on processes.
    """
    bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
    # Indices count from 1, since `_mix` maps 0 to 0.
    index, stride = jnp.ones(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum(_mix(bits ^ _mix(index)), dtype=jnp.uint32)


@jax.jit
def _fingerprints(tree: Any) -> Any:
    return jax.tree.map(_fingerprint, tree)


def compute(tree: Any) -> dict[str, int]:
    """Returns `{path: fingerprint}` of every array of a tree."""
    return {
        path: int(value) for path, value in flatten(jax.device_get(_fingerprints(tree))).items()
    }


def changed(expected: dict[str, int], actual: dict[str, int]) -> list[str]:
    """Returns the paths whose fingerprints differ or that only one side has."""
    return sorted(p for p in expected.keys() | actual.keys() if expected.get(p) != actual.get(p))


def of_json(value: Any) -> str:
    """Returns the SHA-256 of a plain JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@jax.jit
def _finite(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)


def not_finite(tree: Any) -> list[str]:
    """Returns the paths of the arrays that hold NaN or infinity."""
    finite = flatten(jax.device_get(_finite(tree)))
    return sorted(path for path, value in finite.items() if not value)
