"""Compares the decoder with itself: packed rows, KV caches, unrolled layers, behavior rows."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.config import ComputeConfig, MeshConfig
from bsft_jax.models import behavior_rows, lm_head
from bsft_jax.models.architecture import LayerKind
from bsft_jax.models.network import Network
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.ops.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from tests.tiny import assert_close, tiny_arch


def test_packed_segments_equal_separate_rows():
    network = Network(tiny_arch())
    params = _params(network, 1)
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 96, 7), rng.integers(0, 96, 9)
    packed = np.concatenate([first, second, np.zeros(4, int)])[None]
    segments = np.array([[1] * 7 + [2] * 9 + [0] * 4])
    positions = np.array([[*range(7), *range(9), *range(4)]])

    def hidden(tokens, layout):
        return network.bind(params)(jnp.asarray(tokens), layout)[0]

    together = hidden(packed, TokenLayout(jnp.asarray(segments), jnp.asarray(positions)))
    for tokens, start in ((first, 0), (second, 7)):
        alone = hidden(tokens[None], TokenLayout.single(jnp.asarray(tokens[None])))
        assert_close(together[:, start : start + len(tokens)], alone, 1e-6)

    changed = packed.copy()
    changed[0, 3] = (changed[0, 3] + 1) % 96
    after = hidden(changed, TokenLayout(jnp.asarray(segments), jnp.asarray(positions)))
    assert jnp.array_equal(after[:, 7:], together[:, 7:])
    assert not jnp.array_equal(after[:, 3:7], together[:, 3:7])


@pytest.mark.parametrize('unroll_layers', [False, True], ids=['scanned', 'unrolled'])
def test_cached_prompt_equals_one_pass(unroll_layers):
    network = Network(tiny_arch(), compute=ComputeConfig(unroll_layers=unroll_layers))
    decoder = network.bind(_params(network, 2))
    tokens_BT = jnp.asarray(np.random.default_rng(2).integers(0, 96, (2, 12)))
    layout = TokenLayout.single(tokens_BT)
    expected, _ = decoder(tokens_BT, layout)

    def cut(layout, columns):
        return jax.tree.map(lambda x: x[:, columns], layout)

    _, cache = decoder(tokens_BT[:, :8], cut(layout, slice(0, 8)))
    suffix, _ = decoder(tokens_BT[:, 8:], cut(layout, slice(8, None)), cache)
    assert_close(suffix, expected[:, 8:], 1e-6)


@pytest.mark.parametrize('unroll_layers', [False, True], ids=['scanned', 'unrolled'])
def test_tokens_written_into_a_cache_equal_one_pass(unroll_layers):
    """Decodes token by token behind a prompt, with windows; the cache ends as that of one pass."""
    kinds = LayerKind(Rope(10000.0), 4), LayerKind(Rope(500.0))
    compute = ComputeConfig(unroll_layers=unroll_layers)
    network = Network(tiny_arch(num_layers=5, kinds=kinds), compute=compute)
    params = _params(network, 2)
    tokens_BT = jnp.asarray(np.random.default_rng(2).integers(0, 96, (2, 12)))
    decoder = network.bind(network.unstacked(params))
    layout = TokenLayout.single(tokens_BT)
    expected, full_cache = network.bind(params)(tokens_BT, layout)

    def cut(layout, columns):
        return TokenLayout(layout.segment_ids_BT[:, columns], layout.positions_BT[:, columns])

    _, cache = decoder(tokens_BT[:, :8], cut(layout, slice(0, 8)))
    cache = cache.padded(4)
    for i in range(8, 12):
        one = slice(i, i + 1)
        hidden_B1D, cache = decoder(
            tokens_BT[:, one], cut(layout, one), cache, cache_index=jnp.int32(i)
        )
        assert_close(hidden_B1D, expected[:, one], 1e-6)
    for actual, reference in (
        (cache.k_LBKSH, full_cache.k_LBKSH),
        (cache.v_LBKSH, full_cache.v_LBKSH),
    ):
        assert_close(jnp.stack(list(actual)), jnp.stack(list(reference)), 1e-6)
    assert jnp.array_equal(cache.layout.positions_BT, layout.positions_BT)


@pytest.mark.parametrize('num_layers, remat', [(5, 'none'), (5, 'dots'), (1, 'none')])
def test_unrolled_layers_equal_scanned_layers(num_layers, remat):
    """Takes layers of two kinds: two periods and one layer behind them, and one layer alone."""
    kinds = LayerKind(Rope(10000.0), 4), LayerKind(Rope(500.0))
    arch = tiny_arch(num_layers=num_layers, kinds=kinds)
    scanned = Network(arch, compute=ComputeConfig(remat=remat))
    params = _params(scanned, 4)
    tokens_BT = jnp.asarray(np.random.default_rng(4).integers(0, 96, (2, 12)))

    def run(network):
        def total(params):
            hidden_BTD, cache = network.bind(params)(tokens_BT, TokenLayout.single(tokens_BT))
            kv = [jnp.stack(list(x)) for x in (cache.k_LBKSH, cache.v_LBKSH)]
            return jnp.sum(jnp.sin(hidden_BTD)), kv

        lowered = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(params)
        return lowered.as_text().count('stablehlo.while'), lowered.compile()(params)

    (loops, expected) = run(scanned)
    (unrolled_loops, actual) = run(scanned.with_compute(unroll_layers=True))
    assert bool(loops) == (num_layers > 1) and not unrolled_loops
    for one, reference in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(one, reference, 1e-5)


def test_the_gated_product_is_recomputed_where_layers_are_unrolled():
    arch = tiny_arch()
    network = Network(arch, compute=ComputeConfig(unroll_layers=True))
    params = network.init(jax.random.key(0))
    tokens_BT = jnp.ones((2, 64), jnp.int32)

    def total(params):
        return network.bind(params)(tokens_BT, TokenLayout.single(tokens_BT))[0].sum()

    program = jax.jit(jax.grad(total)).lower(params).compile().as_text()
    shape = rf'f32\[(?:2,64|128),{arch.mlp_dim}\]'
    assert len(re.findall(rf'{shape}\S* exponential\(', program)) >= 2 * arch.num_layers


def test_an_embedding_split_over_columns_moves_tokens_and_not_the_table():
    network = Network(tiny_arch(tied=False), behavior_ids=(94, 95))
    params = _params(network, 3)
    tokens_BT = jnp.asarray(np.random.default_rng(3).integers(0, 96, (8, 12)))

    def look_up(params):
        return behavior_rows.embed_tokens(network.bind(params), tokens_BT)

    expected = look_up(params)
    for sizes in (dict(fsdp=4), dict(data=2, fsdp=2, tensor=2)):
        devices = jax.devices()[: math.prod(sizes.values())]
        mesh = mesh_lib.make_mesh(MeshConfig(**{'data': 1, **sizes}), devices)
        placed = jax.device_put(params, sharding.shardings(params, mesh))
        with jax.set_mesh(mesh):
            compiled = jax.jit(look_up).lower(placed).compile()
            assert jnp.array_equal(compiled(placed), expected)
        moved = re.findall(r'f32\[([\d,]*)\]\S* (all-to-all|all-gather)\(', compiled.as_text())
        assert 'all-to-all' in dict(moved).values()
        # Only the behavior rows are gathered.
        assert all(shape == '2,32' for shape, kind in moved if kind == 'all-gather')


def test_layers_are_unrolled_on_one_cpu_unless_there_are_many():
    one, eight = mesh_lib.single_device_mesh(), mesh_lib.make_mesh(MeshConfig(data=8))
    assert Network(tiny_arch()).for_mesh(one).compute.unroll_layers
    assert not Network(tiny_arch()).for_mesh(eight).compute.unroll_layers
    assert not Network(tiny_arch(num_layers=28)).for_mesh(one).compute.unroll_layers


def _params(network, seed):
    """Returns random parameters with which every block matters: new ones add next to nothing."""

    def noise(x):
        return 0.1 * jax.random.normal(jax.random.key(seed), x.shape)

    return jax.tree.map(lambda x: x + noise(x), network.init(jax.random.key(seed)))


def test_a_new_block_hardly_changes_the_hidden_states():
    arch = tiny_arch(init_std=0.18)
    network = Network(arch)
    params = network.init(jax.random.key(5))
    tokens_BT = jnp.arange(12)[None]
    hidden_BTD, _ = network.bind(params)(tokens_BT, TokenLayout.single(tokens_BT))
    table_BTD = params['embed']['table'][tokens_BT]
    cosine_BT = (hidden_BTD * table_BTD).sum(-1) / jnp.linalg.norm(hidden_BTD, axis=-1)
    assert (cosine_BT / jnp.linalg.norm(table_BTD, axis=-1)).min() > 0.99
    assert abs(float(jnp.std(params['layers']['mlp']['up']['kernel'])) - 0.18) < 0.02


@pytest.mark.parametrize('ids', [(90, 91), (96, 97)], ids=['spare rows', 'growth'])
@pytest.mark.parametrize('tied', [True, False])
def test_behavior_rows_leave_old_logits_bit_equal(ids, tied):
    plain, extended = Network(tiny_arch(tied=tied)), Network(tiny_arch(tied=tied), ids)
    params = _params(plain, 3)
    rows = {
        'input': jnp.full((2, 32), 0.3),
        **({} if tied else {'output': jnp.full((2, 32), -0.2)}),
    }
    tokens_BT = jnp.asarray(np.random.default_rng(3).integers(0, 90, (2, 12)))

    def logits(network, params):
        decoder = network.bind(params)
        return lm_head.logits(decoder, decoder(tokens_BT, TokenLayout.single(tokens_BT))[0])

    old, new = logits(plain, params), logits(extended, {**params, 'behavior': rows})
    others = [i for i in range(96) if i not in ids]
    assert new.shape[-1] == max(96, max(ids) + 1)
    assert jnp.array_equal(old[..., jnp.asarray(others)], new[..., jnp.asarray(others)])
