"""Tests launch/slurm.sbatch with stand-ins for Slurm's commands; tests/slurm/ runs a real one."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    'folder, arguments, message',
    [
        (ROOT, (), 'launch/slurm.sbatch -- -m'),
        (ROOT, ('-m', 'bsft_jax.train'), 'launch/slurm.sbatch -- -m'),
        (ROOT, ('--', '-m', 'bsft_jax.train'), 'no /nowhere'),
        (ROOT / 'docs', ('--', '-m', 'bsft_jax.train'), 'is not the repository'),
    ],
)
def test_wrong_calls_are_named(folder, arguments, message):
    env = os.environ | {'SLURM_SUBMIT_DIR': str(folder), 'BSFT_PYTHON': '/nowhere'}
    done = subprocess.run(
        ['bash', 'launch/slurm.sbatch', *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    'code, answers, requeued',
    [
        (75, ['RUNNING'], True),
        # An empty answer is a Slurm that does not respond.
        (75, ['', 'RUNNING'], True),
        (75, ['', 'COMPLETING'], False),
        (75, ['', '', '', ''], True),
        (75, ['PREEMPTED'], False),
        (2, [], False),
        (0, [], False),
    ],
)
@pytest.mark.parametrize('failed_requeues', [0, 1])
def test_a_stopped_run_goes_back_to_the_queue(code, answers, requeued, failed_requeues, tmp_path):
    """Uses a Slurm that does not respond to the first calls of requeue."""
    states, failures, calls = (tmp_path / name for name in ('states', 'failures', 'calls'))
    states.write_text('\n'.join(answers) + '\n')
    failures.write_text('x' * failed_requeues)
    calls.touch()
    for name, script in {
        'srun': f'exit {code}',
        'sleep': '',
        'squeue': (
            f'read -r state <"{states}"; sed -i 1d "{states}"; [ -n "$state" ] && echo "$state"'
        ),
        'scontrol': (
            f'if [ -s "{failures}" ]; then : >"{failures}"; exit 1; fi; echo "$@" >>"{calls}"'
        ),
    }.items():
        (tmp_path / name).write_text(f'#!/bin/bash\n{script}\n')
        (tmp_path / name).chmod(0o755)
    env = os.environ | {
        'PATH': f'{tmp_path}:{os.environ["PATH"]}',
        'SLURM_SUBMIT_DIR': str(ROOT),
        'BSFT_PYTHON': sys.executable,
        'SLURM_JOB_ID': '7',
        'SLURM_NTASKS': '1',
        'SLURM_JOB_NODELIST': 'a',
    }
    done = subprocess.run(
        ['bash', 'launch/slurm.sbatch', '--', '-c', ''],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert calls.read_text() == ('requeue 7\n' if requeued else ''), done.stderr
