"""Attention of packed rows in blocks of queries and keys, in plain JAX: memory linear in T.

Flash attention (Dao et al., arXiv 2205.14135; the backward pass of arXiv 2307.08691): the softmax
is accumulated over blocks of keys, and the backward pass recomputes each block's scores from the
log-sum-exp. A block of queries visits the blocks of keys from the first segment that one of its
rows is in up to its own end, and no others.

Besides the legend of `bsft_jax.ops`, i counts blocks of queries; q is G · BLOCK grouped queries.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from bsft_jax.ops import remat
from bsft_jax.ops.attention import (
    MASKED_SCORE,
    AttentionFn,
    AttentionMask,
    ScoreTransform,
    dense,
    shard_attention,
)
from bsft_jax.ops.matmul import attention_matmul_transposed, einsum_accumulate
from bsft_jax.parallel.sharding import BATCH_AXES, SEQUENCE_AXIS, activation_spec, num_shards

# Queries in a block, and keys.
BLOCK = 128
# Rows up to this length are faster by dense matmuls (benchmarks/attention.py).
MAX_DENSE_TOKENS = 512


class _TokenIndices(NamedTuple):
    """Holds the positions of a device's queries and keys.

    Attributes:
      index_T: index of each query in the whole row.
      start_BT: index of the first token of the query's segment.
      segments_BT: segments of the queries.
      segments_BS: segments of the keys.
    """

    index_T: jax.Array
    start_BT: jax.Array
    segments_BT: jax.Array
    segments_BS: jax.Array


class _QueryBlock(NamedTuple):
    """Holds what a block of queries needs besides their vectors.

    Attributes:
      segments_Bt: segments of the queries.
      index_t: their indices in the row.
      first: first block of keys that one of them sees.
      end: the block after the last block of keys.
    """

    segments_Bt: jax.Array
    index_t: jax.Array
    first: jax.Array
    end: jax.Array


class _KeyBlock(NamedTuple):
    """Holds one block of keys and values with their segments and indices in the row."""

    k_BKsH: jax.Array
    v_BKsH: jax.Array
    segments_Bs: jax.Array
    index_s: jax.Array


def blockwise(mask: AttentionMask, transform: ScoreTransform) -> AttentionFn:
    """Builds the blockwise attention function; rows, heads and queries are split over the mesh.

    Short rows take the dense backend, see MAX_DENSE_TOKENS.

    Raises:
      ValueError: for a mask other than of rows that attend to themselves; suffixes after a prefix
        take the dense backend.
    """
    if not mask.is_self_attention:
        raise ValueError(
            'blockwise attention is for rows that attend to themselves, not for branches or a cache'
        )
    segments_BT = mask.query.segment_ids_BT
    B, T = segments_BT.shape
    if T <= MAX_DENSE_TOKENS:
        return dense(mask, transform)
    index_T = jnp.arange(T, dtype=jnp.int32)
    start_BT = index_T - mask.query.positions_BT
    indices = (index_T, start_BT, segments_BT, segments_BT)
    run = functools.partial(_attend_shard, transform, mask.window)
    if jax.sharding.get_abstract_mesh().empty:
        return lambda q, k, v: run(q, k, v, *indices)
    split = SEQUENCE_AXIS if num_shards(T, SEQUENCE_AXIS) > 1 else None
    q_spec = activation_spec((B, T), BATCH_AXES, SEQUENCE_AXIS)
    kv_spec = activation_spec((B, T), BATCH_AXES, None)
    specs = (P(split), q_spec, q_spec, kv_spec)
    return lambda q, k, v: shard_attention(run, q, k, v, indices, specs)


def _attend_shard(transform, window, q_BTNH, k_BSKH, v_BSKH, *indices):
    """Computes attention of one device's rows, heads and queries with all keys of its rows."""
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    indices = _TokenIndices(*indices)
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)

    # Fill the last blocks. Padded queries repeat the last one; segment -1 hides padded keys.
    q_pad, kv_pad = (0, _padding(T)), (0, _padding(S))
    padded = _TokenIndices(
        jnp.pad(indices.index_T, q_pad, mode='edge'),
        jnp.pad(indices.start_BT, ((0, 0), q_pad), mode='edge'),
        jnp.pad(indices.segments_BT, ((0, 0), q_pad), mode='edge'),
        jnp.pad(indices.segments_BS, ((0, 0), kv_pad), constant_values=-1),
    )
    q_iBKqH = _to_blocks(jnp.pad(q_BTKGH, ((0, 0), q_pad, (0, 0), (0, 0), (0, 0))))
    k_BKSH, v_BKSH = (
        jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), kv_pad, (0, 0))) for x in (k_BSKH, v_BSKH)
    )

    out_iBKqH = _attention(transform, window, q_iBKqH, k_BKSH, v_BKSH, padded)
    # Back to tokens in order, without the padding.
    out_BTKGH = out_iBKqH.reshape(-1, B, K, N // K, BLOCK, H).transpose(1, 0, 4, 2, 3, 5)
    return out_BTKGH.reshape(B, -1, N, H)[:, :T]


def _padding(tokens: int) -> int:
    """Returns how many tokens fill the last block."""
    return -tokens % BLOCK


def _to_blocks(x_BTKGH):
    """Returns [i, B, K, G·BLOCK, H]: blocks first, the queries of a group in one matmul."""
    B, T, K, G, H = x_BTKGH.shape
    x_iBKGtH = x_BTKGH.reshape(B, T // BLOCK, BLOCK, K, G, H).transpose(1, 0, 3, 4, 2, 5)
    return x_iBKGtH.reshape(T // BLOCK, B, K, G * BLOCK, H)


def _query_block(i, indices: _TokenIndices, window: int) -> _QueryBlock:
    """Returns the segments, indices and visited blocks of keys of one block of queries."""
    index_t = jax.lax.dynamic_slice_in_dim(indices.index_T, i * BLOCK, BLOCK)
    segments_Bt, start_Bt = (
        jax.lax.dynamic_slice_in_dim(x, i * BLOCK, BLOCK, 1)
        for x in (indices.segments_BT, indices.start_BT)
    )
    first_key = jnp.min(start_Bt)
    if window:
        first_key = jnp.maximum(first_key, index_t[0] - window + 1)
    return _QueryBlock(
        segments_Bt, index_t, jnp.maximum(first_key, 0) // BLOCK, index_t[-1] // BLOCK + 1
    )


def _key_block(j, k_BKSH, v_BKSH, indices: _TokenIndices) -> _KeyBlock:
    """Returns block `j` of the keys."""
    k_BKsH, v_BKsH = (
        jax.lax.dynamic_slice_in_dim(x, j * BLOCK, BLOCK, 2) for x in (k_BKSH, v_BKSH)
    )
    segments_Bs = jax.lax.dynamic_slice_in_dim(indices.segments_BS, j * BLOCK, BLOCK, 1)
    return _KeyBlock(k_BKsH, v_BKsH, segments_Bs, j * BLOCK + jnp.arange(BLOCK))


def _scores(transform, window, q_BKqH, queries: _QueryBlock, keys: _KeyBlock):
    """Returns the scores of a block in float32, and bool_B1qs, True for visible pairs."""
    products_BKqs = einsum_accumulate('BKqH,BKsH->BKqs', q_BKqH, keys.k_BKsH, jnp.float32)
    distance_ts = queries.index_t[:, None] - keys.index_s[None]
    visible_ts = distance_ts >= 0
    if window:
        visible_ts = visible_ts & (distance_ts < window)
    visible_Bts = visible_ts & (queries.segments_Bt[:, :, None] == keys.segments_Bs[:, None])
    groups = q_BKqH.shape[2] // BLOCK
    visible_Bqs = jnp.tile(visible_Bts, (1, groups, 1))
    return transform(products_BKqs), visible_Bqs[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(transform: ScoreTransform, window: int, q_iBKqH, k_BKSH, v_BKSH, indices):
    """Computes the output, in the shape and dtype of `q_iBKqH`."""
    return _forward(transform, window, q_iBKqH, k_BKSH, v_BKSH, indices)[0]


def _forward(transform, window, q_iBKqH, k_BKSH, v_BKSH, indices):
    def attend_block(i):
        q_BKqH = q_iBKqH[i]
        queries = _query_block(i, indices, window)

        def add_keys(j, carry):
            max_BKq, z_BKq, out_BKqH = carry
            keys = _key_block(j, k_BKSH, v_BKSH, indices)
            scores_BKqs, visible = _scores(transform, window, q_BKqH, queries, keys)
            scores_BKqs = jnp.where(visible, scores_BKqs, MASKED_SCORE)
            # Online softmax: rescale the sums so far to the new maximum, then add this block.
            old_max_BKq, max_BKq = max_BKq, jnp.maximum(max_BKq, jnp.max(scores_BKqs, -1))
            probs_BKqs = jnp.exp(scores_BKqs - max_BKq[..., None])
            rescale_BKq = jnp.exp(old_max_BKq - max_BKq)
            block_out_BKqH = einsum_accumulate(
                'BKqs,BKsH->BKqH', probs_BKqs.astype(keys.v_BKsH.dtype), keys.v_BKsH, jnp.float32
            )
            z_BKq = rescale_BKq * z_BKq + probs_BKqs.sum(-1)
            return max_BKq, z_BKq, rescale_BKq[..., None] * out_BKqH + block_out_BKqH

        zeros = jnp.zeros(q_BKqH.shape, jnp.float32)
        start = jnp.full(zeros.shape[:-1], MASKED_SCORE), zeros[..., 0], zeros
        max_BKq, z_BKq, out_BKqH = jax.lax.fori_loop(queries.first, queries.end, add_keys, start)
        return (out_BKqH / z_BKq[..., None]).astype(q_BKqH.dtype), max_BKq + jnp.log(z_BKq)

    out_iBKqH, log_z_iBKq = jax.lax.map(attend_block, jnp.arange(len(q_iBKqH)))
    # The backward pass needs both; remat policies save them by this name.
    out_iBKqH, log_z_iBKq = (
        checkpoint_name(x, remat.ATTENTION_OUTPUT) for x in (out_iBKqH, log_z_iBKq)
    )
    return out_iBKqH, (q_iBKqH, k_BKSH, v_BKSH, indices, out_iBKqH, log_z_iBKq)


def _backward(transform, window, residuals, dout_iBKqH):
    q_iBKqH, k_BKSH, v_BKSH, indices, out_iBKqH, log_z_iBKq = residuals
    matmul = functools.partial(einsum_accumulate, dtype=jnp.float32)

    def differentiate_block(dkv, i):
        q_BKqH, dout_BKqH = q_iBKqH[i], dout_iBKqH[i]
        # Σ_s probability · gradient of the probability, from the output alone (arXiv 2307.08691).
        mean_BKq = matmul('BKqH,BKqH->BKq', out_iBKqH[i], dout_BKqH)
        queries = _query_block(i, indices, window)

        def add_keys(j, carry):
            dq_BKqH, dk_BKSH, dv_BKSH = carry
            keys = _key_block(j, k_BKSH, v_BKSH, indices)
            # Recompute the probabilities of the forward pass.
            scores_BKqs, visible = _scores(transform, window, q_BKqH, queries, keys)
            probs_BKqs = jnp.where(visible, jnp.exp(scores_BKqs - log_z_iBKq[i][..., None]), 0.0)
            # Through the softmax, the soft cap and the scale.
            dprobs_BKqs = matmul('BKqH,BKsH->BKqs', dout_BKqH, keys.v_BKsH)
            dscores_BKqs = transform.scale * probs_BKqs * (dprobs_BKqs - mean_BKq[..., None])
            if transform.cap:
                dscores_BKqs *= 1 - jnp.square(scores_BKqs / transform.cap)
            dscores_BKqs = dscores_BKqs.astype(q_BKqH.dtype)

            def add_to_block(sum_BKSH, update_BKsH):
                old_BKsH = jax.lax.dynamic_slice_in_dim(sum_BKSH, j * BLOCK, BLOCK, 2)
                return jax.lax.dynamic_update_slice_in_dim(
                    sum_BKSH, old_BKsH + update_BKsH, j * BLOCK, 2
                )

            dk_BKsH = attention_matmul_transposed(dscores_BKqs, q_BKqH, jnp.float32)
            dv_BKsH = attention_matmul_transposed(
                probs_BKqs.astype(keys.v_BKsH.dtype), dout_BKqH, jnp.float32
            )
            return (
                dq_BKqH + matmul('BKqs,BKsH->BKqH', dscores_BKqs, keys.k_BKsH),
                add_to_block(dk_BKSH, dk_BKsH),
                add_to_block(dv_BKSH, dv_BKsH),
            )

        start = jnp.zeros(q_BKqH.shape, jnp.float32), *dkv
        dq_BKqH, *dkv = jax.lax.fori_loop(queries.first, queries.end, add_keys, start)
        return tuple(dkv), dq_BKqH.astype(q_BKqH.dtype)

    # Gradients of keys and values are carried from block to block of queries, in float32.
    zeros = jnp.zeros(k_BKSH.shape, jnp.float32)
    (dk_BKSH, dv_BKSH), dq_iBKqH = jax.lax.scan(
        differentiate_block, (zeros, zeros), jnp.arange(len(q_iBKqH))
    )
    return dq_iBKqH, dk_BKSH.astype(k_BKSH.dtype), dv_BKSH.astype(v_BKSH.dtype), None


_attention.defvjp(_forward, _backward)
