"""Compares attention backends with the dense reference, on meshes and between segments."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.config import ComputeConfig, MeshConfig
from bsft_jax.errors import UserError
from bsft_jax.models.architecture import LayerKind
from bsft_jax.models.network import Network
from bsft_jax.ops import attention_blockwise, attention_dispatch, attention_splash
from bsft_jax.ops.attention import (
    AttentionMask,
    ScoreTransform,
    TokenLayout,
    dense_attention,
)
from bsft_jax.ops.kv_cache import attend_prefix
from bsft_jax.ops.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import assert_close, tiny_arch

MESHES = {'1 device': (1, 1, 1, 1), '2x2x1x2': (2, 2, 1, 2), 'context 2': (1, 2, 2, 2)}
# T, N, K, H, window, cap
SHAPES = {
    'llama': (128, 4, 4, 16, 0, 0.0),
    'grouped, width 64': (256, 4, 2, 64, 0, 0.0),
    'window, odd length': (202, 2, 2, 16, 40, 0.0),
    'cap, width 128': (256, 2, 2, 128, 0, 5.0),
    'window and cap of many blocks': (390, 4, 2, 8, 150, 5.0),
}


def packed(rows: int, length: int, seed: int = 0) -> TokenLayout:
    """Returns the layout of rows of a few segments each, with padding behind most of them."""
    rng = np.random.default_rng(seed)
    segments, positions = np.zeros((2, rows, length), np.int32)
    for row in range(rows):
        start = 0
        for segment, size in enumerate(rng.integers(length // 6, length // 3, 4), start=1):
            columns = slice(start, min(start + size, length))
            segments[row, columns] = segment
            start = columns.stop
        for segment in np.unique(segments[row]):
            members = segments[row] == segment
            positions[row, members] = np.arange(members.sum())
    return TokenLayout(jnp.asarray(segments), jnp.asarray(positions))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def attention_and_gradients(backend, window, transform, layout, q, k, v, gradient):
    def attend(q, k, v):
        mask = AttentionMask(layout, layout, window)
        return attention_dispatch.make_attention_fn(mask, transform, backend)(q, k, v)

    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(gradient)


def inputs(shape):
    """Returns a layout, q, k, v, and a gradient that is zero where the row is padded."""
    T, N, K, H, *_ = SHAPES[shape]
    layout = packed(4, T)
    rng = np.random.default_rng(1)
    q, k, v, gradient = (
        jnp.asarray(rng.normal(size=(4, T, n, H)), jnp.float32) for n in (N, K, K, N)
    )
    return layout, q, k, v, gradient * (layout.segment_ids_BT > 0)[..., None, None]


def run(shape, backend, mesh):
    layout, *arrays = inputs(shape)
    *_, H, window, cap = SHAPES[shape]
    mesh = mesh_lib.make_mesh(MeshConfig(*mesh), jax.devices()[: math.prod(mesh)])
    with jax.set_mesh(mesh):
        out, *gradients = attention_and_gradients(
            backend, window, ScoreTransform(H**-0.5, cap), layout, *arrays
        )
    return np.asarray(out) * (np.asarray(layout.segment_ids_BT) > 0)[..., None, None], *gradients


@functools.cache
def reference(shape):
    return run(shape, 'dense', MESHES['1 device'])


@pytest.mark.parametrize('mesh', MESHES.values(), ids=MESHES)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('backend', [attention_dispatch.INTERPRETED, 'blockwise'])
def test_backends_equal_dense_attention(backend, shape, mesh, monkeypatch):
    monkeypatch.setattr(attention_splash, 'MAX_BLOCK', 128)
    monkeypatch.setattr(attention_blockwise, 'BLOCK', 64)
    monkeypatch.setattr(attention_blockwise, 'MAX_DENSE_TOKENS', 0)
    out, *gradients = run(shape, backend, mesh)
    expected, *expected_gradients = reference(shape)
    assert_close(out, expected, 2e-6)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, expected_gradient, 1e-5)


@pytest.mark.parametrize('backend', ['dense', attention_dispatch.INTERPRETED, 'blockwise'])
def test_context_gathers_keys_and_values_and_nothing_else(backend, monkeypatch):
    monkeypatch.setattr(attention_blockwise, 'BLOCK', 64)
    monkeypatch.setattr(attention_blockwise, 'MAX_DENSE_TOKENS', 0)
    layout, *arrays = inputs('grouped, width 64')
    T, _, K, H, *_ = SHAPES['grouped, width 64']
    mesh = mesh_lib.make_mesh(MeshConfig(1, 2, 4, 1))
    with jax.set_mesh(mesh):
        batch_sharding = jax.NamedSharding(mesh, jax.P(('data', 'fsdp'), 'context'))
        compiled = attention_and_gradients.lower(
            backend, 0, ScoreTransform(0.1), *jax.device_put((layout, *arrays), batch_sharding)
        ).compile()
    kinds = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
    collectives = re.findall(rf'= (.*?) ({kinds})(?:-start)?\(', compiled.as_text())
    moved = [
        (kind, math.prod(map(int, size.split(','))))
        for shapes, kind in collectives
        for size in re.findall(r'\[([\d,]+)\]', shapes)
    ]
    # Elements in the keys of a device's two rows; segment ids move too.
    keys = 2 * T * K * H
    assert {size for _, size in moved} <= {keys, keys // 4, 2 * T}
    # Keys and values, and their gradients back.
    assert sum(size >= keys // 4 for _, size in moved) <= 4
    assert {kind for kind, _ in moved} <= {'all-gather', 'all-reduce', 'reduce-scatter'}


def make_network(**compute) -> Network:
    arch = tiny_arch(
        family='gemma2',
        vocab_size=64,
        max_positions=512,
        kinds=(LayerKind(Rope(10000.0), 24), LayerKind(Rope(10000.0))),
        attn_softcap=5.0,
        init_std=0.3,
    )
    return Network(arch, compute=ComputeConfig(**compute))


@pytest.mark.parametrize('backend', ['dense', attention_dispatch.INTERPRETED, 'blockwise'])
def test_segments_of_a_row_do_not_see_each_other(backend, monkeypatch):
    monkeypatch.setattr(attention_blockwise, 'BLOCK', 32)
    monkeypatch.setattr(attention_blockwise, 'MAX_DENSE_TOKENS', 0)
    layout = packed(1, 128)
    network = make_network(attention=backend)
    params = network.init(jax.random.key(0))
    tokens_BT = np.random.default_rng(0).integers(0, 64, (1, 128))
    segments_BT = np.asarray(layout.segment_ids_BT)

    @jax.jit
    def run(params, tokens_BT):
        def loss(params):
            hidden_BTD, _ = network.bind(params)(tokens_BT, layout)
            others_BT1 = (segments_BT != 2)[..., None]
            return jnp.sum(jnp.sin(hidden_BTD) * others_BT1), hidden_BTD

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, hidden_BTD), gradients = run(params, jnp.asarray(tokens_BT))
    changed_BT = np.where(segments_BT == 2, (tokens_BT + 7) % 64, tokens_BT)
    (_, after_BTD), after = run(params, jnp.asarray(changed_BT))
    assert not np.allclose(hidden_BTD[segments_BT == 2], after_BTD[segments_BT == 2], atol=0.1)
    np.testing.assert_array_equal(hidden_BTD[segments_BT != 2], after_BTD[segments_BT != 2])
    for gradient, same in zip(jax.tree.leaves(gradients), jax.tree.leaves(after), strict=True):
        assert_close(gradient, same, 1e-6)


def test_suffixes_behind_a_prompt_are_dense_with_every_backend():
    layout = TokenLayout.single(jnp.zeros((2, 128), jnp.int32))
    tokens_BT = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 12)))
    suffix = TokenLayout(
        jnp.ones((2, 12), jnp.int32),
        jnp.tile(128 + jnp.arange(12), (2, 1)),
        jnp.ones((2, 12), jnp.int32),
    )
    hidden = []
    for backend in ('dense', attention_dispatch.INTERPRETED):
        network = make_network(attention=backend)
        decoder = network.bind(network.init(jax.random.key(0)))
        _, cache = decoder(jnp.zeros((2, 128), jnp.int32), layout)
        hidden.append(decoder(tokens_BT, suffix, cache)[0])
    assert_close(*hidden, 1e-5)
    with pytest.raises(ValueError, match='not for branches'):
        attention_splash.splash(AttentionMask(suffix, suffix), ScoreTransform(1.0))


def test_a_name_is_resolved_by_the_platform_of_the_mesh():
    @dataclasses.dataclass
    class Device:
        platform: str

    class Devices:
        def __init__(self, platform):
            self.devices = np.asarray([Device(platform)])

    resolve = attention_dispatch.resolve_backend
    by_platform = {
        platform: resolve('auto', Devices(platform)) for platform in ('tpu', 'gpu', 'cpu')
    }
    assert by_platform == {'tpu': 'splash', 'gpu': 'dense', 'cpu': 'blockwise'}
    assert resolve('splash', Devices('cpu')) == attention_dispatch.INTERPRETED
    assert resolve('dense', Devices('tpu')) == 'dense'
    with pytest.raises(UserError, match='platform'):
        resolve('splash', Devices('gpu'))
    network, tokens_BT = make_network(attention='auto'), jnp.zeros((1, 8), jnp.int32)
    with pytest.raises(ValueError, match='not resolved'):
        network.bind(network.init(jax.random.key(0)))(tokens_BT, TokenLayout.single(tokens_BT))


@pytest.mark.parametrize('mesh', MESHES)
def test_a_suffix_sees_its_prefix_as_if_keys_were_in_one_array(mesh):
    B, T, S, N, K, H = 4, 8, 24, 4, 2, 16
    keys = jax.random.split(jax.random.key(0), 5)
    q_BTNH = jax.random.normal(keys[0], (B, T, N, H))
    k_BTKH, v_BTKH = (jax.random.normal(key, (B, T, K, H)) for key in keys[1:3])
    k_BSKH, v_BSKH = (jax.random.normal(key, (B, S, K, H)) for key in keys[3:])
    suffix = TokenLayout(
        segment_ids_BT=jnp.full((B, T), 2),
        positions_BT=jnp.broadcast_to(jnp.arange(9, 9 + T), (B, T)),
        branch_BT=jnp.broadcast_to(jnp.arange(T) // 3, (B, T)),
    )
    own_mask, prefix_mask = AttentionMask(suffix, suffix), AttentionMask(suffix, packed(B, S))
    transform = ScoreTransform(0.3)
    joined = (jnp.concatenate(pair, 1) for pair in ((k_BSKH, k_BTKH), (v_BSKH, v_BTKH)))
    mask = jnp.concatenate([prefix_mask.dense(), own_mask.dense()], -1)
    expected = dense_attention(q_BTNH, *joined, mask, transform, ordered=False)

    config = MeshConfig(*MESHES[mesh])
    with jax.set_mesh(mesh_lib.make_mesh(config, jax.devices()[: math.prod(MESHES[mesh])])):
        run = jax.jit(lambda *qkv: attend_prefix(own_mask, prefix_mask, transform)(*qkv))
        out = run(q_BTNH, k_BTKH, v_BTKH, jnp.swapaxes(k_BSKH, 1, 2), jnp.swapaxes(v_BSKH, 1, 2))
    np.testing.assert_allclose(out, expected, atol=1e-6)
