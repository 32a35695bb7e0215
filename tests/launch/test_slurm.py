"""launch/slurm.sbatch without a Slurm: what it says and asks. With one: tests/slurm/."""

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
def test_what_is_missing_is_said(folder, arguments, message):
    env = os.environ | {'SLURM_SUBMIT_DIR': str(folder), 'BSFT_PYTHON': '/nowhere'}
    done = subprocess.run(
        ['bash', 'launch/slurm.sbatch', *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    'code, answers, requeued',
    [
        (75, ['RUNNING'], True),
        (75, ['', 'RUNNING'], True),  # an empty one is a Slurm that did not answer
        (75, ['', 'COMPLETING'], False),
        (75, ['', '', '', ''], True),
        (75, ['PREEMPTED'], False),
        (2, [], False),
        (0, [], False),
    ],
)
@pytest.mark.parametrize('silent', [0, 1])
def test_a_stopped_run_goes_back_to_the_queue(code, answers, requeued, silent, tmp_path):
    """With `silent` the first call to requeue has no answer, either."""
    states, quiet, calls = (tmp_path / name for name in ('states', 'quiet', 'calls'))
    states.write_text('\n'.join(answers) + '\n')
    quiet.write_text('x' * silent)
    calls.touch()
    for name, script in {
        'srun': f'exit {code}',
        'sleep': '',
        'squeue': f'read -r one <"{states}"; sed -i 1d "{states}"; [ -n "$one" ] && echo "$one"',
        'scontrol': f'if [ -s "{quiet}" ]; then : >"{quiet}"; exit 1; fi; echo "$@" >>"{calls}"',
    }.items():
        (tmp_path / name).write_text(f'#!/bin/bash\n{script}\n')
        (tmp_path / name).chmod(0o755)
    env = os.environ | {
        'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_SUBMIT_DIR': str(ROOT), 'BSFT_PYTHON': sys.executable,
        'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '1', 'SLURM_JOB_NODELIST': 'a',
    }  # fmt: skip
    done = subprocess.run(
        ['bash', 'launch/slurm.sbatch', '--', '-c', ''], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert calls.read_text() == ('requeue 7\n' if requeued else ''), done.stderr
