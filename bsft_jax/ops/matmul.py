"""Matmuls of activations with weights and with each other, with explicit precision and rounding.

Each has gradients of its own (`jax.custom_vjp`), which fix the dtype that gradients are summed in.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from bsft_jax.ops import cpu
from bsft_jax.ops.hlo_names import SCORES_EINSUM
from bsft_jax.ops.precision import einsum

# The two matmuls of attention: queries by keys, and their scores by values.
SCORES = SCORES_EINSUM
VALUES = 'BKQS,BKSH->BKQH'


def einsum_accumulate(spec: str, x: jax.Array, y: jax.Array, dtype=None) -> jax.Array:
    """Returns the einsum of two arrays of one dtype, in `dtype` (default: theirs)."""
    dtype = jnp.dtype(dtype or x.dtype)
    plain = functools.partial(einsum, spec, dtype=dtype)
    if dtype != jnp.bfloat16:
        return plain(x, y)
    return cpu.choose(plain, functools.partial(cpu.einsum_then_round, spec, dtype=dtype), x, y)


# Linear maps.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear_matmul(x_BTI: jax.Array, kernel_IO: jax.Array, dtype=None) -> jax.Array:
    """Returns `x @ kernel` [B, T, O] in `dtype` (default: that of `x`), computed in that of `x`.

    The kernel is rounded to the dtype of `x`. Its gradient is not rounded: it is summed in float32
    and has the dtype that the kernel is held in.
    """
    return plain_linear_matmul(x_BTI, kernel_IO, dtype)


def plain_linear_matmul(x_BTI: jax.Array, kernel_IO: jax.Array, dtype=None) -> jax.Array:
    """Returns `linear_matmul` for the forward passes of custom gradients.

    A rematerialization policy sees the matmul in it. It would not see one with gradients of its
    own, and that would be computed again.
    """
    return einsum_accumulate('BTI,IO->BTO', x_BTI, kernel_IO.astype(x_BTI.dtype), dtype)


def _linear_forward(x_BTI, kernel_IO, dtype):
    return plain_linear_matmul(x_BTI, kernel_IO, dtype), (x_BTI, kernel_IO)


def _linear_backward(dtype, residuals, dy_BTO):
    x_BTI, kernel_IO = residuals
    dy_BTO = dy_BTO.astype(x_BTI.dtype)
    dkernel_IO = kernel_gradient(x_BTI, dy_BTO)
    dx_BTI = einsum_accumulate('BTO,IO->BTI', dy_BTO, kernel_IO.astype(x_BTI.dtype))
    return dx_BTI, dkernel_IO.astype(kernel_IO.dtype)


linear_matmul.defvjp(_linear_forward, _linear_backward)


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns `xᵀ dy` [I, O] of [..., I] and [..., O], summed over tokens in float32."""
    return cpu.choose(plain_kernel_gradient, cpu.kernel_gradient, x, dy)


def plain_kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns `kernel_gradient` as one einsum, the form for every platform but CPUs."""
    return einsum_accumulate('...I,...O->IO', x, dy, jnp.float32)


# Attention.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def attention_matmul(spec: str, left: jax.Array, right_BKSH: jax.Array, dtype=None) -> jax.Array:
    """Returns the einsum SCORES or VALUES in `dtype` (default: that of the inputs).

    Args:
      spec: SCORES or VALUES.
      left: grouped queries [B, K, Q, H] for SCORES, probabilities [B, K, Q, S] for VALUES.
      right_BKSH: keys or values.
      dtype: dtype of the result, and of the matmuls of the backward pass.
    """
    return einsum_accumulate(spec, left, right_BKSH, dtype)


def _attention_forward(spec, left, right_BKSH, dtype):
    return attention_matmul(spec, left, right_BKSH, dtype), (left, right_BKSH)


def _attention_backward(spec, dtype, residuals, d):
    left, right_BKSH = residuals
    d = d.astype(right_BKSH.dtype)
    # Each matmul's gradient is the other matmul, and a transposed one for keys or values.
    if spec == SCORES:
        dleft = attention_matmul(VALUES, d, right_BKSH, dtype)
        dright_BKSH = attention_matmul_transposed(d, left, dtype)
    else:
        dleft = attention_matmul(SCORES, d, right_BKSH, dtype)
        dright_BKSH = attention_matmul_transposed(left, d, dtype)
    return dleft.astype(left.dtype), dright_BKSH.astype(right_BKSH.dtype)


attention_matmul.defvjp(_attention_forward, _attention_backward)


def attention_matmul_transposed(x_BKQS: jax.Array, y_BKQH: jax.Array, dtype=None) -> jax.Array:
    """Returns `xᵀ y` [B, K, S, H], summed over grouped queries: gradients of keys and of values."""
    plain = functools.partial(einsum_accumulate, 'BKQS,BKQH->BKSH', dtype=dtype)
    on_cpu = functools.partial(cpu.attention_matmul_transposed, dtype=dtype)
    return cpu.choose(plain, on_cpu, x_BKQS, y_BKQH)
