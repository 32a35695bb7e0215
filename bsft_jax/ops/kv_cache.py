"""KV caches, and attention over the tokens that they hold."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from bsft_jax.ops.attention import (
    AttentionFn,
    AttentionMask,
    ScoreTransform,
    TokenLayout,
    attend_joint,
    group_queries,
    heads_axis,
    shard_attention,
    ungroup_queries,
)
from bsft_jax.parallel.sharding import BATCH_AXES, SEQUENCE_AXIS, activation_spec, num_shards


@flax.struct.dataclass
class KVCache:
    """Holds keys and values that later tokens may attend to: a prompt's, or a decoding cache.

    Heads stand before tokens, as matmuls read them. Where layers are unrolled, keys and values are
    tuples over layers.

    Attributes:
      k_LBKSH: rotated keys of every layer.
      v_LBKSH: values of every layer.
      layout: layout of those tokens.
    """

    k_LBKSH: jax.Array | tuple[jax.Array, ...]
    v_LBKSH: jax.Array | tuple[jax.Array, ...]
    layout: TokenLayout

    def padded(self, tokens: int) -> KVCache:
        """Returns the cache with unwritten slots for `tokens` more tokens."""

        def pad(tree, axis, value=0):
            def pad_array(x):
                widths = [(0, 0)] * x.ndim
                widths[axis] = (0, tokens)
                return jnp.pad(x, widths, constant_values=value)

            return jax.tree.map(pad_array, tree)

        # Segment -1 is nobody's: no query sees a slot before it is written.
        layout = TokenLayout(
            pad(self.layout.segment_ids_BT, 1, -1), pad(self.layout.positions_BT, 1)
        )
        return KVCache(pad(self.k_LBKSH, -2), pad(self.v_LBKSH, -2), layout)


def write_at(tree, update, index: jax.Array, axis: int):
    """Returns the arrays of `tree` with those of `update` written from `index` on along an axis."""
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=index, axis=axis)
    return jax.tree.map(write, tree, update)


def attend_cache(mask: AttentionMask, transform: ScoreTransform) -> AttentionFn:
    """Builds attention over a KV cache that already contains the current tokens.

    Returns:
      A function of (q_BTNH, k_BKSH, v_BKSH) to out_BTNH.
    """
    mask_BTS = mask.dense()

    def attend(q_BTNH, k_BKSH, v_BKSH):
        q_BKGTH = group_queries(q_BTNH, k_BKSH.shape[1])
        return ungroup_queries(attend_joint(q_BKGTH, [(k_BKSH, v_BKSH, mask_BTS)], transform))

    return attend


def attend_prefix(
    own_mask: AttentionMask, prefix_mask: AttentionMask, transform: ScoreTransform
) -> AttentionFn:
    """Builds attention of a suffix to itself and to the KV cache of the prefix before it.

    Args:
      own_mask: mask of the suffix over its own tokens.
      prefix_mask: mask of the suffix over the tokens of the prefix.
      transform: scale and soft cap of the scores.

    Returns:
      A function of (q_BTNH, k_BTKH, v_BTKH, and the prefix's k_BKSH, v_BKSH) to out_BTNH.
    """
    masks = own_mask.dense(), prefix_mask.dense()

    def run(q_BTNH, k_BTKH, v_BTKH, prefix_k_BKSH, prefix_v_BKSH, own_mask_BTT, prefix_mask_BTS):
        q_BKGTH = group_queries(q_BTNH, k_BTKH.shape[2])
        k_BKTH, v_BKTH = jnp.swapaxes(k_BTKH, 1, 2), jnp.swapaxes(v_BTKH, 1, 2)
        sources = [
            (prefix_k_BKSH, prefix_v_BKSH, prefix_mask_BTS),
            (k_BKTH, v_BKTH, own_mask_BTT),
        ]
        return ungroup_queries(attend_joint(q_BKGTH, sources, transform))

    if num_shards(masks[0].shape[1], SEQUENCE_AXIS) == 1:
        return lambda *qkv: run(*qkv, *masks)

    def attend(q_BTNH, k_BTKH, v_BTKH, *prefix_kv):
        # Every device has all of its rows' prefix; the suffix's queries are split over `context`.
        heads = heads_axis(q_BTNH, k_BTKH)
        specs = [activation_spec(x.shape, BATCH_AXES, heads, None, None) for x in prefix_kv]
        specs += [activation_spec(x.shape, BATCH_AXES, SEQUENCE_AXIS, None) for x in masks]
        return shard_attention(run, q_BTNH, k_BTKH, v_BTKH, (*prefix_kv, *masks), tuple(specs))

    return attend
