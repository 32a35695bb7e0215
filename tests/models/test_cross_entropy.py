"""The fused head and cross-entropy against the dense one that autodiff sees through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.config import MeshSection
from bsft_jax.models import cross_entropy as fused
from bsft_jax.models import head
from bsft_jax.models.architecture import Architecture, LayerKind
from bsft_jax.models.attention import soft_cap
from bsft_jax.models.cross_entropy import Columns, cross_entropy
from bsft_jax.models.network import Network
from bsft_jax.models.rope import Rope
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import assert_close

B, T, D, V = 8, 12, 16, 48
IDS = {'none': (), 'spare rows': (44, 46), 'growth': (48, 49)}


def dense(columns, hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT):
    """The same from all logits at once, in float32."""
    ids = list(columns.behavior_ids)
    wide_BTV = jnp.einsum('BTD,DV->BTV', hidden_BTD, kernel_DV, precision='highest')
    wide_BTV = jnp.pad(wide_BTV, ((0, 0), (0, 0), (0, max([0, *(i + 1 - V for i in ids)]))))
    if ids:
        wide_BTV = wide_BTV.at[..., jnp.asarray(ids)].set(
            jnp.einsum('BTD,nD->BTn', hidden_BTD, rows_nD, precision='highest')
        )
    logprobs_BTV = jax.nn.log_softmax(soft_cap(wide_BTV, columns.cap))
    logprob_BT = jnp.take_along_axis(logprobs_BTV, targets_BT[..., None], -1)[..., 0]
    correct_BT = logprob_BT >= logprobs_BTV.max(-1)
    there_BT = weights_BT > 0
    return -jnp.sum(weights_BT * logprob_BT), jnp.where(there_BT, logprob_BT, 0.0), correct_BT & there_BT


def _inputs(ids, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    known = [i for i in range(V) if i not in ids]
    targets_BT = rng.choice([*known, *ids * 8], (B, T)).astype(np.int32)
    weights_BT = rng.choice([0.0, 0.0, 0.5, 1.0, 2.0], (B, T)).astype(np.float32)
    weights_BT[1], weights_BT[2] = 0.0, 1.0
    normal = lambda *shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32)  # noqa: E731
    rows_nD, hidden_BTD, kernel_DV = normal(len(ids), D) if ids else None, normal(B, T, D), normal(D, V)
    hidden_BTD = hidden_BTD.at[2].add(2 * kernel_DV.T[np.minimum(targets_BT[2], V - 1)])  # some targets win
    return hidden_BTD, kernel_DV, rows_nD, jnp.asarray(targets_BT), jnp.asarray(weights_BT)


def _small_tiles(monkeypatch):
    monkeypatch.setattr(fused, 'SMALLEST_TILE', 5)
    monkeypatch.setattr(fused, 'COLUMNS_CPU', 20)  # of 48


@pytest.mark.parametrize('cap', [0.0, 3.0])
@pytest.mark.parametrize('ids', IDS.values(), ids=IDS)
@pytest.mark.parametrize('tiles', ['one tile', 'tiles'])
def test_value_and_gradients_are_those_of_all_logits(tiles, ids, cap, monkeypatch):
    if tiles == 'tiles':
        _small_tiles(monkeypatch)
    columns, inputs = Columns(ids, cap), _inputs(ids)
    wanted = (0, 1, 2) if ids else (0, 1)

    def run(function):
        def scaled(*args):
            loss, *rest = function(columns, *args)
            return 0.3 * loss, rest

        return jax.jit(jax.value_and_grad(scaled, wanted, has_aux=True))(*inputs)

    ((loss, (logprob, correct)), gradients), ((expected, (logprobs, hits)), references) = map(
        run, (cross_entropy, dense)
    )
    assert_close(loss, expected, 1e-6)
    assert_close(logprob, logprobs, 1e-5)
    assert jnp.array_equal(correct, hits) and correct.any()
    for gradient, reference in zip(gradients, references, strict=True):
        assert_close(gradient, reference, 1e-5)


def test_large_logits_neither_overflow_nor_vanish():
    columns, inputs = Columns(IDS['growth']), _inputs(IDS['growth'], scale=30.0)
    gradient, reference = (jax.grad(f, 0, has_aux=True)(*inputs)[0] for f in (
        lambda *args: (cross_entropy(columns, *args)[0], None), lambda *args: (dense(columns, *args)[0], None)
    ))  # fmt: skip
    assert_close(gradient, reference, 1e-4)
    assert jnp.isfinite(gradient).all()


MESHES = {
    'data': dict(data=8),
    'fsdp': dict(data=1, fsdp=8),
    'context': dict(data=1, context=4, fsdp=2),
    'tensor': dict(data=1, tensor=8),
    'all': dict(data=2, fsdp=1, context=2, tensor=2),
    'three': dict(data=1, fsdp=2, context=2, tensor=2),
}


@pytest.mark.parametrize('ids', [IDS['none'], IDS['growth']], ids=['none', 'growth'])
@pytest.mark.parametrize('sizes', MESHES.values(), ids=MESHES)
def test_every_mesh_has_the_values_and_gradients_of_one_device(sizes, ids, monkeypatch):
    _small_tiles(monkeypatch)
    columns, inputs = Columns(ids), _inputs(ids, seed=1)
    wanted = (0, 1, 2) if ids else (0, 1)

    def run():
        def scored(*args):
            loss, logprob, correct = cross_entropy(columns, *args)
            return loss, (logprob, correct.astype(jnp.int32))

        return jax.jit(jax.value_and_grad(scored, wanted, has_aux=True))(*inputs)

    expected = run()
    with jax.set_mesh(mesh_lib.make_mesh(MeshSection(**sizes))):
        got = run()
    for one, reference in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(one, reference, 1e-6)


def test_sizes_that_no_axis_divides():
    """3 rows, 5 tokens and 48 columns on a mesh of 2 × 2 × 2: nothing but the columns is split."""
    columns, (hidden, kernel, _, targets, weights) = Columns(), _inputs(())
    inputs = hidden[:3, :5], kernel, None, targets[:3, :5], weights[:3, :5]
    loss = lambda hidden, kernel: cross_entropy(columns, hidden, kernel, *inputs[2:])[0]  # noqa: E731
    expected = jax.value_and_grad(loss, (0, 1))(*inputs[:2])
    with jax.set_mesh(mesh_lib.make_mesh(MeshSection(data=2, fsdp=2, tensor=2))):
        got = jax.jit(jax.value_and_grad(loss, (0, 1)))(*inputs[:2])
    for one, reference in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(one, reference, 1e-6)


def test_bfloat16_products_sum_the_kernel_gradient_in_float32(monkeypatch):
    _small_tiles(monkeypatch)
    hidden, kernel, _, targets, weights = _inputs(())
    hidden, kernel = hidden.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16).astype(jnp.float32)

    def gradients(function, hidden):
        def loss(hidden, kernel):
            return function(Columns(), hidden, kernel, None, targets, weights)[0]

        return jax.grad(loss, (0, 1))(hidden, kernel)

    dhidden, dkernel = gradients(cross_entropy, hidden)
    dhidden_reference, dkernel_reference = gradients(dense, hidden.astype(jnp.float32))
    assert (dhidden.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.float32)
    for got, reference in ((dhidden, dhidden_reference), (dkernel, dkernel_reference)):
        error = jnp.linalg.norm(got.astype(jnp.float32) - reference) / jnp.linalg.norm(reference)
        assert error < 2**-8  # half a unit of bfloat16's last place is 2⁻⁹


def _temporaries(trained: tuple[int, ...], tokens: int, vocabulary: int, width: int = 64) -> int:
    """Bytes of temporaries that a compiled gradient needs."""
    hidden = jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
    kernel = jax.ShapeDtypeStruct((width, vocabulary), jnp.float32)
    targets = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    weights = jax.ShapeDtypeStruct((1, tokens), jnp.float32)

    def gradient(hidden, kernel, targets, weights):
        loss = lambda hidden, kernel: cross_entropy(Columns(), hidden, kernel, None, targets, weights)[0]  # noqa: E731
        return jax.grad(loss, trained)(hidden, kernel)

    compiled = jax.jit(gradient).lower(hidden, kernel, targets, weights).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_tiles_and_a_frozen_head_has_no_gradient():
    tokens, vocabulary = 4096, 8192
    logits = 4 * tokens * vocabulary
    kernel = 4 * 64 * vocabulary
    frozen = _temporaries((0,), tokens, vocabulary)
    assert frozen < 0.55 * logits
    assert _temporaries((0, 1), tokens, vocabulary) >= frozen + kernel


def test_tokens_without_weight_are_skipped_by_tiles(monkeypatch):
    """No logits of theirs exist: NaN there reaches nothing."""
    _small_tiles(monkeypatch)
    monkeypatch.setattr(fused, 'TILES', 16)
    hidden, kernel, _, targets, _ = _inputs(())
    weights = jnp.zeros((B, T)).at[::2, :6].set(1.0)  # 24 of 96 tokens: 4 of 16 tiles
    counted = weights > 0
    loss = lambda hidden, kernel: cross_entropy(Columns(), hidden, kernel, None, targets, weights)[0]  # noqa: E731
    expected = jax.grad(loss, (0, 1))(hidden, kernel)
    poisoned = jnp.where(counted[..., None], hidden, jnp.nan)
    got = jax.grad(loss, (0, 1))(poisoned, kernel)
    for one, reference in zip(got, expected, strict=True):
        assert jnp.array_equal(one, reference)
    assert not got[0][~counted].any()


@pytest.mark.parametrize('ids', [(90, 91), (96, 97)], ids=['spare rows', 'growth'])
@pytest.mark.parametrize('tied', [True, False])
def test_target_logprobs_equal_full_logits(ids, tied):
    arch = Architecture(
        family='qwen2', vocab_size=96, width=32, layers=1, heads=4, kv_heads=2, head_width=8, ffn_width=48,
        max_positions=64, kinds=(LayerKind(Rope(10000.0)),), norm_eps=1e-6, tied=tied, qkv_bias=True,
        logit_cap=2.0,
    )  # fmt: skip
    network = Network(arch, ids)
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(4), x.shape), network.init(jax.random.key(4))
    )
    decoder = network.bind(params)
    rng = np.random.default_rng(4)
    hidden_BTD = jnp.asarray(rng.normal(size=(2, 30, 32)), jnp.float32)
    targets_BT = jnp.asarray(rng.choice([*range(90), *ids], (2, 30)))
    reference = jax.nn.log_softmax(head.logits(decoder, hidden_BTD))
    logprob_BT = head.target_logprobs(decoder, hidden_BTD, targets_BT)
    assert_close(logprob_BT, jnp.take_along_axis(reference, targets_BT[..., None], -1)[..., 0], 1e-6)
