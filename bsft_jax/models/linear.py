"""Linear maps, with the one form of their backward pass that a CPU needs to be fast."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


@jax.custom_vjp
def product(x_BTI: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """`x @ kernel`, [B, T, I] and [I, O] to [B, T, O]."""
    return jnp.einsum('BTI,IO->BTO', x_BTI, kernel_IO)


def _forward(x_BTI, kernel_IO):
    return product(x_BTI, kernel_IO), (x_BTI, kernel_IO)


def _kernel_gradient(x_BTI: jax.Array, dy_BTO: jax.Array) -> jax.Array:
    return jnp.einsum('BTI,BTO->IO', x_BTI, dy_BTO)


def _kernel_gradient_cpu(x_BTI: jax.Array, dy_BTO: jax.Array) -> jax.Array:
    """The same. XLA's CPU product is fastest with few rows in its result, and without what made `dy` fused
    into the transposed copy that it takes."""
    dy_BTO = jax.lax.optimization_barrier(dy_BTO)
    if dy_BTO.shape[-1] < x_BTI.shape[-1]:
        return jnp.einsum('BTO,BTI->OI', dy_BTO, x_BTI).T
    return _kernel_gradient(x_BTI, dy_BTO)


def _backward(saved, dy_BTO):
    x_BTI, kernel_IO = saved
    dkernel_IO = jax.lax.platform_dependent(x_BTI, dy_BTO, cpu=_kernel_gradient_cpu, default=_kernel_gradient)
    return jnp.einsum('BTO,IO->BTI', dy_BTO, kernel_IO), dkernel_IO


product.defvjp(_forward, _backward)


class Linear(nnx.Module):
    """`x @ kernel + bias` in `dtype`; the kernel [I, O] is drawn from a normal distribution of `std`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, std: float, dtype, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.dtype = dtype

    def __call__(self, x_BTI: jax.Array) -> jax.Array:
        y_BTO = product(x_BTI.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return y_BTO if self.bias is None else y_BTO + self.bias[...].astype(self.dtype)
