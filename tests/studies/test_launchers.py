"""Tests that launchers stop, retry and share out their commands."""

import os
import signal
import sys
import threading
import time

import pytest

from bsft_jax.errors import Preempted
from bsft_jax.studies import launchers


def test_sigterm_stops_a_study_even_when_its_command_ends_well(tmp_path):
    script = (
        'import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); '
        'print(1, flush=True); time.sleep(60)'
    )
    local, log = launchers.LocalLauncher(tmp_path), tmp_path / 'logs/point.log'

    def stop():
        while not (log.is_file() and log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match='start the study again'):
        local.map(lambda name: local(name, [sys.executable, '-c', script]), ['point', 'other'])
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Preempted):
        local('saved', [sys.executable, '-c', 'import sys; sys.exit(75)'])


def test_two_jobs_run_at_a_time_on_cores_of_their_own(tmp_path):
    local, started = launchers.LocalLauncher(tmp_path, jobs=2), tmp_path / 'started'
    started.mkdir()
    script = (
        'import os, pathlib, sys, time; started, name = pathlib.Path(sys.argv[1]), sys.argv[2]\n'
        '(started / name).touch()\n'
        'while len([*started.iterdir()]) < 2: time.sleep(0.01)\n'
        'print(*sorted(os.sched_getaffinity(0)))'
    )
    command = [sys.executable, '-c', script, str(started)]
    local.map(lambda name: local(name, [*command, name]), ['one', 'two'])
    cores = [set((tmp_path / f'logs/{name}.log').read_text().split()) for name in ('one', 'two')]
    assert not local.failed and all(cores)
    if len(os.sched_getaffinity(0)) > 1:
        assert not cores[0] & cores[1] and len(cores[0] | cores[1]) == len(os.sched_getaffinity(0))


def test_a_wrong_config_is_not_tried_again(tmp_path):
    local = launchers.LocalLauncher(tmp_path)
    for code, tries in ((2, 1), (3, 2)):
        name = f'exits {code}'
        assert not local(name, [sys.executable, '-c', f'print("why"); raise SystemExit({code})'])
        assert (tmp_path / 'logs' / f'{name}.log').read_text() == 'why\n' * tries
        assert local.failed[name].startswith(f'exit code {code}: why')
