"""Attention of packed rows by cuDNN's flash kernel on GPUs from Hopper on, which never holds the scores of all pairs.

jax names no public way to it for packed rows: `jax.nn.dot_product_attention` takes a mask of all pairs, whose memory
grows with T², and without one its documents see each other. The one beneath it takes where documents start. All that
depends on its form is in this file, and imported where it is used alone, so that nobody else depends on it;
`tests/models/test_cudnn.py` has what it is expected to be.
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
from bsft_jax.models import remat
from bsft_jax.models.architecture import Architecture
from bsft_jax.models.attention import Attend, AttentionMask, Scores, on_devices
from bsft_jax.parallel.sharding import ROWS, TOKENS, fitting, parts

WIDEST_HEAD = 256
HOPPER = 9.0  # compute capability


def check(arch: Architecture, dtype: str, mesh: Mesh) -> None:
    """Raises UserError for a model or devices that the kernel is not for."""
    device = mesh.devices.flat[0]
    for wrong, why in (
        (device.platform != 'gpu', f'it is for GPUs, and the devices are of platform {device.platform!r}'),
        (
            float(getattr(device, 'compute_capability', HOPPER)) < HOPPER,
            'packed rows need a GPU of the Hopper generation or later',
        ),
        (dtype != 'bfloat16', f'it computes in bfloat16, and --config.model.dtype is {dtype}'),
        (bool(arch.attention_cap), f'it has no soft cap of scores, and a {arch.family} model has one'),
        (
            arch.head_width % 8 or arch.head_width > WIDEST_HEAD,
            f'heads of width {arch.head_width} are not a multiple of 8 up to {WIDEST_HEAD}',
        ),
        (mesh.shape['context'] > 1, 'it does not split the tokens of a row (--config.mesh.context)'),
    ):
        if wrong:
            raise UserError(why, where='--config.model.attention=cudnn', fix='use auto or dense')


def cudnn(mask: AttentionMask, scores: Scores) -> Attend:
    """The back end of the kernel; rows and heads are split over the mesh in force.

    A row with more documents than its layout says comes out as NaN: the kernel would read past them.

    Raises ValueError for a mask that is not one of rows, or whose number of documents is not known.
    """
    if not mask.in_rows:
        raise ValueError(
            'the cudnn back end is for rows that attend to themselves, not for branches or a view'
        )
    if not mask.query.documents:
        raise ValueError('the cudnn back end must know how many documents a row has at most')
    segment_ids_BT = mask.query.segment_ids_BT
    if parts(segment_ids_BT.shape[1], TOKENS) > 1:
        raise ValueError('the cudnn back end does not split the tokens of a row')
    run = functools.partial(
        _run, most=mask.query.documents + 1, scale=scores.scale, window=mask.window or None
    )  # padding is one document more
    if jax.sharding.get_abstract_mesh().empty:
        return lambda q, k, v: run(q, k, v, segment_ids_BT)
    spec = fitting(segment_ids_BT.shape, ROWS, None)
    return lambda q, k, v: on_devices(run, q, k, v, (segment_ids_BT,), (spec,))


def documents_of(segment_ids_BT: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the documents of rows lie, every run of equal ids being one, in the form of the kernel.

    Returns lengths_BM and starts_Bm (m = M + 1; int32, -1 where there is none) of at most `most` = M documents, and
    fits_B, whether the row has no more.
    """
    new_BT = jnp.pad(segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    number_BT = jnp.cumsum(new_BT, axis=1) - 1
    lengths_BM = jnp.sum(number_BT[:, :, None] == jnp.arange(most), axis=1, dtype=jnp.int32)
    starts_BM = jnp.cumsum(lengths_BM, axis=1, dtype=jnp.int32) - lengths_BM
    there_BM = lengths_BM > 0
    starts_BM = jnp.where(there_BM, starts_BM, -1)
    return (
        jnp.where(there_BM, lengths_BM, -1),
        jnp.pad(starts_BM, ((0, 0), (0, 1)), constant_values=-1),
        number_BT[:, -1] < most,
    )


def _run(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *, most: int, scale: float, window: int | None):
    """One device's rows and heads."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    B, T, N, H = q_BTNH.shape
    if B * T * N * H >= 2**31:
        raise ValueError(
            f'{B} rows of {T} tokens are too many at a time: the kernel counts elements in 32 bits'
        )
    lengths_BM, starts_Bm, fits_B = documents_of(segment_ids_BT, most)
    # Each query's own key: up to 0.11 jax places the documents of keys as if there were as many heads of them
    # (github.com/jax-ml/jax/pull/39521).
    k_BTNH, v_BTNH = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k_BTKH, v_BTKH))
    out_BTNH = fused.dot_product_attention(
        q_BTNH, k_BTNH, v_BTNH, q_seqlen=lengths_BM, kv_seqlen=lengths_BM, q_offsets=starts_Bm, kv_offsets=starts_Bm,
        scale=scale, mask_type=fused.MaskType.PADDING_CAUSAL, sliding_window_length=window,
    )  # fmt: skip
    return checkpoint_name(jnp.where(fits_B[:, None, None, None], out_BTNH, jnp.nan), remat.ATTENTION)


@contextlib.contextmanager
def promised() -> Iterator[None]:
    """While a program is traced for GPUs that are not there: jax would ask them for cuDNN's version and theirs."""
    from unittest import mock

    from jax._src.cudnn import fused_attention_stablehlo as fused

    with (
        mock.patch.object(fused, 'check_cudnn_version', lambda: 91000),
        mock.patch.object(fused, 'check_compute_capability', lambda wanted: float(wanted) <= HOPPER),
        mock.patch.object(fused, 'is_cuda_compute_capability_equal', lambda wanted: float(wanted) == HOPPER),
    ):
        yield
