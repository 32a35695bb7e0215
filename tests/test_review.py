"""Tests the command `review`: its words and flags, from the evaluations to the results."""

import json
import subprocess
import sys

import pytest

from bsft_jax import files
from tests.conftest import ROOT
from tests.review_kit import evaluations, raters

SIZES = ('--items=30', '--overlap=10', '--repeats=2', '--checks=1', '--seed=3', '--raters=2')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Returns a folder with three evaluations below `runs`."""
    folder = tmp_path_factory.mktemp('review')
    evaluations.write_three(folder)
    return folder


def start(folder, *arguments):
    code = (
        'import sys, runpy; sys.argv[1:] = ' + repr(list(arguments)) + '\n'
        'try:\n'
        "    runpy.run_module('bsft_jax.review', run_name='__main__')\n"
        'finally:\n'
        "    assert not {'jax', 'flax', 'transformers'} & set(sys.modules)\n"
    )
    command, env = [sys.executable, '-c', code], {'PYTHONPATH': str(ROOT), 'PATH': ''}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_from_evaluations_to_results_without_a_device(folder):
    evals = [f'runs/secret-{name}/eval/test-auto' for name in ('qwen', 'llama', 'gemma')]
    made = start(folder, 'make', '--evals', *evals, '--output=out/review.html', *SIZES)
    assert (made.returncode, made.stderr) == (0, ''), made.stderr
    key = files.read_json(folder / 'out/KEY.json')
    assert [entry['folder'] for entry in key['systems'].values()] == evals
    sizes = ('items', 'overlap', 'repeats', 'checks', 'seed', 'raters')
    assert [key[name] for name in sizes] == [30, 10, 2, 1, 3, 2]
    assert key['source'] == evaluations.SOURCE
    for line in (
        f'study {key["study"]}: 30 comparisons of 4 cases',
        'A and B: the same words in 17',
    ):
        assert line in made.stdout
    paths = raters.write_files(folder, key, raters.planted(0.7))
    done = start(folder, 'analyse', 'out/KEY.json', *paths, '--output=results')
    assert done.returncode == 0 and done.stderr == '', done.stderr
    assert done.stdout.count('Raters preferred') == 3
    assert 'warning: 2 raters: with fewer than 3' in done.stdout
    found = json.loads((folder / 'results/review.json').read_text())
    assert found['study'] == key['study'] and (folder / 'results/review.html').is_file()


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        ([], 'review: says neither make nor analyse'),
        (['analyze'], "review: unknown word 'analyze'"),
        (['make'], '--evals: names 0 evaluations; name 2 to 26'),
        (['make', '--evals=x', 'y'], '--evals=x: is not the folder of an evaluation'),
        (
            ['make', '--evals=runs/secret-qwen/eval/test-auto', 'gs://y'],
            '--evals: gs:// is not a local path',
        ),
        (
            [
                'make',
                '--evals=runs/secret-qwen/eval/test-auto',
                'runs/secret-llama/eval/test-auto',
                '--data=synthetic:40:7',
            ],
            '--evals=runs/secret-qwen/eval/test-auto: record ',
        ),
        (['analyse'], 'review analyse: no key'),
        (['analyse', 'no.json'], 'no.json: no such file'),
        (['analyse', 'x', '--items=3'], '--items: is a flag of review make'),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, arguments, line):
    done = start(folder, *arguments, '--output=x/review.html')
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f'error: {line}') and done.stderr.count('\n') == 1
    assert not (folder / 'x').exists()


def test_other_commands_take_no_words(folder):
    command = [sys.executable, '-m', 'bsft_jax.table', '--runs=.', 'word']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unexpected argument 'word'")
