"""Compares the fused LM head and cross-entropy with a dense one that autodiff differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.config import MeshConfig
from bsft_jax.models import lm_head
from bsft_jax.models.network import Network
from bsft_jax.ops import cpu
from bsft_jax.ops import cross_entropy as fused
from bsft_jax.ops.attention import soft_cap
from bsft_jax.ops.cross_entropy import VocabSpec, cross_entropy
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import assert_close, tiny_arch

B, T, D, V = 8, 12, 16, 48
IDS = {'none': (), 'spare rows': (44, 46), 'growth': (48, 49)}


def dense(vocab, hidden_BTD, kernel_DV, rows_nD, targets_BT, weights_BT):
    """Computes the same from all logits at once, in float32."""
    ids = list(vocab.behavior_ids)
    logits_BTV = jnp.einsum('BTD,DV->BTV', hidden_BTD, kernel_DV, precision='highest')
    logits_BTV = jnp.pad(logits_BTV, ((0, 0), (0, 0), (0, max([0, *(i + 1 - V for i in ids)]))))
    if ids:
        logits_BTV = logits_BTV.at[..., jnp.asarray(ids)].set(
            jnp.einsum('BTD,nD->BTn', hidden_BTD, rows_nD, precision='highest')
        )
    logprobs_BTV = jax.nn.log_softmax(soft_cap(logits_BTV, vocab.cap))
    logprob_BT = jnp.take_along_axis(logprobs_BTV, targets_BT[..., None], -1)[..., 0]
    correct_BT = logprob_BT >= logprobs_BTV.max(-1)
    has_weight_BT = weights_BT > 0
    loss = -jnp.sum(weights_BT * logprob_BT)
    return loss, jnp.where(has_weight_BT, logprob_BT, 0.0), correct_BT & has_weight_BT


def _inputs(ids, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    others = [i for i in range(V) if i not in ids]
    targets_BT = rng.choice([*others, *ids * 8], (B, T)).astype(np.int32)
    weights_BT = rng.choice([0.0, 0.0, 0.5, 1.0, 2.0], (B, T)).astype(np.float32)
    weights_BT[1], weights_BT[2] = 0.0, 1.0

    def normal(*shape):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    rows_nD = normal(len(ids), D) if ids else None
    hidden_BTD, kernel_DV = normal(B, T, D), normal(D, V)
    # Some targets are the most probable ids.
    hidden_BTD = hidden_BTD.at[2].add(2 * kernel_DV.T[np.minimum(targets_BT[2], V - 1)])
    return hidden_BTD, kernel_DV, rows_nD, jnp.asarray(targets_BT), jnp.asarray(weights_BT)


def _small_tiles(monkeypatch):
    monkeypatch.setattr(fused, 'MIN_TILE_TOKENS', 5)
    # Of 48 columns.
    monkeypatch.setattr(cpu, 'COLUMN_CHUNK', 20)


@pytest.mark.parametrize('cap', [0.0, 3.0])
@pytest.mark.parametrize('ids', IDS.values(), ids=IDS)
@pytest.mark.parametrize('tiles', ['one tile', 'tiles'])
def test_value_and_gradients_are_those_of_all_logits(tiles, ids, cap, monkeypatch):
    if tiles == 'tiles':
        _small_tiles(monkeypatch)
    vocab, inputs = VocabSpec(ids, cap), _inputs(ids)
    argnums = (0, 1, 2) if ids else (0, 1)

    def run(function):
        def scaled(*args):
            loss, *rest = function(vocab, *args)
            return 0.3 * loss, rest

        return jax.jit(jax.value_and_grad(scaled, argnums, has_aux=True))(*inputs)

    ((loss, (logprob, correct)), gradients), ((expected, (logprobs, hits)), references) = map(
        run, (cross_entropy, dense)
    )
    assert_close(loss, expected, 1e-6)
    assert_close(logprob, logprobs, 1e-5)
    assert jnp.array_equal(correct, hits) and correct.any()
    for gradient, reference in zip(gradients, references, strict=True):
        assert_close(gradient, reference, 1e-5)


def test_large_logits_neither_overflow_nor_vanish():
    vocab, inputs = VocabSpec(IDS['growth']), _inputs(IDS['growth'], scale=30.0)
    gradient, reference = (
        jax.grad(lambda *args, function=function: function(vocab, *args)[0])(*inputs)
        for function in (cross_entropy, dense)
    )
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
    vocab, inputs = VocabSpec(ids), _inputs(ids, seed=1)
    argnums = (0, 1, 2) if ids else (0, 1)

    def run():
        def scored(*args):
            loss, logprob, correct = cross_entropy(vocab, *args)
            return loss, (logprob, correct.astype(jnp.int32))

        return jax.jit(jax.value_and_grad(scored, argnums, has_aux=True))(*inputs)

    expected = run()
    with jax.set_mesh(mesh_lib.make_mesh(MeshConfig(**sizes))):
        got = run()
    for one, reference in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(one, reference, 1e-6)


def test_sizes_that_no_axis_divides():
    """Takes 3 rows, 5 tokens and 48 columns on a 2 × 2 × 2 mesh, which can split only columns."""
    vocab, (hidden, kernel, _, targets, weights) = VocabSpec(), _inputs(())
    inputs = hidden[:3, :5], kernel, None, targets[:3, :5], weights[:3, :5]

    def loss(hidden, kernel):
        return cross_entropy(vocab, hidden, kernel, *inputs[2:])[0]

    expected = jax.value_and_grad(loss, (0, 1))(*inputs[:2])
    with jax.set_mesh(mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        got = jax.jit(jax.value_and_grad(loss, (0, 1)))(*inputs[:2])
    for one, reference in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(one, reference, 1e-6)


def test_bfloat16_products_sum_the_kernel_gradient_in_float32(monkeypatch):
    _small_tiles(monkeypatch)
    hidden, kernel, _, targets, weights = _inputs(())
    hidden, kernel = hidden.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16).astype(jnp.float32)

    def gradients(function, hidden):
        def loss(hidden, kernel):
            return function(VocabSpec(), hidden, kernel, None, targets, weights)[0]

        return jax.grad(loss, (0, 1))(hidden, kernel)

    dhidden, dkernel = gradients(cross_entropy, hidden)
    dhidden_reference, dkernel_reference = gradients(dense, hidden.astype(jnp.float32))
    assert (dhidden.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.float32)
    for got, reference in ((dhidden, dhidden_reference), (dkernel, dkernel_reference)):
        error = jnp.linalg.norm(got.astype(jnp.float32) - reference) / jnp.linalg.norm(reference)
        # Half a unit of bfloat16's last place is 2⁻⁹.
        assert error < 2**-8


def _temporaries(trained: tuple[int, ...], tokens: int, vocabulary: int, width: int = 64) -> int:
    """Returns the bytes of temporaries that a compiled gradient needs."""
    hidden = jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
    kernel = jax.ShapeDtypeStruct((width, vocabulary), jnp.float32)
    targets = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    weights = jax.ShapeDtypeStruct((1, tokens), jnp.float32)

    def gradient(hidden, kernel, targets, weights):
        def loss(hidden, kernel):
            return cross_entropy(VocabSpec(), hidden, kernel, None, targets, weights)[0]

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
    """Puts NaN into their hidden states: no logits of them exist, so it reaches nothing."""
    _small_tiles(monkeypatch)
    monkeypatch.setattr(fused, 'TARGET_TILES', 16)
    hidden, kernel, _, targets, _ = _inputs(())
    # 24 of 96 tokens, so 4 of 16 tiles.
    weights = jnp.zeros((B, T)).at[::2, :6].set(1.0)
    has_weight = weights > 0

    def loss(hidden, kernel):
        return cross_entropy(VocabSpec(), hidden, kernel, None, targets, weights)[0]

    expected = jax.grad(loss, (0, 1))(hidden, kernel)
    poisoned = jnp.where(has_weight[..., None], hidden, jnp.nan)
    got = jax.grad(loss, (0, 1))(poisoned, kernel)
    for one, reference in zip(got, expected, strict=True):
        assert jnp.array_equal(one, reference)
    assert not got[0][~has_weight].any()


@pytest.mark.parametrize('ids', [(90, 91), (96, 97)], ids=['spare rows', 'growth'])
@pytest.mark.parametrize('tied', [True, False])
def test_target_logprobs_equal_full_logits(ids, tied):
    arch = tiny_arch(num_layers=1, tied=tied, logit_softcap=2.0)
    network = Network(arch, ids)
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(4), x.shape),
        network.init(jax.random.key(4)),
    )
    decoder = network.bind(params)
    rng = np.random.default_rng(4)
    hidden_BTD = jnp.asarray(rng.normal(size=(2, 30, 32)), jnp.float32)
    targets_BT = jnp.asarray(rng.choice([*range(90), *ids], (2, 30)))
    reference = jax.nn.log_softmax(lm_head.logits(decoder, hidden_BTD))
    logprob_BT = lm_head.target_logprobs(decoder, hidden_BTD, targets_BT)
    assert_close(
        logprob_BT, jnp.take_along_axis(reference, targets_BT[..., None], -1)[..., 0], 1e-6
    )
