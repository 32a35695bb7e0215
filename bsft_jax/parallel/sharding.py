"""Sharding rules: an ordered list of (path regex → spec) for parameters, moments and gradients."""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bsft_jax.errors import UserError
from bsft_jax.trees import path_of

_OUT = r'(layers|rest)/(attention/[qkv]|mlp/(gate|up))'  # `tensor` splits what they give out
_IN = r'(layers|rest)/(attention/o|mlp/down)'  # `tensor` splits what they take in
# The first rule whose regex is found in the path decides. Stacked layers have L in front.
RULES: tuple[tuple[str, P], ...] = (
    (r'embed/table$', P('tensor', 'fsdp')),
    (r'head/kernel$', P('fsdp', 'tensor')),
    (r'behavior/(input|output)$', P(None, 'fsdp')),
    (rf'{_OUT}/kernel$', P(None, 'fsdp', 'tensor')),
    (rf'{_IN}/kernel$', P(None, 'tensor', 'fsdp')),
    (rf'{_OUT}/(bias|kernel_scale)$', P(None, 'tensor')),
    (rf'{_IN}/kernel_scale$', P(None, 'fsdp')),
    (rf'{_OUT}/lora/a$', P(None, 'fsdp')),
    (rf'{_OUT}/lora/b$', P(None, None, 'tensor')),
    (rf'{_IN}/lora/a$', P(None, 'tensor')),
    (rf'{_IN}/lora/b$', P(None, None, 'fsdp')),
    (r'.*', P()),
)
BATCH_SPEC = P(('data', 'fsdp'))


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The spec of one array: its rule, without the axes that do not divide the dimension.

    Suffixes match, so that `opt_state/.../mu/layers/mlp/up/kernel` is sharded as the parameter is.
    """
    rule = next(spec for regex, spec in RULES if re.search(regex, path))
    axes = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=False)
    ]
    return P(*axes)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every array (or shape) of a tree, by its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_for(path_of(path), leaf.shape, mesh)), tree
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH_SPEC)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def constrain(x: jax.Array, *axes) -> jax.Array:
    """Constrains an activation on the mesh in force (`jax.set_mesh`); does nothing without one.

    An axis that does not divide its dimension is left out, as in `spec_for`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x

    def size(axis) -> int:
        names = axis if isinstance(axis, tuple) else (axis,)
        total = 1
        for name in names:
            total *= mesh.shape[name]
        return total

    fitting = [a if a is not None and d % size(a) == 0 else None for a, d in zip(axes, x.shape, strict=True)]
    return jax.lax.with_sharding_constraint(x, P(*fitting))


def check_heads(heads: int, kv_heads: int, mesh: Mesh) -> None:
    """Raises UserError when `tensor` does not divide the heads."""
    tensor = mesh.shape['tensor']
    if heads % tensor or kv_heads % tensor:
        raise UserError(
            f'tensor={tensor} does not divide {heads} query heads and {kv_heads} key/value heads',
            where='--config.mesh.tensor',
        )
