"""Tests the comparison of two evaluations and its command."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics, statistics
from bsft_jax.studies.compare import CompareOptions, compare_evaluations
from tests.conftest import ROOT
from tests.studies.test_equal_over import LEVELS, predictions


def store(folder, rows, policy='auto', prompt='plain', levels=LEVELS):
    """Writes an evaluation as `evaluate` does and returns its folder."""
    folder.mkdir(parents=True)
    found = metrics.metrics_from_predictions(rows, policy=policy, prompt=prompt, levels=levels)
    files.write_lines(folder / 'predictions.jsonl', rows)
    files.write_json(folder / 'metrics.json', {**found, 'split': 'test', 'behaviors': levels})
    return str(folder)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    sides = [predictions(rng, skill, tokens=skill > 1) for skill in (2.0, 0.5)]
    for side, skill in zip(sides, (0.7, 0.5), strict=True):
        for row in side:
            right = rng.random() < skill
            row |= {'prediction': row['answer'] if right else (row['answer'] + 1) % 4}
            row['digest'] = f'd{row["id"]}'
    return sides


@pytest.fixture
def folders(rows, tmp_path):
    return [
        store(tmp_path / 'runs' / side / 'eval' / 'test-auto', rows[i])
        for i, side in enumerate('ab')
    ]


def test_differences_are_those_of_the_metrics(rows, folders, tmp_path):
    found = compare_evaluations(CompareOptions(*folders, str(tmp_path / 'out')))
    assert files.read_json(tmp_path / 'out' / 'compare.json') == json.loads(json.dumps(found))
    a, b = (files.read_json(tmp_path / f'runs/{s}/eval/test-auto/metrics.json') for s in 'ab')
    assert list(found['groups']) == ['proactive', 'overall']
    for group, entry in found['groups'].items():
        values = [(m['groups'] | {'overall': m['overall']})[group]['macro_f1'] for m in (a, b)]
        assert entry['difference'] == pytest.approx(values[0] - values[1])
        low, high = entry['interval']
        assert 0 < low < entry['difference'] < high and entry['p'] < 0.05
    ps = [entry['p'] for entry in found['groups'].values()]
    adjusted = [entry['p_holm'] for entry in found['groups'].values()]
    assert adjusted == statistics.holm_adjust(ps)
    assert (found['n'], found['cases'], found['left_out']) == (240, 40, 0)
    right = [[row['prediction'] == row['answer'] for row in side] for side in rows]
    only_a = sum(x and not y for x, y in zip(*right, strict=True))
    only_b = sum(y and not x for x, y in zip(*right, strict=True))
    assert found['mcnemar'] == {
        'only_a': only_a,
        'only_b': only_b,
        'p': statistics.mcnemar_p(only_a, only_b),
    }
    (missed,) = found['missed_at_equal_over']['comparisons']
    of_side = [m['stepping_in']['missed_at_5_percent'] for m in (a, b)]
    assert missed['difference'] == pytest.approx(of_side[0] - of_side[1])
    assert 0 < found['smallest_effect']['difference'] < 0.3
    assert found['evaluations']['a'] == {
        'folder': folders[0],
        'policy': 'auto',
        'prompt': 'plain',
        'macro_f1': a['overall']['macro_f1'],
    }


def test_the_other_order_changes_the_sign(folders):
    there, back = (compare_evaluations(CompareOptions(*x)) for x in (folders, folders[::-1]))
    for group, entry in there['groups'].items():
        other = back['groups'][group]
        assert other['difference'] == pytest.approx(-entry['difference'])
        assert other['interval'] == pytest.approx([-x for x in entry['interval'][::-1]])
        assert other['p'] == pytest.approx(entry['p'])
    assert back['mcnemar']['only_a'] == there['mcnemar']['only_b']


def test_two_policies_of_one_model_have_one_dial(rows, folders, tmp_path):
    other = store(tmp_path / 'runs/a/eval/test-none', rows[0], 'none')
    found = compare_evaluations(CompareOptions(folders[0], other))
    assert found['groups']['overall']['reason'] == 'the arms answer alike'
    assert found['groups']['overall']['interval'] is None
    assert found['mcnemar'] == {'only_a': 0, 'only_b': 0, 'p': 1.0}
    assert found['missed_at_equal_over']['comparisons'][0]['difference'] == 0.0


def test_records_that_differ_are_refused(rows, folders, tmp_path):
    def refused(message, change, levels=LEVELS, name='x'):
        changed = [change(dict(row)) for row in rows[1]]
        other = store(tmp_path / name / 'eval' / 'e', changed, levels=levels)
        with pytest.raises(UserError, match=message):
            compare_evaluations(CompareOptions(folders[0], other))

    first = rows[1][0]['id']

    def changed(**fields):
        return lambda row: row | fields if row['id'] == first else row

    records = 'other records than in the other results; evaluate all on the same data'
    refused(records, changed(digest='other'), name='digest')
    refused(records, changed(answer=1), name='answer')
    refused('no result with an answer', lambda row: row | {'id': f'other {row["id"]}'}, name='ids')
    levels = {'reactive': 0.0, 'proactive': 0.9}
    refused('the models have other behaviors', changed(), levels, name='levels')
    with pytest.raises(UserError, match='--b=.*: is the folder of --a'):
        compare_evaluations(CompareOptions(folders[0], folders[0] + '/'))
    with pytest.raises(UserError, match='--b=absent: is not the folder of an evaluation'):
        compare_evaluations(CompareOptions(folders[0], 'absent'))
    # Older predictions have no digest; ids and answers tell records apart.
    old = [{k: v for k, v in row.items() if k != 'digest'} for row in rows[1]]
    other = store(tmp_path / 'old/eval/e', old)
    assert compare_evaluations(CompareOptions(folders[0], other))['n'] == 240


def test_the_command(folders, tmp_path):
    command = [sys.executable, '-m', 'bsft_jax.compare']
    flags = [f'--a={folders[0]}', f'--b={folders[1]}']
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = compare_evaluations(CompareOptions(*folders))
    entry = found['groups']['overall']
    lines = done.stdout.splitlines()
    assert lines[0] == f'a: {folders[0]} (auto, plain)'
    assert '240 records of 40 cases, 0 left out' in lines
    (overall,) = [line.split() for line in lines if line.startswith('overall')]
    low, high = entry['interval']
    assert overall[1:6] == ['40', f'{entry["difference"]:+.3f}', f'{low:.3f}', 'to', f'{high:.3f}']
    assert any(line.startswith('missed at 5 % over') for line in lines)
    assert f'Right in a alone {found["mcnemar"]["only_a"]}, in b alone' in done.stdout
    done = subprocess.run([*command, flags[0]], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, 'error: flag --b is missing\n')
    flags.append('--output=/dev/null')
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('error: --output=/dev/null: ')
