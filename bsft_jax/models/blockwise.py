"""Attention of packed rows in blocks of queries and keys, in plain JAX: memory does not grow with T².

Flash attention (Dao et al., arXiv 2205.14135; the backward pass of arXiv 2307.08691): the softmax of a row of scores is
gathered block by block, and the backward pass makes the scores of each block again from the log-sum-exp. A block of
queries looks from the first document that one of its rows is in up to its own end, and at nothing else.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from bsft_jax.models import remat
from bsft_jax.models.attention import Attend, AttentionMask, Scores, dense, on_devices
from bsft_jax.models.products import across, contract
from bsft_jax.parallel.sharding import ROWS, TOKENS, fitting, parts

BLOCK = 128  # queries, and keys
LONGEST_DENSE = 512  # tokens of a row that dense products are faster for (benchmarks/attention.py)
_HIDDEN = -1e30


class _Rows(NamedTuple):
    """Where queries and keys of a device's rows stand.

    Attributes:
      place_T: of each query in the whole row.
      start_BT: place of the first token of the query's document.
      segments_BT, segments_BS: documents of queries and keys.
    """

    place_T: jax.Array
    start_BT: jax.Array
    segments_BT: jax.Array
    segments_BS: jax.Array


def blockwise(mask: AttentionMask, scores: Scores) -> Attend:
    """The back end of blocks; rows, heads and queries are split over the mesh in force.

    Raises ValueError for a mask that is not one of rows: suffixes behind a view take the dense back end.
    """
    if not mask.in_rows:
        raise ValueError(
            'blockwise attention is for rows that attend to themselves, not for branches or a view'
        )
    segments_BT = mask.query.segment_ids_BT
    B, T = segments_BT.shape
    if T <= LONGEST_DENSE:
        return dense(mask, scores)
    place_T = jnp.arange(T, dtype=jnp.int32)
    start_BT = place_T - mask.query.positions_BT
    rows = (place_T, start_BT, segments_BT, segments_BT)
    run = functools.partial(_run, scores, mask.window)
    if jax.sharding.get_abstract_mesh().empty:
        return lambda q, k, v: run(q, k, v, *rows)
    split = TOKENS if parts(T, TOKENS) > 1 else None
    of_queries, of_keys = (fitting((B, T), ROWS, tokens) for tokens in (TOKENS, None))
    specs = (P(split), of_queries, of_queries, of_keys)
    return lambda q, k, v: on_devices(run, q, k, v, rows, specs)


def _run(scores, window, q_BTNH, k_BSKH, v_BSKH, *rows):
    """One device's rows, heads and queries, with all keys of its rows."""
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    rows = _Rows(*rows)
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    place_T = jnp.pad(rows.place_T, (0, _more(T)), mode='edge')
    padded = _Rows(
        place_T,
        jnp.pad(rows.start_BT, ((0, 0), (0, _more(T))), mode='edge'),
        jnp.pad(rows.segments_BT, ((0, 0), (0, _more(T))), mode='edge'),
        jnp.pad(rows.segments_BS, ((0, 0), (0, _more(S))), constant_values=-1),
    )
    q_iBKRH = _blocks(jnp.pad(q_BTKGH, ((0, 0), (0, _more(T)), (0, 0), (0, 0), (0, 0))))
    k_BKSH, v_BKSH = (
        jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, _more(S)), (0, 0))) for x in (k_BSKH, v_BSKH)
    )
    out_iBKRH = _attention(scores, window, q_iBKRH, k_BKSH, v_BKSH, padded)
    out_BTKGH = out_iBKRH.reshape(-1, B, K, N // K, BLOCK, H).transpose(1, 0, 4, 2, 3, 5)
    return out_BTKGH.reshape(B, -1, N, H)[:, :T]


def _more(tokens: int) -> int:
    """Tokens that fill the last block."""
    return -tokens % BLOCK


def _blocks(x_BTKGH):
    """Blocks of queries first, and the queries of a group in one row of products: [i, B, K, G·BLOCK, H]."""
    B, T, K, G, H = x_BTKGH.shape
    x_iBKGtH = x_BTKGH.reshape(B, T // BLOCK, BLOCK, K, G, H).transpose(1, 0, 3, 4, 2, 5)
    return x_iBKGtH.reshape(T // BLOCK, B, K, G * BLOCK, H)


def _block_of(i, rows: _Rows, window: int):
    """Of a block of queries: documents, places, and the first block of keys and the one behind the last."""
    place_t = jax.lax.dynamic_slice_in_dim(rows.place_T, i * BLOCK, BLOCK)
    segments_Bt, start_Bt = (
        jax.lax.dynamic_slice_in_dim(x, i * BLOCK, BLOCK, 1) for x in (rows.segments_BT, rows.start_BT)
    )
    first = jnp.min(start_Bt)
    if window:
        first = jnp.maximum(first, place_t[0] - window + 1)
    return segments_Bt, place_t, jnp.maximum(first, 0) // BLOCK, place_t[-1] // BLOCK + 1


def _keys(j, k_BKSH, v_BKSH, rows: _Rows):
    """Keys, values, documents and places of a block."""
    k, v = (jax.lax.dynamic_slice_in_dim(x, j * BLOCK, BLOCK, 2) for x in (k_BKSH, v_BKSH))
    return (
        k,
        v,
        jax.lax.dynamic_slice_in_dim(rows.segments_BS, j * BLOCK, BLOCK, 1),
        j * BLOCK + jnp.arange(BLOCK),
    )


def _scored(scores, window, q_BKRH, k_BKsH, segments_Bt, place_t, segments_Bs, place_s):
    """Scores of a block, float32, and which of them count."""
    products_BKRs = contract('BKRH,BKsH->BKRs', q_BKRH, k_BKsH, jnp.float32)
    behind_ts = place_t[:, None] - place_s[None]
    visible_ts = (behind_ts >= 0) & (behind_ts < window) if window else behind_ts >= 0
    visible_Bts = visible_ts & (segments_Bt[:, :, None] == segments_Bs[:, None])
    groups = q_BKRH.shape[2] // BLOCK
    visible_BRs = jnp.tile(visible_Bts, (1, groups, 1))
    return scores(products_BKRs), visible_BRs[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(scores: Scores, window: int, q_iBKRH, k_BKSH, v_BKSH, rows: _Rows):
    """The output in the shape and dtype of `q_iBKRH`."""
    return _forward(scores, window, q_iBKRH, k_BKSH, v_BKSH, rows)[0]


def _forward(scores, window, q_iBKRH, k_BKSH, v_BKSH, rows):
    def block(i):
        q_BKRH = q_iBKRH[i]
        segments_Bt, place_t, first, end = _block_of(i, rows, window)

        def add(j, sums):
            most_BKR, z_BKR, out_BKRH = sums
            k, v, segments_Bs, place_s = _keys(j, k_BKSH, v_BKSH, rows)
            scores_BKRs, visible = _scored(
                scores, window, q_BKRH, k, segments_Bt, place_t, segments_Bs, place_s
            )
            scores_BKRs = jnp.where(visible, scores_BKRs, _HIDDEN)
            before, most_BKR = most_BKR, jnp.maximum(most_BKR, jnp.max(scores_BKRs, -1))
            probs_BKRs, kept_BKR = jnp.exp(scores_BKRs - most_BKR[..., None]), jnp.exp(before - most_BKR)
            more_BKRH = contract('BKRs,BKsH->BKRH', probs_BKRs.astype(v.dtype), v, jnp.float32)
            return most_BKR, kept_BKR * z_BKR + probs_BKRs.sum(-1), kept_BKR[..., None] * out_BKRH + more_BKRH

        zeros = jnp.zeros(q_BKRH.shape, jnp.float32)
        most_BKR, z_BKR, out_BKRH = jax.lax.fori_loop(
            first, end, add, (jnp.full(zeros.shape[:-1], _HIDDEN), zeros[..., 0], zeros)
        )
        return (out_BKRH / z_BKR[..., None]).astype(q_BKRH.dtype), most_BKR + jnp.log(z_BKR)

    out_iBKRH, log_z_iBKR = jax.lax.map(block, jnp.arange(len(q_iBKRH)))
    out_iBKRH, log_z_iBKR = (checkpoint_name(x, remat.ATTENTION) for x in (out_iBKRH, log_z_iBKR))
    return out_iBKRH, (q_iBKRH, k_BKSH, v_BKSH, rows, out_iBKRH, log_z_iBKR)


def _backward(scores, window, kept, dout_iBKRH):
    q_iBKRH, k_BKSH, v_BKSH, rows, out_iBKRH, log_z_iBKR = kept
    product = functools.partial(contract, result=jnp.float32)

    def block(sums, i):
        q_BKRH, dout_BKRH = q_iBKRH[i], dout_iBKRH[i]
        own_BKR = product('BKRH,BKRH->BKR', out_iBKRH[i], dout_BKRH)
        segments_Bt, place_t, first, end = _block_of(i, rows, window)

        def add(j, sums):
            dq_BKRH, dk_BKSH, dv_BKSH = sums
            k, v, segments_Bs, place_s = _keys(j, k_BKSH, v_BKSH, rows)
            scores_BKRs, visible = _scored(
                scores, window, q_BKRH, k, segments_Bt, place_t, segments_Bs, place_s
            )
            probs_BKRs = jnp.where(visible, jnp.exp(scores_BKRs - log_z_iBKR[i][..., None]), 0.0)
            dprobs_BKRs = product('BKRH,BKsH->BKRs', dout_BKRH, v)
            dscores_BKRs = scores.scale * probs_BKRs * (dprobs_BKRs - own_BKR[..., None])
            if scores.cap:
                dscores_BKRs *= 1 - jnp.square(scores_BKRs / scores.cap)
            dscores_BKRs = dscores_BKRs.astype(q_BKRH.dtype)

            def put(sum_BKSH, more):
                here = jax.lax.dynamic_slice_in_dim(sum_BKSH, j * BLOCK, BLOCK, 2)
                return jax.lax.dynamic_update_slice_in_dim(sum_BKSH, here + more, j * BLOCK, 2)

            dk = across(dscores_BKRs, q_BKRH, jnp.float32)
            dv = across(probs_BKRs.astype(v.dtype), dout_BKRH, jnp.float32)
            return dq_BKRH + product('BKRs,BKsH->BKRH', dscores_BKRs, k), put(dk_BKSH, dk), put(dv_BKSH, dv)

        dq_BKRH, *sums = jax.lax.fori_loop(first, end, add, (jnp.zeros(q_BKRH.shape, jnp.float32), *sums))
        return tuple(sums), dq_BKRH.astype(q_BKRH.dtype)

    zeros = jnp.zeros(k_BKSH.shape, jnp.float32)
    (dk_BKSH, dv_BKSH), dq_iBKRH = jax.lax.scan(block, (zeros, zeros), jnp.arange(len(q_iBKRH)))
    return dq_iBKRH, dk_BKSH.astype(k_BKSH.dtype), dv_BKSH.astype(v_BKSH.dtype), None


_attention.defvjp(_forward, _backward)
