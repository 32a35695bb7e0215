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


def mean_rows(table_VD: jax.Array, description_ids: list[list[int]]) -> jax.Array:
    """Rows [n, D], each the mean of the table's rows of a description's tokens; float32."""
    return jnp.stack(
        [jnp.mean(table_VD[jnp.asarray(ids)].astype(jnp.float32), axis=0) for ids in description_ids]
    )


def common_rows(table_VD: jax.Array, rows: int, key: jax.Array | None) -> jax.Array:
    """Rows [n, D] that are the mean of the whole table; with a key, drawn with its mean and deviation."""
    table_VD = table_VD.astype(jnp.float32)
    mean_D = jnp.mean(table_VD, axis=0)
    if key is None:
        return jnp.broadcast_to(mean_D, (rows, mean_D.size))
    return mean_D + jnp.std(table_VD, axis=0) * jax.random.normal(key, (rows, mean_D.size))
