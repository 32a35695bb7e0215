"""LM head and cross-entropy in one pass that never holds [B, T, V], neither forward nor backward.

The gradients of a sum of cross-entropies are known as soon as a token's probabilities are. They are
computed tile by tile in the forward pass and only scaled in the backward pass (as in Liger Kernel,
arXiv 2410.10989). Every device takes its own tokens, and the share of the vocabulary that `tensor`
gives it.

Besides the legend of `bsft_jax.ops`: m is the tokens of one tile, V this device's columns of the
kernel, n the behavior rows, whose logits replace columns of the kernel.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from bsft_jax.ops import cpu
from bsft_jax.ops.attention import soft_cap
from bsft_jax.ops.hlo_names import BOUNDED_LOOP_SCOPE
from bsft_jax.ops.matmul import einsum_accumulate, kernel_gradient
from bsft_jax.parallel.sharding import (
    BATCH_AXES,
    SEQUENCE_AXIS,
    activation_spec,
    num_shards,
    shard_map_current_mesh,
)

# Logits in one tile: a tile reads the kernel and writes its gradient once.
MAX_TILE_LOGITS = 2**27
# Tiles of a device's tokens, unless they are very few: whole tiles without weight are skipped.
TARGET_TILES = 8
MIN_TILE_TOKENS = 256
# Logit of a column that a behavior row replaces.
MASKED_LOGIT = -1e30


@dataclasses.dataclass(frozen=True)
class VocabSpec:
    """Describes the columns of the logits besides the kernel's.

    Attributes:
      behavior_ids: ids whose logits come from behavior rows, in the order of the rows.
      cap: soft cap of all logits; 0 for none.
    """

    behavior_ids: tuple[int, ...] = ()
    cap: float = 0.0


class NeedsGrad(NamedTuple):
    """Holds which of the first three arguments of the loss need a gradient."""

    hidden: bool = False
    kernel: bool = False
    behavior_rows: bool = False


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def cross_entropy(
    vocab: VocabSpec,
    hidden_BTD: jax.Array,
    kernel_DV: jax.Array,
    rows_nD: jax.Array | None,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes Σ weight · cross-entropy; only that sum has gradients.

    Args:
      vocab: the behavior ids and the soft cap.
      hidden_BTD: hidden states, in the dtype of the matmuls.
      kernel_DV: kernel of the LM head in any float dtype, rounded to that of the hidden states; its
        gradient is summed in float32.
      rows_nD: a behavior row per behavior id; None without.
      targets_BT: target ids.
      weights_BT: float32, 0 or more. A token of weight 0 costs nothing if its whole tile has it.

    Returns:
      The sum, and per token the log-probability of the target (float32) and whether no id is more
      probable; 0 and False where the weight is 0.
    """
    args = hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT
    return sharded_loss(vocab, NeedsGrad(), *args)[0]


def _forward(vocab, *args):
    values = [None if arg is None else arg.value for arg in args]
    needs_grad = NeedsGrad(*(arg is not None and arg.perturbed for arg in args[:3]))
    return sharded_loss(vocab, needs_grad, *values)


def _backward(vocab, gradients, cotangents):
    del vocab
    scaled = jax.tree.map(lambda x: (cotangents[0] * x).astype(x.dtype), gradients)
    return (*scaled, None, None)


cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


@dataclasses.dataclass(frozen=True)
class ShardAxes:
    """Names the mesh axes of one call.

    Attributes:
      tokens: axes that split the tokens.
      vocab: the axis that splits the vocabulary; None without.
      scatter_kernel_grad: whether the kernel's gradient is left split over `fsdp`.
    """

    tokens: tuple[str, ...] = ()
    vocab: str | None = None
    scatter_kernel_grad: bool = False


def sharded_loss(
    vocab, needs_grad: NeedsGrad, hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT
):
    """Runs the loss on every device of the mesh in force.

    Returns:
      The results of `cross_entropy`, and the gradients of hidden states, kernel and behavior rows,
      in their dtypes, None where `needs_grad` is False.
    """
    dtypes = [None if x is None else x.dtype for x in (hidden_BTD, kernel_DV, rows_nD)]
    kernel_DV = kernel_DV.astype(hidden_BTD.dtype)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        run = functools.partial(device_loss, vocab, needs_grad, ShardAxes())
    else:
        hidden_spec = activation_spec(hidden_BTD.shape, BATCH_AXES, SEQUENCE_AXIS, None)
        kernel_spec = activation_spec(kernel_DV.shape, None, 'tensor')
        shard_axes = _shard_axes(mesh, hidden_spec, kernel_spec, kernel_DV.shape)
        token_spec = P(*hidden_spec[:2])
        # Tokens are split over fsdp, so the kernel's gradient can be summed and split in one step.
        dkernel_spec = P('fsdp' if shard_axes.scatter_kernel_grad else None, kernel_spec[1])
        grad_specs = tuple(
            spec if needed else None
            for spec, needed in zip((hidden_spec, dkernel_spec, P()), needs_grad, strict=True)
        )
        run = shard_map_current_mesh(
            functools.partial(device_loss, vocab, needs_grad, shard_axes),
            (hidden_spec, kernel_spec, P(), token_spec, token_spec),
            ((P(), token_spec, token_spec), grad_specs),
        )
    results, gradients = run(hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT)
    gradients = tuple(
        None if x is None else x.astype(dtype) for x, dtype in zip(gradients, dtypes, strict=True)
    )
    return results, gradients


def _shard_axes(mesh, hidden_spec: P, kernel_spec: P, kernel_shape: tuple[int, int]) -> ShardAxes:
    """Returns the mesh axes larger than one that split tokens and vocabulary."""
    names = itertools.chain.from_iterable(
        (axes,) if isinstance(axes, str) else axes or () for axes in hidden_spec[:2]
    )
    tokens = tuple(axis for axis in names if mesh.shape[axis] > 1)
    D, V = kernel_shape
    return ShardAxes(
        tokens=tokens,
        vocab=kernel_spec[1] if num_shards(V, 'tensor') > 1 else None,
        scatter_kernel_grad='fsdp' in tokens and D % mesh.shape['fsdp'] == 0,
    )


def device_loss(vocab, needs_grad: NeedsGrad, shard_axes: ShardAxes, *args):
    """Runs one device's part of `sharded_loss`, with the tile sizes of its platform."""
    run = functools.partial(tiled_loss, vocab, needs_grad, shard_axes)
    default = functools.partial(run, max_tile_logits=MAX_TILE_LOGITS)
    on_cpu = functools.partial(
        run, max_tile_logits=cpu.MAX_TILE_LOGITS, column_chunk=cpu.COLUMN_CHUNK
    )
    return cpu.choose(default, on_cpu, *args)


class _Outputs(NamedTuple):
    """Holds the results of all tokens, in the order of the tiles; None where not needed."""

    logprob_M: jax.Array
    correct_M: jax.Array
    dhidden_MD: jax.Array | None


class _GradSums(NamedTuple):
    """Holds the gradients that are summed over tiles, in float32; None where not needed."""

    kernel_DV: jax.Array | None
    rows_nD: jax.Array | None


def tiled_loss(
    vocab: VocabSpec,
    needs_grad: NeedsGrad,
    shard_axes: ShardAxes,
    hidden_BTD,
    kernel_DV,
    rows_nD,
    targets_BT,
    weights_BT,
    *,
    max_tile_logits: int,
    column_chunk: int | None = None,
):
    """Runs the loss of one device's tokens tile by tile.

    `max_tile_logits` bounds a tile; `column_chunk` bounds the columns of one kernel-gradient update
    (None: all).
    """
    (D, V), M, dtype = kernel_DV.shape, targets_BT.size, hidden_BTD.dtype
    rows_nD = jnp.zeros((0, D), dtype) if rows_nD is None else rows_nD.astype(dtype)
    tile = min(M, max(MIN_TILE_TOKENS, -(-M // TARGET_TILES)), max(1, max_tile_logits // V))
    tiles = -(-M // tile)

    # Tokens with weight go to the front; only the first `used` tiles are computed.
    index_M, num_weighted = order_by_weight(weights_BT.reshape(M) > 0)
    used = -(-num_weighted // tile)
    tokens = _reorder(hidden_BTD, targets_BT, weights_BT, index_M, tiles * tile)
    hidden_MD, _, weights_M = tokens
    if shard_axes.tokens:
        # A tile contains collectives, so all devices run as many tiles as the busiest one.
        used = jax.lax.pmax(used, shard_axes.tokens)

    def add_tile(i, carry):
        outputs, sums = carry
        hidden_mD, targets_m, weights_m = (
            jax.lax.dynamic_slice_in_dim(x, i * tile, tile) for x in tokens
        )
        *tile_outputs, dlogits_mV, drows_nD = tile_loss_and_grads(
            vocab, needs_grad, shard_axes.vocab, kernel_DV, rows_nD, hidden_mD, targets_m, weights_m
        )
        written = [
            None if x is None else jax.lax.dynamic_update_slice_in_dim(all_tiles, x, i * tile, 0)
            for all_tiles, x in zip(outputs, tile_outputs, strict=True)
        ]
        dkernel_DV = sums.kernel_DV
        if needs_grad.kernel:
            dkernel_DV = add_kernel_gradient(dkernel_DV, hidden_mD, dlogits_mV, column_chunk or V)
        drows_nD = sums.rows_nD + drows_nD if needs_grad.behavior_rows else None
        return _Outputs(*written), _GradSums(dkernel_DV, drows_nD)

    # Skipped tiles keep log-probability 0, False, and gradient 0.
    start = (
        _Outputs(
            jnp.zeros(tiles * tile),
            jnp.zeros(tiles * tile, bool),
            jnp.zeros_like(hidden_MD) if needs_grad.hidden else None,
        ),
        _GradSums(
            jnp.zeros((D, V)) if needs_grad.kernel else None,
            jnp.zeros(rows_nD.shape) if needs_grad.behavior_rows else None,
        ),
    )
    with jax.named_scope(BOUNDED_LOOP_SCOPE.format(tiles)):
        outputs, sums = jax.lax.fori_loop(0, used, add_tile, start)

    def restore_order(x_M):
        return x_M[index_M].reshape(*targets_BT.shape, *x_M.shape[1:])

    loss = -jnp.sum(weights_M * outputs.logprob_M)
    if shard_axes.tokens:
        loss = jax.lax.psum(loss, shard_axes.tokens)
    dhidden_BTD = restore_order(outputs.dhidden_MD) if needs_grad.hidden else None
    gradients = _sum_over_devices(dhidden_BTD, sums, needs_grad, shard_axes)
    return (loss, restore_order(outputs.logprob_M), restore_order(outputs.correct_M)), gradients


def order_by_weight(has_weight_M: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the index of each token when those with weight go first, and how many those are.

    The order is stable.
    """
    weighted_so_far_M = jnp.cumsum(has_weight_M, dtype=jnp.int32)
    num_weighted = weighted_so_far_M[-1]
    tokens_so_far_M = jnp.arange(1, has_weight_M.size + 1, dtype=jnp.int32)
    without_M = num_weighted + tokens_so_far_M - weighted_so_far_M
    return jnp.where(has_weight_M, weighted_so_far_M, without_M) - 1, num_weighted


def _reorder(hidden_BTD, targets_BT, weights_BT, index_M, padded: int):
    """Returns (hidden_MD, targets_M, weights_M), each token at its index, then padding."""
    M, D = targets_BT.size, hidden_BTD.shape[-1]
    source = jnp.zeros(padded, jnp.int32).at[index_M].set(jnp.arange(M), unique_indices=True)
    hidden_MD = hidden_BTD.reshape(M, D)[source]
    targets_M, weights_M = targets_BT.reshape(M)[source], weights_BT.reshape(M)[source]
    # The padding repeats the first token, without its weight.
    return hidden_MD, targets_M, jnp.where(jnp.arange(padded) < M, weights_M, 0.0)


def _sum_over_devices(dhidden_BTD, sums: _GradSums, needs_grad: NeedsGrad, shard_axes: ShardAxes):
    """Returns the three gradients, summed over the devices that hold parts of them."""
    dkernel_DV, drows_nD = sums
    if needs_grad.hidden and shard_axes.vocab:
        # Each device has the part that its columns give.
        dhidden_BTD = jax.lax.psum(dhidden_BTD, shard_axes.vocab)
    if needs_grad.kernel:
        token_axes = shard_axes.tokens
        if shard_axes.scatter_kernel_grad:
            dkernel_DV = jax.lax.psum_scatter(dkernel_DV, 'fsdp', scatter_dimension=0, tiled=True)
            token_axes = tuple(axis for axis in token_axes if axis != 'fsdp')
        dkernel_DV = jax.lax.psum(dkernel_DV, token_axes) if token_axes else dkernel_DV
    if needs_grad.behavior_rows and shard_axes.tokens:
        drows_nD = jax.lax.psum(drows_nD, shard_axes.tokens)
    return dhidden_BTD, dkernel_DV, drows_nD


def tile_loss_and_grads(
    vocab, needs_grad: NeedsGrad, vocab_axis, kernel_DV, rows_nD, hidden_mD, targets_m, weights_m
):
    """Computes the loss of one tile and its gradients.

    With a sharded vocabulary (`vocab_axis`) dhidden is a partial sum; only shard 0 adds the
    behavior rows' share.

    Returns:
      logprob_m, correct_m, dhidden_mD, dlogits_mV of the kernel's columns and drows_nD; gradients
      are None where not needed.
    """
    dtype, V = hidden_mD.dtype, kernel_DV.shape[1]
    ids_n = jnp.asarray(vocab.behavior_ids, jnp.int32)
    # Id of this device's first column.
    first = jax.lax.axis_index(vocab_axis) * V if vocab_axis else 0
    matmul = functools.partial(einsum_accumulate, dtype=jnp.float32)

    def over_vocab(x, reduce):
        return reduce(x, vocab_axis) if vocab_axis else x

    # Logits: columns of the kernel, and those of behavior rows, which replace some of them.
    base_mV = soft_cap(matmul('mD,DV->mV', hidden_mD, kernel_DV), vocab.cap)
    rows_mn = soft_cap(matmul('mD,nD->mn', hidden_mD, rows_nD), vocab.cap)
    is_row_mn = targets_m[:, None] == ids_n
    # This device's column of the target; negative if another device or a behavior row has it.
    column_m = jnp.where(is_row_mn.any(axis=-1), -1, targets_m - first)
    column_m = jnp.where(column_m < V, column_m, -1)
    replaced_V = jnp.isin(first + jnp.arange(V), ids_n)
    masked_mV = jnp.where(replaced_V, MASKED_LOGIT, base_mV) if vocab.behavior_ids else base_mV

    # Softmax over the columns of all devices and the behavior rows.
    max_m = over_vocab(jnp.max(masked_mV, axis=-1), jax.lax.pmax)
    max_m = jnp.maximum(max_m, jnp.max(rows_mn, axis=-1, initial=MASKED_LOGIT))
    exp_mV, exp_mn = (jnp.exp(x - max_m[:, None]) for x in (masked_mV, rows_mn))
    z_m = over_vocab(jnp.sum(exp_mV, axis=-1), jax.lax.psum) + jnp.sum(exp_mn, axis=-1)

    # Logit of the target, from the one device or behavior row that has it.
    own_m = jnp.take_along_axis(base_mV, jnp.maximum(column_m, 0)[:, None], axis=-1)[:, 0]
    target_m = over_vocab(jnp.where(column_m >= 0, own_m, 0.0), jax.lax.psum)
    target_m += jnp.sum(jnp.where(is_row_mn, rows_mn, 0.0), axis=-1)
    has_weight_m = weights_m > 0
    logprob_m = jnp.where(has_weight_m, target_m - max_m - jnp.log(z_m), 0.0)
    correct_m = has_weight_m & (target_m >= max_m)

    def logit_gradient(logits, exp, is_target):
        gradient = weights_m[:, None] * (exp / z_m[:, None] - is_target)
        if vocab.cap:
            gradient *= 1 - jnp.square(jnp.maximum(logits, -vocab.cap) / vocab.cap)
        return gradient.astype(dtype)

    # Gradients: of the logits weight · (probability - one-hot), and what follows from them.
    dhidden_mD = drows_nD = None
    dbase_mV = logit_gradient(masked_mV, exp_mV, jnp.arange(V) == column_m[:, None])
    drows_mn = logit_gradient(rows_mn, exp_mn, is_row_mn)
    if needs_grad.hidden:
        dhidden_mD = matmul('mV,DV->mD', dbase_mV, kernel_DV)
        by_rows_mD = matmul('mn,nD->mD', drows_mn, rows_nD)
        dhidden_mD += by_rows_mD if vocab_axis is None else jnp.where(first == 0, by_rows_mD, 0.0)
        dhidden_mD = dhidden_mD.astype(dtype)
    if needs_grad.behavior_rows:
        drows_nD = matmul('mn,mD->nD', drows_mn, hidden_mD)
    return logprob_m, correct_m, dhidden_mD, dbase_mV if needs_grad.kernel else None, drows_nD


def add_kernel_gradient(
    sum_DV: jax.Array, hidden_mD: jax.Array, dlogits_mV: jax.Array, column_chunk: int
) -> jax.Array:
    """Returns `sum_DV + hidden_mDᵀ dlogits_mV`, computed `column_chunk` columns at a time."""
    V = sum_DV.shape[1]
    if column_chunk >= V:
        return sum_DV + kernel_gradient(hidden_mD, dlogits_mV)

    # Lower-case v: the columns of one chunk.
    def add_chunk(first, sum_DV, columns: int):
        dlogits_mv = jax.lax.dynamic_slice_in_dim(dlogits_mV, first, columns, 1)
        update_Dv = kernel_gradient(hidden_mD, dlogits_mv)
        old_Dv = jax.lax.dynamic_slice_in_dim(sum_DV, first, columns, 1)
        return jax.lax.dynamic_update_slice_in_dim(sum_DV, old_Dv + update_Dv, first, 1)

    chunks, rest = divmod(V, column_chunk)
    sum_DV = jax.lax.fori_loop(
        0, chunks, lambda i, x_DV: add_chunk(i * column_chunk, x_DV, column_chunk), sum_DV
    )
    # The last columns, fewer than a chunk.
    return add_chunk(chunks * column_chunk, sum_DV, rest) if rest else sum_DV
