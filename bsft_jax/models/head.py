"""From hidden states to probabilities: logits, and the loss and log-probabilities that need no logits in memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bsft_jax.models.attention import soft_cap
from bsft_jax.models.cross_entropy import MASKED, Columns, cross_entropy
from bsft_jax.models.products import product
from bsft_jax.parallel.sharding import constrain


def logits(model, hidden_BTD: jax.Array) -> jax.Array:
    """Full logits [B, T, V'] in float32, V' the table's rows or, where it has to grow, one per id."""
    hidden_BTD = hidden_BTD.astype(model.dtype)

    def products(weights_DV: jax.Array) -> jax.Array:
        return soft_cap(product(hidden_BTD, weights_DV, jnp.float32), model.arch.logit_cap)

    if model.head is None:
        base_BTV = products(constrain(model.embed.table[...], 'tensor', None).T)
    else:
        base_BTV = products(constrain(model.head.kernel[...], None, 'tensor'))
    if not model.behavior_ids:
        return base_BTV
    rows_BTn = products(constrain(_rows(model), None, None).T)
    grown = max(0, max(model.behavior_ids) + 1 - base_BTV.shape[-1])
    base_BTV = jnp.pad(base_BTV, ((0, 0), (0, 0), (0, grown)), constant_values=MASKED)
    return base_BTV.at[..., jnp.asarray(model.behavior_ids)].set(rows_BTn)


def _rows(model) -> jax.Array:
    return (model.behavior.input if model.head is None else model.behavior.output)[...]


def weighted_loss(
    model, hidden_BTD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Σ weight · cross-entropy, a float32 scalar, and per token what `cross_entropy` returns, without gradients."""
    loss, logprob_BT, correct_BT = cross_entropy(
        Columns(tuple(model.behavior_ids), model.arch.logit_cap),
        hidden_BTD.astype(model.dtype),
        model.embed.table[...].T if model.head is None else model.head.kernel[...],
        _rows(model) if model.behavior_ids else None,
        targets_BT,
        weights_BT,
    )
    return loss, jax.lax.stop_gradient(logprob_BT), correct_BT


def target_logprobs(model, hidden_BTD: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Log-probability of each target [B, T] in float32, without gradients."""
    return weighted_loss(model, hidden_BTD, targets_BT, jnp.ones(targets_BT.shape))[1]
