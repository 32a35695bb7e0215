"""LoRA: a trainable low-rank product beside a frozen linear map (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.config import LoraConfig
from bsft_jax.ops.matmul import kernel_gradient, linear_matmul, plain_linear_matmul


class Lora(nnx.Module):
    """Computes `scale · (x @ a) @ b`.

    As in `peft`, a [I, r] is uniform in ±I**-0.5 and b [r, O] zero, so that a new adapter adds
    nothing.
    """

    def __init__(self, inputs: int, outputs: int, config: LoraConfig, rngs: nnx.Rngs):
        bound = inputs**-0.5
        self.a = nnx.Param(
            jax.random.uniform(rngs.params(), (inputs, config.rank), minval=-bound, maxval=bound)
        )
        self.b = nnx.Param(jnp.zeros((config.rank, outputs)))
        self.config = config

    def __call__(self, x_BTI: jax.Array, key: jax.Array | None) -> jax.Array:
        """Returns the product; `key` is for dropout, None at inference."""
        if self._has_dropout(key):
            keep = 1.0 - self.config.dropout
            x_BTI = jnp.where(jax.random.bernoulli(key, keep, x_BTI.shape), x_BTI / keep, 0.0)
        return self.config.scale * linear_matmul(linear_matmul(x_BTI, self.a[...]), self.b[...])

    def _has_dropout(self, key) -> bool:
        return key is not None and self.config.dropout > 0

    def should_merge(self, x_BTI: jax.Array, kernel_IO: jax.Array, key: jax.Array | None) -> bool:
        """Returns whether `merged_matmul` needs fewer multiplications and is as exact.

        A kernel in less than float32 would round most of the adapter away. On a mesh, sharded
        kernels and adapters would be gathered more often.
        """
        mesh = jax.sharding.get_abstract_mesh()
        if not mesh.empty and mesh.size > 1:
            return False
        if not x_BTI.dtype == kernel_IO.dtype == jnp.float32 or self._has_dropout(key):
            return False
        I, O = kernel_IO.shape
        return x_BTI.size // I * (I + O) >= I * O


def merged(kernel_IO: jax.Array, a_Ir: jax.Array, b_rO: jax.Array, config: LoraConfig) -> jax.Array:
    """Returns the kernel with its adapter added, in float32; both may be stacked over layers."""
    return kernel_IO.astype(jnp.float32) + config.scale * jnp.einsum(
        '...Ir,...rO->...IO', a_Ir, b_rO, precision='highest'
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def merged_matmul(x_BTI, kernel_IO, a_Ir, b_rO, config: LoraConfig) -> jax.Array:
    """Returns `x @ (kernel + scale · a @ b)` [B, T, O].

    The base is read once, and nothing of the size of the result is added. Gradients are those of
    the low-rank products: no matmul of the kernel's size, unless the kernel's gradient is needed.
    """
    return plain_linear_matmul(x_BTI, merged(kernel_IO, a_Ir, b_rO, config))


def _forward(x_BTI, kernel_IO, a_Ir, b_rO, config):
    y_BTO = plain_linear_matmul(x_BTI, merged(kernel_IO, a_Ir, b_rO, config))
    return y_BTO, (x_BTI, kernel_IO, a_Ir, b_rO)


def _backward(config, residuals, dy_BTO):
    x_BTI, kernel_IO, a_Ir, b_rO = residuals
    dx_BTI = linear_matmul(dy_BTO, merged(kernel_IO, a_Ir, b_rO, config).T)
    da_Ir = kernel_gradient(x_BTI, config.scale * linear_matmul(dy_BTO, b_rO.T))
    db_rO = kernel_gradient(config.scale * linear_matmul(x_BTI, a_Ir), dy_BTO)
    # Under jit the kernel's gradient is dropped where it is unused.
    return dx_BTI, kernel_gradient(x_BTI, dy_BTO), da_Ir, db_rO


merged_matmul.defvjp(_forward, _backward)
