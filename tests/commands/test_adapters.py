"""Tests of the commands on the adapter of a run: scored, answered with, trained on."""

import json

import numpy as np
import pytest

import bsft_jax
from bsft_jax.commands import prepare
from bsft_jax.commands.doctor import OK, Doctor
from bsft_jax.config import DataConfig, EvaluationConfig, LoraConfig
from bsft_jax.data import sources, trained_on
from bsft_jax.errors import UserError
from bsft_jax.hub import adapters
from bsft_jax.inference.decoding import Sampling
from bsft_jax.planning import compile_plan
from bsft_jax.pytrees import flatten
from bsft_jax.records.record import write_jsonl
from bsft_jax.training import setup
from tests import run as runs
from tests.data.test_contamination import tasks
from tests.test_apps import app, error
from tests.tiny import random_model
from tests.training.small_run import small_run

LORA = LoraConfig(3, 24.0, targets='attention/.*')


def lora_run(base, source):
    config = small_run(base, mode='lora')
    config.lora = LORA
    config.train.steps = 2
    config.optimizer.learning_rate = 0.03
    config.evaluation = EvaluationConfig(interval=0)
    config.data = DataConfig(
        source=source, sequence_length=128, global_batch_rows=8, answer_format='text'
    )
    return config


@pytest.fixture(scope='module')
def folder(base, tmp_path_factory):
    """Returns a folder with a LoRA run of two steps, its `data` and its `adapter`."""
    folder = tmp_path_factory.mktemp('trained')
    write_jsonl(folder / 'mine.jsonl', tasks(behavior='reactive'))
    prepare.prepare([f'jsonl:{folder}/mine.jsonl'], folder / 'data', seed=0)
    runs.train(lora_run(base, f'jsonl:{folder}/data'), folder / 'run')
    app('export', f'--workdir={folder}/run', f'--output={folder}/adapter', '--format=peft')
    return folder


def parameters_of(model):
    return {path: np.asarray(value) for path, value in flatten(model.params).items()}


def test_an_adapter_scores_and_answers_as_its_run(folder, base, tmp_path):
    data, adapter = f'jsonl:{folder}/data', str(folder / 'adapter')
    of_run = runs.evaluate(workdir=str(folder / 'run'), name='run')
    flags = f'--workdir={tmp_path}', f'--model={adapter}', f'--data={data}', '--name=adapter'
    assert 'overall' in app('evaluate', *flags).stdout
    place = tmp_path / 'eval' / 'adapter'
    settings = {'model': adapter, 'data': data, 'step': None}
    assert json.loads((place / 'metrics.json').read_text()) == of_run | settings
    assert of_run['answer_format'] == 'text' and of_run['trained_on']['records'] == 0
    of_both = [
        [json.loads(line) for line in (path / 'predictions.jsonl').read_text().splitlines()]
        for path in (place, folder / 'run' / 'eval' / 'run')
    ]
    assert of_both[0] == of_both[1]
    runs.evaluate(workdir=str(tmp_path), model=str(base), data=data, name='base')
    of_base = (tmp_path / 'eval' / 'base' / 'predictions.jsonl').read_text()
    assert (
        json.loads(of_base.splitlines()[0])['option_logprobs'] != of_both[0][0]['option_logprobs']
    )

    ask = dict(sampling=Sampling(max_new_tokens=5), input_file=str(folder / 'mine.jsonl'))
    answers = runs.generate(**ask, model=adapter)
    assert answers == runs.generate(**ask, workdir=str(folder / 'run'))
    assert answers != runs.generate(**ask, model=str(base))


def test_records_that_an_adapter_was_trained_on_are_refused(folder, tmp_path):
    data = f'jsonl:{folder}/data'
    options = {'workdir': str(tmp_path), 'model': str(folder / 'adapter'), 'data': data}
    prepare.prepare([f'jsonl:{folder}/mine.jsonl'], folder / 'data', seed=1)
    try:
        with pytest.raises(UserError, match=r'again since .* 5 of 6 scored records'):
            runs.evaluate(**options)
    finally:
        prepare.prepare([f'jsonl:{folder}/mine.jsonl'], folder / 'data', seed=0)


def test_what_the_base_of_an_adapter_was_trained_on_counts(folder, base, tmp_path):
    """Tests it with an adapter that does not know its own records, on a base that does."""
    runs.export(str(folder / 'run'), str(tmp_path / 'merged'))
    adapter = tmp_path / 'adapter'
    runs.export(str(folder / 'run'), str(adapter), format='peft')
    (adapter / trained_on.FILE).unlink()
    config = json.loads((adapter / adapters.CONFIG).read_text())
    config['base_model_name_or_path'] = str(tmp_path / 'merged')
    (adapter / adapters.CONFIG).write_text(json.dumps(config))
    assert bsft_jax.load_model(adapter).trained_on.overlap(tasks()).records == 48


def test_a_run_continues_an_adapter(folder, base, tmp_path, capsys):
    adapter = folder / 'adapter'
    write_jsonl(tmp_path / 'other.jsonl', tasks(80, behavior='proactive')[60:])
    config = lora_run(adapter, f'jsonl:{tmp_path}/other.jsonl')
    spec = setup.read_base(config)
    plan = setup.plan_state(config, spec.network)
    start = flatten(setup.base_params(config, spec, plan.mesh))
    # Nothing is left for `row_init` to fit.
    assert setup._new_rows(spec) == [False, False]
    of_run = parameters_of(bsft_jax.load_model(folder / 'run'))
    assert all(np.array_equal(start[path], of_run[path]) for path in of_run)

    runs.train(config, tmp_path / 'second')
    assert f'continues the adapter {adapter} and its behavior rows' in capsys.readouterr().err
    second = bsft_jax.load_model(tmp_path / 'second')
    moved = parameters_of(second)
    changed = {path for path in moved if not np.array_equal(moved[path], of_run[path])}
    assert changed and all('/lora/' in path or 'behavior/' in path for path in changed)
    assert second.trained_on.overlap(tasks(80)).texts == 48 + 20

    # Its adapter is again one of the first base.
    runs.export(str(tmp_path / 'second'), str(tmp_path / 'again'), format='peft')
    again = bsft_jax.load_model(tmp_path / 'again')
    assert again.spec.directory == base.resolve()
    assert all(np.array_equal(moved[p], value) for p, value in parameters_of(again).items())


def test_a_run_that_does_not_continue_its_adapter_is_refused(folder, tmp_path):
    adapter, source = str(folder / 'adapter'), f'jsonl:{folder}/data'
    for mode in ('full', 'behavior_rows'):
        config = lora_run(adapter, source)
        config.train.mode = mode
        with pytest.raises(
            UserError, match=f'an adapter, which --config.train.mode={mode} .*save_'
        ):
            runs.train(config, tmp_path / 'run')
    config = lora_run(adapter, source)
    config.model.init = 'random'
    with pytest.raises(UserError, match='which --config.model.init=random does not continue'):
        runs.train(config, tmp_path / 'run')
    config = lora_run(adapter, source)
    config.arm = 'general_sft'
    with pytest.raises(UserError, match='the rows of reactive, proactive.* the same .* arm'):
        runs.train(config, tmp_path / 'run')
    config = lora_run(adapter, source)
    config.lora = LoraConfig(3, 12.0)
    with pytest.raises(UserError, match="set '--config.lora.alpha=24.0' '--config.lora.targets="):
        runs.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_new_behaviors_are_added_to_an_adapter_without_any(base, folder, tmp_path):
    config = lora_run(base, f'jsonl:{folder}/data')
    config.arm = 'general_sft'
    runs.train(config, tmp_path / 'run')
    runs.export(str(tmp_path / 'run'), str(tmp_path / 'adapter'), format='peft')
    spec = setup.read_base(lora_run(tmp_path / 'adapter', f'jsonl:{folder}/data'))
    assert spec.behaviors.ids == (320, 321) and not spec.exported_names
    drawn = setup.base_params(lora_run(base, ''), spec, bsft_jax.load_model(base).mesh)
    expected = bsft_jax.load_model(base, behaviors=spec.behaviors.behaviors).params['behavior']
    assert np.array_equal(drawn['behavior']['input'], expected['input'])


def test_an_export_says_that_peft_needs_a_longer_table(folder, tmp_path, capsys):
    (tmp_path / 'base').mkdir()
    full = random_model(tmp_path / 'base', spare=False)
    config = lora_run(full, f'jsonl:{folder}/data')
    config.train.steps = 1
    runs.train(config, tmp_path / 'run')
    runs.export(str(tmp_path / 'run'), str(tmp_path / 'adapter'), format='peft')
    assert 'after base.resize_token_embeddings(322)' in capsys.readouterr().err
    spec = setup.read_base(lora_run(tmp_path / 'adapter', f'jsonl:{folder}/data'))
    assert spec.behaviors.ids == (320, 321)
    runs.export(str(folder / 'run'), str(tmp_path / 'spare'), format='peft')
    assert 'resize_token_embeddings' not in capsys.readouterr().err


def test_doctor_plan_and_prepare_know_adapters(folder, tmp_path):
    def examine(config):
        return {f.name: f for f in Doctor(config, tmp_path / 'run')()}

    config = lora_run(folder / 'adapter', f'jsonl:{folder}/data')
    findings = examine(config)
    assert '0 new rows and 2 of the base' in findings['rows'].message
    healthy = 'base', 'template', 'mesh', 'rows'
    assert [findings[name].verdict for name in healthy] == [OK] * 4
    (folder / 'adapter' / adapters.WEIGHTS).rename(tmp_path / 'aside')
    try:
        assert 'no adapter_model.safetensors' in examine(config)['base'].message
    finally:
        (tmp_path / 'aside').rename(folder / 'adapter' / adapters.WEIGHTS)
    assert compile_plan.planned_network(config).compute.lora == LORA
    records = sources.load_records(f'jsonl:{folder}/data', 'train')
    options = prepare.InspectOptions(count=1, base=str(folder / 'adapter'))
    [shown] = prepare.inspect_records(records, options)
    assert '<|reactive|>' in shown


def test_the_dtype_of_an_export(folder, tmp_path):
    workdir = f'--workdir={folder}/run'
    line = error('export', workdir, f'--output={tmp_path}/a', '--dtype=bfloat16')
    assert '--dtype=bfloat16: belongs to --format=peft' in line
    flags = f'--output={tmp_path}/b', '--format=peft', '--dtype=bfloat16'
    app('export', workdir, *flags)
    small, large = (
        (path / adapters.WEIGHTS).stat().st_size for path in (tmp_path / 'b', folder / 'adapter')
    )
    assert small < 0.7 * large
    of_run = parameters_of(bsft_jax.load_model(folder / 'run'))
    for path, value in parameters_of(bsft_jax.load_model(tmp_path / 'b')).items():
        rounded = '/lora/' in path or path.startswith('behavior/')
        expected = of_run[path].astype('bfloat16').astype('float32') if rounded else of_run[path]
        assert np.array_equal(value, expected), path
