"""Network: the decoder split into its graph and one nested dictionary of parameters.

The only place that splits and merges the module; everything else sees plain dictionaries.
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

from bsft_jax.models import backends, cudnn
from bsft_jax.models.architecture import Architecture
from bsft_jax.models.decoder import Decoder, Form
from bsft_jax.models.lora import LoraSpec
from bsft_jax.trees import path_of

Params = dict[str, Any]
MOST_APART = (
    16  # layers, on a CPU: there a scan spends a tenth of a step on stacking what the backward pass reads
)
_FLOAT32 = r'(^behavior|/lora)/|/kernel_scale$'  # what trains, and the scales of int8 kernels


@dataclasses.dataclass(frozen=True)
class Network:
    """A decoder without its parameters.

    Attributes:
      arch: its sizes.
      behavior_ids: vocabulary ids of the behavior rows; empty without behavior tokens.
      dtype: dtype of activations; logits are float32.
      base_dtype: how the checkpoint's parameters are held: `float32`, or frozen ones in `bfloat16`, or
        with the kernels of linear maps in `int8` beside them. What trains is float32.
      lora: which linear maps have an adapter.
      remat: what a layer keeps for its backward pass, one of `config.REMAT`.
      attention: the back end, one of `backends.BACK_ENDS`, or what `on` makes one of.
      apart: whether layers are compiled one by one instead of once for all, which `on` decides.
      documents: of a row at most, for back ends that must know; 0 where it is not known.
    """

    arch: Architecture
    behavior_ids: tuple[int, ...] = ()
    dtype: str = 'float32'
    base_dtype: str = 'float32'
    lora: LoraSpec | None = None
    remat: str = 'none'
    attention: str = 'dense'
    apart: bool = False
    documents: int = 0

    def _make(self, key: jax.Array) -> Decoder:
        form = Form(self.base_dtype == 'int8', self.lora, self.remat, self.attention, self.apart)
        return Decoder(self.arch, form, self.behavior_ids, jnp.dtype(self.dtype), nnx.Rngs(params=key))

    def on(self, mesh: Mesh) -> Network:
        """The network in the form for the devices of a mesh: attention's back end, and whether layers are apart.

        Raises UserError for a back end that is not for the devices or for the model.
        """
        attention = backends.resolve(self.attention, mesh)
        if attention == 'cudnn':
            cudnn.check(self.arch, self.dtype, mesh)
        one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == 'cpu'
        apart = one_cpu and self.arch.layers <= MOST_APART
        return dataclasses.replace(self, attention=attention, apart=apart)

    @functools.cached_property
    def _graph(self) -> tuple[Any, Any]:
        return nnx.split(nnx.eval_shape(lambda: self._make(jax.random.key(0))))

    def _held(self, path: str, dtype) -> Any:
        """The dtype that a parameter is held in, from the one it is made in."""
        frozen = self.base_dtype != 'float32' and dtype == jnp.float32 and not re.search(_FLOAT32, path)
        return jnp.dtype('bfloat16') if frozen else dtype

    def init(self, key: jax.Array) -> Params:
        """Random parameters: normal with deviation `arch.init_std` (see there), norms one, behavior rows zero."""
        params = nnx.to_pure_dict(nnx.state(self._make(key), nnx.Param))
        return jax.tree_util.tree_map_with_path(
            lambda p, x: x.astype(self._held(path_of(p), x.dtype)), params
        )

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters."""
        return jax.tree_util.tree_map_with_path(
            lambda p, x: jax.ShapeDtypeStruct(x.shape, self._held(path_of(p), x.dtype)),
            nnx.to_pure_dict(self._graph[1]),
        )

    def unstacked(self, params: Params) -> Params:
        """The same parameters, by layer where layers are apart: a loop that binds them slices nothing."""
        stacked = {'layers', 'rest'} & params.keys() if self.apart else ()
        return params | {name: jax.tree.map(list, params[name]) for name in stacked}

    def bind(self, params: Params) -> Decoder:
        """The decoder with these parameters."""
        graph, state = self._graph
        state = jax.tree.map(lambda x: x, state)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)
