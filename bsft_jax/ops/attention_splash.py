"""Attention of packed rows by JAX's Pallas kernel for TPUs: memory linear in T.

Positions grow by one within a segment, so the mask is causality by index in the row plus equality
of segments. The kernel computes both, and a window, from indices and skips the blocks that no query
sees.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bsft_jax.ops import remat
from bsft_jax.ops.attention import (
    AttentionFn,
    AttentionMask,
    ScoreTransform,
    heads_axis,
    shard_attention,
)
from bsft_jax.ops.precision import precision_for
from bsft_jax.parallel.sharding import BATCH_AXES, SEQUENCE_AXIS, activation_spec, num_shards

# The kernel's blocks are multiples of this.
LANES = 128
# Queries in a block, and keys.
MAX_BLOCK = 512


def splash(mask: AttentionMask, transform: ScoreTransform, interpret: bool = False) -> AttentionFn:
    """Builds the kernel's attention function; rows, heads and queries are split over the mesh.

    Rows are padded to whole blocks, with tokens of segment 0, which no other token sees. Where
    `context` splits the queries of a row, each shard has blocks of its own.

    Args:
      mask: mask of rows that attend to themselves.
      transform: scale and soft cap of the scores.
      interpret: runs the kernel's program without a TPU.

    Raises:
      ValueError: for any other mask; suffixes after a prefix take the dense backend.
    """
    if not mask.is_self_attention:
        raise ValueError(
            'the splash backend is for rows that attend to themselves, not for branches or a cache'
        )
    segment_ids_BT = mask.query.segment_ids_BT
    T = segment_ids_BT.shape[1]
    shards = num_shards(T, SEQUENCE_AXIS)

    def attend(q_BTNH, k_BTKH, v_BTKH):
        num_heads = q_BTNH.shape[2]
        if heads_axis(q_BTNH, k_BTKH):
            num_heads //= num_shards(num_heads, 'tensor')
        kernel = _make_kernel(num_heads, T, shards, mask.window, transform.cap, interpret)
        run = functools.partial(_attend_shard, scale=transform.scale)
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return run(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, segment_ids_BT, kernel)
        q_sharding = P(None, SEQUENCE_AXIS if shards > 1 else None)
        specs = (
            activation_spec(segment_ids_BT.shape, BATCH_AXES, SEQUENCE_AXIS),
            activation_spec(segment_ids_BT.shape, BATCH_AXES, None),
            kernel.manual_sharding_spec(NamedSharding(_without_axis_types(mesh), q_sharding)),
        )
        extra_args = segment_ids_BT, segment_ids_BT, kernel
        return shard_attention(run, q_BTNH, k_BTKH, v_BTKH, extra_args, specs)

    return attend


def _without_axis_types(mesh: AbstractMesh) -> AbstractMesh:
    """Returns the mesh without manual axes, which `manual_sharding_spec` does not support."""
    return AbstractMesh(mesh.axis_sizes, mesh.axis_names)


def _block_and_length(tokens: int) -> tuple[int, int]:
    """Returns the length of a block, and that of `tokens` tokens padded to whole blocks."""
    block = min(MAX_BLOCK, -(-tokens // LANES) * LANES)
    return block, -(-tokens // block) * block


def _make_kernel(num_heads: int, T: int, shards: int, window: int, cap: float, interpret: bool):
    """Makes the kernel for the queries of one row, in `shards` parts, and all keys."""
    block_q, padded_q = _block_and_length(T // shards)
    block_kv, padded_kv = _block_and_length(T)
    shape = shards * padded_q, padded_kv
    mask = masks.LocalMask(shape, (window - 1, 0), 0) if window else masks.CausalMask(shape)
    # Index in the row of each padded query of each shard; padding repeats the shard's last index.
    index = np.minimum(np.arange(padded_q), T // shards - 1)
    mask.q_sequence = np.concatenate(
        [shard * (T // shards) + index for shard in range(shards)]
    ).astype(np.int32)
    # The kernel's arrays are constants, also where it is made inside a trace.
    with jax.ensure_compile_time_eval():
        return kernels.make_splash_mha(
            masks.MultiHeadMask([mask] * num_heads),
            block_sizes=kernels.BlockSizes(*(block_q, block_kv, block_kv) * 2, block_q, block_kv),
            attn_logits_soft_cap=cap or None,
            head_shards=1,
            q_seq_shards=shards,
            residual_checkpoint_name=remat.ATTENTION_OUTPUT,
            interpret=interpret,
        )


def _attend_shard(
    q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS, kernel, *, scale: float
):
    """Computes attention of one device's rows, heads and queries with all keys of its rows."""
    T, dtype = q_BTNH.shape[1], q_BTNH.dtype

    def to_kernel_layout(x):
        """Returns heads before tokens, tokens padded."""
        return _pad_to_blocks(jnp.swapaxes(x, 1, 2), 2)

    def run(kernel, segment_ids, q_BNTH, k_BKSH, v_BKSH):
        return jax.vmap(kernel)(q_BNTH, k_BKSH, v_BKSH, segment_ids)

    # The kernel does not scale.
    q_BTNH = (q_BTNH.astype(jnp.float32) * scale).astype(dtype)
    segment_ids = kernels.SegmentIds(
        _pad_to_blocks(q_segment_ids_BT, 1), _pad_to_blocks(kv_segment_ids_BS, 1)
    )
    out_BNTH = _with_precision(run, precision_for(dtype))(
        kernel, segment_ids, *map(to_kernel_layout, (q_BTNH, k_BSKH, v_BSKH))
    )
    return jnp.swapaxes(out_BNTH[:, :, :T], 1, 2)


def _pad_to_blocks(x: jax.Array, axis: int) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = 0, _block_and_length(x.shape[axis])[1] - x.shape[axis]
    return jnp.pad(x, widths)


def _with_precision(run: Callable, precision: str | None) -> Callable:
    """Returns `run` with a matmul precision for both passes.

    A Pallas kernel takes the precision from the context that it is traced in. Every traced array
    must be among the arguments of `run`.
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
