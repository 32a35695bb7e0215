"""Tests that Ctrl-C and SIGTERM end commands at any moment, with a command of their own."""

import ast
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.waiting import is_running, wait_for

COMMANDS = [
    'train',
    'evaluate',
    'generate',
    'export',
    'prepare',
    'plan',
    'study',
    'doctor',
    'table',
    'train_tokenizer',
    'calibrate',
    'compare',
    'fit',
    'review',
]
APP = """
import os, sys, time
from bsft_jax import signals

if __name__ == '__main__':
    if os.environ.get('LONG_IMPORT'):
        signals.install()
        open('ready', 'w').close()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    signals.install(restart='restart' in os.environ.get('MODE', ''))

import atexit, functools, gc, importlib, multiprocessing, threading
from bsft_jax import cli

def ready():
    open('ready', 'w').close()

def garbage():
    gc.callbacks.append(lambda *_: time.sleep(0.01))
    ready()
    while True:
        gc.collect(0)

def swallow():
    ready()
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

def swallow_soon():
    signals.GRACE_SECONDS = 0.5
    swallow()

def swallow_and_end():
    ready()
    try:
        time.sleep(60)
    except BaseException:
        pass

def as_another_exception():
    ready()
    try:
        time.sleep(60)
    except BaseException as error:
        raise ImportError('initialization failed') from None

def cleanup():
    open('partial', 'w').close()
    try:
        ready()
        time.sleep(60)
    finally:
        time.sleep(0.2)
        os.remove('partial')

def importing():
    with open('slow_module.py', 'w') as file:
        file.write('open("ready", "w").close()\\nimport time\\n')
        file.write('while True:\\n  try: time.sleep(60)\\n  except BaseException: pass\\n')
    sys.path.insert(0, '.')
    importlib.import_module('slow_module')

def at_exit():
    signals.GRACE_SECONDS = 0.5
    threading.Thread(target=time.sleep, args=(60,)).start()
    atexit.register(time.sleep, 60)
    ready()

class Last:
    def __init__(self):
        self.ready, self.sleep = functools.partial(os.open, 'ready', os.O_CREAT), time.sleep

    def __del__(self):
        self.ready()
        self.sleep(0.5)

def last_moment():
    # Deleted as modules are.
    cli.last = Last()

def in_an_exit_callback():
    # An exception there would be swallowed.
    atexit.register(time.sleep, 0.5)
    atexit.register(ready)

def child():
    context = multiprocessing.get_context('fork')
    process = context.Process(target=time.sleep, args=(60,))
    process.start()
    time.sleep(0.3)
    process.terminate()
    process.join()
    time.sleep(0.5)
    print(process.exitcode, signals.received())

def main(_):
    globals()[os.environ['MODE'].removesuffix(' restart')]()

if __name__ == '__main__':
    cli.run(main)
"""


def start(folder, mode, **environment):
    (folder / 'app.py').write_text(APP)
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'MODE': mode, **environment}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, 'app.py'], cwd=folder, env=env, **pipes)


def stop(process, folder, number):
    """Signals the app when it is ready; returns its exit code, stderr and the seconds it took."""
    wait_for((folder / 'ready').exists)
    time.sleep(0.05)
    begun = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr, time.monotonic() - begun


@pytest.mark.parametrize(
    'mode',
    [
        *('garbage', 'swallow_soon', 'swallow_and_end', 'as_another_exception'),
        *('cleanup', 'importing', 'at_exit', 'in_an_exit_callback'),
    ],
)
@pytest.mark.parametrize(
    ('number', 'code', 'line'),
    [(signal.SIGINT, 130, 'interrupted\n'), (signal.SIGTERM, 143, 'terminated\n')],
)
def test_a_signal_ends_a_command_whatever_it_does(tmp_path, mode, number, code, line):
    ended = stop(start(tmp_path, mode), tmp_path, number)
    assert ended[:2] == (code, line) and ended[2] < 10
    assert not (tmp_path / 'partial').exists()


def test_sigterm_asks_for_a_restart_where_a_command_says_so(tmp_path):
    code, stderr, _ = stop(start(tmp_path, 'cleanup restart'), tmp_path, signal.SIGTERM)
    assert (code, stderr) == (75, 'stopped: by a signal; start again to continue\n')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_changes_nothing_when_all_is_done(tmp_path, number):
    assert stop(start(tmp_path, 'last_moment'), tmp_path, number)[:2] == (0, '')


def test_a_signal_before_the_imports_ends_a_command_at_once(tmp_path):
    process = start(tmp_path, 'cleanup', LONG_IMPORT='yes')
    code, stderr, seconds = stop(process, tmp_path, signal.SIGINT)
    assert (code, stderr) == (130, 'interrupted\n') and seconds < 2


def test_a_second_signal_ends_a_command_at_once(tmp_path):
    process = start(tmp_path, 'swallow')
    wait_for((tmp_path / 'ready').exists)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, 'interrupted\n')
    assert time.monotonic() - begun < 2.5


def test_signals_that_come_as_a_pair_are_one(tmp_path):
    """Tests what `timeout` does: it signals the process and then its group."""
    process = start(tmp_path, 'cleanup')
    wait_for((tmp_path / 'ready').exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and not (tmp_path / 'partial').exists()


def test_an_ignored_signal_stays_ignored(tmp_path):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(tmp_path, 'cleanup')
    finally:
        signal.signal(signal.SIGINT, previous)
    wait_for((tmp_path / 'ready').exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_the_signal_of_a_forked_child_is_its_own(tmp_path):
    process = start(tmp_path, 'child')
    stdout, stderr = process.communicate(timeout=60)
    assert (stdout, stderr, process.returncode) == ('-15 False\n', '', 0)


def test_a_command_ends_with_the_process_that_it_belongs_to(tmp_path):
    """Tests what studies rely on, by a parent that is killed."""
    (tmp_path / 'app.py').write_text(APP)
    program = (
        'import os, subprocess, sys, time\n'
        'os.environ["BSFT_PARENT"] = str(os.getpid())\n'
        'child = subprocess.Popen([sys.executable, "app.py"])\n'
        'print(child.pid, flush=True)\n'
        'time.sleep(60)'
    )
    parent = subprocess.Popen(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'MODE': 'cleanup'},
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline())
    wait_for((tmp_path / 'ready').exists)
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_running(child), seconds=10)


@pytest.mark.parametrize('command', COMMANDS)
def test_commands_handle_signals_before_they_import_anything(command):
    tree = ast.parse((ROOT / 'bsft_jax' / f'{command}.py').read_text())
    lines = [ast.unparse(node) for node in tree.body[1:4]]
    restart = 'restart=True' if command in ('train', 'study') else ''
    assert lines == [
        'from __future__ import annotations',
        'from bsft_jax import signals',
        f"if __name__ == '__main__':\n    signals.install({restart})",
    ]


def test_handling_signals_imports_next_to_nothing():
    program = (
        'import sys; before = {*sys.modules}; import bsft_jax.signals; '
        'print(*sorted({*sys.modules} - before))'
    )
    done = subprocess.run([sys.executable, '-S', '-c', program], cwd=ROOT, capture_output=True)
    loaded = done.stdout.decode().split()
    assert 'bsft_jax.signals' in loaded and len(loaded) < 50
    assert not {'absl', 'numpy', 'jax', 'threading', 'dataclasses', 'typing_extensions'} & {*loaded}


def command_line(folder, command):
    flags = {
        'train': [
            '--config=configs/quickstart.py',
            f'--workdir={folder / "run"}',
            '--config.data.source=synthetic:40',
        ],
        'evaluate': [
            '--model=tiny-clinical',
            '--data=synthetic:40',
            f'--workdir={folder / "evaluation"}',
        ],
        'generate': ['--model=tiny-clinical', '--text=Hi', '--max_new_tokens=500'],
        'prepare': ['--source=synthetic:3000', f'--output={folder / "data"}'],
        'plan': ['--config=configs/quickstart.py', '--topology=cpu:2'],
        'doctor': ['--config=configs/quickstart.py'],
        'study': ['--config=configs/studies/quickstart.py', f'--workdir={folder / "study"}'],
    }[command]
    return [sys.executable, '-m', f'bsft_jax.{command}', *flags]


def handles_signals(pid):
    """Returns whether a process has a handler for SIGTERM."""
    try:
        status = pathlib.Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith('SigCgt'))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def end_command(folder, command, number, seconds):
    process = subprocess.Popen(
        command_line(folder, command),
        cwd=ROOT,
        env={**os.environ, 'XLA_FLAGS': ''},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: handles_signals(process.pid) or process.poll() is not None)
    time.sleep(seconds)
    # A command may have been faster than the signal; in its last moments it ignores signals.
    runs = process.poll() is None and handles_signals(process.pid)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr, runs


@pytest.mark.parametrize('seconds', [0.0, 0.4, 2.5])
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_start_of_a_run_is_ended_by_a_signal(tmp_path, number, code, seconds):
    ended = end_command(tmp_path, 'train', number, seconds)
    assert ended[0] == code, ended
    assert 'Traceback' not in ended[1] and 'Exception ignored' not in ended[1]


@pytest.mark.slow
@pytest.mark.parametrize('command', [*COMMANDS[:3], *COMMANDS[4:8]])
def test_commands_are_ended_by_signals_at_random_moments(tmp_path, command):
    rng, tried, problems = random.Random(0), 0, []
    for _ in range(6):
        for number in (signal.SIGINT, signal.SIGTERM):
            seconds = rng.uniform(0, 8)
            code, stderr, counts = end_command(tmp_path, command, number, seconds)
            restarts = command in ('train', 'study')
            right = 130 if number == signal.SIGINT else 75 if restarts else 143
            tried += counts
            if counts and (code != right or 'Traceback' in stderr):
                problems.append((number, seconds, code, stderr[-2000:]))
    print(f'tried {tried}, held {tried - len(problems)}')
    assert tried and not problems
