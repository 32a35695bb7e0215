"""Fits new behavior rows to the base, so that no steps are spent on making them probable.

A new row starts with a log-probability near -15 at the head of an answer: the base has never seen
its token. Here every row starts as the embedding that the base expects there on average. Ridge
regression then moves it by little, so that at the heads of answers the rows together get
`TOTAL_PROBABILITY`, and elsewhere about none. No other row changes, and so no other logit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bsft_jax.data import loader
from bsft_jax.data.examples import Batch
from bsft_jax.models import behavior_rows, lm_head
from bsft_jax.models.network import Network, Params
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.ops.cross_entropy import MASKED_LOGIT
from bsft_jax.ops.precision import einsum
from bsft_jax.parallel import sharding
from bsft_jax.parallel.sharding import BATCH_AXES, SEQUENCE_AXIS

# `model.row_init` → the initial value that the fit starts from.
START = {'fitted': 'description'}
# Probability of all behavior tokens together, at the mean of the heads.
TOTAL_PROBABILITY = 0.9
# Positions of the first micro-batch that the fit looks at: heads of answers, and others.
MAX_HEADS, MAX_OTHERS = 64, 512
# Ridge penalty, relative to the mean squared norm of the hidden states.
RIDGE = 0.01


class _Observed(NamedTuple):
    """Holds what the base computes at heads (h) and at other positions (o).

    Attributes:
      heads_hD, others_oD: hidden states, of which the first `num_heads`, `num_others` count.
      log_sum_exp_h: log of the summed exponentials of all logits but those of behavior tokens.
      expected_D: mean over heads of the LM head's columns, weighted by their probabilities.
      rows_nD: initial rows.
    """

    heads_hD: Any
    others_oD: Any
    log_sum_exp_h: Any
    expected_D: Any
    rows_nD: Any
    num_heads: Any
    num_others: Any


def fit_rows(
    network: Network,
    params: Params,
    mesh: Mesh,
    source: loader.BatchSource,
    accumulation: int,
    new: Sequence[bool],
) -> Params:
    """Returns the parameters with new behavior rows that are fitted to the first micro-batch.

    With an untied head its columns are fitted, and the embeddings stay. Without new rows, or
    behavior tokens in the batch, nothing changes.

    Args:
      network: the decoder, chosen for the mesh.
      params: its parameters, with initial behavior rows.
      mesh: where they are.
      source: the batches of the run.
      accumulation: micro-batches of a step.
      new: for each behavior row whether it is new; others stay as they are.
    """
    if not any(new):
        return params
    observe = jax.jit(
        functools.partial(_observe, network, accumulation),
        out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
    )
    with jax.set_mesh(mesh):
        batch = loader.to_device(source[0], mesh, source.local_rows, source.rows)
        seen = _Observed(*map(np.asarray, observe(params, batch)))
    if not seen.num_heads:
        return params
    name = 'output' if 'output' in params['behavior'] else 'input'
    initial = params['behavior'][name]
    fitted_nD = fit(seen, network.arch.logit_softcap)
    rows_nD = np.where(np.asarray(new)[:, None], fitted_nD, seen.rows_nD).astype(initial.dtype)
    rows = jax.make_array_from_callback(rows_nD.shape, initial.sharding, rows_nD.__getitem__)
    return {**params, 'behavior': {**params['behavior'], name: rows}}


def _observe(network: Network, accumulation: int, params: Params, batch: Batch) -> _Observed:
    # Rows go to micro-batches round-robin, as in the train step, whose memory this stays within.
    batch = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:])[:, 0], batch)
    decoder = network.bind(params)
    layout = TokenLayout(
        batch.segment_ids_BT, batch.positions_BT, max_segments=network.max_segments
    )
    hidden_BTD, _ = decoder(batch.tokens_BT, layout)
    ids_n = jnp.asarray(network.behavior_ids, jnp.int32)
    is_head_BT = jnp.isin(batch.targets_BT, ids_n) & (batch.weights_BT > 0)
    is_other_BT = (batch.segment_ids_BT > 0) & ~is_head_BT

    heads_h, num_heads = _evenly(is_head_BT, MAX_HEADS)
    others_o, num_others = _evenly(is_other_BT, MAX_OTHERS)
    heads_hD = _take(hidden_BTD, heads_h)
    logits_hV = lm_head.logits(decoder, heads_hD[None])[0].at[:, ids_n].set(MASKED_LOGIT)
    counts_h = jnp.arange(MAX_HEADS) < num_heads
    mean_V = jnp.sum(jnp.where(counts_h[:, None], jax.nn.softmax(logits_hV), 0), axis=0)
    mean_V /= jnp.maximum(num_heads, 1)
    tied = decoder.lm_head is None
    columns_DV = decoder.embed.table[...].T if tied else decoder.lm_head.kernel[...]
    # Beyond the end of the table there are behavior tokens alone.
    mean_V = mean_V[: columns_DV.shape[1]]
    expected_D = einsum('DV,V->D', columns_DV.astype(jnp.float32), mean_V, dtype=jnp.float32)
    return _Observed(
        heads_hD.astype(jnp.float32),
        _take(hidden_BTD, others_o).astype(jnp.float32),
        jax.nn.logsumexp(logits_hV, axis=-1),
        expected_D,
        behavior_rows.output_rows(decoder).astype(jnp.float32),
        num_heads,
        num_others,
    )


def _evenly(chosen_BT: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns `size` indices into the flat chosen positions, evenly spaced, and how many count."""
    indices_M = jnp.nonzero(chosen_BT.reshape(-1), size=chosen_BT.size, fill_value=0)[0]
    found = jnp.sum(chosen_BT, dtype=jnp.int32)
    count = jnp.minimum(found, size)
    ranks = jnp.arange(size) * jnp.maximum(found, 1) // jnp.maximum(count, 1)
    return indices_M[jnp.minimum(ranks, chosen_BT.size - 1)], count


def _take(x_BTD: jax.Array, indices_N: jax.Array) -> jax.Array:
    """Returns the positions [N, D] at flat indices.

    A product with ones and zeros, since a gather would bring all positions to every device.
    """
    B, T, _ = x_BTD.shape
    index_BT = jnp.arange(B)[:, None] * T + jnp.arange(T)
    chosen_NBT = indices_N[:, None, None] == sharding.constrain(index_BT, BATCH_AXES, SEQUENCE_AXIS)
    return einsum('NBT,BTD->ND', chosen_NBT.astype(x_BTD.dtype), x_BTD, dtype=x_BTD.dtype)


def fit(seen: _Observed, softcap: float = 0.0) -> np.ndarray:
    """Returns rows [n, D] in float64 whose logits at the heads give the rows their probability.

    Args:
      seen: what the base computes; the differences of the initial rows from their mean are kept.
      softcap: soft cap of the logits; 0 for none.
    """
    heads_hD = seen.heads_hD[: seen.num_heads].astype(np.float64)
    others_oD = seen.others_oD[: seen.num_others].astype(np.float64)
    # Together they count as much as the heads.
    others_oD *= np.sqrt(len(heads_hD) / max(len(others_oD), 1))
    hidden_ND = np.concatenate([heads_hD, others_oD])
    rows_nD = seen.rows_nD.astype(np.float64)
    rows_nD = seen.expected_D + rows_nD - rows_nD.mean(axis=0)
    odds = TOTAL_PROBABILITY / (1 - TOTAL_PROBABILITY)
    logits_h = seen.log_sum_exp_h[: seen.num_heads] + np.log(odds / len(rows_nD))
    if softcap:
        # What the cap maps to that logit.
        logits_h = softcap * np.arctanh(np.clip(logits_h / softcap, -0.99, 0.99))
    # Missing logits: those of other positions are to stay as they are.
    missing_Nn = np.zeros((len(hidden_ND), len(rows_nD)))
    missing_Nn[: len(heads_hD)] = logits_h[:, None] - heads_hD @ rows_nD.T
    # Ridge regression in its dual form, since there are fewer positions than dimensions.
    products_NN = hidden_ND @ hidden_ND.T
    penalty = RIDGE * np.trace(products_NN) / len(products_NN)
    products_NN[np.diag_indices_from(products_NN)] += penalty
    return rows_nD + np.linalg.solve(products_NN, missing_Nn).T @ hidden_ND
