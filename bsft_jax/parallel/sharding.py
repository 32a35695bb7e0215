"""Sharding rules: an ordered list of (path regex → spec) for parameters, moments and gradients."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bsft_jax.errors import UserError
from bsft_jax.trees import flatten, path_of

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
    (rf'{_OUT}/lora/b$', P(None, None, ('tensor', 'fsdp'))),
    (rf'{_IN}/lora/a$', P(None, ('tensor', 'fsdp'))),
    (rf'{_IN}/lora/b$', P(None, None, 'fsdp')),
    (r'.*', P()),
)
ROWS, TOKENS = ('data', 'fsdp'), 'context'  # what splits the two dimensions of a batch
LARGEST_WHOLE = 0.02  # of the bytes of a state may stay whole on every device of an fsdp mesh


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The spec of one array: its rule, without the axes that do not divide the dimension.

    Suffixes match, so that `opt_state/.../mu/layers/mlp/up/kernel` is sharded as the parameter is.
    """
    rule = next(spec for regex, spec in RULES if re.search(regex, path))
    return P(*(_fitting(axis, size, mesh) for axis, size in zip(rule, shape, strict=False)))


def _fitting(axis: str | tuple[str, ...] | None, size: int, mesh) -> str | tuple[str, ...] | None:
    """The axis, or as many of several from the first on, as divide a dimension; none that `on_each_device` holds."""
    names = (axis,) if isinstance(axis, str) else axis or ()
    names = tuple(name for name in names if name not in mesh.manual_axes)
    while names and size % math.prod(mesh.shape[name] for name in names):
        names = names[:-1]
    return names if len(names) > 1 else names[0] if names else None


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every array (or shape) of a tree, by its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_for(path_of(path), leaf.shape, mesh)), tree
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data` and `fsdp`, its tokens over `context`."""
    return NamedSharding(mesh, P(ROWS, TOKENS))


def local_rows(mesh: Mesh, rows: int) -> list[int]:
    """Numbers of the rows of a batch, of `rows`, that this process's devices hold; ascending."""
    places = batch_sharding(mesh).addressable_devices_indices_map((rows, mesh.shape[TOKENS]))
    return sorted({row for index in places.values() for row in range(*index[0].indices(rows))})


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data` and `fsdp`, and nothing else split: of any length."""
    return NamedSharding(mesh, P(ROWS))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def spread(tree: Any, place: NamedSharding) -> Any:
    """Numpy arrays that every process holds whole, as global ones.

    Processes neither send nor wait: `jax.device_put` would have all of them compare what they hold, array by array.
    """
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, place, x.__getitem__), tree)


def constrain(x: jax.Array, *axes) -> jax.Array:
    """Constrains an activation on the mesh in force (`jax.set_mesh`); does nothing without one.

    An axis that does not divide its dimension is left out, as in `spec_for`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, fitting(x.shape, *axes))


def fitting(shape: tuple[int, ...], *axes) -> P:
    """The spec that `constrain` gives an activation of this shape on the mesh in force."""
    mesh = jax.sharding.get_abstract_mesh()
    return P(*(_fitting(axis, size, mesh) for axis, size in zip(axes, shape, strict=True)))


def on_each_device(run: Callable, in_specs, out_specs, axes: Sequence[str] | None = None) -> Callable:
    """`run` on the parts that specs give every device of the mesh in force (`jax.shard_map`).

    Over the `axes` alone, where given, the compiler splitting what `run` does over the others; else over all that no
    call around this one is over. Outputs that a spec leaves whole must be equal on all devices: nothing checks it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    names = set(axes or mesh.axis_names) - set(mesh.manual_axes)
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, axis_names=names, check_vma=False)


def parts(size: int, axis: str | tuple[str, ...]) -> int:
    """Into how many parts `constrain` splits a dimension of this size; 1 without a mesh in force."""
    mesh = jax.sharding.get_abstract_mesh()
    names = () if mesh.empty else _fitting(axis, size, mesh) or ()
    return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def constrain_by_path(tree: Any) -> Any:
    """Constrains parameters, gradients or moments to their rules on the mesh in force; see `constrain`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.with_sharding_constraint(x, spec_for(path_of(path), x.shape, mesh)), tree
    )


def check_split(tree: Any, mesh: Mesh) -> None:
    """Raises UserError when too many bytes of a state (arrays or shapes) stay whole on an fsdp mesh.

    They would cost every device what `fsdp` is there to save: more than `LARGEST_WHOLE` of all is an error.
    """
    if mesh.shape['fsdp'] == 1:
        return
    size, whole = {}, {}
    for path, leaf in flatten(tree).items():
        size[path] = math.prod(leaf.shape) * leaf.dtype.itemsize
        if not any('fsdp' in (axis or ()) for axis in spec_for(path, leaf.shape, mesh)):
            whole[path] = size[path]
    if sum(whole.values()) > LARGEST_WHOLE * sum(size.values()):
        largest = max(whole, key=whole.get)
        raise UserError(
            f'{sum(whole.values()) / sum(size.values()):.1%} of the bytes would not be split over fsdp='
            f'{mesh.shape["fsdp"]}, the largest {largest}',
            where='--config.mesh.fsdp',
            fix='choose a size that divides the width of the model',
        )


def check_heads(heads: int, kv_heads: int, mesh: Mesh) -> None:
    """Raises UserError when `tensor` does not divide the heads."""
    tensor = mesh.shape['tensor']
    if heads % tensor or kv_heads % tensor:
        raise UserError(
            f'tensor={tensor} does not divide {heads} query heads and {kv_heads} key/value heads',
            where='--config.mesh.tensor',
        )
