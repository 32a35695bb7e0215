"""Plans of tiny models, compared with values computed in other ways."""

import dataclasses
import math
import re
import shutil

import huggingface_hub
import jax
import pytest

from bsft_jax.config import OPTIMIZERS, ModelConfig, TrainConfig
from bsft_jax.hub import configs, files, presets
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.planning import compile_plan
from bsft_jax.planning.format import format_plan
from bsft_jax.planning.topology import parse_topology
from bsft_jax.pytrees import flatten
from bsft_jax.training import setup
from bsft_jax.training import step as step_lib
from tests.planning.configs import make_config


@pytest.mark.parametrize(
    'base, preset',
    [
        ('Qwen/Qwen2.5-7B-Instruct', 'qwen2.5-7b'),
        ('meta-llama/Llama-3.1-8B-Instruct', 'llama3.1-8b'),
        ('google/gemma-3-1b-it', 'gemma3-1b'),
        ('mistralai/Mistral-7B-Instruct-v0.3', 'mistral-7b-v0.3'),
    ],
)
def test_a_published_base_needs_no_files(base, preset):
    config = dataclasses.replace(make_config('lora'), model=ModelConfig(base=base))
    network = compile_plan.planned_network(config)
    arch = configs.architecture_of(presets.preset(preset))
    assert network.arch == arch and network.compute.lora.rank == 16
    assert network.behavior_ids == (arch.vocab_size - 2, arch.vocab_size - 1)


def test_no_weights_are_downloaded_for_a_base_without_a_preset(tmp_path, monkeypatch):
    bundled = files.resolve_directory('tiny-clinical')

    def download(repository, *, revision, allow_patterns, ignore_patterns):
        for path in bundled.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, tmp_path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    config = dataclasses.replace(make_config('lora'), model=ModelConfig(base='some-lab/Model-7B'))
    network = compile_plan.planned_network(config)
    assert network == compile_plan.planned_network(make_config('lora'))
    assert config.model.base == 'some-lab/Model-7B' and not list(tmp_path.glob('*.safetensors'))
    assert files.resolve_directory('some-lab/Model-7B') == tmp_path
    assert list(tmp_path.glob('*.safetensors'))


@pytest.mark.parametrize('mode, passes', [('full', 2), ('lora', 2)])
def test_a_step_gathers_what_the_sharding_rules_split(mode, passes):
    """Checks that each kernel of a layer is gathered once forward and once backward.

    The LM head's table and the ids are gathered once per step.
    """
    config = make_config(mode, fsdp=8)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices())
    plan = compile_plan.make_plan(config, parse_topology('cpu:8'), jax.devices())
    network = compile_plan.planned_network(config).for_mesh(mesh)
    lowered, state, batch = compile_plan.lower_step(config, network, mesh)
    # The step that training.loop compiles, on real devices.
    with jax.set_mesh(mesh):
        step = step_lib.step_of_run(config, network)
        assert lowered.as_text() == step.lower(state, batch).as_text()

    expected = 4 * math.prod(batch.tokens_BT.shape)
    for path, leaf in flatten(state.params).items():
        if any('fsdp' in str(axis) for axis in leaf.sharding.spec):
            times = passes if path.startswith('layers') else 1
            expected += times * math.prod(leaf.shape) * leaf.dtype.itemsize
    rows = {row['kind']: row for row in plan['collectives'] if row['axes'] == 'fsdp'}
    assert rows['all-gather']['payload'] == expected
    assert rows['all-gather']['bytes'] == pytest.approx(expected * 7 / 8)

    sizes = plan['memory']['arguments']
    assert sizes['trainable'] + sizes['frozen'] == sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in flatten(state.params).values()
    )
    assert plan['parameters']['total'] == sum(leaf.size for leaf in flatten(state.params).values())
    assert plan['attention'] == {'backend': 'blockwise', 'kernel_calls': 0, 'dense_scores': True}
    assert plan['verdict']['fits'] is None and plan['loops_of_unknown_length'] == []


def test_a_plan_says_what_a_quantized_base_saves():
    def plan_with(base_dtype):
        config = make_config('lora')
        config = dataclasses.replace(config, model=ModelConfig(base_dtype=base_dtype))
        return compile_plan.make_plan(config, parse_topology('cpu:1'), jax.devices()[:1])

    plain, plan = plan_with('bfloat16'), plan_with('nf4')
    sizes = plan['parameters']
    assert sizes['total'] == plain['parameters']['total']
    assert plan['flops']['per_token'] == plain['flops']['per_token']
    assert sizes['bytes_in_bfloat16'] == plain['parameters']['bytes']
    # tiny-clinical: 4 layers of width 128 with 64 key and value dimensions and an MLP of 384.
    kernels = 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384)
    # Of every layer, 13 blocks of 256 scales in 7 kernels.
    scales = kernels // 64 + 4 * (13 + 7) * 4
    # Beside a bfloat16 base vectors are in float32: norms and biases.
    vectors = 128 + 4 * (2 * 128 + 128 + 2 * 64)
    saved = sizes['bytes_in_bfloat16'] - sizes['bytes']
    assert saved == 2 * kernels - kernels // 2 - scales + 2 * vectors
    assert f'({saved / sizes["bytes_in_bfloat16"]:.0%} saved)' in format_plan(plan)
    assert 'saved' not in format_plan(plain)


@pytest.mark.parametrize(
    'sizes', [{'data': 8}, {'data': 2, 'fsdp': 2, 'tensor': 2}], ids=['8 data', '2x2x2']
)
def test_accumulated_gradients_are_reduced_over_data_once(sizes):
    def payload(accumulation: int) -> int:
        config = make_config(rows=32, **sizes)
        config = dataclasses.replace(
            config, train=TrainConfig(mode='full', gradient_accumulation_steps=accumulation)
        )
        plan = compile_plan.make_plan(config, parse_topology('cpu:8'), jax.devices())
        return sum(row['payload'] for row in plan['collectives'] if 'data' in row['axes'])

    assert payload(4) == payload(2) <= payload(1)


def test_a_plan_has_the_state_and_the_work_of_its_optimizer():
    """Checks bytes and FLOPs by formula, exactly, and what Muon moves between 8 devices."""
    moments, plans, config = {}, {}, make_config(fsdp=8)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices())
    network = compile_plan.planned_network(config)
    for name in OPTIMIZERS:
        config.optimizer.name = name
        state = setup.abstract_state(config, network, mesh)
        leaves = jax.tree.leaves(state.opt_state)
        moments[name] = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        if name != 'adafactor':
            plans[name] = compile_plan.make_plan(config, parse_topology('cpu:8'), jax.devices())
            assert plans[name]['memory']['arguments']['moments'] == sum(
                math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                for leaf in leaves
            )
    shapes = flatten(state.trainable)
    parameters = sum(x.size for x in shapes.values())
    kernels = [x.shape for path, x in shapes.items() if re.match('layers/.*kernel', path)]
    factored = [(1, *shapes['embed/table'].shape), *(s for s in kernels if min(s[1:]) >= 128)]

    # Counts of updates and of the schedule are int32, the coefficients of Muon three floats.
    assert moments['adamw'] == 4 * (2 * parameters + 2)
    assert moments['muon'] == moments['adamw'] - 4 * sum(map(math.prod, kernels)) + 4 * (2 + 3)
    saved = sum(math.prod(shape) - shape[0] * (shape[1] + shape[2]) for shape in factored)
    assert moments['adafactor'] == 4 * (parameters + 2) - 4 * saved
    assert 0 < saved < parameters

    # The four layers are padded to eight, one for each device.
    iterations = 0
    for _, *sides in kernels:
        low, high = sorted(sides)
        iterations += 5 * (4 * low * low * high + 2 * low**3)
    products = {name: plan['flops']['compiled'] for name, plan in plans.items()}
    assert products['muon'] - products['adamw'] == iterations
    payload = {
        name: {row['kind']: row['payload'] for row in plan['collectives']}
        for name, plan in plans.items()
    }
    # Gradients and momentum go to the layer's device, updates and momentum come back.
    moved = 4 * 4 * sum(math.prod(sides) for _, *sides in kernels)
    assert payload['muon'].pop('all-to-all') - payload['adamw'].pop('all-to-all') == moved
    assert payload['muon'] == payload['adamw']


@pytest.mark.parametrize(
    'message, total',
    [
        ('RESOURCE_EXHAUSTED: Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.', 20.5),
        ('Ran out of memory on HBM, HLO temporaries (34.5G) exceeds available HBM (15.75G).', 36.5),
    ],
)
def test_both_sizes_are_read_from_an_out_of_memory_message(message, total):
    memory = compile_plan.parse_out_of_memory(message, {'trainable': 2 << 30})
    assert (memory['total'] / 2**30, memory['capacity'] / 2**30) == (total, 15.75)
