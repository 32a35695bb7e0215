"""Back ends against the dense reference, one mesh against another, and one document against its neighbours."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.config import MeshSection
from bsft_jax.errors import UserError
from bsft_jax.models import backends, blockwise, splash
from bsft_jax.models.architecture import Architecture, LayerKind
from bsft_jax.models.attention import AttentionMask, Layout, Scores, attend, behind_view
from bsft_jax.models.network import Network
from bsft_jax.models.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import assert_close

MESHES = {'1 device': (1, 1, 1, 1), '2x2x1x2': (2, 2, 1, 2), 'context 2': (1, 2, 2, 2)}
SHAPES = {  # T, N, K, H, window, cap
    'llama': (128, 4, 4, 16, 0, 0.0),
    'grouped, width 64': (256, 4, 2, 64, 0, 0.0),
    'window, odd length': (202, 2, 2, 16, 40, 0.0),
    'cap, width 128': (256, 2, 2, 128, 0, 5.0),
    'window and cap of many blocks': (390, 4, 2, 8, 150, 5.0),
}


def packed(rows: int, length: int, seed: int = 0) -> Layout:
    """Rows of a few documents each, and padding behind most of them."""
    rng = np.random.default_rng(seed)
    segments, positions = np.zeros((2, rows, length), np.int32)
    for row in range(rows):
        start = 0
        for document, size in enumerate(rng.integers(length // 6, length // 3, 4), start=1):
            place = slice(start, min(start + size, length))
            segments[row, place] = document
            start = place.stop
        for segment in np.unique(segments[row]):
            where = segments[row] == segment
            positions[row, where] = np.arange(where.sum())
    return Layout(jnp.asarray(segments), jnp.asarray(positions))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def attention_and_gradients(back_end, window, scores, layout, q, k, v, gradient):
    def attend(q, k, v):
        return backends.lower(AttentionMask(layout, layout, window), scores, back_end)(q, k, v)

    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(gradient)


def inputs(shape):
    """Layout, q, k, v, and a gradient that is zero where the row is padded."""
    T, N, K, H, *_ = SHAPES[shape]
    layout = packed(4, T)
    rng = np.random.default_rng(1)
    q, k, v, gradient = (jnp.asarray(rng.normal(size=(4, T, n, H)), jnp.float32) for n in (N, K, K, N))
    return layout, q, k, v, gradient * (layout.segment_ids_BT > 0)[..., None, None]


def run(shape, back_end, mesh):
    layout, *arrays = inputs(shape)
    *_, H, window, cap = SHAPES[shape]
    mesh = mesh_lib.make_mesh(MeshSection(*mesh), jax.devices()[: math.prod(mesh)])
    with jax.set_mesh(mesh):
        out, *gradients = attention_and_gradients(back_end, window, Scores(H**-0.5, cap), layout, *arrays)
    return np.asarray(out) * (np.asarray(layout.segment_ids_BT) > 0)[..., None, None], *gradients


@functools.cache
def reference(shape):
    return run(shape, 'dense', MESHES['1 device'])


@pytest.mark.parametrize('mesh', MESHES.values(), ids=MESHES)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('back_end', [backends.INTERPRETED, 'blockwise'])
def test_back_ends_are_dense_attention(back_end, shape, mesh, monkeypatch):
    monkeypatch.setattr(splash, 'LARGEST_BLOCK', 128)
    monkeypatch.setattr(blockwise, 'BLOCK', 64)
    monkeypatch.setattr(blockwise, 'LONGEST_DENSE', 0)
    out, *gradients = run(shape, back_end, mesh)
    expected, *theirs = reference(shape)
    assert_close(out, expected, 2e-6)
    for gradient, their in zip(gradients, theirs, strict=True):
        assert_close(gradient, their, 1e-5)


@pytest.mark.parametrize('back_end', ['dense', backends.INTERPRETED, 'blockwise'])
def test_context_gathers_keys_and_values_and_nothing_else(back_end, monkeypatch):
    monkeypatch.setattr(blockwise, 'BLOCK', 64)
    monkeypatch.setattr(blockwise, 'LONGEST_DENSE', 0)
    layout, *arrays = inputs('grouped, width 64')
    T, _, K, H, *_ = SHAPES['grouped, width 64']
    mesh = mesh_lib.make_mesh(MeshSection(1, 2, 4, 1))
    with jax.set_mesh(mesh):
        place = jax.NamedSharding(mesh, jax.P(('data', 'fsdp'), 'context'))
        compiled = attention_and_gradients.lower(
            back_end, 0, Scores(0.1), *jax.device_put((layout, *arrays), place)
        ).compile()
    collectives = re.findall(
        r'= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(',
        compiled.as_text(),
    )
    moved = [
        (kind, math.prod(map(int, size.split(','))))
        for shapes, kind in collectives
        for size in re.findall(r'\[([\d,]+)\]', shapes)
    ]
    keys = 2 * T * K * H  # of a device's two rows
    assert {size for _, size in moved} <= {keys, keys // 4, 2 * T}  # segment ids too
    assert sum(size >= keys // 4 for _, size in moved) <= 4  # keys and values, and back
    assert {kind for kind, _ in moved} <= {'all-gather', 'all-reduce', 'reduce-scatter'}


def network(**changes) -> Network:
    arch = Architecture(
        family='gemma2', vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, head_width=8, ffn_width=48,
        max_positions=512, kinds=(LayerKind(Rope(10000.0), 24), LayerKind(Rope(10000.0))), norm_eps=1e-6,
        tied=True, qkv_bias=True, attention_cap=5.0, init_std=0.3,
    )  # fmt: skip
    return dataclasses.replace(Network(arch), **changes)


@pytest.mark.parametrize('back_end', ['dense', backends.INTERPRETED, 'blockwise'])
def test_documents_of_a_row_do_not_see_each_other(back_end, monkeypatch):
    monkeypatch.setattr(blockwise, 'BLOCK', 32)
    monkeypatch.setattr(blockwise, 'LONGEST_DENSE', 0)
    layout = packed(1, 128)
    net = network(attention=back_end)
    params = net.init(jax.random.key(0))
    tokens_BT = np.random.default_rng(0).integers(0, 64, (1, 128))
    segments_BT = np.asarray(layout.segment_ids_BT)

    @jax.jit
    def run(params, tokens_BT):
        def loss(params):
            hidden_BTD, _ = net.bind(params)(tokens_BT, layout)
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


def test_suffixes_behind_a_prompt_are_dense_under_every_back_end():
    layout = Layout.single(jnp.zeros((2, 128), jnp.int32))
    tokens_BT = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 12)))
    suffix = Layout(
        jnp.ones((2, 12), jnp.int32), jnp.tile(128 + jnp.arange(12), (2, 1)), jnp.ones((2, 12), jnp.int32)
    )
    found = []
    for back_end in ('dense', backends.INTERPRETED):
        decoder = network(attention=back_end).bind(network().init(jax.random.key(0)))
        _, view = decoder(jnp.zeros((2, 128), jnp.int32), layout)
        found.append(decoder(tokens_BT, suffix, view)[0])
    assert_close(*found, 1e-5)
    with pytest.raises(ValueError, match='not for branches'):
        splash.splash(AttentionMask(suffix, suffix), Scores(1.0))


def test_a_name_is_resolved_by_the_platform_of_the_mesh():
    @dataclasses.dataclass
    class Device:
        platform: str

    class Devices:
        def __init__(self, platform):
            self.devices = np.asarray([Device(platform)])

    assert [backends.resolve('auto', Devices(p)) for p in ('tpu', 'gpu', 'cpu')] == [
        'splash',
        'dense',
        'blockwise',
    ]
    assert backends.resolve('splash', Devices('cpu')) == backends.INTERPRETED
    assert backends.resolve('dense', Devices('tpu')) == 'dense'
    with pytest.raises(UserError, match='platform'):
        backends.resolve('splash', Devices('gpu'))
    with pytest.raises(ValueError, match='not resolved'):
        net = network(attention='auto')
        net.bind(net.init(jax.random.key(0)))(
            jnp.zeros((1, 8), jnp.int32), Layout.single(jnp.zeros((1, 8), jnp.int32))
        )


@pytest.mark.parametrize('mesh', MESHES)
def test_a_suffix_sees_its_view_as_if_keys_stood_in_one_array(mesh):
    B, T, S, N, K, H = 4, 8, 24, 4, 2, 16
    keys = jax.random.split(jax.random.key(0), 5)
    q_BTNH = jax.random.normal(keys[0], (B, T, N, H))
    k_BTKH, v_BTKH = (jax.random.normal(key, (B, T, K, H)) for key in keys[1:3])
    k_BSKH, v_BSKH = (jax.random.normal(key, (B, S, K, H)) for key in keys[3:])
    view = packed(B, S)
    suffix = Layout(
        jnp.full((B, T), 2), jnp.broadcast_to(jnp.arange(9, 9 + T), (B, T)), jnp.broadcast_to(jnp.arange(T) // 3, (B, T))
    )  # fmt: skip
    own, of_view, scores = AttentionMask(suffix, suffix), AttentionMask(suffix, view), Scores(0.3)
    joined = (jnp.concatenate(pair, 1) for pair in ((k_BSKH, k_BTKH), (v_BSKH, v_BTKH)))
    mask = jnp.concatenate([of_view.dense(), own.dense()], -1)
    expected = attend(q_BTNH, *joined, mask, scores, ordered=False)

    section = MeshSection(*MESHES[mesh])
    with jax.set_mesh(mesh_lib.make_mesh(section, jax.devices()[: math.prod(MESHES[mesh])])):
        run = jax.jit(lambda *qkv: behind_view(own, of_view, scores)(*qkv))
        out = run(q_BTNH, k_BTKH, v_BTKH, jnp.swapaxes(k_BSKH, 1, 2), jnp.swapaxes(v_BSKH, 1, 2))
    np.testing.assert_allclose(out, expected, atol=1e-6)
