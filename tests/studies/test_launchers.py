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


@pytest.mark.parametrize(
    ('program', 'reason'),
    [
        (
            'print("error: data.jsonl:3: bad"); print("more")',
            'exit code 1: error: data.jsonl:3: bad',
        ),
        ('print("x\\nImportError: sys.meta_path is None")', 'exit code 1: ImportError: sys.meta'),
        ('print("error: a"); print("error: b\\x1b[2J")', 'exit code 1: error: b\\x1b[2J ('),
        ('print("does not fit: 9 GB"); print()', 'exit code 1: does not fit: 9 GB'),
        ('pass', 'exit code 1: no output'),
        ('import os; os.kill(os.getpid(), 9)', 'killed by signal 9: no output'),
    ],
)
def test_the_reason_of_a_failure_is_the_line_that_reports_it(tmp_path, program, reason):
    local = launchers.LocalLauncher(tmp_path)
    log = tmp_path / 'logs' / 'point.log'
    log.parent.mkdir()
    # What an earlier start of the study wrote is not the reason of this one.
    log.write_text('error: of yesterday\n')
    assert not local('point', [sys.executable, '-c', f'{program}\nraise SystemExit(1)'])
    assert local.failed['point'].startswith(reason), local.failed


@pytest.mark.parametrize('code', [75, 130, 143])
def test_a_command_that_was_stopped_has_not_failed(tmp_path, code):
    local = launchers.LocalLauncher(tmp_path)
    with pytest.raises(Preempted, match='start the study again'):
        local('point', [sys.executable, '-c', f'raise SystemExit({code})'])
    assert not local.failed


@pytest.mark.skipif(sys.platform != 'linux', reason='asks Linux')
def test_commands_are_told_which_process_they_belong_to(tmp_path):
    local = launchers.LocalLauncher(tmp_path)
    assert local('point', [sys.executable, '-c', 'import os; print(os.environ["BSFT_PARENT"])'])
    assert (tmp_path / 'logs' / 'point.log').read_text() == f'{os.getpid()}\n'
