"""Behavior rows: embedding and head rows of the behavior tokens, as parameters of their own.

A row replaces the table's row at its id on lookup, and its column in the logits. The table keeps
the size of the checkpoint: an id behind its end (a checkpoint without spare rows) lives in the
rows alone, and only the export writes a longer table.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bsft_jax.parallel.sharding import constrain


def embed(model, tokens_BT: jax.Array) -> jax.Array:
    """Embeddings [B, T, D] in the dtype of the table, behavior rows in place of the table's."""
    table_VD = constrain(model.embed.table[...], 'tensor', None)
    base_BTD = jnp.take(table_VD, tokens_BT, axis=0, mode='clip')
    if not model.behavior_ids:
        return base_BTD
    is_row_BTn = tokens_BT[..., None] == jnp.asarray(model.behavior_ids)
    rows_nD = constrain(model.behavior.input[...], None, None)
    rows_BTD = jnp.take(rows_nD, jnp.argmax(is_row_BTn, axis=-1), axis=0)
    return jnp.where(is_row_BTn.any(axis=-1)[..., None], rows_BTD, base_BTD)


def initial_rows(table_VD: jax.Array, description_ids: list[list[int]]) -> jax.Array:
    """First value of the rows [n, D]: the mean of the table's rows of each description's tokens."""
    return jnp.stack(
        [jnp.mean(table_VD[jnp.asarray(ids)].astype(jnp.float32), axis=0) for ids in description_ids]
    )
