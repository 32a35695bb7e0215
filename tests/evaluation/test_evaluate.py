"""`runs.evaluate`: where it writes, what metrics.json says of it, and what it refuses."""

import dataclasses
import json
import subprocess
import sys

import pytest

from bsft_jax import runs
from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import write_jsonl
from bsft_jax.errors import UserError
from tests.conftest import ROOT
from tests.tiny import random_model


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return str(random_model(tmp_path_factory.mktemp('base')))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'tasks.jsonl'
    records = sources.load_records('synthetic:40', 'test')[:12]
    records = [dataclasses.replace(r, id='', split='', hard=i % 3 == 0) for i, r in enumerate(records)]
    records[1] = dataclasses.replace(records[1], answer=None)
    write_jsonl(path, records)
    return f'jsonl:{path}'


def test_it_says_what_was_evaluated_and_old_metrics_go_before_new_predictions(
    model, data, tmp_path, monkeypatch, capsys
):
    metrics = runs.evaluate(workdir=str(tmp_path), model=model, data=data, limit=3, subset='hard')
    said = {'split': 'test', 'subset': 'hard', 'limit': 3, 'data': data, 'model': model, 'step': None}
    assert {**metrics, **said, 'answer_format': 'letter', 'examples': '', 'chat_template': ''} == metrics
    (folder,) = (tmp_path / 'eval').iterdir()
    assert folder.name.startswith('test-auto-hard-limit3-') and 'tasks.jsonl' in folder.name
    assert json.loads((folder / 'metrics.json').read_text()) == metrics
    assert '1 of 12 records have no options to score, or no answer' in capsys.readouterr().err
    rows = [json.loads(line) for line in (folder / 'predictions.jsonl').read_text().splitlines()]
    assert [row['id'] for row in rows] == ['#0', '#3', '#6']

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.files, 'write_json', killed)
    with pytest.raises(KeyboardInterrupt):
        runs.evaluate(workdir=str(tmp_path), model=model, data=data, limit=3, subset='hard')
    assert [path.name for path in folder.iterdir()] == ['predictions.jsonl']


def test_the_default_name_holds_what_is_not_as_usual():
    usual = {'subset': 'all', 'data': 'jsonl:data', 'answer_format': 'text'}

    def name(parts=('test', 'auto'), **asked):
        return runs._evaluation_name(parts, {**usual, 'limit': 0, 'step': None, 'model': '', **asked}, usual)

    assert name() == 'test-auto'
    assert name(('test', 'forced:reactive', 'few_shot:2')) == 'test-forced-reactive-few_shot-2'
    assert name(limit=4, step=2, subset='hard') == 'test-auto-hard-limit4-step2'
    assert name(data='jsonl:other', answer_format='letter') == 'test-auto-jsonl-other-letter'
    long = [name(data=f'jsonl:{x}/a/long/folder/of/many/words/data') for x in 'ab']
    assert long[0] != long[1] and all(len(n) < 60 and 'words-data' in n for n in long)


@pytest.mark.parametrize('name', ['a/b', '..', '.'])
def test_a_name_is_one_folder(name, tmp_path):
    with pytest.raises(UserError, match='not the name of one folder'):
        runs.evaluate(workdir=str(tmp_path), model='tiny-clinical', data='synthetic:10', name=name)


def test_a_subset_without_a_record(model, data, tmp_path):
    path = tmp_path / 'easy.jsonl'
    easy = [dataclasses.replace(r, hard=False) for r in sources.load_records(data, 'test')]
    write_jsonl(path, easy)
    with pytest.raises(UserError, match='--subset=hard: no record of .* is hard'):
        runs.evaluate(workdir=str(tmp_path), model=model, data=f'jsonl:{path}', subset='hard')


def test_the_share_of_long_records_is_a_share():
    for share in ('-1', '1.5'):
        command = [sys.executable, '-m', 'bsft_jax.evaluate', '--workdir=x', f'--drop_long={share}']
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2 and 'flag --drop_long' in done.stderr
