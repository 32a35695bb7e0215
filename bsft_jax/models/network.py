"""Network: the decoder split into its graph and one nested dictionary of parameters.

The only place that splits and merges the module; everything else sees plain dictionaries.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.models.architecture import Architecture
from bsft_jax.models.decoder import Decoder

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """A decoder without its parameters.

    Attributes:
      arch: its sizes.
      behavior_ids: vocabulary ids of the behavior rows; empty without behavior tokens.
      dtype: dtype of activations; parameters and logits are float32.
    """

    arch: Architecture
    behavior_ids: tuple[int, ...] = ()
    dtype: str = 'float32'

    def _make(self, key: jax.Array) -> Decoder:
        return Decoder(self.arch, self.behavior_ids, jnp.dtype(self.dtype), nnx.Rngs(params=key))

    @functools.cached_property
    def _graph(self) -> tuple[Any, Any]:
        return nnx.split(nnx.eval_shape(lambda: self._make(jax.random.key(0))))

    def init(self, key: jax.Array) -> Params:
        """Random parameters: normal with standard deviation `arch.init_std`, norms one, behavior rows zero."""
        return nnx.to_pure_dict(nnx.state(self._make(key), nnx.Param))

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters."""
        return nnx.to_pure_dict(self._graph[1])

    def bind(self, params: Params) -> Decoder:
        """The decoder with these parameters."""
        graph, state = self._graph
        state = jax.tree.map(lambda x: x, state)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)
