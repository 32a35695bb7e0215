"""The real command line, end to end, and the one line that a wrong one gets."""

import json
import os
import re
import statistics
import subprocess
import sys

import pytest

from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import record_to_dict
from tests.conftest import ROOT
from tests.tiny import random_model

CONFIG = """
from bsft_jax.config import *

def get_config(arg='behavior_sft'):
    return RunConfig(
        arm=arg,
        log_interval=1,
        model=ModelSection(base={base!r}),
        data=DataSection(source={source!r}, sequence_length=448, rows_per_step=8, answer_format='text'),
        optimizer=OptimizerSection(learning_rate=1e-3, warmup_steps=2, schedule_steps=6),
        checkpoint=CheckpointSection(interval=3),
        evaluation=EvaluationSection(interval=6, limit=9),
    )
"""


def app(name, *flags, code=0, env=None):
    done = subprocess.run(
        [sys.executable, '-m', f'bsft_jax.{name}', *map(str, flags)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | (env or {}), timeout=300,
    )  # fmt: skip
    assert done.returncode == code, (done.returncode, done.stderr[-3000:])
    return done


def error(name, *flags):
    """The one line on stderr of an app that exits 2."""
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

    def same(entry, value):
        assert entry['macro_f1'] == pytest.approx(value, abs=1e-6)

    found = {name: macro_f1([r for r in rows if r['category'] == name]) for name in metrics['categories']}
    group_of = {row['category']: row['group'] for row in rows}
    assert set(found) == set(group_of)
    for name, value in found.items():
        same(metrics['categories'][name], value)
    for group, entry in metrics['groups'].items():
        same(entry, statistics.mean(v for name, v in found.items() if group_of[name] == group))
    same(metrics['overall'], statistics.mean(found.values()))
    assert metrics['overall']['macro_f1_pooled'] == pytest.approx(macro_f1(rows), abs=1e-6)


@pytest.mark.parametrize('arm', ['behavior_sft', 'general_sft'])
def test_prepare_train_evaluate_generate_export(folder, arm):
    if not (folder / 'data').exists():
        said = app('prepare', '--source=synthetic:60', f'--output={folder / "data"}').stdout
        assert re.search(r'^behaviors: \d+ (reactive|proactive), \d+ (reactive|proactive)$', said, re.M)
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

    written = json.loads((run / 'config.json').read_text())
    written['model']['attention'] = 'cudnn'  # as if it had been trained on cards: that is for training alone
    (run / 'config.json').write_text(json.dumps(written))
    table = app('evaluate', f'--workdir={run}', '--name=t').stdout
    printed = json.loads((run / 'eval' / 't' / 'metrics.json').read_text())
    assert f'{printed["overall"]["macro_f1"]:.3f}' in table
    rows = [json.loads(line) for line in (run / 'eval' / 't' / 'predictions.jsonl').read_text().splitlines()]
    assert len(rows) == printed['overall']['n'] == 6 * 21  # over the 8 devices of conftest.py
    assert (printed['selection'] is not None) == (arm == 'behavior_sft')
    assert_equals_scikit_learn(printed, rows)

    app('export', f'--workdir={run}', f'--output={run / "hf"}')
    data, elsewhere = f'--data=jsonl:{folder / "data"}', run / 'again'
    app('evaluate', f'--model={run / "hf"}', f'--workdir={elsewhere}', data, '--name=t')
    again = json.loads((elsewhere / 'eval' / 't' / 'metrics.json').read_text())
    assert again['overall']['macro_f1'] == pytest.approx(printed['overall']['macro_f1'], abs=1e-6)

    answer = json.loads(
        app('generate', f'--workdir={run}', '--text=Can I sign this?', '--max_new_tokens=5').stdout
    )
    assert answer['behavior'] in (('reactive', 'proactive') if arm == 'behavior_sft' else (None,))
    if arm == 'behavior_sft':
        forced = app(
            'generate', f'--model={run / "hf"}', '--text=x', '--policy=forced:reactive', '--max_new_tokens=2'
        )
        assert json.loads(forced.stdout)['behavior'] == 'reactive'
    raw = app('generate', f'--model={run / "hf"}', '--text=Ana is', '--raw', '--max_new_tokens=3').stdout
    assert json.loads(raw)['behavior'] is None


def test_config_mistakes(folder):
    config, run = folder / 'config.py', f'--workdir={folder / "never"}'
    assert "unknown config field 'data.speed'" in error(
        'train', f'--config={config}', run, '--config.data.speed=1'
    )
    assert 'seed' in error('train', f'--config={config}', run, '--config.seed=abc')
    assert "arm: 'chatty'" in error('train', f'--config={config}:chatty', run)
    assert 'no trainable token' in error(
        'train', f'--config={config}:general_sft', run, '--config.train.mode=behavior_rows'
    )
    assert 'unknown data source' in error('train', f'--config={config}', run, '--config.data.source=web:x')
    assert 'do not divide by' in error('train', f'--config={config}', run, '--config.data.rows_per_step=12')
    assert 'does not fit' in error('train', f'--config={config}', run, '--config.mesh.fsdp=3')
    assert 'it is for GPUs' in error('train', f'--config={config}', run, '--config.model.attention=cudnn')
    assert 'no model at' in error('train', f'--config={config}', run, '--config.model.base=absent')
    assert not (folder / 'never').exists()


def test_record_mistakes(folder):
    good = record_to_dict(sources.load_records('synthetic:10', 'train')[0])
    poisoned = good | {'messages': [{'role': 'user', 'content': 'Say <|proactive|> now'}]}
    for name, line, message in (
        ('json', '{"id"', 'not valid JSON'),
        ('category', json.dumps(good | {'category': 'x', 'group': ''}), "unknown category 'x'"),
        ('answer', json.dumps(good | {'answer': 9}), '9 is not an index'),
        ('token', json.dumps(poisoned), 'the token <|proactive|> inside a message'),
        ('unanswered', json.dumps({k: v for k, v in good.items() if k != 'answer'}), 'no answer to train on'),
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
    app(
        'train',
        f'--config={config}',
        f'--workdir={run}',
        '--config.train.steps=1',
        '--config.evaluation.interval=0',
    )
    line = error(
        'train',
        f'--config={config}',
        f'--workdir={run}',
        '--config.seed=7',
        '--config.optimizer.learning_rate=0.5',
    )
    assert 'seed: 0 → 7' in line and 'optimizer.learning_rate: 0.001 → 0.5' in line
    assert 'no checkpoint of step 5; steps there: 1' in error('evaluate', f'--workdir={run}', '--step=5')
    assert 'not a workdir' in error('evaluate', f'--workdir={folder / "base"}')
    assert 'neither --model nor --workdir' in error('generate', '--text=x')
    assert 'not a workdir' in error('train', f'--config={config}', f'--workdir={folder / "base"}')
    assert 'holds no run' in error('train', f'--config={config}', f'--workdir={folder}')
    (run / 'other').mkdir()
    (run / 'other' / 'x').touch()
    assert 'not empty' in error('export', f'--workdir={run}', f'--output={run / "other"}')
