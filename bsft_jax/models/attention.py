"""Attention masks, kept symbolic, and the back end that lowers them."""

from __future__ import annotations

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
    """Who sees whom: the same document, not later, and only the query's own branch and option."""

    query: Layout
    key: Layout

    def dense(self) -> jax.Array:
        """The mask as bool_BTS, True where query t may see key s."""
        q, k = self.query, self.key
        visible_BTS = q.segment_ids_BT[:, :, None] == k.segment_ids_BT[:, None, :]
        visible_BTS &= k.positions_BT[:, None, :] <= q.positions_BT[:, :, None]
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


def attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array, *, ordered: bool
) -> jax.Array:
    """Grouped-query attention by dense products, softmax in float32: the reference back end.

    Queries go in blocks. With `ordered`, when no query sees a key behind its own place in the row (T = S),
    a block takes only the keys up to its end, so that half of the products of a long row is not computed.

    Returns out_BTNH in the dtype of `q_BTNH`. Scores are scaled by H**-0.5.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BKGTH = jnp.transpose(q_BTNH.reshape(B, T, K, N // K, H), (0, 2, 3, 1, 4))
    k_BKSH, v_BKSH = jnp.swapaxes(k_BSKH, 1, 2), jnp.swapaxes(v_BSKH, 1, 2)
    block = max(SMALLEST_BLOCK, -(-T // MOST_BLOCKS)) if ordered else T
    blocks = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        seen = stop if ordered else S
        blocks.append(
            _attend_block(
                q_BKGTH[:, :, :, start:stop],
                k_BKSH[:, :, :seen],
                v_BKSH[:, :, :seen],
                mask_BTS[:, start:stop, :seen],
            )
        )
    out_BKGTH = jnp.concatenate(blocks, axis=3)
    return jnp.transpose(out_BKGTH, (0, 3, 1, 2, 4)).reshape(B, T, N, H)


def _attend_block(q_BKGTH, k_BKSH, v_BKSH, mask_BTS):
    """The queries of a group stand in one product: [B, K, G·T, H] by [B, K, S, H]."""
    B, K, G, T, H = q_BKGTH.shape
    rows_BKRH = q_BKGTH.reshape(B, K, G * T, H)
    scores_BKRS = jnp.einsum('BKRH,BKSH->BKRS', rows_BKRH, k_BKSH, preferred_element_type=jnp.float32)
    scores_BKGTS = scores_BKRS.reshape(B, K, G, T, -1) * H**-0.5
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, -1e30)
    probs_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BKSH.dtype)
    return jnp.einsum('BKRS,BKSH->BKRH', probs_BKGTS.reshape(scores_BKRS.shape), v_BKSH).reshape(
        q_BKGTH.shape
    )


def rope_angles(positions_BT: jax.Array, head_width: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [B, T, 1, H/2] in float32 (Su et al., arXiv 2104.09864)."""
    frequencies = theta ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    angles = positions_BT.astype(jnp.float32)[:, :, None, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTNH: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotary embedding in the half-split layout of Hugging Face checkpoints."""
    cos, sin = angles
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)
