"""Attention of packed rows by cuDNN's flash kernel on GPUs from Hopper on: memory linear in T.

JAX has no public API for it with packed rows: `jax.nn.dot_product_attention` takes a mask of all
pairs, whose memory grows with T², and without a mask the segments of a row see each other. The
private function beneath it takes the offsets of segments. Everything that depends on that function
is in this file and imported only when used; `tests/ops/test_attention_cudnn.py` states what it is
expected to do.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from bsft_jax.errors import UserError
from bsft_jax.ops import remat
from bsft_jax.ops.attention import AttentionFn, AttentionMask, ScoreTransform, shard_attention
from bsft_jax.parallel.sharding import BATCH_AXES, SEQUENCE_AXIS, activation_spec, num_shards

MAX_HEAD_DIM = 256
# Compute capability of the Hopper generation.
HOPPER = 9.0
# The kernel counts elements in 32 bits.
_MAX_ELEMENTS = 2**31


def check_cudnn(head_dim: int, softcap: float, dtype: str, mesh: Mesh) -> None:
    """Checks that the kernel supports a model and its devices.

    Args:
      head_dim: width of the model's attention heads.
      softcap: soft cap of the model's attention scores; 0 for none.
      dtype: dtype of activations.
      mesh: the devices, which may be described only.

    Raises:
      UserError: where it does not.
    """
    device = mesh.devices.flat[0]
    platform = device.platform
    capability = float(getattr(device, 'compute_capability', HOPPER))
    reasons = {
        f'it is for GPUs, and the devices are of platform {platform!r}': platform != 'gpu',
        'packed rows need a GPU of the Hopper generation or later': capability < HOPPER,
        f'it computes in bfloat16, and --config.model.dtype is {dtype}': dtype != 'bfloat16',
        'it has no soft cap of attention scores, and this model has one': bool(softcap),
        f'heads of width {head_dim} are not a multiple of 8 up to {MAX_HEAD_DIM}': (
            head_dim % 8 or head_dim > MAX_HEAD_DIM
        ),
        'it does not split the tokens of a row (--config.mesh.context)': mesh.shape['context'] > 1,
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(reason, where='--config.model.attention=cudnn', fix='use auto or dense')


def cudnn(mask: AttentionMask, transform: ScoreTransform) -> AttentionFn:
    """Builds the kernel's attention function; rows and heads are split over the mesh in force.

    A row with more segments than `max_segments` of its layout comes out as NaN: the kernel would
    read past their offsets.

    Raises:
      ValueError: for a mask other than of rows that attend to themselves, for a layout without
        `max_segments`, and where `context` splits the tokens of a row.
    """
    if not mask.is_self_attention:
        raise ValueError(
            'the cudnn backend is for rows that attend to themselves, not for branches or a cache'
        )
    if not mask.query.max_segments:
        raise ValueError('the cudnn backend must know how many segments a row has at most')
    segment_ids_BT = mask.query.segment_ids_BT
    if num_shards(segment_ids_BT.shape[1], SEQUENCE_AXIS) > 1:
        raise ValueError('the cudnn backend does not split the tokens of a row')
    run = functools.partial(
        _attend_shard,
        # Padding is one segment more.
        max_segments=mask.query.max_segments + 1,
        scale=transform.scale,
        window=mask.window or None,
    )
    if jax.sharding.get_abstract_mesh().empty:
        return lambda q, k, v: run(q, k, v, segment_ids_BT)
    spec = activation_spec(segment_ids_BT.shape, BATCH_AXES, None)
    return lambda q, k, v: shard_attention(run, q, k, v, (segment_ids_BT,), (spec,))


def segment_bounds(
    segment_ids_BT: jax.Array, max_segments: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the lengths and offsets of the segments of rows, in the kernel's format.

    Every run of equal ids is a segment.

    Args:
      segment_ids_BT: segment of each token.
      max_segments: upper bound of segments per row.

    Returns:
      lengths [B, max_segments] and offsets [B, max_segments + 1], int32 and -1 where there is no
      segment; and fits_B, whether the row has at most `max_segments`.
    """
    is_first_BT = jnp.pad(
        segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True
    )
    number_BT = jnp.cumsum(is_first_BT, axis=1) - 1
    members = number_BT[:, :, None] == jnp.arange(max_segments)
    lengths = jnp.sum(members, axis=1, dtype=jnp.int32)
    offsets = jnp.cumsum(lengths, axis=1, dtype=jnp.int32) - lengths
    exists = lengths > 0
    offsets = jnp.where(exists, offsets, -1)
    return (
        jnp.where(exists, lengths, -1),
        jnp.pad(offsets, ((0, 0), (0, 1)), constant_values=-1),
        number_BT[:, -1] < max_segments,
    )


def _attend_shard(
    q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *, max_segments: int, scale: float, window: int | None
):
    """Computes attention of one device's rows and heads."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    B, T, N, H = q_BTNH.shape
    if B * T * N * H >= _MAX_ELEMENTS:
        raise ValueError(
            f'{B} rows of {T} tokens are too many at a time: the kernel counts elements in 32 bits'
        )
    lengths, offsets, fits_B = segment_bounds(segment_ids_BT, max_segments)
    # One key head per query head: up to 0.11 jax computes the offsets of keys as if there were as
    # many heads of them as of queries (github.com/jax-ml/jax/pull/39521).
    k_BTNH, v_BTNH = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k_BTKH, v_BTKH))
    out_BTNH = fused.dot_product_attention(
        q_BTNH,
        k_BTNH,
        v_BTNH,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=scale,
        mask_type=fused.MaskType.PADDING_CAUSAL,
        sliding_window_length=window,
    )
    out_BTNH = jnp.where(fits_B[:, None, None, None], out_BTNH, jnp.nan)
    return checkpoint_name(out_BTNH, remat.ATTENTION_OUTPUT)


@contextlib.contextmanager
def assume_hopper() -> Iterator[None]:
    """Lets a program be traced for Hopper GPUs that are absent.

    JAX would ask the devices for cuDNN's version and their compute capability.
    """
    from unittest import mock

    from jax._src.cudnn import fused_attention_stablehlo as fused

    def supports(required) -> bool:
        return float(required) <= HOPPER

    def equals(required) -> bool:
        return float(required) == HOPPER

    with (
        mock.patch.object(fused, 'check_cudnn_version', lambda: 91000),
        mock.patch.object(fused, 'check_compute_capability', supports),
        mock.patch.object(fused, 'is_cuda_compute_capability_equal', equals),
    ):
        yield
