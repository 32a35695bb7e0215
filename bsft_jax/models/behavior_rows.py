"""Behavior rows: embedding and LM head rows of the behavior tokens, as parameters of their own.

A row replaces the table's row at its id on lookup, and its column in the logits. The table keeps
the size of the checkpoint. An id beyond its end (a checkpoint without spare rows) exists in the
behavior rows alone, and only the export writes a longer table.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bsft_jax.parallel.sharding import constrain


class BehaviorRows(nnx.Module):
    """Holds behavior rows [n, D].

    `input` replaces rows of the table, `output` columns of the LM head; a tied model has one set.
    """

    def __init__(self, num_behaviors: int, dim: int, tied: bool):
        self.input = nnx.Param(jnp.zeros((num_behaviors, dim)))
        self.output = None if tied else nnx.Param(jnp.zeros((num_behaviors, dim)))


def embed_tokens(decoder, tokens_BT: jax.Array) -> jax.Array:
    """Returns embeddings [B, T, D] in the dtype of activations, with the behavior rows in place."""
    embedded_BTD = decoder.embed(tokens_BT, decoder.dtype)
    if not decoder.behavior_ids:
        return embedded_BTD
    # Row by row, each broadcast to all tokens: its gradient is a sum in float32, which any mesh can
    # split.
    rows_nD = constrain(decoder.behavior.input[...], None, None)
    for row_D, token_id in zip(rows_nD, decoder.behavior_ids, strict=True):
        row_BTD = jnp.broadcast_to(row_D, embedded_BTD.shape).astype(decoder.dtype)
        embedded_BTD = jnp.where((tokens_BT == token_id)[..., None], row_BTD, embedded_BTD)
    return embedded_BTD


def output_rows(decoder) -> jax.Array:
    """Returns the behavior rows [n, D] that the logits of the behavior tokens come from."""
    rows = decoder.behavior.input if decoder.lm_head is None else decoder.behavior.output
    return rows[...]


def mean_rows(table_VD: jax.Array, description_ids: Sequence[Sequence[int]]) -> jax.Array:
    """Returns rows [n, D] in float32, each the mean of the table's rows of a description's ids."""
    return jnp.stack(
        [
            jnp.mean(table_VD[jnp.asarray(ids)].astype(jnp.float32), axis=0)
            for ids in description_ids
        ]
    )


def common_rows(table_VD: jax.Array, rows: int, key: jax.Array | None) -> jax.Array:
    """Returns `rows` equal rows [n, D] in float32, the mean of the whole table.

    With a key, rows are drawn from a normal distribution with the table's mean and deviation.
    """
    table_VD = table_VD.astype(jnp.float32)
    mean_D = jnp.mean(table_VD, axis=0)
    if key is None:
        return jnp.broadcast_to(mean_D, (rows, mean_D.size))
    return mean_D + jnp.std(table_VD, axis=0) * jax.random.normal(key, (rows, mean_D.size))
