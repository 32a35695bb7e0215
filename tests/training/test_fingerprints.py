"""Tests of fingerprints: every change of an array changes its fingerprint."""

import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.training import fingerprints


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32'])
def test_fingerprints_see_every_single_bit_change(dtype):
    value = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)) * 100, dtype)
    marks = fingerprints.compute({'x': value})
    for index in range(35):
        bits = np.array(value).reshape(-1).copy()
        view = bits.view(np.uint8)
        view[index * value.dtype.itemsize] ^= 1
        assert fingerprints.compute({'x': jnp.asarray(bits.reshape(5, 7))}) != marks
    swapped = np.array(value)
    swapped[0], swapped[1] = swapped[1].copy(), swapped[0].copy()
    assert fingerprints.changed(marks, fingerprints.compute({'x': jnp.asarray(swapped)})) == ['x']


def test_fingerprints_see_what_changes_many_elements_alike():
    """Tests stuck or flipped signs and bits set in a run of elements, whose sum may not cancel."""
    value = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)
    marks = fingerprints.compute({'x': jnp.asarray(value)})
    changed = [-value, np.abs(value), np.zeros_like(value)]
    for first in range(0, 1024, 8):
        for bits in (0x80000000, 0xC0000000, 0x40000000):
            burst = value.reshape(-1).view(np.uint32).copy()
            burst[first : first + 16] ^= np.uint32(bits)
            changed.append(burst.view(np.float32).reshape(value.shape))
    for other in changed:
        assert fingerprints.compute({'x': jnp.asarray(other)}) != marks
