"""Products of activations with weights and with each other: their precision, what they round, and how a CPU does them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata


def precision_for(dtype) -> str | None:
    """The precision of products of this dtype: float32 means float32, also where a TPU or GPU would round."""
    return 'highest' if dtype == jnp.float32 else None


def contract(spec: str, x: jax.Array, y: jax.Array, result=None) -> jax.Array:
    """The einsum `spec` of two arrays of one dtype, in dtype `result` (default: theirs).

    A CPU rounds to bfloat16 behind the product: XLA's kernels for that (AMX) give float32 alone, and what they cannot
    do it converts to float32 first.
    """
    result = jnp.dtype(result or x.dtype)
    dot = functools.partial(jnp.einsum, spec, precision=precision_for(x.dtype))
    if result != jnp.bfloat16:
        return dot(x, y, preferred_element_type=result)
    return jax.lax.platform_dependent(
        x, y,
        cpu=lambda x, y: dot(x, y, preferred_element_type=jnp.float32).astype(result),
        default=lambda x, y: dot(x, y, preferred_element_type=result),
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x_BTI: jax.Array, kernel_IO: jax.Array, result=None) -> jax.Array:
    """`x @ kernel` in the dtype of `x`, [B, T, I] and [I, O] to [B, T, O] of dtype `result` (default: that of `x`).

    The kernel is rounded to the dtype of `x`; its gradient is not, and has the dtype the kernel is held in.
    """
    return _product(x_BTI, kernel_IO, result)


def _product(x_BTI, kernel_IO, result):
    return contract('BTI,IO->BTO', x_BTI, kernel_IO.astype(x_BTI.dtype), result)


def _forward(x_BTI, kernel_IO, result):
    return _product(x_BTI, kernel_IO, result), (x_BTI, kernel_IO)


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """`xᵀ dy` [I, O] of [..., I] and [..., O], summed over tokens in float32, whatever the dtype of the two."""
    return jax.lax.platform_dependent(x, dy, cpu=_kernel_gradient_cpu, default=_kernel_gradient)


def _kernel_gradient(x: jax.Array, dy: jax.Array, spec: str = '...I,...O->IO') -> jax.Array:
    return contract(spec, x, dy, jnp.float32)


def _kernel_gradient_cpu(x: jax.Array, dy: jax.Array) -> jax.Array:
    """XLA's CPU product is fastest with few rows in its result, and with its left side transposed before, by itself.

    The barrier keeps XLA from turning the product around.
    """
    x_NI, dy_NO = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])

    def transposed(left_NI, right_NO):
        return _kernel_gradient(_turned(left_NI), right_NO, 'IN,NO->IO')

    if dy.shape[-1] < x.shape[-1]:
        return jax.lax.optimization_barrier(transposed(dy_NO, x_NI)).T
    return transposed(x_NI, dy_NO)


def _turned(x: jax.Array) -> jax.Array:
    """The last two dimensions swapped, on a CPU at the speed of memory.

    A function that stays one in the program: else XLA makes what it copies in the same loop, and with strides that
    takes five times as long. In bfloat16 two halves, joined: XLA has no kernel for a product of something that it sees
    turned around, and would convert it to float32.
    """
    halves = 2 if x.dtype == jnp.bfloat16 and x.shape[-1] % 2 == 0 else 1
    with set_xla_metadata(inlineable='false'):
        return jnp.concatenate([_swapped(part) for part in jnp.split(x, halves, -1)], -2)


@jax.jit
def _swapped(x):
    return jnp.swapaxes(x, -1, -2)


def _backward(result, saved, dy_BTO):
    x_BTI, kernel_IO = saved
    dy_BTO = dy_BTO.astype(x_BTI.dtype)
    dkernel_IO = kernel_gradient(x_BTI, dy_BTO)
    dx_BTI = contract('BTO,IO->BTI', dy_BTO, kernel_IO.astype(x_BTI.dtype))
    return dx_BTI, dkernel_IO.astype(kernel_IO.dtype)


product.defvjp(_forward, _backward)


SCORES = 'BKRH,BKSH->BKRS'  # of attention: rows of queries by keys
VALUES = 'BKRS,BKSH->BKRH'  # and their scores by values


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def attended(spec: str, left: jax.Array, right_BKSH: jax.Array, result=None) -> jax.Array:
    """One of attention's two products, SCORES or VALUES, in dtype `result` (default: that of its factors)."""
    return contract(spec, left, right_BKSH, result)


def _attended_backward(spec, result, saved, d):
    left, right_BKSH = saved
    d = d.astype(right_BKSH.dtype)
    if spec == SCORES:
        dleft, dright = attended(VALUES, d, right_BKSH, result), across(d, left, result)
    else:
        dleft, dright = attended(SCORES, d, right_BKSH, result), across(left, d, result)
    return dleft.astype(left.dtype), dright.astype(right_BKSH.dtype)


attended.defvjp(
    lambda spec, left, right, result: (attended(spec, left, right, result), (left, right)), _attended_backward
)


def across(x_BKRS: jax.Array, y_BKRH: jax.Array, result=None) -> jax.Array:
    """`xᵀ y` [B, K, S, H], summed over rows of queries: the gradients of keys and of values."""
    # In the other form XLA's CPU product runs on one thread.
    return jax.lax.platform_dependent(
        x_BKRS, y_BKRH,
        cpu=lambda x, y: contract('BKSR,BKRH->BKSH', _turned(x), y, result),
        default=lambda x, y: contract('BKRS,BKRH->BKSH', x, y, result),
    )  # fmt: skip
