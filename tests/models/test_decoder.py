"""The decoder against itself: packing, caches, behavior rows, and scores without full logits."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.config import MeshSection
from bsft_jax.models import architecture, behavior_rows, head
from bsft_jax.models.architecture import LayerKind
from bsft_jax.models.attention import Layout
from bsft_jax.models.network import Network
from bsft_jax.models.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from tests.tiny import assert_close


def test_packed_documents_equal_separate_documents():
    network = Network(_tiny_arch())
    params = _params(network, 1)
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 96, 7), rng.integers(0, 96, 9)
    packed = np.concatenate([first, second, np.zeros(4, int)])[None]
    segments = np.array([[1] * 7 + [2] * 9 + [0] * 4])
    positions = np.array([[*range(7), *range(9), *range(4)]])

    def hidden(tokens, layout):
        return network.bind(params)(jnp.asarray(tokens), layout)[0]

    together = hidden(packed, Layout(jnp.asarray(segments), jnp.asarray(positions)))
    for tokens, start in ((first, 0), (second, 7)):
        alone = hidden(tokens[None], Layout.single(jnp.asarray(tokens[None])))
        assert_close(together[:, start : start + len(tokens)], alone, 1e-6)

    changed = packed.copy()
    changed[0, 3] = (changed[0, 3] + 1) % 96
    after = hidden(changed, Layout(jnp.asarray(segments), jnp.asarray(positions)))
    assert jnp.array_equal(after[:, 7:], together[:, 7:])
    assert not jnp.array_equal(after[:, 3:7], together[:, 3:7])


@pytest.mark.parametrize('apart', [False, True], ids=['scanned', 'apart'])
def test_cached_prompt_equals_one_pass(apart):
    network = Network(_tiny_arch(), apart=apart)
    decoder = network.bind(_params(network, 2))
    tokens_BT = jnp.asarray(np.random.default_rng(2).integers(0, 96, (2, 12)))
    whole = Layout.single(tokens_BT)
    expected, _ = decoder(tokens_BT, whole)
    cut = lambda layout, part: jax.tree.map(lambda x: x[:, part], layout)  # noqa: E731
    _, view = decoder(tokens_BT[:, :8], cut(whole, slice(0, 8)))
    rest, _ = decoder(tokens_BT[:, 8:], cut(whole, slice(8, None)), view)
    assert_close(rest, expected[:, 8:], 1e-6)


@pytest.mark.parametrize('apart', [False, True], ids=['scanned', 'apart'])
def test_tokens_put_into_a_view_equal_one_pass(apart):
    """One by one behind a prompt, with windows: as decoding goes. The view ends as that of one pass."""
    kinds = LayerKind(Rope(10000.0), 4), LayerKind(Rope(500.0))
    network = Network(_tiny_arch(layers=5, kinds=kinds), apart=apart)
    params, tokens_BT = _params(network, 2), jnp.asarray(np.random.default_rng(2).integers(0, 96, (2, 12)))
    decoder = network.bind(network.unstacked(params))
    whole = Layout.single(tokens_BT)
    expected, all_seen = network.bind(params)(tokens_BT, whole)
    cut = lambda layout, part: Layout(layout.segment_ids_BT[:, part], layout.positions_BT[:, part])  # noqa: E731
    _, view = decoder(tokens_BT[:, :8], cut(whole, slice(0, 8)))
    view = view.with_room(4)
    for i in range(8, 12):
        one = slice(i, i + 1)
        hidden_B1D, view = decoder(tokens_BT[:, one], cut(whole, one), view, slot=jnp.int32(i))
        assert_close(hidden_B1D, expected[:, one], 1e-6)
    for found, of_one_pass in ((view.k_LBKSH, all_seen.k_LBKSH), (view.v_LBKSH, all_seen.v_LBKSH)):
        assert_close(jnp.stack(list(found)), jnp.stack(list(of_one_pass)), 1e-6)
    assert jnp.array_equal(view.layout.positions_BT, whole.positions_BT)


@pytest.mark.parametrize('layers, remat', [(5, 'none'), (5, 'dots'), (1, 'none')])
def test_layers_compiled_apart_are_the_scanned_layers(layers, remat):
    """Layers of two kinds: two periods and one layer behind them, and one layer alone."""
    kinds = LayerKind(Rope(10000.0), 4), LayerKind(Rope(500.0))
    scanned = Network(_tiny_arch(layers=layers, kinds=kinds), remat=remat)
    params, tokens_BT = _params(scanned, 4), jnp.asarray(np.random.default_rng(4).integers(0, 96, (2, 12)))

    def run(network):
        def total(params):
            hidden_BTD, view = network.bind(params)(tokens_BT, Layout.single(tokens_BT))
            return jnp.sum(jnp.sin(hidden_BTD)), [jnp.stack(list(x)) for x in (view.k_LBKSH, view.v_LBKSH)]

        lowered = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(params)
        return lowered.as_text().count('stablehlo.while'), lowered.compile()(params)

    (loops, expected), (none, actual) = run(scanned), run(dataclasses.replace(scanned, apart=True))
    assert bool(loops) == (layers > 1) and not none
    for one, reference in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(one, reference, 1e-5)


def test_the_gated_product_is_made_again_where_layers_are_apart():
    arch = _tiny_arch()
    network = Network(arch, apart=True)
    params = network.init(jax.random.key(0))
    tokens_BT = jnp.ones((2, 64), jnp.int32)

    def total(params):
        return network.bind(params)(tokens_BT, Layout.single(tokens_BT))[0].sum()

    program = jax.jit(jax.grad(total)).lower(params).compile().as_text()
    shape = rf'f32\[(?:2,64|128),{arch.ffn_width}\]'
    assert len(re.findall(rf'{shape}\S* exponential\(', program)) >= 2 * arch.layers


def test_an_embedding_split_over_columns_moves_tokens_and_not_the_table():
    network = Network(_tiny_arch(tied=False), behavior_ids=(94, 95))
    params, tokens_BT = _params(network, 3), jnp.asarray(np.random.default_rng(3).integers(0, 96, (8, 12)))

    def looked_up(params):
        return behavior_rows.embed(network.bind(params), tokens_BT)

    expected = looked_up(params)
    for sizes in (dict(fsdp=4), dict(data=2, fsdp=2, tensor=2)):
        devices = jax.devices()[: math.prod(sizes.values())]
        mesh = mesh_lib.make_mesh(MeshSection(**{'data': 1, **sizes}), devices)
        placed = jax.device_put(params, sharding.shardings(params, mesh))
        with jax.set_mesh(mesh):
            compiled = jax.jit(looked_up).lower(placed).compile()
            assert jnp.array_equal(compiled(placed), expected)
        moved = re.findall(r'f32\[([\d,]*)\]\S* (all-to-all|all-gather)\(', compiled.as_text())
        assert 'all-to-all' in dict(moved).values()
        assert all(shape == '2,32' for shape, kind in moved if kind == 'all-gather')  # behavior rows


def test_layers_are_apart_on_one_cpu_unless_there_are_many():
    one, eight = mesh_lib.single_device_mesh(), mesh_lib.make_mesh(MeshSection(data=8))
    assert Network(_tiny_arch()).on(one).apart and not Network(_tiny_arch()).on(eight).apart
    assert not Network(_tiny_arch(layers=28)).on(one).apart


def _params(network, seed):
    """Random parameters among which every block matters: fresh ones add next to nothing."""
    noise = lambda x: 0.1 * jax.random.normal(jax.random.key(seed), x.shape)  # noqa: E731
    return jax.tree.map(lambda x: x + noise(x), network.init(jax.random.key(seed)))


def test_a_fresh_block_leaves_the_tokens_what_they_are():
    arch = _tiny_arch(init_std=0.18)
    network = Network(arch)
    params = network.init(jax.random.key(5))
    tokens_BT = jnp.arange(12)[None]
    hidden_BTD, _ = network.bind(params)(tokens_BT, Layout.single(tokens_BT))
    table_BTD = params['embed']['table'][tokens_BT]
    cosine_BT = (hidden_BTD * table_BTD).sum(-1) / jnp.linalg.norm(hidden_BTD, axis=-1)
    assert (cosine_BT / jnp.linalg.norm(table_BTD, axis=-1)).min() > 0.99
    assert abs(float(jnp.std(params['layers']['mlp']['up']['kernel'])) - 0.18) < 0.02


def _tiny_arch(**changes):
    sizes = dict(
        family='qwen2', vocab_size=96, width=32, layers=2, heads=4, kv_heads=2, head_width=8, ffn_width=48,
        max_positions=64, kinds=(LayerKind(Rope(10000.0)),), norm_eps=1e-6, tied=True, qkv_bias=True,
    )  # fmt: skip
    return architecture.Architecture(**sizes | changes)


@pytest.mark.parametrize('ids', [(90, 91), (96, 97)], ids=['spare rows', 'growth'])
@pytest.mark.parametrize('tied', [True, False])
def test_behavior_rows_leave_old_logits_bit_equal(ids, tied):
    plain, extended = Network(_tiny_arch(tied=tied)), Network(_tiny_arch(tied=tied), ids)
    params = _params(plain, 3)
    rows = {'input': jnp.full((2, 32), 0.3), **({} if tied else {'output': jnp.full((2, 32), -0.2)})}
    tokens_BT = jnp.asarray(np.random.default_rng(3).integers(0, 90, (2, 12)))

    def logits(network, params):
        decoder = network.bind(params)
        return head.logits(decoder, decoder(tokens_BT, Layout.single(tokens_BT))[0])

    old, new = logits(plain, params), logits(extended, {**params, 'behavior': rows})
    others = [i for i in range(96) if i not in ids]
    assert new.shape[-1] == max(96, max(ids) + 1)
    assert jnp.array_equal(old[..., jnp.asarray(others)], new[..., jnp.asarray(others)])
