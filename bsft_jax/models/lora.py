"""LoRA: a trainable product of two thin matrices beside a frozen linear map (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.models.products import product


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
        kept = 1.0 - self.spec.dropout
        if key is not None and kept < 1.0:
            x_BTI = jnp.where(jax.random.bernoulli(key, kept, x_BTI.shape), x_BTI / kept, 0.0)
        return self.spec.scale * product(product(x_BTI, self.a[...]), self.b[...])


def merged(kernel_IO: jax.Array, a_Ir: jax.Array, b_rO: jax.Array, spec: LoraSpec) -> jax.Array:
    """The kernel with its adapter added, also stacked over layers in front; float32."""
    return kernel_IO.astype(jnp.float32) + spec.scale * jnp.einsum(
        '...Ir,...rO->...IO', a_Ir, b_rO, precision='highest'
    )
