"""Second moments that are held as a row and a column per matrix, as in Adafactor.

`optax.scale_by_factored_rms` factors the two largest axes of an array. Of stacked kernels one of
them may be the layers, and which one a factor lacks depends on their sizes, so that no rule by path
could shard it. Here factors belong to the last two axes, layer by layer.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bsft_jax.pytrees import flatten, unflatten

# The values of Shazeer and Stern (arXiv 1804.04235): the decay at step t is 1 - t^-0.8, squares
# have 1e-30 added, and an update is scaled down to a root mean square of 1.
DECAY_EXPONENT, EPSILON, MAX_RMS = 0.8, 1e-30, 1.0
# Matrices with a smaller side have a full second moment, as in optax: they would save little.
MIN_SIDE = 128
# Paths of parameters whose first axis is the layer.
_STACKED = r'(layers|rest)/'


class FactoredState(NamedTuple):
    """Holds second moments, each in a nested dictionary of the parameters that have it.

    Attributes:
      count: updates done, int32.
      v_row: means over the columns of each matrix: [..., I] for a kernel [..., I, O].
      v_col: means over the rows of each matrix: [..., O].
      v: the moments of parameters that are not factored.
    """

    count: jax.Array
    v_row: dict[str, Any]
    v_col: dict[str, Any]
    v: dict[str, Any]


def scale_by_factored_rms() -> optax.GradientTransformation:
    """Returns a transformation that divides gradients by the roots of their second moments.

    The second moment of a matrix is estimated from the means of its rows and columns, and each
    update of a layer's parameter is then clipped to a root mean square of `MAX_RMS` (Shazeer and
    Stern, arXiv 1804.04235, algorithms 4 and 5 without the relative step sizes).
    """

    def init(params):
        v_row, v_col, v = {}, {}, {}
        for path, x in flatten(params).items():
            if _is_factored(path, x.shape):
                v_row[path] = jnp.zeros(x.shape[:-1], x.dtype)
                v_col[path] = jnp.zeros((*x.shape[:-2], x.shape[-1]), x.dtype)
            else:
                v[path] = jnp.zeros_like(x)
        return FactoredState(jnp.zeros((), jnp.int32), *map(unflatten, (v_row, v_col, v)))

    def update(gradients, state, params=None):
        del params
        decay = 1.0 - (state.count + 1.0) ** -DECAY_EXPONENT
        v_row, v_col, v = map(flatten, state[1:])
        updates = {}
        for path, gradient in flatten(gradients).items():
            square = gradient * gradient + EPSILON
            if path in v:
                v[path] = decay * v[path] + (1.0 - decay) * square
                scaled = gradient * jax.lax.rsqrt(v[path])
            else:
                v_row[path] = decay * v_row[path] + (1.0 - decay) * jnp.mean(square, axis=-1)
                v_col[path] = decay * v_col[path] + (1.0 - decay) * jnp.mean(square, axis=-2)
                mean = jnp.mean(v_row[path], axis=-1, keepdims=True)
                row, column = jax.lax.rsqrt(v_row[path] / mean), jax.lax.rsqrt(v_col[path])
                scaled = gradient * row[..., None] * column[..., None, :]
            updates[path] = _clip(scaled, _first_axis(path))
        state = FactoredState(state.count + 1, *map(unflatten, (v_row, v_col, v)))
        return unflatten(updates), state

    return optax.GradientTransformation(init, update)


def _first_axis(path: str) -> int:
    """Returns the first axis of a parameter that does not count layers."""
    return 1 if re.match(_STACKED, path) else 0


def _is_factored(path: str, shape: tuple[int, ...]) -> bool:
    return len(shape) - _first_axis(path) == 2 and min(shape[-2:]) >= MIN_SIDE


def _clip(update: jax.Array, first_axis: int) -> jax.Array:
    """Scales an update down to a root mean square of `MAX_RMS` over the axes from the first on."""
    axes = tuple(range(first_axis, update.ndim))
    rms = jnp.sqrt(jnp.mean(update * update, axis=axes, keepdims=True))
    return update / jnp.maximum(1.0, rms / MAX_RMS)
