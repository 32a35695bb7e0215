"""Tests of whole runs whose state was lost, changed, never complete, or could not be saved."""

import errno
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from bsft_jax.errors import UserError
from bsft_jax.training.telemetry import MetricsFile
from tests import run as runs
from tests.conftest import ROOT
from tests.training.small_run import metric_lines, small_run
from tests.training.test_checkpoint import flip_byte
from tests.training.test_checkpoint_failures import largest_file
from tests.training.test_run_record import swap_tokens

# Trains a run that kills itself when a function is called for the first time: the arguments are
# base, workdir, module and function.
KILL = """
import importlib, os, signal, sys
from tests import run as runs
from tests.training.small_run import small_run

holder = importlib.import_module(sys.argv[3])
*names, last = sys.argv[4].split('.')
for name in names:
    holder = getattr(holder, name)
setattr(holder, last, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
runs.train(small_run(sys.argv[1]), sys.argv[2])
"""

# Trains a run with files of at most so many bytes: the arguments are base, workdir and bytes.
QUOTA = """
import resource, sys
from bsft_jax import cli
from tests import run as runs
from tests.training.small_run import small_run

base, workdir, size = sys.argv[1:4]
del sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
cli.run(lambda _: runs.train(small_run(base), workdir))
"""


def short_run(base, steps=4):
    config = small_run(base)
    config.train.steps, config.checkpoint.interval, config.checkpoint.keep = steps, 2, 3
    return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Returns a folder with a base and a run of four steps, of which 2 and 4 are saved."""
    from tests.tiny import random_model

    folder = tmp_path_factory.mktemp('trained')
    (folder / 'base').mkdir()
    random_model(folder / 'base')
    runs.train(short_run(folder / 'base'), folder / 'run')
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """Returns a copy of the run."""
    return shutil.copytree(trained / 'run', tmp_path / 'run')


@pytest.mark.parametrize('how', ['gone', 'emptied', 'set aside', 'with metrics.jsonl'])
def test_a_run_without_its_checkpoints_is_not_trained_anew(how, trained, run):
    before = (run / 'metrics.jsonl').read_bytes()
    if how == 'set aside':
        (run / 'checkpoints').rename(run / 'damaged')
    else:
        shutil.rmtree(run / 'checkpoints')
    if how == 'emptied':
        (run / 'checkpoints').mkdir()
    if how == 'with metrics.jsonl':
        (run / 'metrics.jsonl').unlink()
    with pytest.raises(UserError, match='step 4 was saved.*bring the checkpoints back'):
        runs.train(short_run(trained / 'base'), run)
    with pytest.raises(UserError, match='step 4 was saved'):
        runs.evaluate(workdir=str(run), limit=5)
    if how != 'with metrics.jsonl':
        assert (run / 'metrics.jsonl').read_bytes() == before


def test_a_run_without_its_newest_checkpoint_goes_on_before_it(trained, run, capsys):
    shutil.rmtree(run / 'checkpoints' / '4')
    runs.train(short_run(trained / 'base'), run)
    captured = capsys.readouterr()
    assert 'checkpoint 4 is gone; step 2 is used' in captured.err
    assert 'continuing at step 2' in captured.err
    curve = [(line['step'], line['loss']) for line in metric_lines(run)]
    assert curve == [(line['step'], line['loss']) for line in metric_lines(trained / 'run')]


def test_readers_say_which_step_they_use(run, tmp_path, capsys):
    flip_byte(run / 'checkpoints' / '4')
    metrics = runs.evaluate(workdir=str(run), limit=5)
    error = capsys.readouterr().err
    assert 'left where it is; step 2 is used' in error and error.rstrip().endswith(', step 2')
    assert metrics['step'] == 2
    folder = runs.export(str(run), str(tmp_path / 'model'))
    assert json.loads((folder / 'config.json').read_text())['bsft']['step'] == 2
    assert 'step 2 is used' in capsys.readouterr().err


def test_a_changed_tokenizer_is_refused_by_every_command(trained, run, tmp_path, monkeypatch):
    base = shutil.copytree(trained / 'base', tmp_path / 'base')
    config = json.loads((run / 'config.json').read_text())
    config['model']['base'] = str(base)
    (run / 'config.json').write_text(json.dumps(config))
    runs.evaluate(workdir=str(run), limit=5)
    swap_tokens(base)
    files = sorted(run.rglob('*'))
    commands = (
        lambda: runs.train(short_run(base, steps=6), run),
        lambda: runs.evaluate(workdir=str(run), limit=5, name='x'),
        lambda: runs.generate(workdir=str(run), text='hi'),
        lambda: runs.export(str(run), str(tmp_path / 'model')),
    )
    for command in commands:
        with pytest.raises(UserError, match='the tokenizer is not the one that this run was'):
            command()
    assert sorted(run.rglob('*')) == files
    # A run of an earlier version goes on as it did.
    (run / 'run.json').unlink()
    runs.evaluate(workdir=str(run), limit=5)


def test_lines_that_the_run_did_not_write_are_dropped(trained, run):
    shutil.rmtree(run / 'checkpoints' / '4')
    with (run / 'metrics.jsonl').open('ab') as file:
        file.write(b'5\n[1]\n\xff\n{"step": "x"}\n{"step": 1, "loss": []}\n')
    runs.train(short_run(trained / 'base'), run)
    assert [line['step'] for line in metric_lines(run)] == [1, 2, 3, 4]


MOMENTS = {
    'before config.json is written': ('bsft_jax.training.workdir', 'write_json'),
    'before the lock': ('bsft_jax.training.workdir', 'lock'),
    'before environment.json': ('bsft_jax.training.workdir', 'write_environment'),
    'before the first step': ('bsft_jax.data.loader', 'to_device'),
    'in the first save': ('orbax.checkpoint', 'CheckpointManager.wait_until_finished'),
}


@pytest.mark.slow
@pytest.mark.parametrize('moment', MOMENTS)
def test_a_start_that_was_killed_can_be_repeated(moment, trained, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', KILL, trained / 'base', tmp_path / 'run', *MOMENTS[moment]],
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL
    runs.train(small_run(trained / 'base'), tmp_path / 'run')
    assert [line['step'] for line in metric_lines(tmp_path / 'run')] == list(range(1, 13))


@pytest.mark.slow
@pytest.mark.parametrize('size', [40, 300, 20_000])
def test_a_quota_ends_the_command_in_one_line(size, trained, tmp_path):
    """Tests a quota that config.json, parameters.txt, or a step exceeds."""
    process = [sys.executable, '-c', QUOTA, trained / 'base', tmp_path / 'run', str(size)]
    done = subprocess.run(process, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr and 'Exception' not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith('error: ') and os.strerror(errno.EFBIG) in last and 'make room' in last
    if size == 20_000:
        assert 'step 4 could not be saved' in last
    assert not list(tmp_path.rglob('*.partial-*')) + list(tmp_path.rglob('*tmp*'))
    runs.train(small_run(trained / 'base'), tmp_path / 'run')


def test_a_disk_that_fills_up_between_steps_ends_the_run(trained, tmp_path, monkeypatch):
    write = MetricsFile.write

    def full(self, step, values):
        if step == 3:
            self._file.close()
            self._file = FullFile()
        write(self, step, values)

    monkeypatch.setattr(MetricsFile, 'write', full)
    with pytest.raises(UserError, match=r'metrics\.jsonl: cannot be written \(No space left'):
        runs.train(short_run(trained / 'base'), tmp_path / 'run')
    monkeypatch.undo()
    runs.train(short_run(trained / 'base'), tmp_path / 'run')
    assert [line['step'] for line in metric_lines(tmp_path / 'run')] == [1, 2, 3, 4]


class FullFile:
    """Takes nothing, as a file on a full disk."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self):
        pass


@pytest.mark.parametrize('size', [20, 500, 5000])
def test_no_line_waits_for_an_event_file_that_is_full(size, tmp_path):
    refused = pytest.raises(UserError, match=r'cannot be written \(File too large\); make room')
    with refused, largest_file(size):
        file = MetricsFile(tmp_path / 'metrics.jsonl', 0)
        try:
            for step in range(1, 200):
                file.write(step, {'loss': 1.0, 'a_metric_with_a_long_name': 2.0})
        finally:
            file.close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert limits[0] != size and pathlib.Path(tmp_path / 'metrics.jsonl').stat().st_size <= size
