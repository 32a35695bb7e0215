"""Linear maps, with the one form of their backward pass that a CPU needs to be fast."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.models.lora import Lora, LoraSpec


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
    """`x @ kernel + bias` in `dtype`; the kernel [I, O] is drawn from a normal distribution of `std`.

    A `quantized` kernel is int8 with a `kernel_scale` per output, and `adapter` adds a LoRA product.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool,
        std: float,
        dtype,
        rngs: nnx.Rngs,
        quantized: bool = False,
        adapter: LoraSpec | None = None,
    ):
        kernel_IO = std * jax.random.normal(rngs.params(), (inputs, outputs))
        kernel_IO, scale_O = quantize(kernel_IO) if quantized else (kernel_IO, None)
        self.kernel = nnx.Param(kernel_IO)
        self.kernel_scale = nnx.Param(scale_O) if quantized else None
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.lora = Lora(inputs, outputs, adapter, dtype, rngs) if adapter else None
        self.dtype = dtype

    def __call__(self, x_BTI: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The map's result [B, T, O]; `key` is for the adapter's dropout."""
        x_BTI = x_BTI.astype(self.dtype)
        y_BTO = product(x_BTI, self.kernel[...].astype(self.dtype))
        if self.kernel_scale is not None:
            y_BTO = (y_BTO.astype(jnp.float32) * self.kernel_scale[...]).astype(self.dtype)
        if self.bias is not None:
            y_BTO += self.bias[...].astype(self.dtype)
        return y_BTO if self.lora is None else y_BTO + self.lora(x_BTI, key)


def quantize(kernel_IO: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A kernel as int8 and one float32 scale per output: |error| ≤ scale / 2; also stacked in front."""
    kernel_IO = kernel_IO.astype(jnp.float32)
    scale_O = jnp.maximum(jnp.max(jnp.abs(kernel_IO), axis=-2), 1e-30) / 127.0
    return jnp.round(kernel_IO / scale_O[..., None, :]).astype(jnp.int8), scale_O


def dequantize(kernel_IO: jax.Array, scale_O: jax.Array) -> jax.Array:
    """The float32 kernel that a quantized one stands for."""
    return kernel_IO.astype(jnp.float32) * scale_O[..., None, :]
