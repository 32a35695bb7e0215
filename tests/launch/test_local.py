"""Tests that launch/local.py leaves no process behind.

tests/parallel/test_processes.py tests the runs that it starts and how they stop.
"""

import importlib.util
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

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
    programs = ('raise SystemExit(75)', 'import time; time.sleep(60)')
    running = [subprocess.Popen([sys.executable, '-c', program]) for program in programs]
    assert local.watch(running) == 75
    assert [process.returncode for process in running] == [75, -9]


def test_processes_on_one_machine_have_one_gpu_each(local, monkeypatch):
    monkeypatch.delenv('JAX_LOCAL_DEVICE_IDS', raising=False)
    devices = [local.environment(i, 2, 1, 0).get('JAX_LOCAL_DEVICE_IDS') for i in range(2)]
    assert devices == ['0', '1']
    # A single process has all GPUs, and simulated devices are no GPUs.
    assert 'JAX_LOCAL_DEVICE_IDS' not in local.environment(0, 1, 1, 0)
    assert 'JAX_LOCAL_DEVICE_IDS' not in local.environment(1, 2, 1, 4)
