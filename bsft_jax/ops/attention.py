"""Attention masks, kept symbolic, and the dense backend: the reference for every other."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from bsft_jax.ops import remat
from bsft_jax.ops.matmul import SCORES, VALUES, attention_matmul
from bsft_jax.parallel.sharding import (
    BATCH_AXES,
    SEQUENCE_AXIS,
    activation_spec,
    constrain,
    num_shards,
    shard_map_current_mesh,
)

# Maps q_BTNH, k_BSKH, v_BSKH (and a prefix's k_BKSH, v_BKSH) to out_BTNH.
AttentionFn = Callable[..., jax.Array]
MIN_QUERY_BLOCK = 64
# Upper bound of blocks per row: each is compiled separately.
MAX_QUERY_BLOCKS = 8
# Score of a pair that the mask hides.
MASKED_SCORE = -1e30


@flax.struct.dataclass
class TokenLayout:
    """Holds segment ids, positions and branch ids, from which attention masks are built.

    Attributes:
      segment_ids_BT: the token's segment 1, 2, …; 0 is padding, -1 an unwritten slot of a cache.
      positions_BT: position within the segment, from 0; it grows by one from token to token.
      branch_BT: 0 for a prompt, else the branch after it that the token belongs to; None: all 0.
      leaf_BT: 0 for the stem of a branch, else the option after it; None: all 0.
      max_segments: upper bound of segments per row; 0 where it is not known.
    """

    segment_ids_BT: jax.Array
    positions_BT: jax.Array
    branch_BT: jax.Array | None = None
    leaf_BT: jax.Array | None = None
    max_segments: int = flax.struct.field(pytree_node=False, default=0)

    @classmethod
    def single(cls, tokens_BT: jax.Array) -> TokenLayout:
        """Returns the layout of rows that are one segment each, without padding."""
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        return cls(jnp.ones_like(tokens_BT), positions_BT, max_segments=1)


@flax.struct.dataclass
class AttentionMask:
    """Represents a causal mask: a query sees its own segment, branch and option, nothing later.

    Attributes:
      query: layout of the queries.
      key: layout of the keys.
      window: tokens of its segment that a query sees, itself included; 0 for no limit.
    """

    query: TokenLayout
    key: TokenLayout
    window: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def is_self_attention(self) -> bool:
        """Returns whether rows attend to themselves only and have no branches.

        Training rows and prompts do; suffixes after a prefix do not.
        """
        same = self.query is self.key
        return same and self.query.branch_BT is None and self.query.leaf_BT is None

    def dense(self) -> jax.Array:
        """Returns the mask as bool_BTS, True where query t may see key s."""
        q, k = self.query, self.key
        visible_BTS = q.segment_ids_BT[:, :, None] == k.segment_ids_BT[:, None, :]
        distance_BTS = q.positions_BT[:, :, None] - k.positions_BT[:, None, :]
        visible_BTS &= distance_BTS >= 0
        if self.window:
            visible_BTS &= distance_BTS < self.window
        # A key of a prompt (or stem) is seen by all; one of a branch (or option) by its own only.
        for q_ids_BT, k_ids_BS in ((q.branch_BT, k.branch_BT), (q.leaf_BT, k.leaf_BT)):
            if k_ids_BS is not None:
                k_ids_B1S = k_ids_BS[:, None, :]
                visible_BTS &= (k_ids_B1S == 0) | (k_ids_B1S == q_ids_BT[:, :, None])
        return visible_BTS


@dataclasses.dataclass(frozen=True)
class ScoreTransform:
    """Maps dot products to scores: first times `scale`, then the soft cap, 0 for none."""

    scale: float
    cap: float = 0.0

    def __call__(self, products: jax.Array) -> jax.Array:
        return soft_cap(products * self.scale, self.cap)


def soft_cap(x: jax.Array, cap: float) -> jax.Array:
    """Returns cap · tanh(x / cap), which bounds scores and logits; with `cap` 0 returns `x`.

    Gemma 2 has it (arXiv 2408.00118).
    """
    return cap * jnp.tanh(x / cap) if cap else x


def dense(mask: AttentionMask, transform: ScoreTransform) -> AttentionFn:
    """Builds the dense backend's attention function: any mask, any platform.

    The mask of all pairs is computed once. Where `context` splits the queries of a row, no key is
    skipped: the last shard sees every key and decides the time.
    """
    mask_BTS = mask.dense()
    if num_shards(mask_BTS.shape[1], SEQUENCE_AXIS) == 1:
        attend = functools.partial(
            dense_attention,
            mask_BTS=mask_BTS,
            transform=transform,
            ordered=mask.is_self_attention,
            window=mask.window,
        )
    else:
        mask_BTS = constrain(mask_BTS, BATCH_AXES, SEQUENCE_AXIS, None)

        def attend(q_BTNH, k_BSKH, v_BSKH):
            shard = functools.partial(dense_attention, transform=transform, ordered=False)
            spec = activation_spec(mask_BTS.shape, BATCH_AXES, SEQUENCE_AXIS, None)
            return shard_attention(shard, q_BTNH, k_BSKH, v_BSKH, (mask_BTS,), (spec,))

    return lambda q, k, v: checkpoint_name(attend(q, k, v), remat.ATTENTION_OUTPUT)


def heads_axis(q_BTNH: jax.Array, k_BSKH: jax.Array) -> str | None:
    """Returns the mesh axis that splits heads; None unless it splits queries and keys alike."""
    shards = num_shards(k_BSKH.shape[2], 'tensor')
    return 'tensor' if shards == num_shards(q_BTNH.shape[2], 'tensor') else None


def group_queries(q_BTNH: jax.Array, num_kv_heads: int) -> jax.Array:
    """Returns q_BKGTH: the G query heads that share one of K key heads side by side."""
    B, T, N, H = q_BTNH.shape
    q_BTKGH = q_BTNH.reshape(B, T, num_kv_heads, N // num_kv_heads, H)
    return jnp.transpose(q_BTKGH, (0, 2, 3, 1, 4))


def ungroup_queries(out_BKGTH: jax.Array) -> jax.Array:
    """Returns out_BTNH, the inverse of `group_queries`."""
    B, K, G, T, H = out_BKGTH.shape
    return jnp.transpose(out_BKGTH, (0, 3, 1, 2, 4)).reshape(B, T, K * G, H)


def shard_attention(
    run: Callable, q_BTNH, k_BSKH, v_BSKH, extra_args: tuple, extra_specs: tuple
) -> jax.Array:
    """Runs `run(q, k, v, *extra_args)` on every device with its rows, its heads and its queries.

    Keys and values are gathered over `context`, once, and their gradients scattered back; nothing
    else moves. Without a current mesh it calls `run` directly.

    Args:
      run: attention of one device's rows, heads and queries with all keys of its rows.
      q_BTNH: queries.
      k_BSKH: keys.
      v_BSKH: values.
      extra_args: further arrays that `run` takes.
      extra_specs: the PartitionSpec of each of them.

    Returns:
      out_BTNH, sharded as the queries.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return run(q_BTNH, k_BSKH, v_BSKH, *extra_args)
    heads = heads_axis(q_BTNH, k_BSKH)
    q_spec = activation_spec(q_BTNH.shape, BATCH_AXES, SEQUENCE_AXIS, heads, None)
    kv_spec = activation_spec(k_BSKH.shape, BATCH_AXES, SEQUENCE_AXIS, heads, None)

    def run_shard(q_BTNH, k_BSKH, v_BSKH, *extra_args):
        if kv_spec[1]:
            k_BSKH, v_BSKH = (
                jax.lax.all_gather(x, SEQUENCE_AXIS, axis=1, tiled=True) for x in (k_BSKH, v_BSKH)
            )
        return run(q_BTNH, k_BSKH, v_BSKH, *extra_args)

    in_specs = q_spec, kv_spec, kv_spec, *extra_specs
    return shard_map_current_mesh(run_shard, in_specs, q_spec)(q_BTNH, k_BSKH, v_BSKH, *extra_args)


def dense_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array,
    transform: ScoreTransform,
    *,
    ordered: bool,
    window: int = 0,
) -> jax.Array:
    """Computes grouped-query attention by dense matmuls, with the softmax in float32.

    Args:
      q_BTNH: queries.
      k_BSKH: keys.
      v_BSKH: values.
      mask_BTS: True where a query sees a key.
      transform: scale and soft cap of the scores.
      ordered: whether no query sees a key at a later index of the row (T = S). A block of
        queries then takes only the keys from the window of its first query up to its own end, so
        that half of the products of a long row, or more, is not computed.
      window: tokens that a query sees, itself included; 0 for no limit.

    Returns:
      out_BTNH in the dtype of `q_BTNH`.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    q_BKGTH = group_queries(q_BTNH, k_BSKH.shape[2])
    k_BKSH, v_BKSH = jnp.swapaxes(k_BSKH, 1, 2), jnp.swapaxes(v_BSKH, 1, 2)
    block = max(MIN_QUERY_BLOCK, -(-T // MAX_QUERY_BLOCKS)) if ordered else T
    starts = range(0, T, block)
    # The gradient of a split is one concatenation, that of slices a sum of padded blocks.
    q_blocks = jnp.split(q_BKGTH, list(starts[1:]), axis=3)
    out_blocks = []
    for start, q_BKGtH in zip(starts, q_blocks, strict=True):
        stop = min(start + block, T)
        first_key = max(0, start - window + 1) if ordered and window else 0
        keys = slice(first_key, stop if ordered else S)
        kv_mask = k_BKSH[:, :, keys], v_BKSH[:, :, keys], mask_BTS[:, start:stop, keys]
        out_blocks.append(attend_joint(q_BKGtH, [kv_mask], transform))
    return ungroup_queries(jnp.concatenate(out_blocks, axis=3))


def attend_joint(
    q_BKGTH: jax.Array,
    sources: list[tuple[jax.Array, jax.Array, jax.Array]],
    transform: ScoreTransform,
) -> jax.Array:
    """Computes attention under one softmax over the keys of several sources.

    Args:
      q_BKGTH: grouped queries.
      sources: (k_BKSH, v_BKSH, mask_BTS) of each source, S differing between them.
      transform: scale and soft cap of the scores.

    Returns:
      out_BKGTH in the dtype of the queries.
    """
    B, K, G, T, H = q_BKGTH.shape
    dtype = q_BKGTH.dtype
    # The queries of a group share one matmul: [B, K, G·T, H] by [B, K, S, H].
    q_BKQH = q_BKGTH.reshape(B, K, G * T, H)

    # Scores of all sources side by side, so that no key or value is copied.
    scores = [
        transform(attention_matmul(SCORES, q_BKQH, k_BKSH, jnp.float32)) for k_BKSH, *_ in sources
    ]
    mask_BTS = jnp.concatenate([mask for *_, mask in sources], axis=-1)
    mask_BGTS = jnp.broadcast_to(mask_BTS[:, None], (B, G, *mask_BTS.shape[1:]))
    mask_B1QS = mask_BGTS.reshape(B, 1, G * T, -1)
    probs_BKQS = _masked_softmax(jnp.concatenate(scores, axis=-1), mask_B1QS, dtype)

    # Each source's values with its own probabilities; several outputs are summed in float32.
    ends = np.cumsum([mask.shape[-1] for *_, mask in sources])
    outs = [
        attention_matmul(VALUES, probs, v_BKSH, jnp.float32 if len(sources) > 1 else None)
        for probs, (_, v_BKSH, _) in zip(
            jnp.split(probs_BKQS, ends[:-1], axis=-1), sources, strict=True
        )
    ]
    return sum(outs[1:], outs[0]).astype(dtype).reshape(q_BKGTH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _masked_softmax(scores_BKQS: jax.Array, mask_B1QS: jax.Array, dtype) -> jax.Array:
    """Returns the softmax in float32, rounded to `dtype`; the backward pass keeps only that."""
    masked_BKQS = jnp.where(mask_B1QS, scores_BKQS, MASKED_SCORE)
    return jax.nn.softmax(masked_BKQS, axis=-1).astype(dtype)


def _softmax_forward(scores_BKQS, mask_B1QS, dtype):
    probs_BKQS = _masked_softmax(scores_BKQS, mask_B1QS, dtype)
    return probs_BKQS, probs_BKQS


def _softmax_backward(dtype, probs_BKQS, dprobs_BKQS):
    # Hidden pairs have probability 0, and so gradient 0.
    probs_BKQS, dprobs_BKQS = probs_BKQS.astype(jnp.float32), dprobs_BKQS.astype(jnp.float32)
    mean_BKQ1 = jnp.sum(probs_BKQS * dprobs_BKQS, axis=-1, keepdims=True)
    return probs_BKQS * (dprobs_BKQS - mean_BKQ1), None


_masked_softmax.defvjp(_softmax_forward, _softmax_backward)
