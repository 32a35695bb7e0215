"""TrainState: what a run changes (and the frozen rest), split by path regexes and sharded by rule."""

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
from bsft_jax.trees import flatten, unflatten


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: updates done, int32.
    trainable, frozen: nested parameters; together all of the network's.
    opt_state: moments of `trainable` only.
    """

    step: jax.Array
    trainable: Params
    frozen: Params
    opt_state: Any

    @property
    def params(self) -> Params:
        return merge(self.trainable, self.frozen)


def partition(params: Params, regexes: tuple[str, ...]) -> tuple[Params, Params]:
    """Splits parameters into those whose whole path matches one of `regexes` and the rest."""
    flat = flatten(params)
    chosen = {path for path in flat if any(re.fullmatch(regex, path) for regex in regexes)}
    return (
        unflatten({path: leaf for path, leaf in flat.items() if path in chosen}),
        unflatten({path: leaf for path, leaf in flat.items() if path not in chosen}),
    )


def merge(trainable: Params, frozen: Params) -> Params:
    """Inverse of `partition`."""
    return unflatten({**flatten(trainable), **flatten(frozen)})


def create(
    params: Params, regexes: tuple[str, ...], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """A state at step 0, every array placed by the sharding rules.

    The buffers of `params` become part of the state (a donated step overwrites them).
    """
    trainable, frozen = partition(params, regexes)
    places = sharding.shardings(jax.eval_shape(optimizer.init, trainable), mesh)
    return TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), sharding.replicated(mesh)),
        trainable=trainable,
        frozen=frozen,
        opt_state=jax.jit(optimizer.init, out_shardings=places)(trainable),
    )


def abstract(
    network: Network, regexes: tuple[str, ...], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The shapes of a state, with their dtypes and shardings: nothing is allocated."""

    def whole(params: Params) -> TrainState:
        trainable, frozen = partition(params, regexes)
        return TrainState(jnp.zeros((), jnp.int32), trainable, frozen, optimizer.init(trainable))

    shapes = jax.eval_shape(whole, network.abstract())
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding.shardings(shapes, mesh),
    )


def table(state: TrainState) -> str:
    """The resolved sharding of every parameter (or shape): path, shape, dtype, spec, bytes per device, trained."""
    rows = []
    for part, tree in (('trained', state.trainable), ('frozen', state.frozen)):
        for path, leaf in flatten(tree).items():
            local = leaf.sharding.shard_shape(leaf.shape)
            size = leaf.dtype.itemsize
            for dimension in local:
                size *= dimension
            spec = ', '.join(str(axis) for axis in leaf.sharding.spec) or 'replicated'
            rows.append((path, str(tuple(leaf.shape)), str(leaf.dtype), spec, f'{size:,} B', part))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
