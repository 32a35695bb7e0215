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
from bsft_jax.pytrees import flatten, path_of

# Linear maps whose outputs `tensor` splits, and those whose inputs it splits.
_COLUMN_PARALLEL = r'(layers|rest)/(attention/[qkv]|mlp/(gate|up))'
_ROW_PARALLEL = r'(layers|rest)/(attention/o|mlp/down)'
# The first rule whose regex is found in the path decides. Stacked layers have L as first dimension.
RULES: tuple[tuple[str, P], ...] = (
    (r'embed/table$', P('tensor', 'fsdp')),
    (r'lm_head/kernel$', P('fsdp', 'tensor')),
    (r'behavior/(input|output)$', P(None, 'fsdp')),
    (rf'{_COLUMN_PARALLEL}/kernel(_absmax)?$', P(None, 'fsdp', 'tensor')),
    (rf'{_ROW_PARALLEL}/kernel(_absmax)?$', P(None, 'tensor', 'fsdp')),
    (rf'{_COLUMN_PARALLEL}/(bias|kernel_scale)$', P(None, 'tensor')),
    (rf'{_ROW_PARALLEL}/kernel_scale$', P(None, 'fsdp')),
    (rf'{_COLUMN_PARALLEL}/lora/a$', P(None, 'fsdp')),
    (rf'{_COLUMN_PARALLEL}/lora/b$', P(None, None, ('tensor', 'fsdp'))),
    (rf'{_ROW_PARALLEL}/lora/a$', P(None, ('tensor', 'fsdp'))),
    (rf'{_ROW_PARALLEL}/lora/b$', P(None, None, 'fsdp')),
    (r'.*', P()),
)
# Factored second moments (`training.factored`) → the axis of its parameter that each lacks.
_LACKING_AXIS = {'v_row': -1, 'v_col': -2}
# Mesh axes that split the rows of a batch, and the one that splits their tokens.
BATCH_AXES, SEQUENCE_AXIS = ('data', 'fsdp'), 'context'
# Largest share of a state's bytes that every device of an fsdp mesh may hold unsharded.
MAX_UNSHARDED_FRACTION = 0.02

Axis = str | tuple[str, ...] | None


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Returns the spec of one array: its rule, without the axes that do not divide the dimension.

    Rules match the end of a path, so `opt_state/.../mu/layers/mlp/up/kernel` is sharded like the
    parameter, and a factor of a second moment as the parameter's axes that it has. A kernel in
    blocks [L, blocks, within a block, O] is split into whole ones.
    """
    rule = next(spec for regex, spec in RULES if re.search(regex, path))
    lacking = next((_LACKING_AXIS[name] for name in path.split('/') if name in _LACKING_AXIS), None)
    if lacking is not None:
        axes = [*rule, *[None] * (len(shape) + 1 - len(rule))]
        del axes[lacking]
        rule = P(*axes)
    elif len(shape) == 4:
        rule = P(*rule[:2], None, *rule[2:])
    return P(*(_dividing_axes(axis, size, mesh) for axis, size in zip(rule, shape, strict=False)))


def _dividing_axes(axis: Axis, size: int, mesh) -> Axis:
    """Returns the axis, or the longest prefix of several axes, that divides a dimension.

    Axes that a surrounding `shard_map_current_mesh` runs over are left out.
    """
    names = (axis,) if isinstance(axis, str) else axis or ()
    names = tuple(name for name in names if name not in mesh.manual_axes)
    while names and size % math.prod(mesh.shape[name] for name in names):
        names = names[:-1]
    return names if len(names) > 1 else names[0] if names else None


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns the NamedSharding of every array (or shape) of a tree, by its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_for(path_of(path), leaf.shape, mesh)), tree
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over `data` and `fsdp`, tokens over `context`."""
    return NamedSharding(mesh, P(BATCH_AXES, SEQUENCE_AXIS))


def local_rows(mesh: Mesh, num_rows: int) -> list[int]:
    """Returns the indices of a batch's rows that this process's devices hold, ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map(
        (num_rows, mesh.shape[SEQUENCE_AXIS])
    )
    return sorted({row for index in slices.values() for row in range(*index[0].indices(num_rows))})


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Returns a sharding of rows over `data` and `fsdp` that leaves other dimensions unsplit."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds in full."""
    return NamedSharding(mesh, P())


def to_global(tree: Any, sharding: NamedSharding) -> Any:
    """Converts numpy arrays that every process holds in full to global arrays.

    Processes neither communicate nor wait: with `jax.device_put` they would all compare their
    values, array by array.
    """
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), tree
    )


def constrain(x: jax.Array, *axes: Axis) -> jax.Array:
    """Constrains an activation on the current mesh (`jax.set_mesh`); returns it as is without one.

    An axis that does not divide its dimension is left out, as in `spec_for`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(x.shape, *axes))


def activation_spec(shape: tuple[int, ...], *axes: Axis) -> P:
    """Returns the spec that `constrain` gives an activation of this shape on the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return P(*(_dividing_axes(axis, size, mesh) for axis, size in zip(axes, shape, strict=True)))


def shard_map_current_mesh(
    run: Callable, in_specs, out_specs, axes: Sequence[str] | None = None
) -> Callable:
    """Maps `run` over the shards of its arguments on the current mesh (`jax.shard_map`).

    Outputs that a spec leaves unsplit must be equal on all devices; nothing checks it.

    Args:
      run: the function of one shard.
      in_specs: specs of its arguments.
      out_specs: specs of its results.
      axes: mesh axes to map over, the compiler splitting `run` over the others; default all axes
        that no surrounding call maps over.
    """
    mesh = jax.sharding.get_abstract_mesh()
    names = set(axes or mesh.axis_names) - set(mesh.manual_axes)
    return jax.shard_map(
        run, in_specs=in_specs, out_specs=out_specs, axis_names=names, check_vma=False
    )


def num_shards(size: int, axis: Axis) -> int:
    """Returns into how many shards `constrain` splits a dimension; 1 without a current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    names = () if mesh.empty else _dividing_axes(axis, size, mesh) or ()
    return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def constrain_by_path(tree: Any) -> Any:
    """Constrains parameters, gradients or moments to their rules, as `constrain` does."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.with_sharding_constraint(x, spec_for(path_of(path), x.shape, mesh)),
        tree,
    )


def check_fsdp_coverage(tree: Any, mesh: Mesh) -> None:
    """Raises UserError if an fsdp mesh leaves too many bytes of a state unsharded.

    Every device would hold what `fsdp` exists to save. The limit is `MAX_UNSHARDED_FRACTION` of all
    bytes; the state may hold arrays or shapes.
    """
    if mesh.shape['fsdp'] == 1:
        return
    sizes, unsharded = {}, {}
    for path, leaf in flatten(tree).items():
        sizes[path] = math.prod(leaf.shape) * leaf.dtype.itemsize
        if not any('fsdp' in (axis or ()) for axis in spec_for(path, leaf.shape, mesh)):
            unsharded[path] = sizes[path]
    if sum(unsharded.values()) > MAX_UNSHARDED_FRACTION * sum(sizes.values()):
        share = sum(unsharded.values()) / sum(sizes.values())
        raise UserError(
            f'{share:.1%} of the bytes would not be split over fsdp={mesh.shape["fsdp"]}, '
            f'the largest {max(unsharded, key=unsharded.get)}',
            where='--config.mesh.fsdp',
            fix="choose a size that divides the model's embed_dim",
        )


def check_blocks(tree: Any, mesh: Mesh) -> None:
    """Raises UserError if a mesh axis would split the blocks of a kernel that is held in blocks.

    `tree` has parameters or shapes; `spec_for` says which of them are in blocks.
    """
    for path, leaf in flatten(tree).items():
        if len(leaf.shape) == 4 and spec_for(path, leaf.shape, mesh)[1] is None:
            axis = next(spec for regex, spec in RULES if re.search(regex, path))[1]
            raise UserError(
                f'{axis}={mesh.shape[axis]} does not divide the {leaf.shape[1]} blocks of inputs '
                f'of {path}',
                where=f'--config.mesh.{axis}',
                fix='choose a size that does, or --config.model.base_dtype=int8 or fp8',
            )


def check_heads(num_heads: int, num_kv_heads: int, mesh: Mesh) -> None:
    """Raises UserError if `tensor` does not divide the attention heads."""
    tensor = mesh.shape['tensor']
    if num_heads % tensor or num_kv_heads % tensor:
        raise UserError(
            f'tensor={tensor} does not divide {num_heads} query heads and {num_kv_heads} '
            'key/value heads',
            where='--config.mesh.tensor',
        )
