"""Tests of trackers: what they get, what they never get, and that none of them stops a run."""

import functools
import importlib.util
import json
import os
import pathlib
import socket
import sqlite3
import subprocess
import sys
import threading

import pytest

from bsft_jax.config import RunConfig, TrackingConfig
from bsft_jax.errors import UserError
from bsft_jax.training import trackers
from bsft_jax.training.telemetry import MetricsFile
from tests.conftest import ROOT
from tests.run import train
from tests.training.small_run import metric_lines, small_run

# Stands for the package: writes every call as a line of JSON.
FAKE_WANDB = """
import json, os
def _write(**call):
    with open(os.environ['FAKE_WANDB_CALLS'], 'a') as file:
        file.write(json.dumps(call, default=vars) + chr(10))
class Settings:
    def __init__(self, **settings):
        vars(self).update(settings)
class Run:
    def log(self, values, step):
        _write(step=step, values=values)
    def finish(self, exit_code):
        _write(exit_code=exit_code)
def login(**options):
    if os.environ.get('FAKE_WANDB_ACCOUNT') == 'none':
        raise RuntimeError('No API key configured.')
    _write(login=options)
def init(**options):
    _write(init=options)
    return Run()
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Puts the fake package in place of Weights & Biases; returns a call that reads its calls."""
    (tmp_path / 'packages').mkdir()
    (tmp_path / 'packages' / 'wandb.py').write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(tmp_path / 'packages')
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    monkeypatch.setenv('FAKE_WANDB_CALLS', str(tmp_path / 'calls.jsonl'))
    monkeypatch.delenv('WANDB_PROJECT', raising=False)
    # `check` sets it, which must not outlive the test.
    monkeypatch.setenv('WANDB_ERROR_REPORTING', 'false')

    def read(kind):
        lines = (tmp_path / 'calls.jsonl').read_text().splitlines()
        return [call for call in map(json.loads, lines) if kind in call]

    yield read
    sys.modules.pop('wandb', None)


def tracked(**tracking):
    return RunConfig(tracking=TrackingConfig('wandb', **tracking))


def write(workdir, start, steps, config=None, value=0.5):
    """Writes lines as a run does that continues at `start`, and one of an evaluation."""
    workdir.mkdir(parents=True, exist_ok=True)
    begin = functools.partial(trackers.start, config, workdir) if config else lambda *_: []
    file = MetricsFile(workdir / 'metrics.jsonl', start, start_trackers=begin)
    for step in steps:
        file.write(step, {'loss': value, 'tokens': 100.0 * step})
    file.write(steps[-1], {'validation/macro_f1': value})
    file.close()


def lines_of(calls):
    return [(call['step'], call['values']) for call in calls('step')]


def test_a_run_sends_its_lines_and_its_config_and_says_how_it_ended(base, tmp_path, calls):
    config = small_run(base)
    config.train.steps, config.tracking = 3, TrackingConfig('wandb', run_name='first')
    train(config, tmp_path / 'run')
    expected = metric_lines(tmp_path / 'run')
    assert lines_of(calls) == [(line.pop('step'), line) for line in expected] != []
    assert [call['exit_code'] for call in calls('exit_code')] == [0]
    (call,) = calls('init')
    id = json.loads((tmp_path / 'run' / 'run.json').read_text())['trackers']['wandb']
    sent = config.to_dict()
    sent['model']['base'] = pathlib.Path(base).name
    assert call['init'].pop('settings')['x_disable_meta'] is True
    assert call['init'] == {
        'project': 'bsft_jax',
        'name': 'first',
        'id': id,
        'config': sent,
        'dir': str(tmp_path / 'run'),
        'resume': 'allow',
    }


def test_a_restart_continues_the_run_and_sends_no_line_twice(tmp_path, calls, monkeypatch):
    monkeypatch.setenv('WANDB_PROJECT', 'notes')
    write(tmp_path / 'run', 0, [1, 2, 3], tracked())
    # The run was killed after step 3 and continues from a checkpoint of step 1.
    write(tmp_path / 'run', 1, [2, 3, 4], tracked())
    first, second = calls('init')
    assert first == second and (first['init']['name'], first['init']['project']) == ('run', 'notes')
    assert [step for step, values in lines_of(calls) if 'loss' in values] == [1, 2, 3, 4]
    assert [step for step, values in lines_of(calls) if 'loss' not in values] == [3, 4]
    write(tmp_path / 'other', 0, [1], tracked(project='mine'))
    other = calls('init')[2]['init']
    assert other['id'] != first['init']['id'] and other['project'] == 'mine'


def test_a_tracker_that_is_new_to_a_run_gets_its_earlier_lines(tmp_path, calls):
    write(tmp_path, 0, [1, 2, 3])
    write(tmp_path, 2, [3, 4], tracked())
    assert [step for step, values in lines_of(calls) if 'loss' in values] == [1, 2, 3, 4]
    assert lines_of(calls)[0] == (1, {'loss': 0.5, 'tokens': 100.0})


class Failing:
    """Stands for a tracker that fails in one of its calls, or never returns from its last one."""

    def __init__(self, where, run):
        self._where = where
        self._fail('init')

    def _fail(self, place):
        if place == self._where:
            raise ConnectionError('no route\nto host')

    def log(self, step, values):
        self._fail('log')

    def close(self, *, failed):
        self._fail('close')
        if self._where == 'hang':
            threading.Event().wait()


@pytest.mark.parametrize('where', ['init', 'log', 'close', 'hang'])
def test_a_tracker_that_fails_leaves_one_line_and_the_run(tmp_path, monkeypatch, capsys, where):
    monkeypatch.setitem(trackers._TRACKERS, 'wandb', functools.partial(Failing, where))
    monkeypatch.setattr('bsft_jax.training.telemetry.LAST_SECONDS', 0.2 if where == 'hang' else 60)
    write(tmp_path, 0, [1, 2, 3], tracked())
    assert [line['step'] for line in metric_lines(tmp_path)] == [1, 2, 3, 3]
    problem = 'ConnectionError: no route to host'
    if where == 'hang':
        problem = 'does not take the last metrics within 0.2 seconds'
    warning = f'warning: wandb gets no more metrics ({problem}); metrics.jsonl has them all\n'
    assert capsys.readouterr().err == warning


def test_a_run_that_ends_by_an_error_is_one_that_failed(tmp_path, calls):
    reporter = trackers.start(tracked(), tmp_path)[0]
    reporter.close(failed=True)
    assert calls('exit_code') == [{'exit_code': 1}]


def test_only_the_first_process_starts_trackers(tmp_path):
    def start(*_):
        pytest.fail('started')

    file = MetricsFile(tmp_path / 'metrics.jsonl', 0, writes=False, start_trackers=start)
    file.write(1, {'loss': 1.0})
    file.close(failed=True)
    assert not list(tmp_path.iterdir())


def test_an_absent_package_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    for name in ('wandb', 'trackio'):
        config = small_run('absent')
        config.tracking = TrackingConfig(name)
        match = (
            rf"report_to={name}: the package {name} is not installed; pip install '\.\[{name}\]'"
        )
        with pytest.raises(UserError, match=match):
            train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / 'trackio' / 'run-1').mkdir(parents=True)
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'trackio', raising=False)
    assert importlib.util.find_spec('trackio') is not None
    with pytest.raises(UserError, match='not installed'):
        trackers.check_packages(RunConfig(tracking=TrackingConfig('trackio')))


def test_a_tracker_without_an_account_is_refused(calls, monkeypatch):
    trackers.check(tracked())
    # A server that is down does not matter yet.
    assert calls('login') == [{'login': {'verify': False}}]
    monkeypatch.setenv('FAKE_WANDB_ACCOUNT', 'none')
    with pytest.raises(UserError, match=r'no account .*No API key configured\); run `wandb login`'):
        trackers.check(tracked())


@pytest.mark.parametrize(
    ('text', 'sent'),
    [
        ('/home/ada/models/base', 'base'),
        ('~/base.gguf', 'base.gguf'),
        ('~', '~'),
        ('../ada/base/', 'base'),
        ('Qwen/Qwen2.5-0.5B', 'Qwen/Qwen2.5-0.5B'),
        ('jsonl:/home/ada lovelace/notes', 'jsonl:notes'),
        ('jsonl:data/notes', 'jsonl:data/notes'),
        ('0.7*hf:/srv/chats + 0.3*jsonl:~/notes', '0.7*hf:chats + 0.3*jsonl:notes'),
        ('1=2,2=1/0.3:1=1,2=1', '1=2,2=1/0.3:1=1,2=1'),
        ('attention/[qv]', 'attention/[qv]'),
        (0.5, 0.5),
    ],
)
def test_no_folder_of_the_machine_is_sent(text, sent):
    assert trackers.without_folders({'a': [text, {'b': text}]}) == {'a': [sent, {'b': sent}]}


CODE = """
import functools, pathlib, sys
from bsft_jax.config import RunConfig, TrackingConfig
from bsft_jax.training import trackers
from bsft_jax.training.telemetry import MetricsFile
config, workdir = RunConfig(tracking=TrackingConfig(sys.argv[2])), pathlib.Path(sys.argv[1])
config.data.source = f'jsonl:{workdir}/notes'
trackers.check(config)
begin = functools.partial(trackers.start, config, workdir)
for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
    file = MetricsFile(workdir / 'metrics.jsonl', start, start_trackers=begin)
    for step in steps:
        file.write(step, {'loss': step / 8})
    file.close()
"""


def run_real(name, workdir, **environment):
    """Writes four steps in two starts with the package itself; skips where it is absent."""
    pytest.importorskip(name)
    workdir.mkdir()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith('WANDB_')}
    done = subprocess.run(
        [sys.executable, '-c', CODE, str(workdir), name],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, **environment},
    )
    assert (done.returncode, done.stdout) == (0, ''), done.stderr
    assert 'gets no more metrics' not in done.stderr


def test_weights_and_biases_itself_keeps_metrics_and_nothing_of_the_machine(tmp_path):
    run_real('wandb', tmp_path / 'secret-run', WANDB_MODE='offline')
    folder = tmp_path / 'secret-run' / 'wandb'
    id = json.loads((tmp_path / 'secret-run' / 'run.json').read_text())['trackers']['wandb']
    paths = sorted(folder.glob(f'offline-run-*/run-{id}.wandb'))
    content = [path.read_bytes() for path in paths]
    # The second start continues the first.
    assert [b'0.375' in part for part in content] == [True, False]
    assert [b'validation' in part or b'loss' in part for part in content] == [True, True]
    # A short name of the host may stand there by chance.
    hosts = [host for host in (socket.gethostname(),) if len(host) > 6]
    for word in (*hosts, str(tmp_path), str(ROOT), 'pytest', 'numpy'):
        assert not any(word.encode() in part for part in content), word
    assert b'jsonl:notes' in content[0]
    assert not list(folder.glob('**/requirements.txt')) and not list(folder.glob('**/*metadata*'))


def test_trackio_itself_continues_a_run(tmp_path):
    run_real('trackio', tmp_path / 'run', TRACKIO_DIR=str(tmp_path / 'trackio'))
    (path,) = (tmp_path / 'trackio').glob('*.db')
    with sqlite3.connect(path) as database:
        rows = database.execute('select run_id, run_name, step, metrics from metrics').fetchall()
    assert [row[2] for row in rows] == [1, 2, 3, 4] and len({row[:2] for row in rows}) == 1
    assert [json.loads(row[3]) for row in rows] == [{'loss': step / 8} for step in (1, 2, 3, 4)]
