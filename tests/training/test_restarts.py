"""Whatever stops a run, the next start continues with the loss curve of an undisturbed one."""

import contextlib
import gc
import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from bsft_jax import runs
from bsft_jax.config import (
    CheckpointSection,
    DataSection,
    ModelSection,
    OptimizerSection,
    RunConfig,
)
from bsft_jax.errors import Preempted, UserError
from bsft_jax.training import fingerprints, loop
from tests.conftest import ROOT
from tests.tiny import random_model
from tests.training.test_checkpoint import flip_byte
from tests.training.test_telemetry import events, lines

KILL = """
import os, signal, sys
from bsft_jax import runs
from bsft_jax.training import checkpoint, loop
from tests.training.test_restarts import config

moment, calls = sys.argv[3], []
batch, save = loop.device_batch, checkpoint.Checkpoints.save

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def counted_batch(*arguments):
    calls.append(1)
    if moment == 'between steps' and len(calls) == 7:
        die()
    return batch(*arguments)

def fatal_save(self, state, **items):
    second = int(state.step) == 8
    save(self, state, **items)
    if second and moment == 'after a save':
        self.wait()
    if second and moment != 'between steps':
        die()

loop.device_batch, checkpoint.Checkpoints.save = counted_batch, fatal_save
runs.train(config(sys.argv[1]), sys.argv[2])
"""


def config(base, mode='full') -> RunConfig:
    made = RunConfig(
        log_interval=1,
        model=ModelSection(base=str(base)),
        data=DataSection(source='synthetic:40', sequence_length=448, rows_per_step=8),
        optimizer=OptimizerSection(learning_rate=1e-3, warmup_steps=2, schedule_steps=12),
        checkpoint=CheckpointSection(interval=4),
    )
    made.train.mode = mode
    return made


def curve(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [(line['step'], line['loss'], line['gradient_norm'], line['tokens']) for line in lines]


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='module')
def undisturbed(base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'undisturbed'
    runs.train(config(base), workdir)
    result = curve(workdir)
    assert [step for step, *_ in result] == list(range(1, 13))
    return result


@pytest.mark.parametrize('moment', ['between steps', 'during a save', 'after a save'])
def test_killed_runs_continue_bit_equal(moment, base, undisturbed, tmp_path):
    workdir = tmp_path / 'run'
    done = subprocess.run([sys.executable, '-c', KILL, base, workdir, moment], cwd=ROOT, timeout=300)
    assert done.returncode == -signal.SIGKILL
    before = curve(workdir)
    assert 0 < len(before) < 12
    runs.train(config(base), workdir)
    assert curve(workdir) == undisturbed
    assert events(workdir) == lines(workdir)


def test_a_damaged_checkpoint_is_found_and_the_one_before_used(base, undisturbed, tmp_path, capsys):
    workdir = tmp_path / 'run'
    stopped = config(base)
    stopped.train.steps = 8
    runs.train(stopped, workdir)
    flip_byte(workdir / 'checkpoints' / '8')
    runs.train(config(base), workdir)
    assert 'checkpoint 8 is damaged' in capsys.readouterr().err
    assert curve(workdir) == undisturbed


def test_term_saves_exits_75_and_resumes(base, undisturbed, tmp_path):
    workdir = tmp_path / 'run'
    code = (
        'import sys\nfrom absl import flags\nfrom bsft_jax import cli, runs\n'
        'from tests.training.test_restarts import config\n'
        'base, workdir = sys.argv[1:3]\ndel sys.argv[1:]\ncli.run(lambda _: runs.train(config(base), workdir))\n'
    )
    process = subprocess.Popen([sys.executable, '-c', code, base, workdir], cwd=ROOT)
    deadline = time.time() + 200
    while time.time() < deadline and process.poll() is None:
        if (workdir / 'metrics.jsonl').exists() and (workdir / 'metrics.jsonl').read_text().count('\n') >= 2:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=200) == 75
    assert len(curve(workdir)) < 12
    runs.train(config(base), workdir)
    assert curve(workdir) == undisturbed


@pytest.mark.parametrize('where', ['records.training_examples', 'workdir.initial_state'])
def test_term_before_the_first_step_is_heard_at_once(base, where, tmp_path, monkeypatch):
    module, name = where.split('.')
    module = {'records': runs.records_lib, 'workdir': runs.workdir_lib}[module]
    load, handler = getattr(module, name), signal.getsignal(signal.SIGTERM)

    def signalled(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return load(*arguments)

    monkeypatch.setattr(module, name, signalled)
    with pytest.raises(Preempted, match='before the first step'):
        runs.train(config(base), tmp_path / 'run')
    assert not list(tmp_path.glob('run/checkpoints/*')) and not (tmp_path / 'run' / 'metrics.jsonl').exists()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_joined_processes_are_asked_by_steps_since_their_start(base, tmp_path, monkeypatch):
    """The runtime tells of a signal that came before the first question at number 1 alone."""
    asked = []

    @contextlib.contextmanager
    def termination():
        yield asked.append

    monkeypatch.setattr(loop, 'termination', termination)
    for steps in (1, 3):
        run = config(base)
        run.train.steps = steps
        runs.train(run, tmp_path / 'run')
    assert asked == [0, 0, 1, 0, 0, 1, 2]


def test_a_loss_that_is_not_finite_ends_the_run(base, tmp_path):
    run = config(base)
    run.optimizer.learning_rate, run.checkpoint.interval = 1e38, 1
    with pytest.raises(UserError, match='step 3 has loss .* not saved') as error:
        runs.train(run, tmp_path / 'run')
    assert 'nan' in str(error.value) or 'inf' in str(error.value)
    assert sorted(p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()) == ['1', '2']
    assert [step for step, *_ in curve(tmp_path / 'run')] == [1, 2]


def test_rows_resume_from_their_base(base, tmp_path):
    runs.train(config(base, 'behavior_rows'), tmp_path / 'whole')
    stopped = config(base, 'behavior_rows')
    stopped.train.steps = 5
    runs.train(stopped, tmp_path / 'parts')
    runs.train(config(base, 'behavior_rows'), tmp_path / 'parts')
    assert curve(tmp_path / 'parts') == curve(tmp_path / 'whole')


@pytest.mark.parametrize('base_dtype', ['float32', 'int8'])
def test_adapters_with_dropout_resume_bit_equal(base, base_dtype, tmp_path):
    def made(steps=0):
        run = config(base, 'lora')
        run.lora.rank, run.lora.dropout, run.model.base_dtype, run.train.steps = 4, 0.2, base_dtype, steps
        return run

    runs.train(made(), tmp_path / 'whole')
    runs.train(made(steps=5), tmp_path / 'parts')
    runs.train(made(), tmp_path / 'parts')
    assert curve(tmp_path / 'parts') == curve(tmp_path / 'whole')
    trained = (tmp_path / 'whole' / 'parameters.txt').read_text().splitlines()
    kept = {line.split()[0] for line in trained if line.endswith('trained')}
    assert kept == {line.split()[0] for line in trained if '/lora/' in line or line.startswith('behavior/')}
    metrics = runs.evaluate(workdir=str(tmp_path / 'whole'), limit=20)
    assert 0 <= metrics['overall']['macro_f1'] <= 1
    folder = runs.export(workdir=str(tmp_path / 'whole'), output=str(tmp_path / 'adapter'), form='peft')
    assert (folder / 'adapter_model.safetensors').stat().st_size > 1000


@pytest.mark.parametrize('mode', ['full', 'lora'])
def test_no_restore_holds_anything_twice(base, mode, tmp_path, monkeypatch):
    """Of a model the parameters alone; of a run that goes on the state once, its moments included."""

    def live():
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays())

    def size(tree):
        return sum(array.nbytes for array in jax.tree.leaves(tree))

    shutil.copytree(base, tmp_path / 'base')
    run = config(tmp_path / 'base', mode)
    run.train.steps = 1
    runs.train(run, tmp_path / 'run')
    if mode == 'full':
        (tmp_path / 'base' / 'model.safetensors').unlink()  # nothing of it is needed
    peaks, before, compute, train = [], live(), fingerprints.compute, loop.train

    def watched(tree):
        peaks.append(live() - before)
        return compute(tree)

    monkeypatch.setattr(fingerprints, 'compute', watched)
    loaded = runs.open_model(workdir=str(tmp_path / 'run'))
    assert size(loaded.params) <= max(peaks) < 1.01 * size(loaded.params)
    del loaded
    peaks.clear()

    def resumed(run, state, *rest):
        assert size(state) <= max(peaks) < 1.01 * size(state)
        return train(run, state, *rest)

    monkeypatch.setattr(loop, 'train', resumed)
    run.train.steps = 2
    runs.train(run, tmp_path / 'run')
    assert peaks and [step for step, *_ in curve(tmp_path / 'run')] == [1, 2]


def test_other_records_are_refused(base, tmp_path):
    data = tmp_path / 'data.jsonl'
    from bsft_jax.behaviorbench import sources
    from bsft_jax.behaviorbench.records import write_jsonl

    records = sources.load_records('synthetic:40', 'train')
    for kept in (records, records[1:]):
        write_jsonl(data, kept)
        run = config(base)
        run.data.source = f'jsonl:{data}'
        if kept is records:
            run.train.steps = 1
            runs.train(run, tmp_path / 'run')
        else:
            with pytest.raises(UserError, match='not those this run started with'):
                runs.train(run, tmp_path / 'run')
