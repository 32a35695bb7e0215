"""Tests that a run that was stopped continues with the loss curve of an undisturbed one."""

import dataclasses
import signal
import subprocess
import sys
import time

import pytest

from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import write_jsonl
from tests import run as runs
from tests.conftest import ROOT
from tests.tiny import random_model
from tests.training.small_run import loss_curve, small_run
from tests.training.test_checkpoint import flip_byte
from tests.training.test_telemetry import event_scalars, line_scalars

# Trains a run that kills itself at a moment: the arguments are base, workdir and moment.
KILL = """
import os, signal, sys
from tests import run as runs
from bsft_jax.data import loader
from bsft_jax.training import checkpoint
from tests.training.small_run import small_run

moment, calls = sys.argv[3], []
to_device, save = loader.to_device, checkpoint.Checkpoints.save

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def fatal_batch(*arguments):
    calls.append(1)
    if moment == 'between steps' and len(calls) == 7:
        die()
    return to_device(*arguments)

def fatal_save(self, state, **items):
    second = int(state.step) == 8
    save(self, state, **items)
    if second and moment == 'after a save':
        self.wait()
    if second and moment != 'between steps':
        die()

loader.to_device, checkpoint.Checkpoints.save = fatal_batch, fatal_save
runs.train(small_run(sys.argv[1]), sys.argv[2])
"""

# Trains a run as the command does, with its exit codes: the arguments are base and workdir.
COMMAND = """
import sys
from absl import flags
from bsft_jax import cli
from tests import run as runs
from tests.training.small_run import small_run

base, workdir = sys.argv[1:3]
del sys.argv[1:]
cli.run(lambda _: runs.train(small_run(base), workdir))
"""


@pytest.fixture(scope='module')
def undisturbed(base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'undisturbed'
    runs.train(small_run(base), workdir)
    curve = loss_curve(workdir)
    assert [step for step, *_ in curve] == list(range(1, 13))
    return curve


@pytest.mark.parametrize('moment', ['between steps', 'during a save', 'after a save'])
def test_killed_runs_continue_bit_equal(moment, base, undisturbed, tmp_path):
    workdir = tmp_path / 'run'
    done = subprocess.run(
        [sys.executable, '-c', KILL, base, workdir, moment], cwd=ROOT, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    assert 0 < len(loss_curve(workdir)) < 12
    runs.train(small_run(base), workdir)
    assert loss_curve(workdir) == undisturbed
    assert event_scalars(workdir) == line_scalars(workdir)


def test_runs_continue_before_a_damaged_checkpoint(base, undisturbed, tmp_path, capsys):
    workdir = tmp_path / 'run'
    stopped = small_run(base)
    stopped.train.steps = 8
    runs.train(stopped, workdir)
    flip_byte(workdir / 'checkpoints' / '8')
    runs.train(small_run(base), workdir)
    assert 'checkpoint 8 is damaged' in capsys.readouterr().err
    assert loss_curve(workdir) == undisturbed


def test_term_saves_exits_75_and_resumes(base, undisturbed, tmp_path):
    workdir = tmp_path / 'run'
    process = subprocess.Popen([sys.executable, '-c', COMMAND, base, workdir], cwd=ROOT)
    deadline, metrics = time.time() + 200, workdir / 'metrics.jsonl'
    while time.time() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count('\n') >= 2:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=200) == 75
    assert len(loss_curve(workdir)) < 12
    runs.train(small_run(base), workdir)
    assert loss_curve(workdir) == undisturbed


@pytest.mark.parametrize('lr_factor', [1.0, 5.0])
def test_behavior_rows_resume_from_their_base(base, lr_factor, tmp_path):
    def rows_run(steps=0):
        config = small_run(base, 'behavior_rows')
        config.optimizer.behavior_lr_factor, config.train.steps = lr_factor, steps
        return config

    runs.train(rows_run(), tmp_path / 'straight')
    runs.train(rows_run(steps=5), tmp_path / 'resumed')
    runs.train(rows_run(), tmp_path / 'resumed')
    assert loss_curve(tmp_path / 'resumed') == loss_curve(tmp_path / 'straight')


@pytest.mark.parametrize('base_dtype', ['float32', 'int8', 'nf4'])
def test_adapters_with_dropout_resume_bit_equal(base, base_dtype, tmp_path):
    if base_dtype == 'nf4':
        base = random_model(tmp_path / 'base', width=128)

    def adapted_run(steps=0):
        config = small_run(base, 'lora')
        config.lora.rank, config.lora.dropout = 4, 0.2
        config.model.base_dtype, config.train.steps = base_dtype, steps
        return config

    runs.train(adapted_run(), tmp_path / 'straight')
    runs.train(adapted_run(steps=5), tmp_path / 'resumed')
    runs.train(adapted_run(), tmp_path / 'resumed')
    assert loss_curve(tmp_path / 'resumed') == loss_curve(tmp_path / 'straight')
    table = (tmp_path / 'straight' / 'parameters.txt').read_text().splitlines()
    trained = {line.split()[0] for line in table if line.endswith('trained')}
    assert trained == {
        line.split()[0] for line in table if '/lora/' in line or line.startswith('behavior/')
    }
    metrics = runs.evaluate(workdir=str(tmp_path / 'straight'), limit=20)
    assert 0 <= metrics['overall']['macro_f1'] <= 1
    folder = runs.export(
        workdir=str(tmp_path / 'straight'), output=str(tmp_path / 'adapter'), format='peft'
    )
    assert (folder / 'adapter_model.safetensors').stat().st_size > 1000


def test_a_curriculum_resumes_bit_equal_on_both_sides_of_a_stage(base, tmp_path):
    """Tests stops before, at and after the step from which level 2 is drawn, too."""
    records = sources.load_records('synthetic:40', 'train')
    write_jsonl(
        tmp_path / 'data.jsonl',
        [dataclasses.replace(record, difficulty=1 + i % 3) for i, record in enumerate(records)],
    )

    def staged_run(steps=0, text='1=1/0.5:1=1,2=3'):
        config = small_run(base)
        config.data.source, config.data.curriculum = f'jsonl:{tmp_path / "data.jsonl"}', text
        config.train.steps = steps
        return config

    runs.train(staged_run(), tmp_path / 'straight')
    curve = loss_curve(tmp_path / 'straight')
    for step in (3, 6, 7, 0):
        runs.train(staged_run(step), tmp_path / 'resumed')
    assert loss_curve(tmp_path / 'resumed') == curve
    runs.train(staged_run(text='1=1'), tmp_path / 'constant')
    constant = loss_curve(tmp_path / 'constant')
    assert constant[:6] == curve[:6] and constant[6] != curve[6]
    with pytest.raises(UserError, match=r'data\.curriculum: 1=1 → 1=1,2=1'):
        runs.train(staged_run(text='1=1,2=1'), tmp_path / 'constant')


def test_other_records_are_refused(base, tmp_path):
    path, records = tmp_path / 'data.jsonl', sources.load_records('synthetic:40', 'train')
    first, rest = small_run(base), small_run(base)
    first.data.source = rest.data.source = f'jsonl:{path}'
    first.train.steps = 1
    write_jsonl(path, records)
    runs.train(first, tmp_path / 'run')
    write_jsonl(path, records[1:])
    with pytest.raises(UserError, match='not those this run started with'):
        runs.train(rest, tmp_path / 'run')
