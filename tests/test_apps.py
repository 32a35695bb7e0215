"""Tests of the real command line, end to end, and of the one line that ends a wrong one."""

import json
import re
import statistics
import subprocess
import sys

import pytest

from bsft_jax.config import RunConfig
from bsft_jax.data import sources
from bsft_jax.records.record import record_to_dict
from tests.conftest import ROOT
from tests.tiny import random_model

CONFIG = """
from bsft_jax.config import *

def get_config(arg='behavior_sft'):
    return RunConfig(
        arm=arg,
        log_interval=1,
        model=ModelConfig(base={base!r}),
        data=DataConfig(
            source={source!r}, sequence_length=448, global_batch_rows=8, answer_format='text'
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2, schedule_steps=6),
        checkpoint=CheckpointConfig(interval=3),
        evaluation=EvaluationConfig(interval=6, limit=9),
    )
"""


def app(name, *flags, code=0):
    command = [sys.executable, '-m', f'bsft_jax.{name}', *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == code, (done.returncode, done.stderr[-3000:])
    return done


def error(name, *flags):
    """Returns the one line on stderr of an app that exits with 2."""
    lines = [line for line in app(name, *flags, code=2).stderr.splitlines() if line.strip()]
    assert lines[-1].startswith('error: ') and not any('Traceback' in line for line in lines)
    return lines[-1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('a folder')
    (folder / 'base').mkdir()
    random_model(folder / 'base')
    write_config(folder, 'synthetic:60')
    return folder


def write_config(folder, source, name='config.py'):
    path = folder / name
    path.write_text(CONFIG.format(base=str(folder / 'base'), source=source))
    return path


def assert_equals_scikit_learn(metrics, rows):
    from sklearn.metrics import f1_score

    def macro_f1(rows):
        columns = [[row[name] for row in rows] for name in ('answer', 'prediction')]
        return f1_score(*columns, average='macro', zero_division=0)

    def assert_same(entry, value):
        assert entry['macro_f1'] == pytest.approx(value, abs=1e-6)

    expected = {
        name: macro_f1([r for r in rows if r['category'] == name]) for name in metrics['categories']
    }
    group_of = {row['category']: row['group'] for row in rows}
    assert set(expected) == set(group_of)
    for name, value in expected.items():
        assert_same(metrics['categories'][name], value)
    for group, entry in metrics['groups'].items():
        values = (value for name, value in expected.items() if group_of[name] == group)
        assert_same(entry, statistics.mean(values))
    assert_same(metrics['overall'], statistics.mean(expected.values()))
    assert metrics['overall']['macro_f1_pooled'] == pytest.approx(macro_f1(rows), abs=1e-6)


@pytest.mark.parametrize('arm', ['behavior_sft', 'general_sft'])
def test_prepare_train_evaluate_generate_export(folder, arm):
    if not (folder / 'data').exists():
        printed = app('prepare', '--source=synthetic:60', f'--output={folder / "data"}').stdout
        counts = r'^behaviors: \d+ (reactive|proactive), \d+ (reactive|proactive)$'
        assert re.search(counts, printed, re.M)
    config, run = write_config(folder, f'jsonl:{folder / "data"}'), folder / arm
    app('train', f'--config={config}:{arm}', f'--workdir={run}')
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert lines[-1]['step'] == 6 and 0 <= lines[-1]['validation/macro_f1'] <= 1
    for file in ('config.json', 'environment.json', 'parameters.txt', 'checkpoints/6'):
        assert (run / file).exists()
    assert 'done' in app('train', f'--config={config}:{arm}', f'--workdir={run}').stdout
    assert len((run / 'metrics.jsonl').read_text().splitlines()) == len(lines)

    # A backend that was trained with on GPUs does not matter to other devices.
    config_json = json.loads((run / 'config.json').read_text())
    config_json['model']['attention'] = 'cudnn'
    (run / 'config.json').write_text(json.dumps(config_json))
    table = app('evaluate', f'--workdir={run}', '--name=t').stdout
    metrics = json.loads((run / 'eval' / 't' / 'metrics.json').read_text())
    assert f'{metrics["overall"]["macro_f1"]:.3f}' in table
    predictions = (run / 'eval' / 't' / 'predictions.jsonl').read_text()
    rows = [json.loads(line) for line in predictions.splitlines()]
    # The 8 devices of conftest.py share the records.
    assert len(rows) == metrics['overall']['n'] == 6 * 21
    assert (metrics['selection'] is not None) == (arm == 'behavior_sft')
    assert_equals_scikit_learn(metrics, rows)

    app('export', f'--workdir={run}', f'--output={run / "hf"}')
    data, elsewhere = f'--data=jsonl:{folder / "data"}', run / 'again'
    app('evaluate', f'--model={run / "hf"}', f'--workdir={elsewhere}', data, '--name=t')
    again = json.loads((elsewhere / 'eval' / 't' / 'metrics.json').read_text())
    assert again['overall']['macro_f1'] == pytest.approx(metrics['overall']['macro_f1'], abs=1e-6)

    answer = json.loads(
        app('generate', f'--workdir={run}', '--text=Can I sign this?', '--max_new_tokens=5').stdout
    )
    assert answer['behavior'] in (('reactive', 'proactive') if arm == 'behavior_sft' else (None,))
    if arm == 'behavior_sft':
        flags = ('--text=x', '--policy=forced:reactive', '--max_new_tokens=2')
        forced = app('generate', f'--model={run / "hf"}', *flags).stdout
        assert json.loads(forced)['behavior'] == 'reactive'
    flags = ('--text=Ana is', '--raw', '--max_new_tokens=3')
    raw = app('generate', f'--model={run / "hf"}', *flags).stdout
    assert json.loads(raw)['behavior'] is None


def test_config_mistakes(folder):
    config, workdir = folder / 'config.py', f'--workdir={folder / "never"}'
    for variant, flag, message in (
        ('', '--config.data.speed=1', "unknown config field 'data.speed'"),
        ('', '--config.seed=abc', 'seed'),
        (':chatty', '', "arm: 'chatty'"),
        (':general_sft', '--config.train.mode=behavior_rows', 'no trainable token'),
        ('', '--config.data.source=web:x', 'unknown data source'),
        ('', '--config.data.global_batch_rows=12', 'do not divide by'),
        ('', '--config.mesh.fsdp=3', 'does not fit'),
        ('', '--config.model.attention=cudnn', 'it is for GPUs'),
        ('', '--config.model.base=absent', 'no model at'),
    ):
        flags = [f'--config={config}{variant}', workdir, *([flag] if flag else [])]
        assert message in error('train', *flags)
    assert not (folder / 'never').exists()


def test_record_mistakes(folder):
    good = record_to_dict(sources.load_records('synthetic:10', 'train')[0])
    poisoned = good | {'messages': [{'role': 'user', 'content': 'Say <|proactive|> now'}]}
    for name, line, message in (
        ('json', '{"id"', 'not valid JSON'),
        ('category', json.dumps(good | {'category': 'x', 'group': ''}), "unknown category 'x'"),
        ('answer', json.dumps(good | {'answer': 9}), '9 is not an index'),
        ('token', json.dumps(poisoned), 'the token <|proactive|> inside a message'),
        (
            'unanswered',
            json.dumps({k: v for k, v in good.items() if k != 'answer'}),
            'no answer to train on',
        ),
    ):
        path = folder / f'{name}.jsonl'
        path.write_text(json.dumps(good | {'id': 'first'}) + '\n' + line + '\n')
        config = write_config(folder, f'jsonl:{path}', f'{name}.py')
        message_line = error('train', f'--config={config}', f'--workdir={folder / "never"}')
        assert message in message_line, message_line
        if name in ('json', 'category', 'answer'):
            assert f'{path}:2' in message_line
    assert not (folder / 'never').exists()


def test_workdir_mistakes(folder):
    config, run = write_config(folder, 'synthetic:60', 'other.py'), folder / 'run'
    train = ('train', f'--config={config}', f'--workdir={run}')
    app(*train, '--config.train.steps=1', '--config.evaluation.interval=0')
    line = error(*train, '--config.seed=7', '--config.optimizer.learning_rate=0.5')
    assert 'seed: 0 → 7' in line and 'optimizer.learning_rate: 0.001 → 0.5' in line
    line = error('evaluate', f'--workdir={run}', '--step=5')
    assert 'no checkpoint of step 5; available steps: 1' in line
    assert 'not a workdir' in error('evaluate', f'--workdir={folder / "base"}')
    assert 'neither --model nor --workdir' in error('generate', '--text=x')
    assert 'not a workdir' in error('train', f'--config={config}', f'--workdir={folder / "base"}')
    assert 'holds no run' in error('train', f'--config={config}', f'--workdir={folder}')
    (run / 'other').mkdir()
    (run / 'other' / 'x').touch()
    assert 'not empty' in error('export', f'--workdir={run}', f'--output={run / "other"}')


@pytest.mark.parametrize('command', ['train', 'evaluate'])
def test_a_workdir_of_an_earlier_version(folder, command, tmp_path):
    values = RunConfig().to_dict()
    values['data']['rows_per_step'] = values['data'].pop('global_batch_rows')
    (tmp_path / 'config.json').write_text(json.dumps(values))
    config = [f'--config={folder / "config.py"}'] if command == 'train' else []
    line = error(command, f'--workdir={tmp_path}', *config)
    message = 'unknown field data.rows_per_step: another version of bsft_jax wrote this config'
    assert message in line and str(tmp_path / 'config.json') in line
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']
