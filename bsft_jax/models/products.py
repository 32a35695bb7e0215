"""Products of activations with weights: their precision, and a backward pass that says what it rounds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


def precision_for(dtype) -> str | None:
    """The precision of products of this dtype: float32 means float32, also where a TPU or GPU would round."""
    return 'highest' if dtype == jnp.float32 else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x_BTI: jax.Array, kernel_IO: jax.Array, result=None) -> jax.Array:
    """`x @ kernel` in the dtype of `x`, [B, T, I] and [I, O] to [B, T, O] of dtype `result` (default: that of `x`).

    The kernel is rounded to the dtype of `x`; its gradient is not, and has the dtype the kernel is held in.
    """
    return _product(x_BTI, kernel_IO, result)


def _product(x_BTI, kernel_IO, result):
    return jnp.einsum(
        'BTI,IO->BTO',
        x_BTI,
        kernel_IO.astype(x_BTI.dtype),
        precision=precision_for(x_BTI.dtype),
        preferred_element_type=result,
    )


def _forward(x_BTI, kernel_IO, result):
    return _product(x_BTI, kernel_IO, result), (x_BTI, kernel_IO)


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """`xᵀ dy` [I, O] of [..., I] and [..., O], summed over tokens in float32, whatever the dtype of the two."""
    return jax.lax.platform_dependent(x, dy, cpu=_kernel_gradient_cpu, default=_kernel_gradient)


def _kernel_gradient(x: jax.Array, dy: jax.Array, spec: str = '...I,...O->IO') -> jax.Array:
    return jnp.einsum(spec, x, dy, precision=precision_for(x.dtype), preferred_element_type=jnp.float32)


def _kernel_gradient_cpu(x: jax.Array, dy: jax.Array) -> jax.Array:
    """XLA's CPU product is fastest with few rows in its result, and with its left side transposed before, by itself.

    The barriers keep XLA from fusing what made `dy` into the transposed copy, and from turning the product around.
    """
    x_NI, dy_NO = x.reshape(-1, x.shape[-1]), jax.lax.optimization_barrier(dy.reshape(-1, dy.shape[-1]))

    def transposed(left_NI, right_NO):
        left_IN = jax.lax.optimization_barrier(left_NI.T)
        return _kernel_gradient(left_IN, right_NO, 'IN,NO->IO')

    if dy.shape[-1] < x.shape[-1]:
        return jax.lax.optimization_barrier(transposed(dy_NO, x_NI)).T
    return transposed(x_NI, dy_NO)


def _backward(result, saved, dy_BTO):
    x_BTI, kernel_IO = saved
    dy_BTO = dy_BTO.astype(x_BTI.dtype)
    dkernel_IO = kernel_gradient(x_BTI, dy_BTO)
    dx_BTI = jnp.einsum(
        'BTO,IO->BTI', dy_BTO, kernel_IO.astype(x_BTI.dtype), precision=precision_for(x_BTI.dtype)
    )
    return dx_BTI, dkernel_IO.astype(kernel_IO.dtype)


product.defvjp(_forward, _backward)
