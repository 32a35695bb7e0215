"""From hidden states to probabilities: logits, and loss and log-probabilities without them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bsft_jax.models import behavior_rows
from bsft_jax.ops.attention import soft_cap
from bsft_jax.ops.cross_entropy import MASKED_LOGIT, VocabSpec, cross_entropy
from bsft_jax.ops.matmul import linear_matmul
from bsft_jax.parallel.sharding import constrain


def logits(decoder, hidden_BTD: jax.Array) -> jax.Array:
    """Returns all logits [B, T, V'] in float32.

    V' is the rows of the table, or more where a behavior id is beyond its end.
    """
    hidden_BTD = hidden_BTD.astype(decoder.dtype)

    def capped_logits(weights_DV: jax.Array) -> jax.Array:
        products = linear_matmul(hidden_BTD, weights_DV, jnp.float32)
        return soft_cap(products, decoder.arch.logit_softcap)

    if decoder.lm_head is None:
        base_BTV = capped_logits(constrain(decoder.embed.table[...], 'tensor', None).T)
    else:
        base_BTV = capped_logits(constrain(decoder.lm_head.kernel[...], None, 'tensor'))
    if not decoder.behavior_ids:
        return base_BTV
    rows_BTn = capped_logits(constrain(behavior_rows.output_rows(decoder), None, None).T)
    # Columns between the table's end and the behavior ids belong to no token.
    missing = max(0, max(decoder.behavior_ids) + 1 - base_BTV.shape[-1])
    base_BTV = jnp.pad(base_BTV, ((0, 0), (0, 0), (0, missing)), constant_values=MASKED_LOGIT)
    return base_BTV.at[..., jnp.asarray(decoder.behavior_ids)].set(rows_BTn)


def weighted_loss(
    decoder, hidden_BTD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns Σ weight · cross-entropy, a float32 scalar, and the results of each token.

    Those are log-probability and correctness, see `ops.cross_entropy`; they have no gradients.
    """
    tied = decoder.lm_head is None
    loss, logprob_BT, correct_BT = cross_entropy(
        VocabSpec(tuple(decoder.behavior_ids), decoder.arch.logit_softcap),
        hidden_BTD.astype(decoder.dtype),
        decoder.embed.table[...].T if tied else decoder.lm_head.kernel[...],
        behavior_rows.output_rows(decoder) if decoder.behavior_ids else None,
        targets_BT,
        weights_BT,
    )
    return loss, jax.lax.stop_gradient(logprob_BT), correct_BT


def target_logprobs(decoder, hidden_BTD: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Returns the log-probability of each target [B, T] in float32, without gradients."""
    return weighted_loss(decoder, hidden_BTD, targets_BT, jnp.ones(targets_BT.shape))[1]
