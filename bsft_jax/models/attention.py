"""Attention masks, kept symbolic, and the back end that lowers them."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

SMALLEST_BLOCK = 64  # queries
MOST_BLOCKS = 8  # of a row, since each is compiled by itself


@flax.struct.dataclass
class Layout:
    """Where each token of a row stands: what attention needs to know of it.

    Attributes:
      segment_ids_BT: document of the token, 1, 2, …; 0 is padding, -1 a cache slot not written yet.
      positions_BT: position within the document, from 0; it grows along the row.
      branch_BT: 0 for a prompt, else the branch behind it that the token belongs to; None: all 0.
      leaf_BT: 0 for the stem of a branch, else the option behind it; None: all 0.
    """

    segment_ids_BT: jax.Array
    positions_BT: jax.Array
    branch_BT: jax.Array | None = None
    leaf_BT: jax.Array | None = None

    @classmethod
    def single(cls, tokens_BT: jax.Array) -> Layout:
        """One document a row, without padding."""
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        return cls(jnp.ones_like(tokens_BT), positions_BT)


@flax.struct.dataclass
class AttentionMask:
    """Who sees whom: the same document, not later, and only the query's own branch and option.

    With a `window` a query sees that many tokens of its document, itself included; 0 is no limit.
    """

    query: Layout
    key: Layout
    window: int = flax.struct.field(pytree_node=False, default=0)

    def dense(self) -> jax.Array:
        """The mask as bool_BTS, True where query t may see key s."""
        q, k = self.query, self.key
        visible_BTS = q.segment_ids_BT[:, :, None] == k.segment_ids_BT[:, None, :]
        behind_BTS = q.positions_BT[:, :, None] - k.positions_BT[:, None, :]
        visible_BTS &= behind_BTS >= 0
        if self.window:
            visible_BTS &= behind_BTS < self.window
        for q_path_BT, k_path_BS in ((q.branch_BT, k.branch_BT), (q.leaf_BT, k.leaf_BT)):
            if k_path_BS is not None:
                k_path_B1S = k_path_BS[:, None, :]
                visible_BTS &= (k_path_B1S == 0) | (k_path_B1S == q_path_BT[:, :, None])
        return visible_BTS


@flax.struct.dataclass
class KVView:
    """Keys and values that later tokens may attend to: a prompt's, or a decoding cache.

    Attributes:
      k_LBSKH, v_LBSKH: keys (rotated) and values of every layer.
      layout: where those tokens stand.
    """

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Scores:
    """How scores are made of products: `scale` first, then the soft cap c · tanh(x / c), if any."""

    scale: float
    cap: float = 0.0

    def __call__(self, products: jax.Array) -> jax.Array:
        return soft_cap(products * self.scale, self.cap)


def soft_cap(x: jax.Array, cap: float) -> jax.Array:
    """c · tanh(x / c), as Gemma 2 bounds scores and logits (arXiv 2408.00118); `cap` 0 leaves `x` alone."""
    return cap * jnp.tanh(x / cap) if cap else x


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array,
    scores: Scores,
    *,
    ordered: bool,
    window: int = 0,
) -> jax.Array:
    """Grouped-query attention by dense products, softmax in float32: the reference back end.

    Queries go in blocks. With `ordered`, when no query sees a key behind its own place in the row (T = S),
    a block takes only the keys from the `window` of its first query up to its end, so that half of the
    products of a long row, or more, is not computed.

    Returns out_BTNH in the dtype of `q_BTNH`.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BKGTH = jnp.transpose(q_BTNH.reshape(B, T, K, N // K, H), (0, 2, 3, 1, 4))
    k_BKSH, v_BKSH = jnp.swapaxes(k_BSKH, 1, 2), jnp.swapaxes(v_BSKH, 1, 2)
    block = max(SMALLEST_BLOCK, -(-T // MOST_BLOCKS)) if ordered else T
    blocks = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        first = max(0, start - window + 1) if ordered and window else 0
        seen = slice(first, stop if ordered else S)
        blocks.append(
            _attend_block(
                q_BKGTH[:, :, :, start:stop],
                k_BKSH[:, :, seen],
                v_BKSH[:, :, seen],
                mask_BTS[:, start:stop, seen],
                scores,
            )
        )
    out_BKGTH = jnp.concatenate(blocks, axis=3)
    return jnp.transpose(out_BKGTH, (0, 3, 1, 2, 4)).reshape(B, T, N, H)


def _attend_block(q_BKGTH, k_BKSH, v_BKSH, mask_BTS, scores):
    """The queries of a group stand in one product: [B, K, G·T, H] by [B, K, S, H]."""
    B, K, G, T, H = q_BKGTH.shape
    rows_BKRH = q_BKGTH.reshape(B, K, G * T, H)
    products_BKRS = jnp.einsum('BKRH,BKSH->BKRS', rows_BKRH, k_BKSH, preferred_element_type=jnp.float32)
    scores_BKGTS = scores(products_BKRS.reshape(B, K, G, T, -1))
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, -1e30)
    probs_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BKSH.dtype)
    return jnp.einsum('BKRS,BKSH->BKRH', probs_BKGTS.reshape(products_BKRS.shape), v_BKSH).reshape(
        q_BKGTH.shape
    )
