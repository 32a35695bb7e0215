"""From hidden states to probabilities: logits, and log-probabilities that never hold [B, T, V]."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bsft_jax.models.attention import soft_cap
from bsft_jax.models.products import product
from bsft_jax.parallel.sharding import ROWS, TOKENS, constrain, parts

TILE_ELEMENTS = 2**25  # most logits of a device that exist at a time
MASKED = -1e30


def _products(model, hidden_BTD: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Base logits [B, T, V] with the behavior columns masked, and row logits [B, T, n]; float32."""
    hidden_BTD = hidden_BTD.astype(model.dtype)

    def products(weights_DV: jax.Array) -> jax.Array:
        return soft_cap(product(hidden_BTD, weights_DV, jnp.float32), model.arch.logit_cap)

    if model.head is None:
        base_BTV = products(constrain(model.embed.table[...], 'tensor', None).T)
    else:
        base_BTV = products(constrain(model.head.kernel[...], None, 'tensor'))
    if not model.behavior_ids:
        return base_BTV, None
    V = base_BTV.shape[-1]
    masked_V = jnp.isin(jnp.arange(V), jnp.asarray(model.behavior_ids))
    rows = model.behavior.input if model.head is None else model.behavior.output
    return jnp.where(masked_V, MASKED, base_BTV), products(constrain(rows[...], None, None).T)


def logits(model, hidden_BTD: jax.Array) -> jax.Array:
    """Full logits [B, T, V'] in float32, V' the table's rows or, where it has to grow, one per id."""
    base_BTV, rows_BTn = _products(model, hidden_BTD)
    if rows_BTn is None:
        return base_BTV
    grown = max(0, max(model.behavior_ids) + 1 - base_BTV.shape[-1])
    base_BTV = jnp.pad(base_BTV, ((0, 0), (0, 0), (0, grown)), constant_values=MASKED)
    return base_BTV.at[..., jnp.asarray(model.behavior_ids)].set(rows_BTn)


def _tile_logprobs(model, hidden_BTD, targets_BT):
    base_BTV, rows_BTn = _products(model, hidden_BTD)
    log_z_BT, best_BT = jax.nn.logsumexp(base_BTV, axis=-1), jnp.max(base_BTV, axis=-1)
    target_BT = jnp.take_along_axis(base_BTV, targets_BT[..., None], axis=-1, mode='clip')[..., 0]
    if rows_BTn is not None:
        ids_n = jnp.asarray(model.behavior_ids)
        log_z_BT = jnp.logaddexp(log_z_BT, jax.nn.logsumexp(rows_BTn, axis=-1))
        is_row_BTn = targets_BT[..., None] == ids_n
        row_BT = jnp.sum(jnp.where(is_row_BTn, rows_BTn, 0.0), axis=-1)
        target_BT = jnp.where(is_row_BTn.any(axis=-1), row_BT, target_BT)
        best_BT = jnp.maximum(best_BT, rows_BTn.max(axis=-1))
    return target_BT - log_z_BT, target_BT >= best_BT


def target_logprobs(model, hidden_BTD: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target and whether no token is more probable.

    At most `TILE_ELEMENTS` logits exist at a time on each device of the mesh in force; where that is not all of
    its share, they are computed again in the backward pass, so that memory does not grow with B · T · V.

    Returns logprob_BT in float32 and correct_BT in bool.
    """
    B, T, _ = hidden_BTD.shape
    V, split = model.arch.vocab_size, parts(T, TOKENS)
    logits = (B // parts(B, ROWS)) * (T // split) * (V // parts(V, 'tensor'))
    tiles = min(-(-logits // TILE_ELEMENTS), T // split)
    if tiles == 1:
        return _tile_logprobs(model, hidden_BTD, targets_BT)
    tile = -(-T // (split * tiles))
    padding = tiles * tile - T // split

    def cut(x: jax.Array) -> jax.Array:
        """Tiles in front, each with as many tokens of every part that `context` makes of a row."""
        x = x.reshape(B, split, T // split, *x.shape[2:])
        x = jnp.pad(x, ((0, 0), (0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 3))
        x = jnp.moveaxis(x.reshape(B, split, tiles, tile, *x.shape[3:]), 2, 0)
        return x.reshape(tiles, B, split * tile, *x.shape[4:])

    one_tile = jax.checkpoint(lambda hidden, targets: _tile_logprobs(model, hidden, targets))
    logprob, correct = jax.lax.map(lambda tile: one_tile(*tile), (cut(hidden_BTD), cut(targets_BT)))

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(tiles, B, split, tile), 0, 2).reshape(B, split, tiles * tile)
        return x[:, :, : T // split].reshape(B, T)

    return join(logprob), join(correct)
