"""LoRA: a trainable product of two thin matrices beside a frozen linear map (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.models.products import kernel_gradient, product


@dataclasses.dataclass(frozen=True)
class LoraSpec:
    """Which linear maps get an adapter, and its shape.

    Attributes:
      rank: inner width of the product.
      alpha: the product is scaled by alpha / rank, or alpha / sqrt(rank) with `rank_stabilized` (rsLoRA;
        Kalajdzievski, arXiv 2312.03732).
      dropout: share of the adapter's inputs that are zeroed in training.
      targets: a regex for the whole path of a map within a layer, such as `attention/[qv]`.
    """

    rank: int = 16
    alpha: float = 32.0
    rank_stabilized: bool = False
    dropout: float = 0.0
    targets: str = '.*'

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)

    def covers(self, path: str) -> bool:
        return re.fullmatch(self.targets, path) is not None


class Lora(nnx.Module):
    """`scale · (x @ a) @ b`, a [I, r] uniform in ±I**-0.5 as in `peft`, b [r, O] zero: nothing at first."""

    def __init__(self, inputs: int, outputs: int, spec: LoraSpec, rngs: nnx.Rngs):
        bound = inputs**-0.5
        self.a = nnx.Param(
            jax.random.uniform(rngs.params(), (inputs, spec.rank), minval=-bound, maxval=bound)
        )
        self.b = nnx.Param(jnp.zeros((spec.rank, outputs)))
        self.spec = spec

    def __call__(self, x_BTI: jax.Array, key: jax.Array | None) -> jax.Array:
        """The addition to the map's result; `key` is the dropout's, None at inference."""
        if self._drops(key):
            kept = 1.0 - self.spec.dropout
            x_BTI = jnp.where(jax.random.bernoulli(key, kept, x_BTI.shape), x_BTI / kept, 0.0)
        return self.spec.scale * product(product(x_BTI, self.a[...]), self.b[...])

    def _drops(self, key) -> bool:
        return key is not None and self.spec.dropout > 0

    def merges(self, x_BTI: jax.Array, kernel_IO: jax.Array, key: jax.Array | None) -> bool:
        """Whether `merged_product` gives the map's result with fewer multiplications, and as exactly.

        A kernel of less than float32 would round most of the adapter away; split kernels and adapters would be
        gathered more often.
        """
        (I, O), mesh = kernel_IO.shape, jax.sharding.get_abstract_mesh()
        if not mesh.empty and mesh.size > 1:
            return False
        exact = x_BTI.dtype == kernel_IO.dtype == jnp.float32 and not self._drops(key)
        return exact and x_BTI.size // I * (I + O) >= I * O


def merged(kernel_IO: jax.Array, a_Ir: jax.Array, b_rO: jax.Array, spec: LoraSpec) -> jax.Array:
    """The kernel with its adapter added, also stacked over layers in front; float32."""
    return kernel_IO.astype(jnp.float32) + spec.scale * jnp.einsum(
        '...Ir,...rO->...IO', a_Ir, b_rO, precision='highest'
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def merged_product(x_BTI, kernel_IO, a_Ir, b_rO, spec: LoraSpec) -> jax.Array:
    """`x @ (kernel + scale · a @ b)` [B, T, O]: the base is read once, and nothing of the size of the result is added.

    Gradients are those of the thin products: no product of the kernel's size, unless the kernel's is asked for.
    """
    return product(x_BTI, merged(kernel_IO, a_Ir, b_rO, spec))


def _forward(x_BTI, kernel_IO, a_Ir, b_rO, spec):
    return merged_product(x_BTI, kernel_IO, a_Ir, b_rO, spec), (x_BTI, kernel_IO, a_Ir, b_rO)


def _backward(spec, saved, dy_BTO):
    x_BTI, kernel_IO, a_Ir, b_rO = saved
    dx_BTI = product(dy_BTO, merged(kernel_IO, a_Ir, b_rO, spec).T)
    da_Ir = kernel_gradient(x_BTI, spec.scale * product(dy_BTO, b_rO.T))
    db_rO = kernel_gradient(spec.scale * product(x_BTI, a_Ir), dy_BTO)
    return dx_BTI, kernel_gradient(x_BTI, dy_BTO), da_Ir, db_rO


merged_product.defvjp(_forward, _backward)
