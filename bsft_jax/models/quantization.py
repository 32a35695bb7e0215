"""Kernels of frozen linear maps held in 8 or 4 bits: int8, fp8 and nf4.

int8 and fp8 (float8_e4m3fn) have one float32 scale per output. nf4 is the 4-bit NormalFloat of
QLoRA (Dettmers et al., arXiv 2305.14314): a block of 64 consecutive inputs of one output has the
largest of its absolute values, `absmax`, as its scale, and each of its values is the nearest of 16
codes times that scale. A byte holds two codes, the first in its high bits; torch's [O, I] layout
read in order gives the blocks and bytes of bitsandbytes (`quantize_4bit` in
`bitsandbytes/backends/default/ops.py`).

The scales of nf4 are quantized again. Less their mean over the kernel, blocks of 256 of them, in
that same order, are int8 with one float32 scale. The paper has 8-bit floats in place of int8.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from bsft_jax.errors import UserError
from bsft_jax.ops.matmul import einsum_accumulate, plain_linear_matmul
from bsft_jax.parallel.sharding import constrain

# Parts of a kernel by the names that they have in a linear map.
Parts = dict[str, jax.Array]

BLOCK, SCALES_BLOCK = 64, 256
# The 16 values of nf4 in ascending order: appendix E of arXiv 2305.14314.
NF4_CODES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# Dtype of the values and the largest one, for kernels with a scale per output.
_PER_OUTPUT = {'int8': (jnp.int8, 127.0), 'fp8': (jnp.float8_e4m3fn, 448.0)}


def quantize(kernel_IO: jax.Array, base_dtype: str) -> Parts:
    """Returns the parts of a kernel; it may be stacked over layers in front.

    Args:
      kernel_IO: the kernel.
      base_dtype: `int8`, `fp8` or `nf4`.

    Returns:
      `kernel` and `kernel_scale` [O] for int8 and fp8. For nf4 `kernel` [I/64, 32, O] uint8,
      `kernel_absmax` [I/64, O] int8, `kernel_absmax_scale` with one value per 256 of these, and
      `kernel_absmax_offset`.

    Raises:
      UserError: nf4, and I is not a multiple of 64.
    """
    kernel_IO = kernel_IO.astype(jnp.float32)
    if base_dtype == 'nf4':
        return _quantize_nf4(kernel_IO)
    values, scale_O = _quantize_8bit(kernel_IO, base_dtype, axis=-2)
    return {'kernel': values, 'kernel_scale': scale_O}


def dequantize(parts: Parts) -> jax.Array:
    """Returns the float32 kernel [I, O] that the parts of one stand for; both may be stacked."""
    if 'kernel_scale' in parts:
        return parts['kernel'].astype(jnp.float32) * parts['kernel_scale'][..., None, :]
    packed_NHO, (N, H, O) = parts['kernel'], parts['kernel'].shape[-3:]
    codes_NH2O = jnp.stack([packed_NHO >> 4, packed_NHO & 15], axis=-2)
    values_NH2O = _look_up(codes_NH2O) * _dequantize_absmax(parts)[..., None, None, :]
    return values_NH2O.reshape(*packed_NHO.shape[:-3], N * H * 2, O)


@jax.custom_vjp
def quantized_matmul(x_BTI: jax.Array, parts: Parts) -> jax.Array:
    """Returns `x @ dequantize(parts)` [B, T, O], computed in the dtype of `x`.

    The backward pass dequantizes the kernel again, so that nothing of its size is saved. The parts
    have no gradient.
    """
    kernel_IO, scale_O = _factors(parts, x_BTI.dtype)
    if scale_O is None:
        return plain_linear_matmul(x_BTI, kernel_IO)
    y_BTO = plain_linear_matmul(x_BTI, kernel_IO, jnp.float32)
    return (y_BTO * scale_O).astype(x_BTI.dtype)


def _forward(x_BTI, parts):
    return quantized_matmul(x_BTI, parts), parts


def _backward(parts, dy_BTO):
    kernel_IO, scale_O = _factors(parts, dy_BTO.dtype)
    if scale_O is not None:
        dy_BTO = (dy_BTO * scale_O).astype(dy_BTO.dtype)
    return einsum_accumulate('BTO,IO->BTI', dy_BTO, kernel_IO), None


quantized_matmul.defvjp(_forward, _backward)


def _factors(parts: Parts, dtype) -> tuple[jax.Array, jax.Array | None]:
    """Returns a kernel in a dtype, and the scale per output that its product still needs."""
    if 'kernel_scale' in parts:
        return parts['kernel'].astype(dtype), parts['kernel_scale']
    return dequantize(parts).astype(dtype), None


def num_values(path: str, leaf) -> int:
    """Returns how many numbers of a model a parameter (or its shape) stands for."""
    if '/kernel_' in path:
        return 0
    return leaf.size * (2 if leaf.dtype == jnp.uint8 else 1)


def _quantize_8bit(x: jax.Array, base_dtype: str, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns values of 8 bits and one float32 scale for all values along an axis."""
    dtype, largest = _PER_OUTPUT[base_dtype]
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=axis), 1e-30) / largest
    scaled = x / jnp.expand_dims(scale, axis)
    return (jnp.round(scaled) if dtype == jnp.int8 else scaled).astype(dtype), scale


def _quantize_nf4(kernel_IO: jax.Array) -> Parts:
    *lead, I, O = kernel_IO.shape
    if I % BLOCK:
        raise UserError(
            f'nf4 has blocks of {BLOCK} inputs, and a linear map of the model has {I}',
            where='--config.model.base_dtype',
            fix='use int8 or fp8',
        )
    blocks_NBO = kernel_IO.reshape(*lead, I // BLOCK, BLOCK, O)
    absmax_NO = jnp.max(jnp.abs(blocks_NBO), axis=-2)
    scaled_NBO = blocks_NBO / jnp.maximum(absmax_NO, 1e-30)[..., None, :]
    # The nearest code is the number of midpoints that lie below.
    codes_NBO = sum(
        (scaled_NBO > (low + high) / 2).astype(jnp.uint8)
        for low, high in itertools.pairwise(NF4_CODES)
    )
    packed_NHO = (codes_NBO[..., ::2, :] << 4) | codes_NBO[..., 1::2, :]
    # On every device the same sum, or a mesh would change the mean and with it the scales.
    absmax_NO = constrain(absmax_NO, *[None] * absmax_NO.ndim)
    flat = absmax_NO.swapaxes(-1, -2).reshape(*lead, -1)
    offset = jnp.mean(flat, axis=-1)
    flat = flat - offset[..., None]
    padded = jnp.pad(flat, [(0, 0)] * len(lead) + [(0, -flat.shape[-1] % SCALES_BLOCK)])
    values, scale = _quantize_8bit(padded.reshape(*lead, -1, SCALES_BLOCK), 'int8', axis=-1)
    values = values.reshape(*lead, -1)[..., : flat.shape[-1]]
    return {
        'kernel': packed_NHO,
        'kernel_absmax': values.reshape(*lead, O, I // BLOCK).swapaxes(-1, -2),
        'kernel_absmax_scale': scale,
        'kernel_absmax_offset': offset,
    }


def _dequantize_absmax(parts: Parts) -> jax.Array:
    """Returns the scales of the blocks of an nf4 kernel [I/64, O]."""
    values_NO, offset = parts['kernel_absmax'], parts['kernel_absmax_offset']
    *lead, N, O = values_NO.shape
    scale = jnp.repeat(parts['kernel_absmax_scale'], SCALES_BLOCK, axis=-1)[..., : N * O]
    scale_NO = scale.reshape(*lead, O, N).swapaxes(-1, -2)
    return values_NO.astype(jnp.float32) * scale_NO + offset[..., None, None]


def _look_up(codes: jax.Array) -> jax.Array:
    """Returns the value of each code, by selections: they fuse with the product that follows."""
    values = list(map(jnp.float32, NF4_CODES))
    for bit in range(4):
        is_set = (codes >> bit) & 1 == 1
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [jnp.where(is_set, high, low) for low, high in pairs]
    return values[0]
