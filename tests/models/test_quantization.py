"""Tests quantized kernels: their values, layout, gradients and shards."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from bsft_jax.config import QUANTIZED, ComputeConfig, LoraConfig, MeshConfig
from bsft_jax.errors import UserError
from bsft_jax.models import linear, quantization
from bsft_jax.models.network import Network
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten, unflatten
from tests.tiny import assert_close, tiny_arch

# As printed in appendix E of arXiv 2305.14314.
CODES = np.float32(
    [
        [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
        [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0],
        [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
        [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    ]
).ravel()
ARCH = tiny_arch(embed_dim=64, mlp_dim=128, head_dim=16, init_std=0.1)
TOKENS = np.random.default_rng(0).integers(0, 96, (2, 12)).astype(np.int32)


def random_kernel(inputs=128, outputs=300):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(inputs, outputs)) * rng.uniform(0.5, 2, outputs)).astype(np.float32)


def nf4_in_torch_order(kernel_IO):
    """Returns codes, 8-bit scales, their scales and their mean, in the order of torch's [O, I]."""
    blocks = kernel_IO.T.reshape(-1, 64)
    absmax = np.abs(blocks).max(1)
    codes = np.abs((blocks / absmax[:, None])[..., None] - CODES).argmin(-1)
    centered = absmax - absmax.mean()
    values, scales = np.zeros(len(absmax)), []
    for start in range(0, len(absmax), 256):
        part = slice(start, start + 256)
        scales.append(np.abs(centered[part]).max() / 127)
        values[part] = np.rint(centered[part] / scales[-1])
    return codes, values, np.array(scales), absmax.mean()


def test_nf4_is_that_of_the_paper():
    kernel = random_kernel()
    codes, values, scales, mean = nf4_in_torch_order(kernel)
    parts = quantization.quantize(jnp.asarray(kernel), 'nf4')
    assert {name: part.dtype.name for name, part in parts.items()} == {
        'kernel': 'uint8',
        'kernel_absmax': 'int8',
        'kernel_absmax_scale': 'float32',
        'kernel_absmax_offset': 'float32',
    }
    # A byte holds two codes, the first in its high bits.
    packed = (codes[:, ::2] << 4) | codes[:, 1::2]
    ours = np.asarray(parts['kernel']).transpose(2, 0, 1).reshape(-1, 32)
    np.testing.assert_array_equal(ours, packed)
    np.testing.assert_array_equal(np.asarray(parts['kernel_absmax']).T.ravel(), values)
    assert len(scales) == 3  # the last of them for a block that is not full
    assert_close(parts['kernel_absmax_scale'], scales, 1e-6)
    assert_close(parts['kernel_absmax_offset'], mean, 1e-6)
    absmax = values * np.repeat(scales, 256)[: len(values)] + mean
    expected = (CODES[codes] * absmax[:, None]).reshape(kernel.T.shape).T
    assert_close(quantization.dequantize(parts), expected, 1e-5)


def test_nf4_of_a_block_by_hand():
    block = np.zeros(64, np.float32)
    block[:6] = [2.0, -2.0, 0.15, 0.17, 1.45, -0.1]
    parts = quantization.quantize(jnp.asarray(block[:, None]), 'nf4')
    # 0.15 / 2 is nearest to 0.0796, 0.17 / 2 too, 1.45 / 2 to 0.723, and -0.05 to -0.0911.
    assert np.asarray(parts['kernel'])[0, :4, 0].tolist() == [0xF0, 0x88, 0xE6, 0x77]
    values = np.asarray(quantization.dequantize(parts))[:7, 0]
    expected = 2 * np.float32([1, -1, CODES[8], CODES[8], CODES[14], CODES[6], 0])
    assert_close(values, expected, 1e-6)


def test_int8_and_fp8_have_a_scale_per_output():
    kernel = random_kernel()
    for base_dtype, largest, dtype in (
        ('int8', 127, np.int8),
        ('fp8', 448, ml_dtypes.float8_e4m3fn),
    ):
        scale = np.abs(kernel).max(0) / np.float32(largest)
        values = kernel / scale
        values = (np.rint(values) if base_dtype == 'int8' else values).astype(dtype)
        parts = quantization.quantize(jnp.asarray(np.stack([kernel, kernel])), base_dtype)
        np.testing.assert_array_equal(np.asarray(parts['kernel'][1]), values)
        assert_close(parts['kernel_scale'][0], scale, 1e-6)
        expected = values.astype(np.float32) * scale
        assert_close(quantization.dequantize(parts)[1], expected, 1e-5)


def test_inputs_that_are_no_whole_blocks_are_refused():
    with pytest.raises(UserError, match='base_dtype: nf4 has blocks of 64 inputs.* has 96; use'):
        quantization.quantize(jnp.zeros((96, 8)), 'nf4')


@pytest.mark.parametrize('base_dtype', QUANTIZED)
def test_gradients_are_those_over_the_dequantized_kernel(base_dtype):
    config = LoraConfig(2, 6.0)
    module = linear.Linear(
        128,
        96,
        bias=False,
        std=0.1,
        dtype=jnp.float32,
        rngs=nnx.Rngs(params=0),
        base_dtype=base_dtype,
        adapter=config,
    )
    rng = np.random.default_rng(1)
    x, a, b, dy = (rng.normal(size=s) for s in ((2, 5, 128), (128, 2), (2, 96), (2, 5, 96)))
    graph, state = nnx.split(module)

    def output(x, a, b):
        with_factors = jax.tree.map(lambda x: x, state)
        nnx.replace_by_pure_dict(with_factors, {'lora': {'a': a, 'b': b}})
        return nnx.merge(graph, with_factors)(x)

    parts = {name: getattr(module, name)[...] for name in module.parts}
    kernel = np.asarray(quantization.dequantize(parts), np.float64)
    y, backward = jax.vjp(output, *(jnp.asarray(value, jnp.float32) for value in (x, a, b)))
    adapter = config.scale * a @ b
    flat_x, flat_dy = x.reshape(-1, 128), dy.reshape(-1, 96)
    expected = (
        dy @ (kernel + adapter).T,
        config.scale * flat_x.T @ (flat_dy @ b.T),
        config.scale * (flat_x @ a).T @ flat_dy,
    )
    assert_close(y, x @ (kernel + adapter), 1e-6)
    for ours, exact in zip(backward(jnp.asarray(dy, jnp.float32)), expected, strict=True):
        assert_close(ours, exact, 1e-6)


def test_a_backward_pass_keeps_no_dequantized_kernel():
    network = Network(ARCH, (), ComputeConfig(base_dtype='nf4', lora=LoraConfig(2)))
    flat = flatten(network.init(jax.random.key(0)))
    trained = {path: x for path, x in flat.items() if '/lora/' in path}

    def hidden(trained):
        decoder = network.bind(unflatten(flat | trained))
        return decoder(TOKENS, TokenLayout.single(jnp.asarray(TOKENS)))[0]

    saved = jax.tree.leaves(jax.eval_shape(lambda t: jax.vjp(hidden, t)[1], trained))
    gate = ARCH.embed_dim * ARCH.mlp_dim
    assert not [x for x in saved if x.size % gate == 0 and x.dtype != jnp.uint8]


def test_whole_blocks_are_split_and_other_meshes_refused():
    arch = tiny_arch(embed_dim=128, mlp_dim=192, head_dim=32)
    shapes = Network(arch, (), ComputeConfig(base_dtype='nf4')).abstract()
    mesh = mesh_lib.make_mesh(MeshConfig(2, 2, 1, 2))
    flat = flatten(sharding.shardings(shapes, mesh))
    assert flat['layers/mlp/up/kernel'].spec == P(None, 'fsdp', None, 'tensor')
    assert flat['layers/mlp/up/kernel_absmax'].spec == P(None, 'fsdp', 'tensor')
    # Two shards of three blocks would cut one; where a model is only read they are not split.
    assert flat['layers/mlp/down/kernel'].spec == P(None, None, None, 'fsdp')
    assert flat['layers/mlp/down/kernel_absmax'].spec == P(None, None, 'fsdp')
    with pytest.raises(UserError, match='mesh.tensor: tensor=2 does not divide the 3 blocks of .*'):
        sharding.check_blocks(shapes, mesh)
    sharding.check_blocks(shapes, mesh_lib.make_mesh(MeshConfig(4, 2, 1, 1)))
