"""Attention masks, kept symbolic, and the dense back end: the reference for every other."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from bsft_jax.models import remat
from bsft_jax.models.products import SCORES, VALUES, attended
from bsft_jax.parallel.sharding import ROWS, TOKENS, constrain, fitting, on_each_device, parts

Attend = Callable[..., jax.Array]  # q_BTNH, k_BSKH, v_BSKH (and a view's k_BKSH, v_BKSH) to out_BTNH
SMALLEST_BLOCK = 64  # queries
MOST_BLOCKS = 8  # of a row, since each is compiled by itself


@flax.struct.dataclass
class Layout:
    """Where each token of a row stands: what attention needs to know of it.

    Attributes:
      segment_ids_BT: document of the token, 1, 2, …; 0 is padding, -1 a cache slot not written yet.
      positions_BT: position within the document, from 0; it grows by one from token to token of a row.
      branch_BT: 0 for a prompt, else the branch behind it that the token belongs to; None: all 0.
      leaf_BT: 0 for the stem of a branch, else the option behind it; None: all 0.
      documents: of a row at most; 0 where that is not known.
    """

    segment_ids_BT: jax.Array
    positions_BT: jax.Array
    branch_BT: jax.Array | None = None
    leaf_BT: jax.Array | None = None
    documents: int = flax.struct.field(pytree_node=False, default=0)

    @classmethod
    def single(cls, tokens_BT: jax.Array) -> Layout:
        """One document a row, without padding."""
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        return cls(jnp.ones_like(tokens_BT), positions_BT, documents=1)


@flax.struct.dataclass
class AttentionMask:
    """Who sees whom: the same document, not later, and only the query's own branch and option.

    With a `window` a query sees that many tokens of its document, itself included; 0 is no limit.
    """

    query: Layout
    key: Layout
    window: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def in_rows(self) -> bool:
        """Whether rows attend to themselves alone: training rows and prompts, not suffixes behind a view."""
        return self.query is self.key and self.query.branch_BT is None and self.query.leaf_BT is None

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
      k_LBKSH, v_LBKSH: keys (rotated) and values of every layer, heads first, as products read them; in tuples over
        layers where these are compiled apart.
      layout: where those tokens stand.
    """

    k_LBKSH: jax.Array | tuple[jax.Array, ...]
    v_LBKSH: jax.Array | tuple[jax.Array, ...]
    layout: Layout

    def with_room(self, tokens: int) -> KVView:
        """The view with slots for so many tokens behind it."""

        def room(tree, axis, value=0):
            def padded(x):
                widths = [(0, 0)] * x.ndim
                widths[axis] = (0, tokens)
                return jnp.pad(x, widths, constant_values=value)

            return jax.tree.map(padded, tree)

        layout = Layout(room(self.layout.segment_ids_BT, 1, -1), room(self.layout.positions_BT, 1))
        return KVView(room(self.k_LBKSH, -2), room(self.v_LBKSH, -2), layout)


def put(whole, part, slot: jax.Array, axis: int):
    """The arrays of `whole` with those of `part` from `slot` on along an axis."""
    place = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=axis)
    return jax.tree.map(place, whole, part)


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


def dense(mask: AttentionMask, scores: Scores) -> Attend:
    """The back end of dense products: any mask, any platform. The mask of all pairs is made once.

    Where `context` splits the queries of a row, the last part sees every key and decides the time, so no key is
    left out there.
    """
    mask_BTS = mask.dense()
    T = mask_BTS.shape[1]
    ordered = mask.in_rows and parts(T, TOKENS) == 1
    if parts(T, TOKENS) == 1:
        run = lambda q, k, v: attend(q, k, v, mask_BTS, scores, ordered=ordered, window=mask.window)  # noqa: E731
    else:
        mask_BTS = constrain(mask_BTS, ROWS, TOKENS, None)

        def run(q_BTNH, k_BSKH, v_BSKH):
            local = lambda *args: attend(*args, scores, ordered=False)  # noqa: E731
            spec = fitting(mask_BTS.shape, ROWS, TOKENS, None)
            return on_devices(local, q_BTNH, k_BSKH, v_BSKH, (mask_BTS,), (spec,))

    return lambda q, k, v: checkpoint_name(run(q, k, v), remat.ATTENTION)


def in_view(mask: AttentionMask, scores: Scores) -> Attend:
    """Attention to a view that these tokens are already in: `(q_BTNH, k_BKSH, v_BKSH)` to out_BTNH."""
    mask_BTS = mask.dense()

    def run(q_BTNH, k_BKSH, v_BKSH):
        q_BKGTH = _grouped(q_BTNH, k_BKSH.shape[1])
        return _flat(_attend_block(q_BKGTH, [(k_BKSH, v_BKSH, mask_BTS)], scores))

    return run


def behind_view(own: AttentionMask, of_view: AttentionMask, scores: Scores) -> Attend:
    """Attention of a suffix to itself and to a view: `(q_BTNH, k_BTKH, v_BTKH, k_BKSH, v_BKSH)` to out_BTNH."""
    masks = own.dense(), of_view.dense()

    def run(q_BTNH, k_BTKH, v_BTKH, k_BKSH, v_BKSH, own_BTT, of_view_BTS):
        q_BKGTH = _grouped(q_BTNH, k_BTKH.shape[2])
        k_BKTH, v_BKTH = jnp.swapaxes(k_BTKH, 1, 2), jnp.swapaxes(v_BTKH, 1, 2)
        keys = [(k_BKSH, v_BKSH, of_view_BTS), (k_BKTH, v_BKTH, own_BTT)]
        return _flat(_attend_block(q_BKGTH, keys, scores))

    if parts(masks[0].shape[1], TOKENS) == 1:
        return lambda *qkv: run(*qkv, *masks)

    def split(q_BTNH, k_BTKH, v_BTKH, *view):
        heads = _heads(q_BTNH, k_BTKH)
        specs = [fitting(x.shape, ROWS, heads, None, None) for x in view]
        specs += [fitting(x.shape, ROWS, TOKENS, None) for x in masks]
        return on_devices(run, q_BTNH, k_BTKH, v_BTKH, (*view, *masks), tuple(specs))

    return split


def _heads(q_BTNH, k_BSKH) -> str | None:
    """The axis that splits heads: queries' and keys' alike, or none."""
    return 'tensor' if parts(k_BSKH.shape[2], 'tensor') == parts(q_BTNH.shape[2], 'tensor') else None


def _grouped(q_BTNH, kv_heads: int) -> jax.Array:
    """q_BKGTH: the G queries that share the keys of one of K heads side by side."""
    B, T, N, H = q_BTNH.shape
    return jnp.transpose(q_BTNH.reshape(B, T, kv_heads, N // kv_heads, H), (0, 2, 3, 1, 4))


def _flat(out_BKGTH) -> jax.Array:
    """out_BTNH: the inverse of `_grouped`."""
    B, K, G, T, H = out_BKGTH.shape
    return jnp.transpose(out_BKGTH, (0, 3, 1, 2, 4)).reshape(B, T, K * G, H)


def on_devices(run: Callable, q_BTNH, k_BSKH, v_BSKH, more: tuple, specs: tuple) -> jax.Array:
    """`run(q, k, v, *more)` on every device of the mesh in force, with its rows, its heads and its queries.

    Keys and values are gathered over `context`, once, and their gradients scattered back; nothing else moves.
    `specs` are those of `more`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return run(q_BTNH, k_BSKH, v_BSKH, *more)
    heads = _heads(q_BTNH, k_BSKH)
    q_spec, kv_spec = (fitting(x.shape, ROWS, TOKENS, heads, None) for x in (q_BTNH, k_BSKH))

    def local(q_BTNH, k_BSKH, v_BSKH, *more):
        if kv_spec[1]:
            k_BSKH, v_BSKH = (jax.lax.all_gather(x, TOKENS, axis=1, tiled=True) for x in (k_BSKH, v_BSKH))
        return run(q_BTNH, k_BSKH, v_BSKH, *more)

    return on_each_device(local, (q_spec, kv_spec, kv_spec, *specs), q_spec)(q_BTNH, k_BSKH, v_BSKH, *more)


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
    """Grouped-query attention by dense products, softmax in float32.

    Queries go in blocks. With `ordered`, when no query sees a key behind its own place in the row (T = S),
    a block takes only the keys from the `window` of its first query up to its end, so that half of the
    products of a long row, or more, is not computed.

    Returns out_BTNH in the dtype of `q_BTNH`.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    q_BKGTH = _grouped(q_BTNH, k_BSKH.shape[2])
    k_BKSH, v_BKSH = jnp.swapaxes(k_BSKH, 1, 2), jnp.swapaxes(v_BSKH, 1, 2)
    block = max(SMALLEST_BLOCK, -(-T // MOST_BLOCKS)) if ordered else T
    starts = range(0, T, block)
    queries = jnp.split(q_BKGTH, list(starts[1:]), axis=3)  # whose gradients need no sum of padded blocks
    blocks = []
    for start, q_BKGtH in zip(starts, queries, strict=True):
        stop = min(start + block, T)
        first = max(0, start - window + 1) if ordered and window else 0
        seen = slice(first, stop if ordered else S)
        keys = k_BKSH[:, :, seen], v_BKSH[:, :, seen], mask_BTS[:, start:stop, seen]
        blocks.append(_attend_block(q_BKGtH, [keys], scores))
    return _flat(jnp.concatenate(blocks, axis=3))


def _attend_block(q_BKGTH, keys: list, scores):
    """Queries under one softmax over all `keys`, (k_BKSH, v_BKSH, mask_BTS) each.

    Scores are put side by side, so that no key or value is copied. The queries of a group stand in one product:
    [B, K, G·T, H] by [B, K, S, H].
    """
    B, K, G, T, H = q_BKGTH.shape
    rows_BKRH = q_BKGTH.reshape(B, K, G * T, H)

    products = [scores(attended(SCORES, rows_BKRH, k_BKSH, jnp.float32)) for k_BKSH, *_ in keys]
    mask_BTS = jnp.concatenate([mask for *_, mask in keys], axis=-1)
    mask_BGTS = jnp.broadcast_to(mask_BTS[:, None], (B, G, *mask_BTS.shape[1:]))
    mask_BKRS = mask_BGTS.reshape(B, 1, G * T, -1)
    probs_BKRS = _probabilities(jnp.concatenate(products, axis=-1), mask_BKRS, q_BKGTH.dtype)
    ends = np.cumsum([mask.shape[-1] for *_, mask in keys])
    outs = [
        attended(VALUES, probs, v, jnp.float32 if len(keys) > 1 else None)
        for probs, (_, v, _) in zip(jnp.split(probs_BKRS, ends[:-1], axis=-1), keys, strict=True)
    ]
    return sum(outs[1:], outs[0]).astype(q_BKGTH.dtype).reshape(q_BKGTH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _probabilities(scores_BKRS: jax.Array, mask_BKRS: jax.Array, dtype) -> jax.Array:
    """Softmax of the scores under a mask, in float32; the backward pass keeps the result alone, in `dtype`."""
    return jax.nn.softmax(jnp.where(mask_BKRS, scores_BKRS, -1e30), axis=-1).astype(dtype)


def _probabilities_forward(scores_BKRS, mask_BKRS, dtype):
    probs_BKRS = _probabilities(scores_BKRS, mask_BKRS, dtype)
    return probs_BKRS, probs_BKRS


def _probabilities_backward(dtype, probs_BKRS, dprobs_BKRS):
    probs_BKRS, dprobs_BKRS = probs_BKRS.astype(jnp.float32), dprobs_BKRS.astype(jnp.float32)
    common_BKR1 = jnp.sum(probs_BKRS * dprobs_BKRS, axis=-1, keepdims=True)
    return probs_BKRS * (dprobs_BKRS - common_BKR1), None


_probabilities.defvjp(_probabilities_forward, _probabilities_backward)
