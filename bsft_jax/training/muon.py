"""Muon's updates of stacked kernels: each layer's matrix is orthogonalized whole, on one device."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from bsft_jax.parallel import sharding
from bsft_jax.pytrees import path_of

# The momentum of Jordan et al. (kellerjordan.github.io/posts/muon), and the root mean square of an
# update over its learning rate: about AdamW's (Liu et al., arXiv 2502.16982, section 2.2).
MOMENTUM, UPDATE_RMS = 0.95, 0.2
# Mesh axes that the layers are split over. Not `data`, which spans the slowest links.
_AXES = ('fsdp', 'context', 'tensor')


def scale_by_muon() -> optax.GradientTransformation:
    """Returns a transformation that orthogonalizes the Nesterov momentum of each kernel [L, I, O].

    Orthogonalization is five Newton-Schulz iterations, by `optax.contrib.scale_by_muon`. Their
    products have the device's default precision: Jordan et al. run them in bfloat16. The result is
    scaled to the root mean square `UPDATE_RMS`, so that learning rate and weight decay can be those
    of AdamW. The state is optax's, sharded like the parameters.

    An iteration multiplies whole matrices, so on split ones each would gather them anew. Hence
    layers are split over the mesh instead for the time of the update, padded with zeros.
    """
    # Axes that are not named are those of a batch.
    dimensions = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    inner = optax.contrib.scale_by_muon(
        beta=MOMENTUM,
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: dimensions, tree),
    )

    def scale(update):
        # Orthogonal matrices have a mean square of 1 / max(I, O).
        return UPDATE_RMS * max(update.shape[-2:]) ** 0.5 * update

    def update(gradients, state, params=None):
        del params
        kernels = gradients
        split = state._replace(mu=_split_layers(state.mu))
        updates, split = inner.update(_split_layers(gradients), split)
        updates, momentum = (_join_layers(tree, kernels) for tree in (updates, split.mu))
        return jax.tree.map(scale, updates), split._replace(mu=momentum)

    return optax.GradientTransformation(inner.init, update)


def _split_layers(tree: Any) -> Any:
    """Returns kernels whose layers are split over the current mesh, padded to a multiple of it."""

    def split(path, kernel_LIO):
        stages = _stages(path_of(path), kernel_LIO.shape)
        padding = -len(kernel_LIO) % _num_parts() if stages else 0
        kernel_LIO = jnp.pad(kernel_LIO, ((0, padding), (0, 0), (0, 0)))
        return _constrain(kernel_LIO, stages)

    return jax.tree_util.tree_map_with_path(split, tree)


def _join_layers(tree: Any, kernels: Any) -> Any:
    """Undoes `_split_layers`; `kernels` have the shapes that the result has."""

    def join(path, split_LIO, kernel_LIO):
        stages = _stages(path_of(path), kernel_LIO.shape)
        return _constrain(split_LIO, stages[::-1])[: len(kernel_LIO)]

    return jax.tree_util.tree_map_with_path(join, tree, kernels)


def _num_parts() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in _AXES)


def _constrain(x: jax.Array, stages: list[P]) -> jax.Array:
    for spec in stages:
        x = jax.lax.with_sharding_constraint(x, spec)
    return x


def _stages(path: str, shape: tuple[int, ...]) -> list[P]:
    """Returns the specs from the parameter's to that of split layers, one mesh axis at a time.

    The compiler moves a single axis by one all-to-all, and several at once by gathering the array.
    Empty where the current mesh has nothing to split layers over.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or _num_parts() == 1:
        return []
    _, *sides = sharding.spec_for(path, shape, mesh)
    layers, stages = (), [P(None, *sides)]
    for axis in _AXES:
        if mesh.shape[axis] > 1:
            layers, sides = (*layers, axis), [None if side == axis else side for side in sides]
            stages.append(P(layers, *sides))
    return stages
