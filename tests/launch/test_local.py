"""Tests that launch/local.py leaves no process behind and says which one has failed.

tests/parallel/test_processes.py tests the runs that it starts and how they stop.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.waiting import is_running, wait_for

SCRIPT = ROOT / 'launch' / 'local.py'
SIGNALED_WHILE_STARTING = """
import os, runpy, signal, subprocess, sys

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Popen
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_a_signal_while_processes_are_started_ends_them():
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            SIGNALED_WHILE_STARTING,
            SCRIPT,
            '--processes=2',
            '--',
            '-c',
            'import time; time.sleep(60)',
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 128 + 15 and time.monotonic() - began < 50, done.stderr


@pytest.fixture
def local():
    spec = importlib.util.spec_from_file_location('local', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_process_that_hangs_after_the_others_have_saved_is_killed(local, monkeypatch):
    monkeypatch.setattr(local, 'SAVE_SECONDS', 0.5)
    programs = (
        'import time; time.sleep(1); raise SystemExit(75)',
        'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)',
    )
    running = [subprocess.Popen([sys.executable, '-c', program]) for program in programs]
    assert local.watch(running) == (75, '')
    assert [process.returncode for process in running] == [75, -9]


def test_processes_on_one_machine_have_one_gpu_each(local, monkeypatch):
    monkeypatch.delenv('JAX_LOCAL_DEVICE_IDS', raising=False)
    devices = [local.environment(i, 2, 1, 0).get('JAX_LOCAL_DEVICE_IDS') for i in range(2)]
    assert devices == ['0', '1']
    # A single process has all GPUs, and simulated devices are no GPUs.
    assert 'JAX_LOCAL_DEVICE_IDS' not in local.environment(0, 1, 1, 0)
    assert 'JAX_LOCAL_DEVICE_IDS' not in local.environment(1, 2, 1, 4)


# Prints its pid, waits and, when it is stopped, dumps as many lines as jax does.
NOISY = """
import os, signal, sys, time
index = int(os.environ['BSFT_PROCESS'])
open(f'{sys.argv[1]}/pid{index}', 'w').write(str(os.getpid()))
def stop(*_):
    print('crash dump\\n' * 80, file=sys.stderr, end='', flush=True)
    os._exit(75 if 'saves' in sys.argv else 1)
signal.signal(signal.SIGTERM, signal.SIG_IGN if 'deaf' in sys.argv else stop)
open(f'{sys.argv[1]}/ready{index}', 'w').close()
time.sleep(60)
"""


@pytest.fixture
def launch(tmp_path):
    """Starts two processes of NOISY and waits until both are ready."""

    def launch(*words):
        command = [sys.executable, SCRIPT, '--processes=2', '--', '-c', NOISY, tmp_path, *words]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        launcher = subprocess.Popen(command, **pipes)
        wait_for(lambda: all((tmp_path / f'ready{i}').exists() for i in range(2)))
        return launcher, [int((tmp_path / f'pid{i}').read_text()) for i in range(2)]

    return launch


@pytest.mark.parametrize(
    ('index', 'number', 'code', 'words'),
    [
        (1, signal.SIGKILL, 137, 'was killed (signal 9)'),
        (0, signal.SIGKILL, 137, 'was killed (signal 9)'),
        (1, signal.SIGABRT, 134, 'died of SIGABRT (signal 6)'),
        (0, signal.SIGTERM, 1, 'ended with exit code 1'),
    ],
)
def test_the_last_line_says_which_process_failed(launch, index, number, code, words):
    launcher, pids = launch()
    os.kill(pids[index], number)
    _, stderr = launcher.communicate(timeout=60)
    lines = stderr.splitlines()
    assert launcher.returncode == code
    assert lines[-1] == f'process {index} {words}; the others are stopped'
    assert f'[{1 - index}] crash dump' in lines and not any(map(is_running, pids))


def test_processes_that_save_are_not_called_failed(launch):
    launcher, pids = launch('saves')
    os.kill(pids[1], signal.SIGTERM)
    _, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode == 75 and stderr.splitlines()[-1].endswith('crash dump')
    assert not any(map(is_running, pids))


@pytest.mark.skipif(sys.platform != 'linux', reason='asks Linux')
@pytest.mark.parametrize('word', ['', 'deaf'])
def test_no_process_outlives_a_killed_launcher(launch, word):
    launcher, pids = launch(word)
    launcher.kill()
    launcher.communicate(timeout=60)
    wait_for(lambda: not any(map(is_running, pids)), seconds=5)


def test_a_second_interrupt_kills_processes_that_do_not_listen(launch):
    launcher, pids = launch('deaf')
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert launcher.poll() is None and all(map(is_running, pids))
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=10) == 137 and not any(map(is_running, pids))
