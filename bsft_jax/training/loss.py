"""The loss: weighted cross-entropy, summed over the global batch and divided once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bsft_jax.data.batch import Batch
from bsft_jax.models import head
from bsft_jax.models.attention import Layout
from bsft_jax.models.network import Network, Params

Sums = dict[str, jax.Array]


def weighted_sums(
    network: Network, params: Params, batch: Batch, dropout_key: jax.Array | None = None
) -> Sums:
    """Sums over a batch, all float32 scalars.

    `loss` is Σ weight · cross-entropy; `behavior_…` speak of behavior tokens and `response_…`
    of every other target; `…_count` counts targets with weight, `…_correct` those predicted;
    `tokens` counts all tokens but padding.
    """
    decoder = network.bind(params)
    layout = Layout(batch.segment_ids_BT, batch.positions_BT, documents=network.documents)
    hidden_BTD, _ = decoder(batch.tokens_BT, layout, dropout_key=dropout_key)
    loss, logprob_BT, correct_BT = head.weighted_loss(decoder, hidden_BTD, batch.targets_BT, batch.weights_BT)
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
    """Per-target figures from the sums of the whole global batch."""
    result = {'loss': sums['loss'] / total_weight}
    for name in ('behavior', 'response'):
        count = jnp.maximum(sums[f'{name}_count'], 1.0)
        result[f'{name}_loss'] = sums[f'{name}_loss'] / count
        result[f'{name}_accuracy'] = sums[f'{name}_correct'] / count
    result['targets'] = sums['behavior_count'] + sums['response_count']
    result['tokens'] = sums['tokens']
    return result
