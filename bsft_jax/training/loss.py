"""The loss: weighted cross-entropy, summed over the global batch and divided once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bsft_jax.data.examples import Batch
from bsft_jax.models import lm_head
from bsft_jax.models.network import Network, Params
from bsft_jax.ops.attention import TokenLayout

Sums = dict[str, jax.Array]


def weighted_sums(
    network: Network, params: Params, batch: Batch, dropout_key: jax.Array | None = None
) -> Sums:
    """Computes sums over a batch, all float32 scalars.

    Returns:
      loss: Σ weight · cross-entropy.
      behavior_loss, response_loss: Σ cross-entropy over targets with weight that are behavior
        tokens, and over the others.
      behavior_correct, response_correct: how many of them are the most probable token.
      behavior_count, response_count: how many there are.
      tokens: tokens without padding.
    """
    decoder = network.bind(params)
    layout = TokenLayout(
        batch.segment_ids_BT, batch.positions_BT, max_segments=network.max_segments
    )
    hidden_BTD, _ = decoder(batch.tokens_BT, layout, dropout_key=dropout_key)
    loss, logprob_BT, correct_BT = lm_head.weighted_loss(
        decoder, hidden_BTD, batch.targets_BT, batch.weights_BT
    )
    has_weight_BT = batch.weights_BT > 0
    is_behavior_BT = jnp.isin(batch.targets_BT, jnp.asarray(network.behavior_ids, jnp.int32))
    sums = {
        'loss': loss,
        'tokens': jnp.sum(batch.segment_ids_BT > 0, dtype=jnp.float32),
    }
    for name, chosen_BT in (
        ('behavior', has_weight_BT & is_behavior_BT),
        ('response', has_weight_BT & ~is_behavior_BT),
    ):
        sums[f'{name}_loss'] = -jnp.sum(jnp.where(chosen_BT, logprob_BT, 0.0))
        sums[f'{name}_correct'] = jnp.sum(chosen_BT & correct_BT, dtype=jnp.float32)
        sums[f'{name}_count'] = jnp.sum(chosen_BT, dtype=jnp.float32)
    return sums


def means(sums: Sums, total_weight: jax.Array) -> Sums:
    """Returns metrics per target from the sums over the whole global batch."""
    result = {'loss': sums['loss'] / total_weight}
    for name in ('behavior', 'response'):
        count = jnp.maximum(sums[f'{name}_count'], 1.0)
        result[f'{name}_loss'] = sums[f'{name}_loss'] / count
        result[f'{name}_accuracy'] = sums[f'{name}_correct'] / count
    result['targets'] = sums['behavior_count'] + sums['response_count']
    result['tokens'] = sums['tokens']
    return result
