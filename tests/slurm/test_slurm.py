"""Tests launch/slurm.sbatch in a real Slurm that runs on this machine."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

CLUSTER = ROOT / 'tests' / 'slurm' / 'cluster.sh'
STEPS = 30
# A partition whose jobs preempt those of the other, which go back to the queue.
URGENT = (
    'PreemptType=preempt/partition_prio',
    'PreemptMode=REQUEUE',
    'PartitionName=urgent Nodes=ALL PriorityTier=10',
)
PROGRAM = """
import os, signal, sys, time

def stop(*_):
    time.sleep(1)
    sys.exit(75)

signal.signal(signal.SIGTERM, stop)
restarts = os.environ.get('SLURM_RESTART_COUNT', '0')
task, count = os.environ['SLURM_PROCID'], os.environ['SLURM_STEP_NUM_TASKS']
print('task', task, 'of', count, sys.argv[2:], restarts, flush=True)
if sys.argv[1] == 'wrong':
    sys.exit(2)
if restarts == '0':
    time.sleep(120)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (
            shutil.which('sbatch')
            and shutil.which('slurmctld', path=os.environ['PATH'] + ':/usr/sbin')
        ),
        reason='there is no Slurm to start: on Debian, apt install slurm-wlm',
    ),
]


class Slurm:
    """Represents a cluster of two nodes whose files are in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.env = os.environ | {
            'SLURM_CONF': str(folder / 'slurm.conf'),
            'BSFT_PYTHON': sys.executable,
            'XLA_FLAGS': '--xla_force_host_platform_device_count=1',
        }

    def call(self, *command):
        done = subprocess.run(
            list(map(str, command)), cwd=ROOT, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, *arguments, options=()):
        """Submits a job; returns its number and the path of its log."""
        job = self.call(
            'sbatch',
            '--parsable',
            '--nodes=2',
            f'--output={self.folder}/%j.log',
            *options,
            'launch/slurm.sbatch',
            '--',
            *arguments,
        )
        return job, self.folder / f'{job}.log'

    def state(self, job):
        fields = self.call('scontrol', '--oneliner', 'show', 'job', job).split()
        values = dict(field.split('=', 1) for field in fields if '=' in field)
        return values['JobState'], int(values['Restarts'])

    def wait(self, job, *states, seconds=120):
        """Waits for one of the states and returns it with the number of restarts."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (state := self.state(job))[0] in states:
                return state
            time.sleep(0.1)
        log = self.folder / f'{job}.log'
        raise AssertionError(f'{state}\n' + (log.read_text() if log.exists() else 'not started'))


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(
    scope='module', params=[('RequeueExit=75',), ()], ids=['RequeueExit', 'without RequeueExit']
)
def slurm(request, tmp_path_factory):
    yield from started(tmp_path_factory.mktemp('slurm'), *request.param)


@pytest.fixture
def slurm_with_preemption(tmp_path):
    yield from started(tmp_path / 'slurm', *URGENT)


def started(folder, *lines):
    try:
        subprocess.run(['bash', CLUSTER, 'start', folder, *lines], check=True)
        yield Slurm(folder)
    finally:
        subprocess.run(['bash', CLUSTER, 'stop', folder], check=True)


@pytest.mark.parametrize(
    'how, options, expected',
    [
        ('stopped', (), ('PENDING', 1)),
        ('out of time', ('--time=1', '--signal=TERM@45'), ('PENDING', 1)),
        ('cancelled', (), ('CANCELLED', 0)),
        ('wrong', (), ('FAILED', 0)),
    ],
)
def test_the_state_of_a_job_after_it_ends(how, options, expected, slurm, tmp_path):
    program = tmp_path / 'program.py'
    program.write_text(PROGRAM)
    job, log = slurm.submit(program, how, 'two words', options=options)
    until(lambda: log.exists() and log.read_text().count("of 2 ['two words'] 0") == 2)
    if how == 'stopped':
        slurm.call('scancel', '--signal=TERM', job)
    if how == 'cancelled':
        slurm.call('scancel', job)
    until(lambda: f' exit {2 if how == "wrong" else 75}\n' in log.read_text())
    until(lambda: slurm.call('squeue', '--noheader', '--states=RUNNING,COMPLETING') == '')
    assert slurm.state(job) == expected
    if expected[0] == 'PENDING':
        slurm.call('scontrol', 'update', f'JobId={job}', 'StartTime=now')
        assert slurm.wait(job, 'COMPLETED', 'FAILED') == ('COMPLETED', 1)
        assert log.read_text().count("of 2 ['two words'] 1") == 2
        assert 'start 1' in log.read_text() and 'start 2' in log.read_text()


def curve(workdir):
    path = workdir / 'metrics.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line['step'], line['loss'], line['tokens']) for line in lines]


def test_a_preempted_run_has_the_losses_of_an_undisturbed_one(slurm_with_preemption, tmp_path):
    slurm = slurm_with_preemption

    def train(workdir):
        return slurm.submit(
            '-m',
            'bsft_jax.train',
            '--config=configs/quickstart.py',
            f'--workdir={workdir}',
            '--config.mesh.devices=2',
            '--config.data.source=synthetic:60',
            '--config.data.global_batch_rows=8',
            '--config.log_interval=1',
            f'--config.train.steps={STEPS}',
            '--config.evaluation.interval=0',
        )

    job, log = train(tmp_path / 'undisturbed')
    assert slurm.wait(job, 'COMPLETED', 'FAILED', seconds=300) == ('COMPLETED', 0), log.read_text()
    assert '2 devices in 2 processes' in log.read_text()

    workdir = tmp_path / 'preempted'
    job, log = train(workdir)
    until(lambda: len(curve(workdir)) >= 4)
    urgent = slurm.call(
        'sbatch',
        '--parsable',
        '--partition=urgent',
        '--nodes=2',
        '--exclusive',
        '--output=/dev/null',
        '--wrap=true',
    )
    slurm.wait(urgent, 'COMPLETED')
    assert slurm.state(job) == ('PENDING', 1)
    assert ' exit 75\n' in log.read_text()
    assert 4 <= len(curve(workdir)) < STEPS
    slurm.call('scontrol', 'update', f'JobId={job}', 'StartTime=now')
    assert slurm.wait(job, 'COMPLETED', 'FAILED', seconds=300) == ('COMPLETED', 1), log.read_text()
    assert [step for step, *_ in curve(workdir)] == list(range(1, STEPS + 1))
    assert curve(workdir) == curve(tmp_path / 'undisturbed')


STUDY = """
from bsft_jax.studies.study import *

def get_config():
    arms = [Arm(f'r{i}', {'optimizer.learning_rate': 1e-3 * i}) for i in (1, 2, 3)]
    return Study(
        name='jobs', config='configs/quickstart.py', arms=tuple(arms), seeds=(0, 1),
        overrides={
            'data.source': 'synthetic:60', 'data.global_batch_rows': 8, 'log_interval': 1,
            'train.steps': 30, 'evaluation.interval': 0,
        },
        endpoint=('overall', ('r1', 'auto'), ('r2', 'auto')), base_prompts=(), test_limit=21,
    )
"""


# An interpreter that fails once.
FAILS_ONCE = """#!/usr/bin/env bash
if [[ "$*" == *bsft_jax.train*r2-s0* ]] && rm {mark}; then
  echo 'error: planted'
  exit 1
fi
exec {python} "$@"
"""


def test_a_study_of_six_runs_survives_a_failure_and_a_preemption(slurm_with_preemption, tmp_path):
    slurm, directory = slurm_with_preemption, tmp_path / 'study'
    path, python, mark = (tmp_path / name for name in ('study.py', 'python', 'mark'))
    path.write_text(STUDY)
    mark.touch()
    python.write_text(FAILS_ONCE.format(mark=mark, python=sys.executable))
    python.chmod(0o755)
    command = [sys.executable, '-m', 'bsft_jax.study', f'--config={path}', '--launcher=slurm']
    command += [f'--workdir={directory}', '--jobs=2', '--sbatch=--nodes=1 --ntasks=1 --exclusive']
    env = {**slurm.env, 'BSFT_PYTHON': str(python)}
    study = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    try:
        preempted = directory / 'points/r1-s0'
        until(lambda: len(curve(preempted)) >= 2)
        urgent = ('--partition=urgent', '--nodes=2', '--exclusive', '--output=/dev/null')
        slurm.call('sbatch', *urgent, '--wrap=true')
        until(lambda: ' exit 75' in (directory / 'logs/r1-s0.log').read_text())

        def waiting():
            return slurm.call('squeue', '--noheader', '--states=PENDING', '--format=%i').split()

        # A job that went back to the queue waits for two minutes.
        until(lambda: study.poll() is not None or waiting())
        for job in waiting():
            slurm.call('scontrol', 'update', f'JobId={job}', 'StartTime=now')
        assert study.wait(600) == 0, study.stderr.read()
    finally:
        study.kill()
    rows = [json.loads(line) for line in (directory / 'results.jsonl').read_text().splitlines()]
    assert {(row['arm'], row['seed']) for row in rows} == {
        (f'r{i}', seed) for i in (1, 2, 3) for seed in (0, 1)
    }
    assert [step for step, *_ in curve(preempted)] == list(range(1, STEPS + 1))
    assert 'error: planted' in (directory / 'logs/r2-s0.log').read_text() and not mark.exists()
    assert not list((directory / 'logs').glob('*.job'))
