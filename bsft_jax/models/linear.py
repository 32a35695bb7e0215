"""Linear maps with their biases, int8 kernels and adapters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.config import LoraConfig
from bsft_jax.models.lora import Lora, merged_matmul
from bsft_jax.ops.matmul import linear_matmul


class Linear(nnx.Module):
    """Computes `x @ kernel + bias` in `dtype`.

    The kernel [I, O] is drawn from a normal distribution with deviation `std`. A `quantized` kernel
    is int8 with a `kernel_scale` per output, and `adapter` adds a LoRA product.
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
        adapter: LoraConfig | None = None,
    ):
        kernel_IO = std * jax.random.normal(rngs.params(), (inputs, outputs))
        kernel_IO, scale_O = quantize(kernel_IO) if quantized else (kernel_IO, None)
        self.kernel = nnx.Param(kernel_IO)
        self.kernel_scale = nnx.Param(scale_O) if quantized else None
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.lora = Lora(inputs, outputs, adapter, rngs) if adapter else None
        self.dtype = dtype

    def __call__(self, x_BTI: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Returns the map's result [B, T, O]; `key` is for the adapter's dropout."""
        x_BTI, lora = x_BTI.astype(self.dtype), self.lora
        if lora is not None and lora.should_merge(x_BTI, self.kernel[...], key):
            y_BTO = merged_matmul(x_BTI, self.kernel[...], lora.a[...], lora.b[...], lora.config)
            lora = None
        elif self.kernel_scale is None:
            y_BTO = linear_matmul(x_BTI, self.kernel[...])
        else:
            y_BTO = linear_matmul(x_BTI, self.kernel[...].astype(self.dtype), jnp.float32)
            y_BTO = (y_BTO * self.kernel_scale[...]).astype(self.dtype)
        if self.bias is not None:
            # In float32, or the bias's gradient would be summed over all tokens in `dtype`.
            y_BTO = (y_BTO + self.bias[...].astype(jnp.float32)).astype(self.dtype)
        return y_BTO if lora is None else y_BTO + lora(x_BTI, key)


def quantize(kernel_IO: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a kernel as int8 and one float32 scale per output, with |error| ≤ scale / 2.

    Kernels may be stacked over layers in front.
    """
    kernel_IO = kernel_IO.astype(jnp.float32)
    scale_O = jnp.maximum(jnp.max(jnp.abs(kernel_IO), axis=-2), 1e-30) / 127.0
    return jnp.round(kernel_IO / scale_O[..., None, :]).astype(jnp.int8), scale_O


def dequantize(kernel_IO: jax.Array, scale_O: jax.Array) -> jax.Array:
    """Returns the float32 kernel that a quantized one stands for."""
    return kernel_IO.astype(jnp.float32) * scale_O[..., None, :]
