"""Adapters: nothing at first, equal to torch's peft, merged without a change, dropped by seed and step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bsft_jax.config import MeshSection
from bsft_jax.models import linear, lora
from bsft_jax.models.architecture import Architecture, LayerKind
from bsft_jax.models.attention import Layout
from bsft_jax.models.lora import LoraSpec
from bsft_jax.models.network import Network
from bsft_jax.models.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.trees import flatten, unflatten
from tests.tiny import assert_close

ARCH = Architecture(
    family='qwen2', vocab_size=96, width=32, layers=3, heads=4, kv_heads=2, head_width=8, ffn_width=48,
    max_positions=64, kinds=(LayerKind(Rope(10000.0)), LayerKind(Rope(10000.0), 8)), norm_eps=1e-6, tied=True,
    qkv_bias=True, init_std=0.2,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 96, (2, 20)).astype(np.int32)


def hidden(network, params, key=None):
    run = jax.jit(lambda p: network.bind(p)(TOKENS, Layout.single(jnp.asarray(TOKENS)), dropout_key=key)[0])
    return np.asarray(run(params))


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
    'spec', [LoraSpec(4, 8.0), LoraSpec(4, 8.0, True), LoraSpec(2, targets='attention/[qv]')]
)
def test_adapters_add_nothing_at_first_and_merge_exactly(spec):
    network, plain = Network(ARCH, lora=spec), Network(ARCH)
    params = network.init(jax.random.key(0))
    adapted = {path.rsplit('/lora', 1)[0] for path in flatten(params) if '/lora/' in path}
    assert len(adapted) == (4 if spec.targets != '.*' else 14)  # in `layers` and in `rest`
    np.testing.assert_array_equal(hidden(network, params), hidden(plain, without_adapters(params)))
    params = with_random_b(params)
    flat = flatten(params)
    for path in adapted:
        adapter = flat[f'{path}/lora/a'], flat[f'{path}/lora/b']
        flat[f'{path}/kernel'] = lora.merged(flat[f'{path}/kernel'], *adapter, spec)
    merged = hidden(plain, without_adapters(unflatten(flat)))
    moved = hidden(network, params)
    np.testing.assert_allclose(moved, merged, atol=1e-4)
    assert np.abs(moved - hidden(plain, without_adapters(params))).max() > 0.1


@pytest.mark.parametrize('outputs', [5, 24], ids=['narrows', 'widens'])
def test_a_product_with_the_merged_kernel_has_the_gradients_of_thin_products(outputs):
    spec, keys = LoraSpec(3, 6.0), jax.random.split(jax.random.key(0), 5)
    args = [
        jax.random.normal(key, shape)
        for key, shape in zip(keys, ((2, 40, 8), (8, outputs), (8, 3), (3, outputs)), strict=False)
    ]
    thin = lambda x, kernel, a, b: x @ kernel + spec.scale * ((x @ a) @ b)  # noqa: E731
    expected, pull = jax.vjp(thin, *args)
    actual, own = jax.vjp(lambda *args: lora.merged_product(*args, spec), *args)
    assert_close(actual, expected, 1e-6)
    dy = jax.random.normal(keys[4], expected.shape)
    for mine, theirs in zip(own(dy), pull(dy), strict=True):
        assert_close(mine, theirs, 1e-6)


def test_an_adapter_is_merged_where_that_is_less_work_and_as_exact():
    adapter = lora.Lora(8, 24, LoraSpec(3, dropout=0.5), nnx.Rngs(0))
    kernel, key = jnp.zeros((8, 24)), jax.random.key(0)
    x = jnp.zeros((1, 6, 8))  # 8 · 24 / (8 + 24) = 6 tokens
    assert adapter.merges(x, kernel, None) and not adapter.merges(x[:, :5], kernel, None)
    assert not adapter.merges(x, kernel, key)
    assert not adapter.merges(x, kernel.astype(jnp.bfloat16), None)
    assert not adapter.merges(x.astype(jnp.bfloat16), kernel, None)
    with jax.set_mesh(mesh_lib.make_mesh(MeshSection(data=1, fsdp=8))):
        assert not adapter.merges(x, kernel, None)


def test_scale_is_that_of_lora_or_rslora():
    assert LoraSpec(16, 32.0).scale == 2.0 and LoraSpec(16, 32.0, rank_stabilized=True).scale == 8.0


def test_dropout_zeroes_its_share_of_the_inputs_and_only_in_training():
    spec = LoraSpec(4, 4.0, dropout=0.25)
    network = Network(ARCH, lora=spec)
    params = with_random_b(network.init(jax.random.key(0)))
    runs = [hidden(network, params, jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-2
    np.testing.assert_array_equal(
        hidden(network, params), hidden(Network(ARCH, lora=dataclasses.replace(spec, dropout=0.0)), params)
    )
    made = lora.Lora(1000, 1000, LoraSpec(1000, 1000.0, dropout=0.25), rngs=_rngs())
    made.a[...], made.b[...] = jnp.eye(1000), jnp.eye(1000)
    dropped = np.asarray(made(jnp.ones((1, 1, 1000)), jax.random.key(0)))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.2 < (dropped == 0).mean() < 0.3


def _rngs():
    from flax import nnx

    return nnx.Rngs(params=0)


def test_int8_kernels_are_within_half_a_step():
    kernel = jax.random.normal(jax.random.key(0), (3, 64, 16)) * jnp.arange(1, 17)
    held, scale = linear.quantize(kernel)
    assert held.dtype == jnp.int8 and scale.shape == (3, 16)
    error = jnp.abs(linear.dequantize(held, scale) - kernel)
    assert float((error - 0.5001 * scale[:, None]).max()) <= 0
    assert float(jnp.abs(held).max()) == 127


def test_a_base_in_lower_precision_keeps_what_trains_in_float32():
    for base_dtype, kernel in (('bfloat16', 'bfloat16'), ('int8', 'int8')):
        network = Network(ARCH, (95,), base_dtype=base_dtype, lora=LoraSpec(4))
        flat = flatten(network.abstract())
        assert flat['layers/attention/q/kernel'].dtype == kernel
        assert flat['embed/table'].dtype == flat['norm/scale'].dtype == 'bfloat16'
        assert flat['behavior/input'].dtype == flat['layers/mlp/up/lora/a'].dtype == 'float32'
        params = network.init(jax.random.key(0))
        assert {p: (x.shape, x.dtype) for p, x in flatten(params).items()} == {
            p: (x.shape, x.dtype) for p, x in flat.items()
        }
        exact = dataclasses.replace(network, base_dtype='float32')
        wide = unflatten(
            {
                p: linear.dequantize(x, flatten(params)[f'{p}_scale']) if x.dtype == jnp.int8 else x.astype(jnp.float32)
                for p, x in flatten(params).items()
                if not p.endswith('kernel_scale')
            }
        )  # fmt: skip
        np.testing.assert_allclose(hidden(network, params), hidden(exact, wide), atol=1e-4)


@pytest.mark.parametrize('base_dtype', ['float32', 'int8'])
def test_computing_layers_again_changes_no_gradient(base_dtype):
    plain = Network(ARCH, lora=LoraSpec(4, dropout=0.2), base_dtype=base_dtype)
    params = with_random_b(plain.init(jax.random.key(0)))
    trained = {path: leaf for path, leaf in flatten(params).items() if '/lora/' in path}
    weights = jax.random.normal(
        jax.random.key(2), (*TOKENS.shape, ARCH.width)
    )  # a sum of squares stands still
    found, kept = [], []
    for remat in ('none', 'dots', 'minimal', 'full'):
        network = dataclasses.replace(plain, remat=remat)

        def loss(trained, network=network):
            decoder = network.bind(unflatten(flatten(params) | trained))
            layout = Layout.single(jnp.asarray(TOKENS))
            return jnp.sum(weights * decoder(TOKENS, layout, dropout_key=jax.random.key(1))[0])

        found.append(jax.jit(jax.grad(loss))(trained))
        saved = jax.eval_shape(lambda t, loss=loss: jax.vjp(loss, t)[1], trained)
        kept.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(saved)))
    for gradients in found[1:]:
        for path, gradient in found[0].items():
            np.testing.assert_allclose(gradients[path], gradient, rtol=1e-4, atol=1e-4)
            assert jnp.abs(gradient).max() > 0.01, path
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept), kept
    assert kept[-1] < 0.7 * kept[0]
