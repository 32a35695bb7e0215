"""launch/slurm.sbatch without a Slurm: what it says before it starts anything. With one: tests/slurm/."""

import os
import subprocess

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
