"""Tests the cores and GPUs of concurrent runs; no GPU is needed."""

import os
import stat

import pytest

from bsft_jax.errors import UserError
from bsft_jax.studies import launchers, resources


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Returns a function that simulates a machine with `count` GPUs that jax would use."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setenv('JAX_PLATFORMS', '')
    monkeypatch.setattr(resources, '_CUDA_PLUGINS', ('jax',))
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)

    def make(count):
        tool = tmp_path / 'nvidia-smi'
        tool.write_text('#!/bin/sh\n' + ''.join(f'echo GPU-{i}\n' for i in range(count)))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    return make


def visible(jobs):
    return [
        share.environment.get('CUDA_VISIBLE_DEVICES') for share in resources.split_machine(jobs)
    ]


def test_every_run_gets_its_own_gpus(gpus, monkeypatch):
    gpus(4)
    assert visible(2) == ['GPU-0,GPU-2', 'GPU-1,GPU-3']
    assert visible(4) == ['GPU-0', 'GPU-1', 'GPU-2', 'GPU-3']
    assert visible(1) == [None]  # all of them
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,7')
    assert visible(2) == ['6', '7']


def test_more_runs_than_gpus_are_refused(gpus, monkeypatch, tmp_path):
    gpus(2)
    with pytest.raises(UserError, match='^--jobs=3: .* there are 2; at most --jobs=2'):
        launchers.LocalLauncher(tmp_path, jobs=3)
    for name, value in (('JAX_PLATFORMS', 'cpu'), ('CUDA_VISIBLE_DEVICES', '')):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert visible(3) == [None] * 3
    monkeypatch.setattr(resources, '_CUDA_PLUGINS', ('no_such_plugin',))
    assert visible(3) == [None] * 3


def test_a_machine_without_gpus_shares_its_cores(gpus):
    gpus(0)
    shares = resources.split_machine(2)
    assert sorted(core for share in shares for core in share.cores) == sorted(
        os.sched_getaffinity(0)
    )
    assert visible(2) == [None, None]


def test_a_run_sees_only_its_own_gpus(gpus, tmp_path):
    gpus(2)
    launcher = launchers.LocalLauncher(tmp_path, jobs=2)

    def work(name):
        launcher(name, ['sh', '-c', 'echo "$CUDA_VISIBLE_DEVICES"; sleep 0.3'])

    launcher.map(work, 'ab')
    assert {(tmp_path / 'logs' / f'{name}.log').read_text() for name in 'ab'} == {
        'GPU-0\n',
        'GPU-1\n',
    }
