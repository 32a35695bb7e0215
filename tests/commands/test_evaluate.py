"""Tests of `evaluate`: where it writes, the settings in metrics.json, and the errors."""

import dataclasses
import json
import subprocess
import sys

import pytest

from bsft_jax import files
from bsft_jax.behaviors import DEFAULT_BEHAVIORS, Behavior
from bsft_jax.commands.eval_folder import evaluation_name
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.hub.pretrained import read_pretrained
from bsft_jax.inference.open_model import with_behaviors
from bsft_jax.records.record import Message, Record, write_jsonl
from tests import run as runs
from tests.conftest import ROOT
from tests.tiny import random_model


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return str(random_model(tmp_path_factory.mktemp('base')))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'tasks.jsonl'
    records = sources.load_records('synthetic:40', 'test')[:12]
    records = [
        dataclasses.replace(r, id='', split='', hard=i % 3 == 0) for i, r in enumerate(records)
    ]
    records[1] = dataclasses.replace(records[1], answer=None)
    write_jsonl(path, records)
    return f'jsonl:{path}'


def test_metrics_hold_the_settings_and_old_ones_go_before_new_predictions(
    model, data, tmp_path, monkeypatch, capsys
):
    metrics = runs.evaluate(workdir=str(tmp_path), model=model, data=data, limit=3, subset='hard')
    settings = {
        'split': 'test',
        'subset': 'hard',
        'limit': 3,
        'data': data,
        'model': model,
        'step': None,
        'answer_format': 'letter',
        'examples': '',
        'chat_template': '',
        'tokenizer': '',
    }
    assert {**metrics, **settings} == metrics
    (folder,) = (tmp_path / 'eval').iterdir()
    assert folder.name.startswith('test-auto-hard-limit3-') and 'tasks.jsonl' in folder.name
    assert json.loads((folder / 'metrics.json').read_text()) == metrics
    assert '1 of 12 records have no options to score, or no answer' in capsys.readouterr().err
    rows = [json.loads(line) for line in (folder / 'predictions.jsonl').read_text().splitlines()]
    assert [row['id'] for row in rows] == ['#0', '#3', '#6']

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, 'write_json', interrupt)
    with pytest.raises(KeyboardInterrupt):
        runs.evaluate(workdir=str(tmp_path), model=model, data=data, limit=3, subset='hard')
    assert [path.name for path in folder.iterdir()] == ['predictions.jsonl']


def test_the_default_name_holds_every_setting_that_is_not_the_default():
    defaults = {'subset': 'all', 'data': 'jsonl:data', 'answer_format': 'text'}

    def name(parts=('test', 'auto'), **asked):
        settings = {**defaults, 'limit': 0, 'step': None, 'model': '', **asked}
        return evaluation_name(parts, settings, defaults)

    assert name() == 'test-auto'
    assert name(('test', 'forced:reactive', 'few_shot:2')) == 'test-forced-reactive-few_shot-2'
    assert name(limit=4, step=2, subset='hard') == 'test-auto-hard-limit4-step2'
    assert name(data='jsonl:other', answer_format='letter') == 'test-auto-jsonl-other-letter'
    long = [name(data=f'jsonl:{x}/a/long/folder/of/many/words/data') for x in 'ab']
    assert long[0] != long[1] and all(len(n) < 60 and 'words-data' in n for n in long)


@pytest.mark.parametrize('name', ['a/b', '..', '.', 'a\nb', '\x1b[2J'])
def test_a_name_is_one_folder(name, tmp_path):
    with pytest.raises(UserError, match='not the name of one folder'):
        runs.evaluate(workdir=str(tmp_path), model='tiny-clinical', data='synthetic:10', name=name)


def test_a_name_that_no_disk_takes_is_refused_before_the_model_is_read(tmp_path):
    options = dict(workdir=str(tmp_path), model='absent', data='synthetic:10')
    with pytest.raises(UserError, match='--name: a name of 300 bytes is too long'):
        runs.evaluate(**options, name='a' * 300)


def test_a_subset_without_a_record_is_refused(model, data, tmp_path):
    path = tmp_path / 'easy.jsonl'
    easy = [dataclasses.replace(r, hard=False) for r in sources.load_records(data, 'test')]
    write_jsonl(path, easy)
    with pytest.raises(UserError, match='--subset=hard: no record of .* is in it'):
        runs.evaluate(workdir=str(tmp_path), model=model, data=f'jsonl:{path}', subset='hard')


@pytest.mark.parametrize('policy', ['perhaps', 'forced:', 'forced:proactive', 'oracle'])
def test_a_policy_that_the_model_does_not_have_leaves_no_folder(model, data, tmp_path, policy):
    with pytest.raises(UserError, match='--policy'):
        runs.evaluate(workdir=str(tmp_path), model=model, data=data, policy=policy)
    assert not list(tmp_path.iterdir())


def test_the_share_of_long_records_is_between_0_and_1():
    for share in ('-1', '1.5'):
        flags = ['--workdir=x', f'--max_dropped_fraction={share}']
        command = [sys.executable, '-m', 'bsft_jax.evaluate', *flags]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2 and 'flag --max_dropped_fraction' in done.stderr


def test_a_label_that_the_model_does_not_know_is_not_scored(model, tmp_path):
    record = sources.load_records('synthetic:40', 'test')[0]
    path, labels = tmp_path / 'data.jsonl', ('a',) * len(record.options)
    write_jsonl(path, [dataclasses.replace(record, behavior='', option_behaviors=labels)])
    with pytest.raises(UserError, match="unknown behavior 'a'; known: proactive, reactive"):
        runs.evaluate(workdir=str(tmp_path / 'run'), model=model, data=f'jsonl:{path}')
    assert not (tmp_path / 'run').exists()


LEVELS = {'silent': 0.0, 'brief': 0.25, 'balanced': 0.5, 'active': 0.75, 'leading': 1.0}
FIVE = tuple(Behavior(name, level, name) for name, level in LEVELS.items())


def test_a_base_is_scored_on_a_benchmark_with_behaviors_of_its_own(model, tmp_path):
    names = tuple(LEVELS)
    records = [
        Record(
            (Message('user', f'Note {i}.'),),
            id=f'r{i}',
            options=tuple(f'{name} {i}' for name in names),
            option_behaviors=names,
            behavior=names[i % 5],
            answer=i % 5,
        )
        for i in range(10)
    ]
    write_jsonl(tmp_path / 'five.jsonl', records)
    asked = {'workdir': str(tmp_path / 'run'), 'data': f'jsonl:{tmp_path}/five.jsonl'}
    with pytest.raises(UserError, match=r"five\.jsonl:1\): unknown behavior 'silent'; .*--config"):
        runs.evaluate(model=model, **asked)
    metrics = runs.evaluate(model=model, behaviors=FIVE, **asked)
    assert metrics['behaviors'] == LEVELS
    (folder,) = (tmp_path / 'run/eval').iterdir()
    rows = files.read_lines(folder / 'predictions.jsonl')
    pairs = [(row['prediction'], row['answer']) for row in rows]
    rates = metrics['intervention']
    assert rates['over_intervention_rate'] == sum(p > a for p, a in pairs) / 8
    assert rates['missed_intervention_rate'] == sum(p < a for p, a in pairs) / 8
    with pytest.raises(UserError, match='--config: belongs to --model'):
        runs.evaluate(behaviors=FIVE, **asked)


def test_a_model_with_behaviors_of_its_own_keeps_them(model):
    own = read_pretrained(model, behaviors=DEFAULT_BEHAVIORS)
    assert with_behaviors(own, DEFAULT_BEHAVIORS) is own
    with pytest.raises(UserError, match='was trained with other behaviors: reactive, proactive'):
        with_behaviors(own, FIVE)
    base = with_behaviors(read_pretrained(model), FIVE)
    assert base.behaviors.names == tuple(LEVELS) and not base.behaviors.prefixes


@pytest.mark.parametrize('app', ['evaluate', 'generate'])
def test_a_config_beside_a_model_gives_behaviors_alone(app, tmp_path):
    flags = ['--config=configs/quickstart.py', '--config.seed=3', f'--workdir={tmp_path}']
    command = [sys.executable, '-m', f'bsft_jax.{app}', '--model=tiny-clinical', *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == 'error: --config.seed: is not read here; --config gives behaviors alone\n'
