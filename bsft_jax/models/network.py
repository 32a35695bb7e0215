"""Network: the decoder split into its graph and one nested dictionary of parameters.

Only this module splits and merges the NNX module; everything else sees plain dictionaries.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from bsft_jax.config import ComputeConfig
from bsft_jax.models.architecture import Architecture
from bsft_jax.models.decoder import Decoder
from bsft_jax.ops import attention_cudnn, attention_dispatch, cpu
from bsft_jax.pytrees import path_of

Params = dict[str, Any]
# Parameters in float32 whatever the base's dtype: trainable ones, and scales of quantized kernels.
_FLOAT32 = r'(^behavior|/lora)/|/kernel_'
# Those that a bfloat16 base holds in float32 too, since some bfloat16 checkpoints do.
_VECTORS = r'/(scale|bias)$'


@dataclasses.dataclass(frozen=True)
class Network:
    """Describes a decoder without its parameters.

    Attributes:
      arch: its sizes.
      behavior_ids: vocabulary ids of the behavior rows; empty without behavior tokens.
      compute: how it is held and computed.
      max_segments: upper bound of segments per row, for backends that must know it; 0 where it is
        not known.
    """

    arch: Architecture
    behavior_ids: tuple[int, ...] = ()
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)
    max_segments: int = 0

    def _make_decoder(self, key: jax.Array) -> Decoder:
        return Decoder(self.arch, self.compute, self.behavior_ids, nnx.Rngs(params=key))

    def with_compute(self, **changes) -> Network:
        """Returns the network with some fields of its `ComputeConfig` changed."""
        return dataclasses.replace(self, compute=dataclasses.replace(self.compute, **changes))

    def for_mesh(self, mesh: Mesh) -> Network:
        """Returns the network with its attention backend and layer loop chosen for a mesh.

        Raises:
          UserError: for a backend that the devices or the model do not support.
        """
        arch, compute = self.arch, self.compute
        attention = attention_dispatch.resolve_backend(compute.attention, mesh)
        if attention == 'cudnn':
            attention_cudnn.check_cudnn(arch.head_dim, arch.attn_softcap, compute.dtype, mesh)
        unroll_layers = cpu.should_unroll(arch.num_layers, mesh)
        return self.with_compute(attention=attention, unroll_layers=unroll_layers)

    @functools.cached_property
    def _graph(self) -> tuple[Any, Any]:
        return nnx.split(nnx.eval_shape(lambda: self._make_decoder(jax.random.key(0))))

    def _storage_dtype(self, path: str, initial_dtype) -> Any:
        """Returns the dtype that a parameter is held in, given the one it is initialized in."""
        lower = self.compute.base_dtype != 'float32' and initial_dtype == jnp.float32
        kept = f'{_FLOAT32}|{_VECTORS}' if self.compute.base_dtype == 'bfloat16' else _FLOAT32
        return jnp.dtype('bfloat16') if lower and not re.search(kept, path) else initial_dtype

    def init(self, key: jax.Array) -> Params:
        """Draws random parameters.

        Weights are normal with deviation `arch.init_std` (see `Architecture`), norms one, behavior
        rows zero.
        """
        params = nnx.to_pure_dict(nnx.state(self._make_decoder(key), nnx.Param))
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x.astype(self._storage_dtype(path_of(path), x.dtype)), params
        )

    def abstract(self) -> Params:
        """Returns shapes and dtypes of the parameters."""
        return jax.tree_util.tree_map_with_path(
            lambda path, x: jax.ShapeDtypeStruct(
                x.shape, self._storage_dtype(path_of(path), x.dtype)
            ),
            nnx.to_pure_dict(self._graph[1]),
        )

    def unstacked(self, params: Params) -> Params:
        """Returns the parameters with stacked layers split into lists where layers are unrolled.

        A decoding loop that binds them then slices nothing.
        """
        if not self.compute.unroll_layers:
            return params
        # A fixed order, so that every process traces the same program.
        stacked = [name for name in ('layers', 'rest') if name in params]
        return params | {name: jax.tree.map(list, params[name]) for name in stacked}

    def bind(self, params: Params) -> Decoder:
        """Returns the decoder with these parameters."""
        graph, state = self._graph
        # `replace_by_pure_dict` writes into the state; the cached one stays abstract.
        state = jax.tree.map(lambda x: x, state)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)
