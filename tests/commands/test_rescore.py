"""Tests of `evaluate --rescore`: the numbers of a second pass, without one."""

import json
import subprocess
import sys

import pytest

import bsft_jax
from bsft_jax import files, places
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.commands.rescore import RescoreOptions, rescore
from bsft_jax.errors import UserError
from tests import run as runs
from tests.conftest import ROOT

POLICIES = ('none', 'oracle', 'forced:proactive', 'threshold:0.4', 'mixture', 'dial:100')


@pytest.fixture(scope='module')
def workdir(base, tmp_path_factory):
    """Returns a folder with the evaluations of a model with tokens under every policy."""
    folder = tmp_path_factory.mktemp('run')
    model = bsft_jax.load_model(base, behaviors=DEFAULT_BEHAVIORS)
    bsft_jax.save_model(model, folder / 'export')
    for policy in ('auto', *POLICIES):
        runs.evaluate(
            workdir=str(folder),
            model=str(folder / 'export'),
            data='synthetic:40',
            limit=60,
            policy=policy,
            name=f'test-{policy.replace(":", "-")}-x',
        )
    return folder


def contents(folder):
    return files.read_lines(folder / 'predictions.jsonl'), files.read_json(folder / 'metrics.json')


@pytest.mark.parametrize('policy', ['auto', *POLICIES])
def test_every_number_is_that_of_an_evaluation(workdir, policy):
    source = workdir / 'eval' / ('test-none-x' if policy == 'auto' else 'test-auto-x')
    folder, metrics = rescore(RescoreOptions(str(source), policy, 'again'))
    assert folder == workdir / 'eval' / 'again'
    assert (folder / 'report.html').is_file() and (source / 'report.html').is_file()
    rows, written = contents(folder)
    assert written == json.loads(json.dumps(metrics)) and written.pop('rescored') == source.name
    expected = contents(workdir / 'eval' / f'test-{policy.replace(":", "-")}-x')
    assert (rows, written) == expected
    if policy != 'auto':
        assert rows != contents(source)[0]


@pytest.mark.parametrize(
    ('source', 'policy', 'name'),
    [
        ('test-auto-x', 'dial:2', 'test-dial-2-x'),
        ('test-auto-x', 'dial:-2', 'test-dial-minus2-x'),
        ('test-auto', 'threshold:0.05', 'test-threshold-0.05'),
        ('mine', 'forced:reactive', 'mine-forced-reactive'),
        ('test-autonomous', 'none', 'test-autonomous-none'),
    ],
)
def test_the_default_name_is_that_of_the_evaluation_with_the_other_policy(
    workdir, tmp_path, source, policy, name
):
    folder = tmp_path / 'eval' / source
    folder.parent.mkdir()
    (workdir / 'eval' / 'test-auto-x').rename(folder)
    try:
        written, metrics = rescore(RescoreOptions(str(folder), policy))
        again, repeated = rescore(RescoreOptions(str(written), 'mixture', 'twice'))
    finally:
        folder.rename(workdir / 'eval' / 'test-auto-x')
    assert written == tmp_path / 'eval' / name
    assert metrics['rescored'] == repeated['rescored'] == source
    assert (again.name, repeated['policy']) == ('twice', 'mixture')


def test_the_command_needs_no_device(workdir):
    code = (
        "import sys, runpy; sys.argv[1:] = ['--rescore=eval/test-auto-x', '--policy=dial:1']\n"
        'try:\n'
        "    runpy.run_module('bsft_jax.evaluate', run_name='__main__')\n"
        'finally:\n'
        "    print([name for name in ('jax', 'flax', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=workdir,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f'written: {workdir / "eval/test-dial-1-x"}\n'
    header, _, line, *_, modules = done.stdout.splitlines()
    assert header.startswith('run') and line.startswith('test-dial-1-x  dial:1')
    assert modules == '[]'


@pytest.mark.parametrize(
    ('flag', 'line'),
    [
        ('--data=synthetic:40', '--data: does not go with --rescore'),
        ('--workdir=x', '--workdir: does not go with --rescore'),
        ('--limit=3', '--limit: does not go with --rescore'),
        ('--config=configs/quickstart.py', '--config: does not go with --rescore'),
    ],
)
def test_flags_that_nothing_reads_are_refused(flag, line):
    command = [sys.executable, '-m', 'bsft_jax.evaluate', '--rescore=x', '--policy=auto', flag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f'error: {line}')
    assert done.stderr.count('\n') == 1


def test_the_policy_is_named(workdir):
    source = f'--rescore={workdir}/eval/test-auto-x'
    command = [sys.executable, '-m', 'bsft_jax.evaluate', source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == 'error: flag --policy is missing; name the policy to evaluate\n'


def test_what_cannot_be_evaluated_again_is_told(workdir, tmp_path):
    source = workdir / 'eval' / 'test-auto-x'
    rows, metrics = contents(source)

    def refused(message, policy='dial:1', source=source, name='', error=UserError):
        with pytest.raises(error, match=message):
            rescore(RescoreOptions(str(source), policy, name))

    refused('--rescore=.*: would be replaced', 'auto', name='test-auto-x')
    refused("--name: 'a/b' is not the name of one folder", name='a/b')
    refused("unknown policy 'dial'", 'dial')
    refused('not the folder of an evaluation', source=workdir)

    folder = tmp_path / 'eval' / 'test-auto'
    folder.mkdir(parents=True)

    def store(rows, metrics):
        files.write_lines(folder / 'predictions.jsonl', rows)
        files.write_json(folder / 'metrics.json', metrics)

    for broken in ([], [1], [{**rows[0], 'option_logprobs': None}], [*rows, {'id': 'x'}]):
        store(broken, metrics)
        refused(r'predictions\.jsonl: lacks scores of branches; evaluate again', source=folder)
    for broken in ([], {**metrics, 'behaviors': {'reactive': 0.0}}, {'policy': 'auto'}):
        store(rows, broken)
        refused(r'metrics\.json: lacks settings of the evaluation', source=folder)
    store(rows, metrics)
    (folder / 'predictions.jsonl').write_text('{"id": ')
    refused(r'predictions\.jsonl: not valid JSON', source=folder)
    assert [path.name for path in folder.parent.iterdir()] == ['test-auto']

    without = [{**row, 'behavior_logprobs': None} for row in rows]
    store(
        [{**r, 'option_logprobs': {'none': r['option_logprobs']['none']}} for r in without], metrics
    )
    refused("'dial:1' needs behaviors to choose from, this model has none", source=folder)
    store([{**row, 'behavior': None} for row in rows], metrics)
    refused(f"--policy=oracle: record '{rows[0]['id']}' has no behavior", 'oracle', folder)
    store(rows, metrics)
    (folder.parent / 'x').mkdir()
    with places.exclusive(folder.parent / 'x', ''):
        refused('another process is writing there', source=folder, name='x')
