"""Head and cross-entropy in one pass that never holds [B, T, V], neither forward nor backward.

The gradients of a sum of cross-entropies are known as soon as a token's probabilities are, so they are made
tile by tile in the forward pass and only multiplied in the backward pass (as in Liger Kernel, arXiv 2410.10989).
Every device takes its own tokens, and of the vocabulary the part that `tensor` gives it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from bsft_jax.models.attention import soft_cap
from bsft_jax.models.products import contract, kernel_gradient
from bsft_jax.parallel.sharding import ROWS, TOKENS, fitting, on_each_device, parts

LARGEST_TILE = 2**27  # logits of a device: a tile reads the kernel and writes its gradient once
LARGEST_TILE_CPU = 2**25  # there, products of so many columns are no faster for having more rows
COLUMNS_CPU = (
    2**13
)  # of the kernel's gradient, added to at a time: there, a whole one would stand beside the sum
TILES = 8  # of a device's tokens, but for the smallest: tokens without weight are skipped by whole tiles
SMALLEST_TILE = 256  # tokens
MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns of the logits are, besides the kernel's.

    `behavior_ids` are the ids whose logits come from rows of their own, in their order; `cap` is the soft cap of
    all logits, 0 for none.
    """

    behavior_ids: tuple[int, ...] = ()
    cap: float = 0.0


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def cross_entropy(
    columns: Columns,
    hidden_BTD: jax.Array,
    kernel_DV: jax.Array,
    rows_nD: jax.Array | None,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Σ weight · cross-entropy; only that sum has gradients.

    Args:
      columns: see there.
      hidden_BTD: in the dtype of the products.
      kernel_DV: of any float dtype, rounded to that of the hidden states; its gradient is summed in float32.
      rows_nD: a row per behavior id; None without.
      targets_BT: ids.
      weights_BT: float32, 0 or more. A token of weight 0 costs nothing where all of a tile have it.

    Returns the sum, and per token the log-probability of the target (float32) and whether no id is more probable;
    0 and False where the weight is 0.
    """
    nothing = (False, False, False)
    return _on_mesh(columns, nothing, hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT)[0]


def _forward(columns, *args):
    values = [None if arg is None else arg.value for arg in args]
    wanted = tuple(arg is not None and arg.perturbed for arg in args[:3])
    return _on_mesh(columns, wanted, *values)


def _backward(columns, gradients, cotangents):
    del columns
    scaled = jax.tree.map(lambda x: (cotangents[0] * x).astype(x.dtype), gradients)
    return (*scaled, None, None)


cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


@dataclasses.dataclass(frozen=True)
class _Split:
    """Mesh axes of one call: that split the tokens, that splits the vocabulary, and whether the kernel's gradient is
    left split over `fsdp`."""

    tokens: tuple[str, ...] = ()
    vocabulary: str | None = None
    scattered: bool = False


def _on_mesh(columns, wanted, hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT):
    """The results of `cross_entropy` and the gradients of what is wanted, None for the rest."""
    dtypes = [None if x is None else x.dtype for x in (hidden_BTD, kernel_DV, rows_nD)]
    kernel_DV = kernel_DV.astype(hidden_BTD.dtype)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        run = functools.partial(_on_device, columns, wanted, _Split())
    else:
        tokens, kernel = (
            fitting(hidden_BTD.shape, ROWS, TOKENS, None),
            fitting(kernel_DV.shape, None, 'tensor'),
        )
        names = itertools.chain.from_iterable((a,) if isinstance(a, str) else a or () for a in tokens[:2])
        axes = tuple(axis for axis in names if mesh.shape[axis] > 1)
        vocabulary = kernel[1] if parts(kernel_DV.shape[1], 'tensor') > 1 else None
        scattered = 'fsdp' in axes and kernel_DV.shape[0] % mesh.shape['fsdp'] == 0
        of_token, of_kernel = P(*tokens[:2]), P('fsdp' if scattered else None, kernel[1])
        gradients = tuple(
            spec if want else None for spec, want in zip((tokens, of_kernel, P()), wanted, strict=True)
        )
        run = on_each_device(
            functools.partial(_on_device, columns, wanted, _Split(axes, vocabulary, scattered)),
            (tokens, kernel, P(), of_token, of_token),
            ((P(), of_token, of_token), gradients),
        )
    results, gradients = run(hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT)
    cast = [None if x is None else x.astype(dtype) for x, dtype in zip(gradients, dtypes, strict=True)]
    return results, tuple(cast)


def _on_device(columns, wanted, split, *args):
    """A device's part of `_on_mesh`."""

    def run(**sizes):
        return functools.partial(_in_tiles, columns, wanted, split, **sizes)

    return jax.lax.platform_dependent(
        *args, cpu=run(largest=LARGEST_TILE_CPU, at_a_time=COLUMNS_CPU), default=run(largest=LARGEST_TILE)
    )


def _in_tiles(
    columns, wanted, split, hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT, *, largest, at_a_time=None
):
    """With tiles of so many logits at most; the kernel's gradient is added to by so many columns, or whole."""
    (D, V), N, dtype = kernel_DV.shape, targets_BT.size, hidden_BTD.dtype
    rows_nD = jnp.zeros((0, D), dtype) if rows_nD is None else rows_nD.astype(dtype)
    tile = min(N, max(SMALLEST_TILE, -(-N // TILES)), max(1, largest // V))
    tiles = -(-N // tile)
    place_N, used = _places(weights_BT.reshape(N) > 0)
    used = -(-used // tile)
    padded_N = jnp.zeros(tiles * tile, jnp.int32).at[place_N].set(jnp.arange(N), unique_indices=True)

    def sorted_tokens(x_BT, shape=()):
        return x_BT.reshape(N, *shape)[padded_N]

    hidden_ND, targets_N, weights_N = (
        sorted_tokens(hidden_BTD, (D,)),
        *map(sorted_tokens, (targets_BT, weights_BT)),
    )
    weights_N = jnp.where(jnp.arange(tiles * tile) < N, weights_N, 0.0)
    if split.tokens:
        used = jax.lax.pmax(used, split.tokens)
    one_tile = functools.partial(_tile, columns, wanted, split.vocabulary, kernel_DV, rows_nD)

    def add(i, sums):
        (logprob_N, correct_N, dhidden_ND), (dkernel_DV, drows_nD) = sums
        here = [jax.lax.dynamic_slice_in_dim(x, i * tile, tile) for x in (hidden_ND, targets_N, weights_N)]
        *each, dbase, drows = one_tile(*here)
        put = [
            None if x is None else jax.lax.dynamic_update_slice_in_dim(whole, x, i * tile, 0)
            for whole, x in zip((logprob_N, correct_N, dhidden_ND), each, strict=True)
        ]
        return put, (
            dkernel_DV if dbase is None else _add_product(dkernel_DV, here[0], dbase, at_a_time or V),
            drows_nD if drows is None else drows_nD + drows,
        )

    like = jnp.zeros_like
    start = (
        [jnp.zeros(tiles * tile), jnp.zeros(tiles * tile, bool), like(hidden_ND) if wanted[0] else None],
        (
            jnp.zeros((D, V)) if wanted[1] else None,
            jnp.zeros(rows_nD.shape) if wanted[2] else None,
        ),
    )
    with jax.named_scope(f'at_most_{tiles}_times'):
        (logprob_N, correct_N, dhidden_ND), (dkernel_DV, drows_nD) = jax.lax.fori_loop(0, used, add, start)

    def back(x_N):
        return x_N[place_N].reshape(*targets_BT.shape, *x_N.shape[1:])

    loss = -jnp.sum(weights_N * logprob_N)
    if split.tokens:
        loss = jax.lax.psum(loss, split.tokens)
    if wanted[0]:
        dhidden_ND = back(dhidden_ND)
        if split.vocabulary:
            dhidden_ND = jax.lax.psum(dhidden_ND, split.vocabulary)
    if wanted[1]:
        dkernel_DV = _summed(dkernel_DV, split)
    if wanted[2] and split.tokens:
        drows_nD = jax.lax.psum(drows_nD, split.tokens)
    return (loss, back(logprob_N), back(correct_N)), (dhidden_ND, dkernel_DV, drows_nD)


def _places(counted_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where each token stands when those that count go first, in their order, and how many count."""
    before_N = jnp.cumsum(counted_N, dtype=jnp.int32)
    used = before_N[-1]
    others_N = used + jnp.arange(1, counted_N.size + 1, dtype=jnp.int32) - before_N
    return jnp.where(counted_N, before_N, others_N) - 1, used


def _summed(dkernel_DV: jax.Array, split: _Split) -> jax.Array:
    """Over the devices that have other tokens."""
    rest = split.tokens
    if split.scattered:
        dkernel_DV = jax.lax.psum_scatter(dkernel_DV, 'fsdp', scatter_dimension=0, tiled=True)
        rest = tuple(axis for axis in rest if axis != 'fsdp')
    return jax.lax.psum(dkernel_DV, rest) if rest else dkernel_DV


def _tile(columns, wanted, vocabulary, kernel_DV, rows_nD, hidden_ND, targets_N, weights_N):
    """Log-probabilities, hits and gradients of some tokens: of the hidden states' gradient the part that this device's
    columns give, and with the first of them that of the rows; then that of the logits, which the kernel's comes from,
    and that of the rows."""
    dtype, V = hidden_ND.dtype, kernel_DV.shape[1]
    ids_n = jnp.asarray(columns.behavior_ids, jnp.int32)
    first = jax.lax.axis_index(vocabulary) * V if vocabulary else 0
    dot = functools.partial(contract, result=jnp.float32)

    def logits(spec, weights):
        return soft_cap(dot(spec, hidden_ND, weights), columns.cap)

    def over_columns(x, reduce):
        return reduce(x, vocabulary) if vocabulary else x

    base_NV = logits('ND,DV->NV', kernel_DV)
    rows_Nn = logits('ND,nD->Nn', rows_nD)
    is_row_Nn = targets_N[:, None] == ids_n
    column_N = jnp.where(
        is_row_Nn.any(axis=-1), -1, targets_N - first
    )  # of the target, if this device has it
    column_N = jnp.where(column_N < V, column_N, -1)
    masked_V = jnp.isin(first + jnp.arange(V), ids_n)
    masked_NV = jnp.where(masked_V, MASKED, base_NV) if columns.behavior_ids else base_NV

    best_N = over_columns(jnp.max(masked_NV, axis=-1), jax.lax.pmax)
    best_N = jnp.maximum(best_N, jnp.max(rows_Nn, axis=-1, initial=MASKED))
    share_NV, share_Nn = (jnp.exp(x - best_N[:, None]) for x in (masked_NV, rows_Nn))
    z_N = over_columns(jnp.sum(share_NV, axis=-1), jax.lax.psum) + jnp.sum(share_Nn, axis=-1)
    own_N = jnp.take_along_axis(base_NV, jnp.maximum(column_N, 0)[:, None], axis=-1)[:, 0]
    target_N = over_columns(jnp.where(column_N >= 0, own_N, 0.0), jax.lax.psum)
    target_N += jnp.sum(jnp.where(is_row_Nn, rows_Nn, 0.0), axis=-1)
    counted_N = weights_N > 0
    logprob_N = jnp.where(counted_N, target_N - best_N - jnp.log(z_N), 0.0)
    correct_N = counted_N & (target_N >= best_N)

    def of_logits(logits, share, is_target):
        gradient = weights_N[:, None] * (share / z_N[:, None] - is_target)
        if columns.cap:
            gradient *= 1 - jnp.square(jnp.maximum(logits, -columns.cap) / columns.cap)
        return gradient.astype(dtype)

    dhidden_ND = drows_nD = None
    dbase_NV = of_logits(masked_NV, share_NV, jnp.arange(V) == column_N[:, None])
    drows_Nn = of_logits(rows_Nn, share_Nn, is_row_Nn)
    if wanted[0]:
        dhidden_ND = dot('NV,DV->ND', dbase_NV, kernel_DV)
        by_rows_ND = dot('Nn,nD->ND', drows_Nn, rows_nD)
        dhidden_ND += by_rows_ND if vocabulary is None else jnp.where(first == 0, by_rows_ND, 0.0)
        dhidden_ND = dhidden_ND.astype(dtype)
    if wanted[2]:
        drows_nD = dot('Nn,ND->nD', drows_Nn, hidden_ND)
    return logprob_N, correct_N, dhidden_ND, dbase_NV if wanted[1] else None, drows_nD


def _add_product(sum_DV: jax.Array, hidden_ND: jax.Array, dbase_NV: jax.Array, at_a_time: int) -> jax.Array:
    """`sum_DV + hidden_NDᵀ dbase_NV`, so many columns at a time."""
    V = sum_DV.shape[1]
    if at_a_time >= V:
        return sum_DV + kernel_gradient(hidden_ND, dbase_NV)

    def add(first, sum_DV, columns: int):
        more_DC = kernel_gradient(hidden_ND, jax.lax.dynamic_slice_in_dim(dbase_NV, first, columns, 1))
        here_DC = jax.lax.dynamic_slice_in_dim(sum_DV, first, columns, 1)
        return jax.lax.dynamic_update_slice_in_dim(sum_DV, here_DC + more_DC, first, 1)

    blocks, rest = divmod(V, at_a_time)
    sum_DV = jax.lax.fori_loop(0, blocks, lambda i, x: add(i * at_a_time, x, at_a_time), sum_DV)
    return add(blocks * at_a_time, sum_DV, rest) if rest else sum_DV
