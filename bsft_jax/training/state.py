"""TrainState: what a run changes and the frozen rest, split by path regexes, sharded by rules."""

from __future__ import annotations

import re
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten, unflatten


@flax.struct.dataclass
class TrainState:
    """Holds everything that a train step reads and writes.

    Attributes:
      step: updates done, int32.
      trainable: nested parameters that train.
      frozen: the other parameters; with `trainable` they are all of the network's.
      opt_state: the optimizer's state for `trainable` alone.
    """

    step: jax.Array
    trainable: Params
    frozen: Params
    opt_state: Any

    @property
    def params(self) -> Params:
        """Returns all parameters in one nested dictionary."""
        return merge(self.trainable, self.frozen)


def partition(params: Params, regexes: tuple[str, ...]) -> tuple[Params, Params]:
    """Splits parameters into those whose whole path matches one of `regexes`, and the others."""
    flat = flatten(params)
    matching = {path for path in flat if any(re.fullmatch(regex, path) for regex in regexes)}
    return (
        unflatten({path: leaf for path, leaf in flat.items() if path in matching}),
        unflatten({path: leaf for path, leaf in flat.items() if path not in matching}),
    )


def merge(trainable: Params, frozen: Params) -> Params:
    """Joins what `partition` split."""
    return unflatten({**flatten(trainable), **flatten(frozen)})


def create(
    params: Params, regexes: tuple[str, ...], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns a state at step 0, every array sharded by the rules.

    The buffers of `params` become part of the state, so a donated step overwrites them.
    """
    trainable, frozen = partition(params, regexes)
    shardings = sharding.shardings(jax.eval_shape(optimizer.init, trainable), mesh)
    return TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), sharding.replicated(mesh)),
        trainable=trainable,
        frozen=frozen,
        opt_state=jax.jit(optimizer.init, out_shardings=shardings)(trainable),
    )


def abstract(
    network: Network, regexes: tuple[str, ...], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns the shapes of a state with dtypes and shardings; allocates nothing."""

    def make(params: Params) -> TrainState:
        trainable, frozen = partition(params, regexes)
        return TrainState(jnp.zeros((), jnp.int32), trainable, frozen, optimizer.init(trainable))

    shapes = jax.eval_shape(make, network.abstract())
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        sharding.shardings(shapes, mesh),
    )


def sharding_table(state: TrainState) -> str:
    """Formats the sharding of every parameter: path, shape, dtype, spec, bytes per device, part.

    `state` may hold shapes instead of arrays.
    """
    rows = []
    for part, tree in (('trained', state.trainable), ('frozen', state.frozen)):
        for path, leaf in flatten(tree).items():
            size = leaf.dtype.itemsize
            for dimension in leaf.sharding.shard_shape(leaf.shape):
                size *= dimension
            spec = ', '.join(str(axis) for axis in leaf.sharding.spec) or 'replicated'
            rows.append((path, str(tuple(leaf.shape)), str(leaf.dtype), spec, f'{size:,} B', part))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
