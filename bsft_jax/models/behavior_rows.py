"""Behavior rows: embedding and head rows of the behavior tokens, as parameters of their own.

A row replaces the table's row at its id on lookup, and its column in the logits. The table keeps
the size of the checkpoint: an id behind its end (a checkpoint without spare rows) lives in the
rows alone, and only the export writes a longer table.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from bsft_jax.parallel.sharding import ROWS, TOKENS, constrain, fitting, on_each_device, parts


def embed(model, tokens_BT: jax.Array) -> jax.Array:
    """Embeddings [B, T, D] in the dtype of activations, behavior rows in place of the table's."""
    embedded_BTD = _looked_up(model.embed.table[...], tokens_BT, model.dtype)
    if not model.behavior_ids:
        return embedded_BTD
    # One by one, each spread over all tokens: its gradient is a sum, in float32, that any mesh can split.
    rows_nD = constrain(model.behavior.input[...], None, None)
    for row_D, number in zip(rows_nD, model.behavior_ids, strict=True):
        row_BTD = jnp.broadcast_to(row_D, embedded_BTD.shape).astype(model.dtype)
        embedded_BTD = jnp.where((tokens_BT == number)[..., None], row_BTD, embedded_BTD)
    return embedded_BTD


def _looked_up(table_VD: jax.Array, tokens_BT: jax.Array, dtype) -> jax.Array:
    """Rows of the table in `dtype`; an id behind its end takes any.

    Where `fsdp` splits table and tokens, a device looks up its columns for the tokens of all and gets those of its
    own tokens back: what moves is as large as the result, and not as the table. Gradients go the same way.
    """
    V, D = table_VD.shape
    split = parts(D, 'fsdp') > 1 and fitting(tokens_BT.shape, ROWS, TOKENS)
    if not split or 'fsdp' not in (split[0] or ()):
        table_VD = constrain(table_VD, 'tensor', None)
        return jnp.take(table_VD, tokens_BT, axis=0, mode='clip').astype(dtype)

    def local(table_vd, tokens_bt):
        tokens_Bt = jax.lax.all_gather(tokens_bt, 'fsdp', axis=0, tiled=True)
        v = len(table_vd)
        place_Bt = tokens_Bt if v == V else tokens_Bt - jax.lax.axis_index('tensor') * v
        found_Btd = jnp.take(table_vd, place_Bt, axis=0, mode='clip').astype(dtype)
        if v < V:
            here_Bt = (place_Bt >= 0) & (place_Bt < v)
            found_Btd = jax.lax.psum(jnp.where(here_Bt[..., None], found_Btd, 0), 'tensor')
        return jax.lax.all_to_all(found_Btd, 'fsdp', split_axis=0, concat_axis=2, tiled=True)

    specs = fitting((V, D), 'tensor', 'fsdp'), split
    return on_each_device(local, specs, P(*split, None))(table_VD, tokens_BT)


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
