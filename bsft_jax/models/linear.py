"""Linear maps with their biases, quantized kernels and adapters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.config import QUANTIZED, LoraConfig
from bsft_jax.models import quantization
from bsft_jax.models.lora import Lora, merged_matmul
from bsft_jax.ops.matmul import linear_matmul


class Linear(nnx.Module):
    """Computes `x @ kernel + bias` in `dtype`.

    The kernel [I, O] is drawn from a normal distribution with deviation `std`. A `base_dtype` of
    QUANTIZED holds it in the parts of `quantization.quantize`, and `adapter` adds a LoRA product.
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
        base_dtype: str = 'float32',
        adapter: LoraConfig | None = None,
    ):
        kernel_IO = std * jax.random.normal(rngs.params(), (inputs, outputs))
        quantized = base_dtype in QUANTIZED
        parts = quantization.quantize(kernel_IO, base_dtype) if quantized else {'kernel': kernel_IO}
        for name, part in parts.items():
            setattr(self, name, nnx.Param(part))
        self.parts = tuple(parts)
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.lora = Lora(inputs, outputs, adapter, rngs) if adapter else None
        self.dtype = dtype

    def __call__(self, x_BTI: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Returns the map's result [B, T, O]; `key` is for the adapter's dropout."""
        x_BTI, lora = x_BTI.astype(self.dtype), self.lora
        if lora is not None and lora.should_merge(x_BTI, self.kernel[...], key):
            y_BTO = merged_matmul(x_BTI, self.kernel[...], lora.a[...], lora.b[...], lora.config)
            lora = None
        elif len(self.parts) == 1:
            y_BTO = linear_matmul(x_BTI, self.kernel[...])
        else:
            parts = {name: getattr(self, name)[...] for name in self.parts}
            y_BTO = quantization.quantized_matmul(x_BTI, parts)
        if self.bias is not None:
            # In float32, or the bias's gradient would be summed over all tokens in `dtype`.
            y_BTO = (y_BTO + self.bias[...].astype(jnp.float32)).astype(self.dtype)
        return y_BTO if lora is None else y_BTO + lora(x_BTI, key)
