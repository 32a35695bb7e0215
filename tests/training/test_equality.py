"""Tests that every mesh, accumulation and packing gives one result."""

import functools
import math

import jax
import numpy as np
import pytest

from bsft_jax.config import MODES, ComputeConfig, LoraConfig, MeshConfig, OptimizerConfig
from bsft_jax.data import loader
from bsft_jax.data.examples import Batch, Example, ExampleStore
from bsft_jax.data.loader import BatchSource
from bsft_jax.data.packing import PackPlan
from bsft_jax.models.network import Network
from bsft_jax.ops import attention_dispatch
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten
from bsft_jax.training import optimizer, state, step
from tests.tiny import tiny_arch

MESHES = {
    '1 device': (1, 1, 1, 1),
    '8 data': (8, 1, 1, 1),
    '8 fsdp': (1, 8, 1, 1),
    '8 context': (1, 1, 8, 1),
    '2 tensor': (1, 1, 1, 2),
    '2x2x2': (2, 2, 1, 2),
    'context 2': (2, 2, 2, 1),
    'context 4': (1, 1, 4, 2),
}
MIXED = ('1 device', '2x2x2', 'context 2')
SHAPES = {'qwen2': dict(qkv_bias=True, tied=True), 'llama': dict(qkv_bias=False, tied=False)}
FAMILIES = ('qwen2', 'llama', 'qwen2 adapted', 'llama adapted')
LENGTH = 48


def network(family: str) -> Network:
    family, *adapted = family.split()
    arch = tiny_arch(family=family, mlp_dim=64, **SHAPES[family])
    return Network(arch, (94, 95), ComputeConfig(lora=LoraConfig(4) if adapted else None))


@functools.cache
def initial_params(family: str):
    params = network(family).init(jax.random.key(0))

    def add_noise(x):
        return x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape)

    return jax.device_get(jax.tree.map(add_noise, params))


def batch_source(packed: bool) -> BatchSource:
    rng = np.random.default_rng(0)
    examples = []
    for length in rng.integers(5, 30, 400):
        weights = (np.arange(length) > length // 2).astype(np.float32)
        weights[length // 2 + 1] = 0.7
        ids = rng.integers(0, 94, length).astype(np.int32)
        ids[length // 2 + 1] = rng.integers(94, 96)
        examples.append(Example(ids, weights))
    store = ExampleStore.from_examples(examples)
    plan = PackPlan(store.lengths, 32, LENGTH, seed=0)
    return BatchSource(store, plan, packed=packed, row_multiple=32)


def state_on_mesh(family: str, sizes: tuple[int, int, int, int], learning_rate: float = 1e-4):
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    shardings = sharding.shardings(initial_params(family), mesh)
    params = jax.device_put(initial_params(family), shardings)
    adamw = optimizer.make_optimizer(
        OptimizerConfig(learning_rate=learning_rate, warmup_steps=0, schedule_steps=100)
    )
    trainable = MODES['lora' if 'adapted' in family else 'full']
    return mesh, state.create(params, trainable, adamw, mesh), adamw


def gradients(family: str, sizes, accumulation: int, batch: Batch, **compute):
    mesh, initial, _ = state_on_mesh(family, sizes)
    decoder = network(family).with_compute(**compute)
    with jax.set_mesh(mesh):
        batch = loader.to_device(batch, mesh)
        run = jax.jit(step.batch_gradients, static_argnums=(0, 4))
        result = run(decoder, initial.trainable, initial.frozen, batch, accumulation)
    return jax.device_get(result)


@functools.cache
def reference(family: str):
    return gradients(family, (1, 1, 1, 1), 1, batch_source(packed=True)[0])


def assert_same_gradients(result, family: str):
    (actual, metrics), (expected, expected_metrics) = result, reference(family)
    expected_loss = expected_metrics['loss']
    assert abs(metrics['loss'] - expected_loss) <= 1e-5 * max(1, expected_loss)
    assert metrics['tokens'] == expected_metrics['tokens']
    for path, gradient in flatten(expected).items():
        difference = np.linalg.norm(flatten(actual)[path] - gradient) / np.linalg.norm(gradient)
        assert difference < 1e-5, (path, difference)


@pytest.mark.parametrize('sizes', list(MESHES.values())[1:], ids=list(MESHES)[1:])
@pytest.mark.parametrize('family', FAMILIES)
def test_meshes_agree(family, sizes):
    assert_same_gradients(gradients(family, sizes, 1, batch_source(packed=True)[0]), family)


@pytest.mark.parametrize('packed', [True, False], ids=['packed', 'unpacked'])
@pytest.mark.parametrize('accumulation', [1, 4])
@pytest.mark.parametrize('sizes', [MESHES[name] for name in MIXED], ids=MIXED)
def test_meshes_accumulation_and_packing_agree(sizes, accumulation, packed):
    assert_same_gradients(gradients('qwen2', sizes, accumulation, batch_source(packed)[0]), 'qwen2')


@pytest.mark.parametrize('accumulation', [1, 2])
@pytest.mark.parametrize('attention', [attention_dispatch.INTERPRETED, 'dense'])
def test_every_attention_agrees_on_a_mesh(attention, accumulation):
    batch, sizes = batch_source(packed=True)[0], MESHES['context 2']
    result = gradients('qwen2', sizes, accumulation, batch, attention=attention)
    assert_same_gradients(result, 'qwen2')


@pytest.mark.parametrize('family', FAMILIES)
def test_a_packed_step_has_the_loss_of_its_records_one_by_one(family):
    loss = gradients(family, (1, 1, 1, 1), 1, batch_source(packed=False)[0])[1]['loss']
    assert abs(loss - reference(family)[1]['loss']) <= 1e-6 * loss


@pytest.mark.parametrize('family', FAMILIES)
def test_twenty_steps_agree(family):
    curves = []
    for sizes in ((1, 1, 1, 1), (2, 2, 1, 2), (1, 2, 2, 2)):
        mesh, current, adamw = state_on_mesh(family, sizes)
        with jax.set_mesh(mesh):
            train_step = step.make_train_step(network(family), adamw, 1)
            losses = []
            for i in range(20):
                batch = loader.to_device(batch_source(packed=True)[i], mesh)
                current, metrics = train_step(current, batch)
                losses.append(float(metrics['loss']))
        curves.append(losses)
    for curve in curves[1:]:
        np.testing.assert_allclose(curves[0], curve, atol=1e-4)


def test_behavior_rows_alone_move():
    mesh, params = mesh_lib.single_device_mesh(), initial_params('llama')
    adamw = optimizer.make_optimizer(
        OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    )
    on_device = jax.device_put(params, sharding.shardings(params, mesh))
    current = state.create(on_device, ('behavior/.*',), adamw, mesh)
    assert set(flatten(current.trainable)) == {'behavior/input', 'behavior/output'}
    assert sum(x.size for x in jax.tree.leaves(current.opt_state)) < 6 * 2 * 32
    with jax.set_mesh(mesh):
        train_step = step.make_train_step(network('llama'), adamw, 1, row_names=('a', 'b'))
        for i in range(3):
            batch = loader.to_device(batch_source(packed=True)[i], mesh)
            rows = jax.device_get(current.trainable['behavior'])
            current, metrics = train_step(current, batch)
            norms = {name: float(x) for name, x in metrics.items() if '_norm/' in name}
            assert norms == {
                f'behavior_{part}_norm/{name}': pytest.approx(np.linalg.norm(row), rel=1e-6)
                for part, rows_nD in rows.items()
                for name, row in zip('ab', rows_nD, strict=True)
            }
            assert len(norms) == 4
    for path, before in flatten(params).items():
        after = np.asarray(flatten(current.params)[path])
        assert np.array_equal(before, after) == (not path.startswith('behavior/')), path


def test_full_training_decays_only_kernels_and_tables():
    params = initial_params('qwen2')
    adamw = optimizer.make_optimizer(OptimizerConfig(weight_decay=0.1, warmup_steps=0))
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = adamw.update(zeros, adamw.init(params), params)
    moved = {path for path, update in flatten(updates).items() if np.abs(update).max() > 0}
    assert moved == {p for p in flatten(params) if p.endswith(('kernel', 'embed/table'))}
