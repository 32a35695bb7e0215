"""Plans of tiny models against counts made in other ways, and for topologies that are not there."""

import dataclasses
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys

import huggingface_hub
import jax
import numpy as np
import pytest

from bsft_jax.config import DataSection, MeshSection, ModelSection, RunConfig, TrainSection
from bsft_jax.errors import UserError
from bsft_jax.hub import configs, files, presets
from bsft_jax.models.network import Network
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.planning import account, flops, topology
from bsft_jax.training import optimizer
from bsft_jax.training import state as state_lib
from bsft_jax.training import step as step_lib
from bsft_jax.trees import flatten
from tests.conftest import ROOT

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason="compiled by libtpu: pip install -e '.[plan]'"
)


def config_of(mode: str = 'full', rows: int = 8, tokens: int = 64, **mesh) -> RunConfig:
    return RunConfig(
        mesh=MeshSection(**{'data': 1, **mesh}),
        data=DataSection(rows_per_step=rows, sequence_length=tokens),
        train=TrainSection(mode=mode),
    )


def products(jaxpr) -> int:
    """FLOPs of the products that a jaxpr names; of branches, which are platforms', the last: no platform's own."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [
            getattr(x, 'jaxpr', x)
            for value in equation.params.values()
            for x in (value if isinstance(value, (tuple, list)) else (value,))
            if hasattr(getattr(x, 'jaxpr', x), 'eqns')
        ]
        counts = [products(one) for one in inner]
        if equation.primitive.name == 'dot_general':
            ((contracted, _), _) = equation.params['dimension_numbers']
            left = equation.invars[0].aval.shape
            shape = equation.outvars[0].aval.shape
            total += 2 * math.prod(shape) * math.prod(left[axis] for axis in contracted)
        elif equation.primitive.name == 'cond':
            total += counts[-1]
        else:
            total += sum(counts) * equation.params.get('length', 1)
    return total


@pytest.mark.parametrize('preset', ['qwen2.5-0.5b', 'qwen2.5-7b'])
def test_the_formula_counts_the_products_of_a_training_step(preset):
    """Of one layer in rows of one block, where dense attention computes every pair."""
    arch = dataclasses.replace(
        configs.architecture_of(presets.preset(preset)), layers=1, vocab_size=640, width=64, ffn_width=96
    )
    network, tokens, rows = Network(arch, (638, 639)), 48, 2
    params = network.abstract()
    batch = account.Batch(*(jax.ShapeDtypeStruct((rows, tokens), d) for d in (int, int, float, int, int)))
    jaxpr = jax.make_jaxpr(lambda p, b: step_lib.batch_gradients(network, p, {}, b, 1))(params, batch)
    state = state_lib.TrainState(None, params, {}, None)
    pairs = 4 * arch.heads * arch.head_width * tokens
    by_formula = account.formula(config_of(rows=rows, tokens=tokens), network, state, 1)['per_token']
    dense = by_formula + 3 * (pairs - flops.attention(arch, tokens))
    assert products(jaxpr.jaxpr) == dense * rows * tokens


@pytest.mark.parametrize('window, keys', [(0, [1, 2, 3, 4, 5, 6]), (2, [1, 2, 2, 2, 2, 2])])
def test_attention_counts_the_keys_that_are_seen(window, keys):
    arch = configs.architecture_of(presets.preset('qwen2.5-0.5b'))
    kind = dataclasses.replace(arch.kinds[0], window=window)
    arch = dataclasses.replace(arch, layers=3, heads=5, head_width=7, kinds=(kind,))
    assert flops.attention(arch, 6) == pytest.approx(3 * 4 * 5 * 7 * np.mean(keys))


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
    config = dataclasses.replace(config_of('lora'), model=ModelSection(base=base))
    network, arch = account.network_of(config), configs.architecture_of(presets.preset(preset))
    assert network.arch == arch and network.lora.rank == 16
    assert network.behavior_ids == (arch.vocab_size - 2, arch.vocab_size - 1)


def test_of_a_base_without_a_preset_no_weights_are_fetched(tmp_path, monkeypatch):
    bundled = files.resolve_directory('tiny-clinical')

    def fetch(repository, *, revision, allow_patterns, ignore_patterns):
        for path in bundled.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, tmp_path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fetch)
    config = dataclasses.replace(config_of('lora'), model=ModelSection(base='some-lab/Model-7B'))
    assert account.network_of(config) == account.network_of(config_of('lora'))
    assert config.model.base == 'some-lab/Model-7B' and not list(tmp_path.glob('*.safetensors'))
    assert files.resolve_directory('some-lab/Model-7B') == tmp_path and list(tmp_path.glob('*.safetensors'))


@pytest.mark.parametrize('mode, passes', [('full', 2), ('lora', 2)])
def test_a_step_gathers_what_the_sharding_table_splits(mode, passes):
    """Forward and backward gather each kernel of a layer once, and the step the head's table and the ids once."""
    config = config_of(mode, fsdp=8)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices())
    plan = account.plan(config, topology.parse('cpu:8'), jax.devices())
    network = account.network_of(config).on(mesh)
    lowered, state, batch = account.lower(config, network, mesh)
    with jax.set_mesh(mesh):  # as training.loop has it
        made = optimizer.make_optimizer(config.optimizer)
        step = step_lib.make_train_step(network, made, config.train.accumulation, config.seed)
        assert lowered.as_text() == step.lower(state, batch).as_text()
    expected = 4 * math.prod(batch.tokens_BT.shape)
    for path, leaf in flatten(state.params).items():
        if any('fsdp' in str(axis) for axis in leaf.sharding.spec):
            expected += (
                (passes if path.startswith('layers') else 1) * math.prod(leaf.shape) * leaf.dtype.itemsize
            )
    rows = {row['kind']: row for row in plan['collectives'] if row['axes'] == 'fsdp'}
    assert rows['all-gather']['payload'] == expected
    assert rows['all-gather']['bytes'] == pytest.approx(expected * 7 / 8)
    sizes = plan['memory']['arguments']
    assert sizes['trainable'] + sizes['frozen'] == sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in flatten(state.params).values()
    )
    assert plan['parameters']['total'] == sum(leaf.size for leaf in flatten(state.params).values())
    assert plan['attention'] == {'back_end': 'blockwise', 'kernel_calls': 0, 'dense_scores': True}
    assert plan['verdict']['fits'] is None and plan['loops_of_unknown_length'] == []


@pytest.mark.parametrize('sizes', [{'data': 8}, {'data': 2, 'fsdp': 2, 'tensor': 2}], ids=['8 data', '2x2x2'])
def test_accumulation_adds_up_over_data_once(sizes):
    def payload(accumulation: int) -> int:
        config = config_of(rows=32, **sizes)
        config = dataclasses.replace(config, train=TrainSection(mode='full', accumulation=accumulation))
        plan = account.plan(config, topology.parse('cpu:8'), jax.devices())
        return sum(row['payload'] for row in plan['collectives'] if 'data' in row['axes'])

    assert payload(4) == payload(2) <= payload(1)


@pytest.mark.parametrize(
    'message, total',
    [
        ('RESOURCE_EXHAUSTED: Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.', 20.5),
        ('Ran out of memory on HBM, HLO temporaries (34.5G) exceeds available HBM (15.75G).', 36.5),
    ],
)
def test_both_figures_of_a_compiler_that_refuses(message, total):
    found = account.refused(message, {'trainable': 2 << 30})
    assert (found['total'] / 2**30, found['capacity'] / 2**30) == (total, 15.75)


@pytest.mark.parametrize(
    'spelled, kind, shape, slices',
    [
        ('v5p:4x4x8', 'v5p', (4, 4, 8), 1),
        ('v6e:16x16*2', 'v6e', (16, 16), 2),
        ('h200:4x8', 'h200', (4, 8), 1),
    ],
)
def test_spellings(spelled, kind, shape, slices):
    found = topology.parse(spelled)
    assert (found.kind, found.shape, found.slices) == (kind, shape, slices)
    assert found.devices == math.prod(shape) * slices


@pytest.mark.parametrize(
    'spelled', ['v5e', 'v5e:4', 'v5p:4x4', 'a100:1x8', 'h100:8', 'cpu:2x4', 'cpu:0', 'cpu:8*2', '']
)
def test_no_topology(spelled):
    with pytest.raises(UserError, match='is no topology'):
        topology.parse(spelled)


def test_a_missing_compiler_names_the_extra(monkeypatch):
    def version(name):
        if name == 'libtpu':
            raise topology.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(topology.metadata, 'version', version)
    with pytest.raises(UserError, match=r"not installed \(libtpu\); pip install '\.\[plan\]'"):
        topology.prepare(topology.parse('v6e:4x4'))


def run(*arguments, **env) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'bsft_jax.plan', *arguments]
    env = {key: value for key, value in os.environ.items() if key != 'XLA_FLAGS'} | env
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


def test_the_command_plans_for_simulated_devices(tmp_path):
    output = tmp_path / 'plans' / 'plan.json'
    done = run(
        '--config=configs/quickstart.py', '--topology=cpu:8', f'--output={output}', '--config.mesh.fsdp=4',
        '--config.mesh.data=2', '--config.data.rows_per_step=16', '--config.data.sequence_length=64',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'verdict: not judged' in done.stdout and 'all-gather' in done.stdout
    plan = json.loads(output.read_text())
    assert plan['compiler'] == {'jaxlib': jax.lib.__version__}
    assert plan['devices'] == 8 and plan['config']['mesh']['fsdp'] == 4
    assert {row['axes'] for row in plan['collectives']} >= {'fsdp', 'data'}


def test_an_unknown_topology_ends_with_2():
    done = run('--config=configs/quickstart.py', '--topology=v9:2')
    assert done.returncode == 2
    assert done.stderr.startswith("error: --topology: 'v9:2' is no topology; use one like v5e:4x4")


@needs_libtpu
def test_a_model_that_is_too_large_ends_with_3():
    done = run('--config=configs/qwen2_5_7b.py:full', '--topology=v5e:2x2')
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith('does not fit: v5e:2x2 needs ') and 'and has 15.8; what would: ' in line
    assert 'verdict: does not fit (the compiler)' in done.stdout
