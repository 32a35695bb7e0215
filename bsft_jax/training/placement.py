"""Where a run goes: its mesh, and the shape and place of every array of its state."""

from __future__ import annotations

import dataclasses

from jax.sharding import Mesh

from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.hub.model import BaseModel
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

    Raises UserError for a mesh that does not divide the devices, the heads, the rows of a step or the state.
    """
    mesh = mesh_lib.make_mesh(config.mesh)
    base.network = base.network.on(mesh)
    sharding.check_heads(base.network.arch.heads, base.network.arch.kv_heads, mesh)
    multiple = config.train.accumulation * mesh_lib.batch_shards(mesh)
    if config.data.rows_per_step % multiple:
        raise UserError(
            f'{config.data.rows_per_step} rows do not divide by accumulation × the devices of data and fsdp '
            f'({multiple})',
            where='--config.data.rows_per_step',
        )
    made = optimizer.make_optimizer(config.optimizer)
    shapes = state_lib.abstract(base.network, config.trainable, made, mesh)
    sharding.check_split(shapes, mesh)
    return Placement(mesh, shapes, multiple)
