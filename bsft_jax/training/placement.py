"""Where a run goes: its mesh, and the shape and place of every array of its state."""

from __future__ import annotations

import dataclasses

from jax.sharding import Mesh

from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.hub.model import BaseModel
from bsft_jax.models.network import Network
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.training import optimizer
from bsft_jax.training import state as state_lib
from bsft_jax.training.state import TrainState


@dataclasses.dataclass
class Placement:
    """Attributes:
    mesh: of all devices.
    shapes: the state with dtypes and shardings, nothing allocated.
    row_multiple: rows of a step are a multiple of this.
    """

    mesh: Mesh
    shapes: TrainState
    row_multiple: int


def place(config: RunConfig, base: BaseModel) -> Placement:
    """Places a run on the devices that are there, and its base's network with it.

    Raises UserError for a mesh that does not divide the devices, and as `lay_out` does.
    """
    mesh = mesh_lib.make_mesh(config.mesh)
    base.network = base.network.on(mesh)
    return Placement(mesh, lay_out(config, base.network, mesh), row_multiple(config, mesh))


def row_multiple(config: RunConfig, mesh: Mesh) -> int:
    """The rows of a step are a multiple of this: each device has as many in each micro-batch."""
    return config.train.accumulation * mesh_lib.batch_shards(mesh)


def lay_out(config: RunConfig, network: Network, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a run's state; nothing is allocated.

    Raises UserError for a mesh that does not divide the heads, the rows of a step or the state.
    """
    sharding.check_heads(network.arch.heads, network.arch.kv_heads, mesh)
    multiple = row_multiple(config, mesh)
    if config.data.rows_per_step % multiple:
        raise UserError(
            f'{config.data.rows_per_step} rows do not divide by accumulation × the devices of data and fsdp '
            f'({multiple})',
            where='--config.data.rows_per_step',
        )
    made = optimizer.make_optimizer(config.optimizer)
    shapes = state_lib.abstract(network, config.trainable, made, mesh)
    sharding.check_split(shapes, mesh)
    return shapes
