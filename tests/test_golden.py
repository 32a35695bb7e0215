"""Tests of every shipped config: its golden file, and one step of training.

The sharded parameter tree and the state of every optimizer have golden files too. `python -m
tests.test_golden` rewrites them all, and their diff is the review of a change of configs.
"""

import importlib.util
import json
import pathlib

import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import OPTIMIZERS, validate
from tests.conftest import ROOT

GOLDEN = pathlib.Path(__file__).parent / 'golden'
CONFIGS = {
    'quickstart-behavior_sft': ('quickstart.py', 'behavior_sft'),
    'quickstart-general_sft': ('quickstart.py', 'general_sft'),
    'quickstart-text_sft': ('quickstart.py', 'text_sft'),
    'quickstart-neutral_token': ('quickstart.py', 'neutral_token'),
    'quickstart-shuffled_token': ('quickstart.py', 'shuffled_token'),
    'open-behavior_sft': ('open.py', 'behavior_sft'),
    'size_ladder': ('size_ladder.py', ''),
    'stories260k-behavior_sft': ('stories260k.py', 'behavior_sft'),
    'smollm2_135m-one_category': ('smollm2_135m.py', 'one_category'),
    **{
        f'{size}-{mode}': (f'{size}.py', mode)
        for size in ('qwen2_5_0_5b', 'qwen2_5_7b', 'llama3_1_8b', 'qwen2_5_72b', 'smollm2_135m')
        for mode in ('lora', 'full', 'behavior_rows')
    },
    **{
        f'tiny_pretrain-{stage}': ('tiny_pretrain.py', stage)
        for stage in ('lists', 'sheets', 'scenes')
    },
}


def load(name):
    file, arg = CONFIGS[name]
    spec = importlib.util.spec_from_file_location(file, ROOT / 'configs' / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*filter(None, [arg]))


def resolved(name):
    return json.dumps(validate(load(name)).to_dict(), indent=2, ensure_ascii=False) + '\n'


def parameter_table():
    import jax

    from bsft_jax.config import MeshConfig, OptimizerConfig
    from bsft_jax.hub import pretrained
    from bsft_jax.parallel import mesh as mesh_lib
    from bsft_jax.training import optimizer, state

    mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), jax.devices()[:8])
    spec = pretrained.read_pretrained('tiny-clinical', behaviors=DEFAULT_BEHAVIORS)
    params = pretrained.random_params(spec, mesh, seed=0)
    adamw = optimizer.make_optimizer(OptimizerConfig())
    return state.sharding_table(state.create(params, ('.*',), adamw, mesh)) + '\n'


def optimizer_table(name):
    """Returns path, shape, dtype and spec of each array of an optimizer's state, on 2x2x2."""
    import jax

    from bsft_jax.config import MeshConfig, OptimizerConfig
    from bsft_jax.hub import pretrained
    from bsft_jax.parallel import mesh as mesh_lib
    from bsft_jax.pytrees import flatten
    from bsft_jax.training import optimizer, state

    mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), jax.devices()[:8])
    network = pretrained.read_pretrained('tiny-clinical', behaviors=DEFAULT_BEHAVIORS).network
    made = optimizer.make_optimizer(OptimizerConfig(name=name))
    shapes = state.abstract(network, ('.*',), made, mesh).opt_state
    return ''.join(
        f'{path}  {leaf.shape}  {leaf.dtype}  {", ".join(map(str, leaf.sharding.spec))}'.rstrip()
        + '\n'
        for path, leaf in flatten(shapes).items()
    )


def test_every_config_file_is_listed():
    files = {path.name for path in (ROOT / 'configs').glob('*.py')}
    assert files == {file for file, _ in CONFIGS.values()}


@pytest.mark.parametrize('name', CONFIGS)
def test_config_is_the_golden_one(name):
    assert resolved(name) == (GOLDEN / f'{name}.json').read_text()


def test_parameter_tree_is_the_golden_one():
    assert parameter_table() == (GOLDEN / 'tiny-clinical-2x2x2.txt').read_text()


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_optimizer_state_is_the_golden_one(name):
    assert optimizer_table(name) == (GOLDEN / f'optimizer-{name}.txt').read_text()


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_trains_a_step(name, tmp_path):
    from tests import run as runs

    config = load(name)
    config.model.base = 'tiny-clinical'
    is_pretraining = name.startswith('tiny_pretrain')
    scheme = config.data.source.partition(':')[0] if is_pretraining else 'synthetic'
    levels = ':0:1,2,3' if config.data.curriculum else ''
    config.data.source, config.data.chat_template = f'{scheme}:30{levels}', ''
    config.data.global_batch_rows = 8
    config.data.sequence_length = min(config.data.sequence_length, 512)
    config.data.max_dropped_fraction = 0.0 if scheme == 'synthetic' else 0.2
    config.mesh.fsdp = 1 if is_pretraining else config.mesh.fsdp
    config.train.steps, config.log_interval, config.evaluation.interval = 1, 1, 0
    runs.train(config, tmp_path / 'run')
    (line,) = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    assert 0 < json.loads(line)['loss'] < 20


if __name__ == '__main__':
    for golden in CONFIGS:
        (GOLDEN / f'{golden}.json').write_text(resolved(golden))
    (GOLDEN / 'tiny-clinical-2x2x2.txt').write_text(parameter_table())
    for optimizer_name in OPTIMIZERS:
        (GOLDEN / f'optimizer-{optimizer_name}.txt').write_text(optimizer_table(optimizer_name))
