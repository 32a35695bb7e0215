"""Attention of packed rows by the Pallas kernel for TPUs, which never holds the scores of all pairs.

A row's positions grow by one within a document, so causal by place in the row and the same document is the whole
mask: the kernel computes both, and a window, from indices and skips the blocks that nobody sees.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bsft_jax.models import remat
from bsft_jax.models.attention import Attend, AttentionMask, Scores, on_devices
from bsft_jax.models.products import precision_for
from bsft_jax.parallel.sharding import ROWS, TOKENS, fitting, parts

LANES = 128  # the kernel's blocks are multiples of this
LARGEST_BLOCK = 512  # queries, and keys


def splash(mask: AttentionMask, scores: Scores, interpret: bool = False) -> Attend:
    """The back end of the kernel; rows, heads and queries are split over the mesh in force.

    Rows are padded to whole blocks, with tokens of no document that no other token sees. Where `context` splits
    the queries of a row, each part has blocks of its own. `interpret` runs the kernel's program without a TPU.

    Raises ValueError for a mask that is not one of rows: suffixes behind a view take the dense back end.
    """
    if not mask.in_rows:
        raise ValueError(
            'the splash back end is for rows that attend to themselves, not for branches or a view'
        )
    segment_ids_BT = mask.query.segment_ids_BT
    T = segment_ids_BT.shape[1]
    split = parts(T, TOKENS)

    def attend(q_BTNH, k_BTKH, v_BTKH):
        heads = q_BTNH.shape[2]
        if parts(k_BTKH.shape[2], 'tensor') == parts(heads, 'tensor'):
            heads //= parts(heads, 'tensor')
        kernel = _kernel(heads, T, split, mask.window, scores.cap, interpret)
        run = functools.partial(_run, scale=scores.scale)
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return run(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, segment_ids_BT, kernel)
        specs = (
            fitting(segment_ids_BT.shape, ROWS, TOKENS),
            fitting(segment_ids_BT.shape, ROWS, None),
            kernel.manual_sharding_spec(NamedSharding(_plain(mesh), P(None, TOKENS if split > 1 else None))),
        )
        return on_devices(run, q_BTNH, k_BTKH, v_BTKH, (segment_ids_BT, segment_ids_BT, kernel), specs)

    return attend


def _plain(mesh: AbstractMesh) -> AbstractMesh:
    """The mesh without axes that a call around holds, which the kernel's question for shapes does not know."""
    return AbstractMesh(mesh.axis_sizes, mesh.axis_names)


def _blocks(tokens: int) -> tuple[int, int]:
    """Length of a block, and of so many tokens padded to whole blocks."""
    block = min(LARGEST_BLOCK, -(-tokens // LANES) * LANES)
    return block, -(-tokens // block) * block


def _kernel(heads: int, T: int, split: int, window: int, cap: float, interpret: bool):
    """The kernel for one row's queries, in `split` parts, and all keys."""
    block_q, padded_q = _blocks(T // split)
    block_kv, padded_kv = _blocks(T)
    shape = split * padded_q, padded_kv
    mask = masks.LocalMask(shape, (window - 1, 0), 0) if window else masks.CausalMask(shape)
    place = np.minimum(np.arange(padded_q), T // split - 1)
    mask.q_sequence = np.concatenate([part * (T // split) + place for part in range(split)]).astype(np.int32)
    with jax.ensure_compile_time_eval():  # its arrays are constants, wherever it is made
        return kernels.make_splash_mha(
            masks.MultiHeadMask([mask] * heads),
            block_sizes=kernels.BlockSizes(*(block_q, block_kv, block_kv) * 2, block_q, block_kv),
            attn_logits_soft_cap=cap or None,
            head_shards=1,
            q_seq_shards=split,
            residual_checkpoint_name=remat.ATTENTION,
            interpret=interpret,
        )


def _run(q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS, kernel, *, scale: float):
    """One device's rows, heads and queries, with all keys of its rows."""
    T, dtype = q_BTNH.shape[1], q_BTNH.dtype

    def laid_out(x):
        """Heads before tokens, tokens padded."""
        return _padded(jnp.swapaxes(x, 1, 2), 2)

    def run(kernel, ids, q_BNTH, k_BKSH, v_BKSH):
        return jax.vmap(kernel)(q_BNTH, k_BKSH, v_BKSH, ids)

    q_BTNH = (q_BTNH.astype(jnp.float32) * scale).astype(dtype)
    ids = kernels.SegmentIds(_padded(q_segment_ids_BT, 1), _padded(kv_segment_ids_BS, 1))
    out_BNTH = _in_precision(run, precision_for(dtype))(kernel, ids, *map(laid_out, (q_BTNH, k_BSKH, v_BSKH)))
    return jnp.swapaxes(out_BNTH[:, :, :T], 1, 2)


def _padded(x: jax.Array, axis: int) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = 0, _blocks(x.shape[axis])[1] - x.shape[axis]
    return jnp.pad(x, widths)


def _in_precision(run, precision: str | None):
    """`run` with this precision of its products in both passes: a kernel takes it from where it is traced.

    All that is traced must be among its arguments.
    """
    if precision is None:
        return run

    def forward(*args):
        with jax.default_matmul_precision(precision):
            return jax.vjp(run, *args)

    def backward(pull, gradient):
        with jax.default_matmul_precision(precision):
            return pull(gradient)

    @jax.custom_vjp
    def precise(*args):
        with jax.default_matmul_precision(precision):
            return run(*args)

    precise.defvjp(forward, backward)
    return precise
