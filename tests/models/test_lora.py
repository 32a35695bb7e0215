"""Tests adapters: initial values, merging, dropout, quantized bases and rematerialization."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bsft_jax.config import ComputeConfig, LoraConfig, MeshConfig
from bsft_jax.models import lora, quantization
from bsft_jax.models.architecture import LayerKind
from bsft_jax.models.network import Network
from bsft_jax.ops import matmul
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.ops.remat import apply_remat
from bsft_jax.ops.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.pytrees import flatten, unflatten
from tests.tiny import assert_close, tiny_arch

ARCH = tiny_arch(
    num_layers=3, kinds=(LayerKind(Rope(10000.0)), LayerKind(Rope(10000.0), 8)), init_std=0.2
)
# With widths that nf4's blocks of 64 divide.
BLOCKS_ARCH = dataclasses.replace(ARCH, embed_dim=64, head_dim=16, mlp_dim=64)
TOKENS = np.random.default_rng(0).integers(0, 96, (2, 20)).astype(np.int32)


def hidden(network, params, key=None):
    @jax.jit
    def run(params):
        layout = TokenLayout.single(jnp.asarray(TOKENS))
        return network.bind(params)(TOKENS, layout, dropout_key=key)[0]

    return np.asarray(run(params))


def with_lora(config, **changes):
    return Network(ARCH, compute=ComputeConfig(lora=config, **changes))


def without_adapters(params):
    return unflatten({path: leaf for path, leaf in flatten(params).items() if '/lora/' not in path})


def with_random_b(params):
    rng = np.random.default_rng(1)
    return unflatten(
        {
            path: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)
            if path.endswith('lora/b')
            else leaf
            for path, leaf in flatten(params).items()
        }
    )


@pytest.mark.parametrize(
    'config',
    [LoraConfig(4, 8.0), LoraConfig(4, 8.0, True), LoraConfig(2, targets='attention/[qv]')],
)
def test_adapters_add_nothing_at_first_and_merge_exactly(config):
    network, plain = with_lora(config), Network(ARCH)
    params = network.init(jax.random.key(0))
    adapted = {path.rsplit('/lora', 1)[0] for path in flatten(params) if '/lora/' in path}
    # In `layers` and in `rest`.
    assert len(adapted) == (4 if config.targets != '.*' else 14)
    np.testing.assert_array_equal(hidden(network, params), hidden(plain, without_adapters(params)))
    params = with_random_b(params)
    flat = flatten(params)
    for path in adapted:
        adapter = flat[f'{path}/lora/a'], flat[f'{path}/lora/b']
        flat[f'{path}/kernel'] = lora.merged(flat[f'{path}/kernel'], *adapter, config)
    merged = hidden(plain, without_adapters(unflatten(flat)))
    adapted = hidden(network, params)
    np.testing.assert_allclose(adapted, merged, atol=1e-4)
    assert np.abs(adapted - hidden(plain, without_adapters(params))).max() > 0.1


@pytest.mark.parametrize('outputs', [5, 24], ids=['narrows', 'widens'])
def test_a_matmul_with_the_merged_kernel_has_the_gradients_of_low_rank_matmuls(outputs):
    config, keys = LoraConfig(3, 6.0), jax.random.split(jax.random.key(0), 5)
    shapes = (2, 40, 8), (8, outputs), (8, 3), (3, outputs)
    args = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)]

    def low_rank(x, kernel, a, b):
        return x @ kernel + config.scale * ((x @ a) @ b)

    expected, pull = jax.vjp(low_rank, *args)
    actual, own_pull = jax.vjp(lambda *args: lora.merged_matmul(*args, config), *args)
    assert_close(actual, expected, 1e-6)
    dy = jax.random.normal(keys[4], expected.shape)
    for gradient, reference in zip(own_pull(dy), pull(dy), strict=True):
        assert_close(gradient, reference, 1e-6)


@pytest.mark.parametrize('function', ['merged', 'linear'])
def test_the_backward_pass_saves_what_linear_maps_return_under_dots(function, capsys):
    config, x = LoraConfig(3, 6.0), jnp.ones((2, 40, 8))
    kernel, a, b = jnp.ones((8, 24)), jnp.ones((8, 3)), jnp.ones((3, 24))

    def layer(x, a, b):
        x = jnp.sin(x)
        if function == 'linear':
            return jnp.sin(matmul.linear_matmul(x, kernel) + matmul.linear_matmul(x @ a, b))
        return jnp.sin(lora.merged_matmul(x, kernel, a, b, config))

    layer = apply_remat(layer, 'dots', scanned=False)
    jax.ad_checkpoint.print_saved_residuals(layer, x, a, b)
    assert 'f32[2,40,24]' in capsys.readouterr().out


def test_an_adapter_is_merged_where_that_is_less_work_and_as_exact():
    adapter = lora.Lora(8, 24, LoraConfig(3, dropout=0.5), nnx.Rngs(0))
    kernel, key = jnp.zeros((8, 24)), jax.random.key(0)
    # The two are equally much work for 8 · 24 / (8 + 24) = 6 tokens.
    x = jnp.zeros((1, 6, 8))
    assert adapter.should_merge(x, kernel, None) and not adapter.should_merge(
        x[:, :5], kernel, None
    )
    assert not adapter.should_merge(x, kernel, key)
    assert not adapter.should_merge(x, kernel.astype(jnp.bfloat16), None)
    assert not adapter.should_merge(x.astype(jnp.bfloat16), kernel, None)
    with jax.set_mesh(mesh_lib.make_mesh(MeshConfig(data=1, fsdp=8))):
        assert not adapter.should_merge(x, kernel, None)


def test_scale_is_that_of_lora_or_rslora():
    assert LoraConfig(16, 32.0).scale == 2.0
    assert LoraConfig(16, 32.0, rank_stabilized=True).scale == 8.0


def test_dropout_zeroes_its_share_of_the_inputs_and_only_in_training():
    config = LoraConfig(4, 4.0, dropout=0.25)
    network = with_lora(config)
    params = with_random_b(network.init(jax.random.key(0)))
    runs = [hidden(network, params, jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-2
    np.testing.assert_array_equal(
        hidden(network, params),
        hidden(with_lora(dataclasses.replace(config, dropout=0.0)), params),
    )
    adapter = lora.Lora(1000, 1000, LoraConfig(1000, 1000.0, dropout=0.25), nnx.Rngs(params=0))
    adapter.a[...], adapter.b[...] = jnp.eye(1000), jnp.eye(1000)
    dropped = np.asarray(adapter(jnp.ones((1, 1, 1000)), jax.random.key(0)))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.2 < (dropped == 0).mean() < 0.3


def with_plain_kernels(flat):
    """Returns float32 parameters, those of a quantized base dequantized."""
    plain = {p: x.astype(jnp.float32) for p, x in flat.items() if '/kernel_' not in p}
    for path in [p for p in plain if f'{p}_scale' in flat or f'{p}_absmax' in flat]:
        module = path.removesuffix('kernel')
        parts = {p.removeprefix(module): x for p, x in flat.items() if p.startswith(path)}
        plain[path] = quantization.dequantize(parts)
    return plain


def test_trainable_parameters_are_float32_beside_a_base_in_lower_precision():
    for base_dtype, kernel in (('bfloat16', 'bfloat16'), ('int8', 'int8'), ('nf4', 'uint8')):
        compute = ComputeConfig(base_dtype=base_dtype, lora=LoraConfig(4))
        network = Network(BLOCKS_ARCH, (95,), compute)
        flat = flatten(network.abstract())
        assert flat['layers/attention/q/kernel'].dtype == kernel
        assert flat['embed/table'].dtype == 'bfloat16'
        # Some bfloat16 checkpoints hold vectors in float32.
        vectors = 'float32' if base_dtype == 'bfloat16' else 'bfloat16'
        assert flat['norm/scale'].dtype == vectors
        assert flat['behavior/input'].dtype == flat['layers/mlp/up/lora/a'].dtype == 'float32'
        params = network.init(jax.random.key(0))
        assert {p: (x.shape, x.dtype) for p, x in flatten(params).items()} == {
            p: (x.shape, x.dtype) for p, x in flat.items()
        }
        exact = network.with_compute(base_dtype='float32')
        dequantized = unflatten(with_plain_kernels(flatten(params)))
        np.testing.assert_allclose(hidden(network, params), hidden(exact, dequantized), atol=1e-4)


@pytest.mark.parametrize('base_dtype', ['float32', 'int8'])
def test_rematerialization_changes_no_gradient(base_dtype):
    plain = with_lora(LoraConfig(4, dropout=0.2), base_dtype=base_dtype)
    params = with_random_b(plain.init(jax.random.key(0)))
    trained = {path: leaf for path, leaf in flatten(params).items() if '/lora/' in path}
    # The sum of squares behind a norm is constant, so it has no gradient to compare.
    weights = jax.random.normal(jax.random.key(2), (*TOKENS.shape, ARCH.embed_dim))
    gradients_by_policy, saved_bytes = [], []
    for remat in ('none', 'dots', 'minimal', 'full'):
        network = plain.with_compute(remat=remat)

        def loss(trained, network=network):
            decoder = network.bind(unflatten(flatten(params) | trained))
            layout = TokenLayout.single(jnp.asarray(TOKENS))
            return jnp.sum(weights * decoder(TOKENS, layout, dropout_key=jax.random.key(1))[0])

        gradients_by_policy.append(jax.jit(jax.grad(loss))(trained))
        saved = jax.eval_shape(lambda t, loss=loss: jax.vjp(loss, t)[1], trained)
        saved_bytes.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(saved)))
    for gradients in gradients_by_policy[1:]:
        for path, gradient in gradients_by_policy[0].items():
            np.testing.assert_allclose(gradients[path], gradient, rtol=1e-4, atol=1e-4)
            assert jnp.abs(gradient).max() > 0.01, path
    assert saved_bytes == sorted(set(saved_bytes), reverse=True), saved_bytes
    assert saved_bytes[-1] < 0.7 * saved_bytes[0]
