"""Cores and cards of runs beside each other; no card is needed."""

import os
import stat

import pytest

from bsft_jax.errors import UserError
from bsft_jax.studies import launching, sharing


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """Makes a machine with so many cards, as nvidia-smi names them, whose jax would take them."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setenv('JAX_PLATFORMS', '')
    monkeypatch.setattr(sharing, '_PLUGINS', ('jax',))
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)

    def make(count):
        tool = tmp_path / 'nvidia-smi'
        tool.write_text('#!/bin/sh\n' + ''.join(f'echo GPU-{i}\n' for i in range(count)))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    return make


def visible(jobs):
    return [share.environment.get('CUDA_VISIBLE_DEVICES') for share in sharing.shares(jobs)]


def test_every_run_gets_cards_of_its_own(cards, monkeypatch):
    cards(4)
    assert visible(2) == ['GPU-0,GPU-2', 'GPU-1,GPU-3']
    assert visible(4) == ['GPU-0', 'GPU-1', 'GPU-2', 'GPU-3']
    assert visible(1) == [None]  # all of them
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,7')
    assert visible(2) == ['6', '7']


def test_more_runs_than_cards_are_refused(cards, monkeypatch, tmp_path):
    cards(2)
    with pytest.raises(UserError, match='^--jobs=3: .* there are 2; at most --jobs=2'):
        launching.Local(tmp_path, jobs=3)
    for name, value in (('JAX_PLATFORMS', 'cpu'), ('CUDA_VISIBLE_DEVICES', '')):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert visible(3) == [None] * 3
    monkeypatch.setattr(sharing, '_PLUGINS', ('no_such_plugin',))
    assert visible(3) == [None] * 3


def test_a_machine_without_cards_shares_its_cores(cards):
    cards(0)
    shares = sharing.shares(2)
    assert sorted(core for share in shares for core in share.cores) == sorted(os.sched_getaffinity(0))
    assert visible(2) == [None, None]


def test_a_run_sees_its_cards_alone(cards, tmp_path):
    cards(2)
    launcher = launching.Local(tmp_path, jobs=2)

    def work(name):
        launcher(name, ['sh', '-c', 'echo "$CUDA_VISIBLE_DEVICES"; sleep 0.3'])

    launcher.each(work, 'ab')
    assert {(tmp_path / 'logs' / f'{name}.log').read_text() for name in 'ab'} == {'GPU-0\n', 'GPU-1\n'}
