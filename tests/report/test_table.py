"""Tests the table of evaluations and its command."""

import json
import signal
import subprocess
import sys

import pytest

from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics
from bsft_jax.report import table


def write(folder, name, tokens, levels=(None,)):
    rows = [
        {
            'answer': 0,
            'prediction': n % 2,
            'category': category,
            'case_id': str(n),
            'difficulty': levels[n % len(levels)],
            'behavior': behavior,
            'option_behaviors': ['reactive', 'proactive'],
            'behavior_logprobs': {'reactive': -1.0, 'proactive': -2.0} if tokens else None,
        }
        for category, behavior in (
            ('temporal_ordering', 'reactive'),
            ('omission_detection', 'proactive'),
        )
        for n in range(10)
    ]
    path = folder / 'eval' / name / 'metrics.json'
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps(metrics.metrics_from_predictions(rows, policy='auto', prompt='plain'))
    )


def test_every_evaluation_has_an_aligned_line(tmp_path):
    write(tmp_path / 'behavior_sft', 'test', tokens=True)
    write(tmp_path / 'base', 'test', tokens=False)
    lines = table.format_table(table.read_evaluations(tmp_path)).splitlines()
    header, rule, tokens, base = lines[:4]
    assert header.split()[:3] == ['run', 'policy', 'n']
    assert tokens.split()[:4] == ['behavior_sft/test', 'auto', '20', '0.333']
    assert base.split()[0] == 'base/test'
    ends = [sum(len(w) + 2 for w in rule.split()[:c]) - 2 for c in range(4, len(rule.split()) + 1)]
    for end in ends:
        assert all(
            len(line) == end or line[end : end + 1] in (' ', '') for line in (header, tokens, base)
        )
    columns = header.replace('95 %', '95%').split()
    for line, selection in ((tokens, '0.333'), (base, '-')):
        cells = dict(zip(columns, line.split(), strict=True))
        assert cells['reactive'] == cells['proactive'] == '0.333'
        assert (cells['selection'], cells['over'], cells['missed'], cells['twins']) == (
            selection,
            '0.500',
            '0.500',
            '-',
        )


def test_several_difficulty_levels_have_a_table(tmp_path):
    write(tmp_path, 'one', tokens=True, levels=(3,))
    evaluations = table.read_evaluations(tmp_path)
    assert 'difficulty' not in table.format_table(evaluations)
    write(tmp_path, 'two', tokens=True, levels=(1, 3))
    # Evaluations of earlier versions have no levels.
    write(tmp_path, 'old', tokens=True)
    path = tmp_path / 'eval' / 'old' / 'metrics.json'
    old = json.loads(path.read_text())
    del old['difficulties']
    path.write_text(json.dumps(old))
    lines = table.format_table(sorted(table.read_evaluations(tmp_path))).splitlines()
    first, second = (i for i, line in enumerate(lines) if line.startswith('run'))
    assert lines[second - 1] == '' and lines[second].split()[:4] == [
        'run',
        'records',
        'n',
        'overall',
    ]
    assert [line.split()[:5] for line in lines[second + 2 : second + 5]] == [
        ['one', 'difficulty', '3', '20', '0.333'],
        ['two', 'difficulty', '1', '10', '1.000'],
        ['two', 'difficulty', '3', '10', '0.000'],
    ]
    assert [line.split()[0] for line in lines[first + 2 : second - 1]] == ['old', 'one', 'two']


def test_one_workdir_is_enough(tmp_path):
    write(tmp_path, 'validation', tokens=True)
    assert [name for name, _ in table.read_evaluations(tmp_path)] == ['validation']


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(UserError, match='run evaluate first'):
        table.read_evaluations(tmp_path)
    write(tmp_path, 'test', tokens=True)
    (tmp_path / 'eval/test/metrics.json').write_text('{')
    with pytest.raises(UserError, match='not valid JSON'):
        table.read_evaluations(tmp_path)
    (tmp_path / 'eval/test/metrics.json').write_bytes(b'\xff')
    with pytest.raises(UserError, match='metrics.json: not valid JSON'):
        table.read_evaluations(tmp_path)
    for other in ('{}', '[]', '3'):
        (tmp_path / 'eval/test/metrics.json').write_text(other)
        with pytest.raises(UserError, match='metrics.json: not the metrics of an evaluation'):
            table.read_evaluations(tmp_path)


def test_the_command_prints_the_table(tmp_path):
    write(tmp_path, 'test', tokens=True)
    command = [sys.executable, '-m', 'bsft_jax.table']
    done = subprocess.run([*command, f'--runs={tmp_path}'], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('run ')
    assert subprocess.run(command, capture_output=True).returncode == 2


def test_a_reader_of_the_table_may_stop_early(tmp_path):
    write(tmp_path, 'test', tokens=True)
    command = [sys.executable, '-u', '-m', 'bsft_jax.table', f'--runs={tmp_path}']
    printing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    printing.stdout.close()
    assert printing.stderr.read() == '' and printing.wait() == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ('counts', 'line'),
    [
        (None, ''),
        ({'records': 0, 'ids': 0, 'cases': 0, 'texts': 0}, ''),
        # Files count from 1 each: an id alone says nothing.
        ({'records': 0, 'ids': 9, 'cases': 0, 'texts': 0}, ''),
        (
            {'records': 5, 'ids': 5, 'cases': 6, 'texts': 4},
            'warning: run/test: 5 of 20 records were trained on, 6 are of cases that were',
        ),
        (
            {'records': 0, 'ids': 0, 'cases': 2, 'texts': 0},
            'warning: run/test: 0 of 20 records were trained on, 2 are of cases that were',
        ),
    ],
)
def test_records_that_were_trained_on_are_said_below_the_table(counts, line, tmp_path):
    write(tmp_path / 'run', 'test', tokens=True)
    ((name, stored),) = table.read_evaluations(tmp_path)
    # Metrics of an older version do not have the entry.
    for metrics_of_run in (stored | {'trained_on': counts}, stored if counts is None else None):
        if metrics_of_run is not None:
            text = table.format_table([(name, metrics_of_run)])
            said = [one for one in text.splitlines() if one.startswith('warning')]
            assert said == ([line] if line else [])
