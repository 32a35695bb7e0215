"""Runs commands in forked processes, and says whether they ended as they should.

A fork of a process that has imported everything, but started no backend of jax, begins a command in
a tenth of a second. What matters only while a fresh interpreter imports is tried by `start_fresh`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A command that takes longer hangs.
LIMIT_SECONDS = 240
# More than a command prints.
_PIPE_BYTES = 1 << 20
MODULES = (
    'commands.train',
    'commands.evaluate',
    'commands.generate',
    'commands.export',
    'commands.prepare',
    'commands.doctor',
    'data.tokenizer_training',
    'planning.search',
    'studies.launching',
    'studies.reporting',
)


def warm_up(root: pathlib.Path) -> None:
    """Sets the environment of all tries and imports what the commands import."""
    os.environ |= {
        'JAX_PLATFORMS': 'cpu',
        'HF_HUB_OFFLINE': '1',
        'XDG_CACHE_HOME': str(root / 'cache'),
        'JAX_COMPILATION_CACHE_DIR': str(root / 'xla'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'XLA_FLAGS': '--xla_backend_optimization_level=0',
        'TRANSFORMERS_VERBOSITY': 'error',
        'PYTHONPATH': str(ROOT),
    }
    for name in MODULES:
        importlib.import_module(f'bsft_jax.{name}')


@dataclasses.dataclass(frozen=True)
class Done:
    """Holds how a command ended; `code` is None where it was stopped for taking too long."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def end(self) -> str:
        """Returns the exit code and the last line on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return f'exit {self.code}: {lines[-1][:200] if lines else "nothing on stderr"}'


class Output:
    """Holds the pipes of stdout and stderr: pipes, because files may not grow on a full disk."""

    def __init__(self):
        self._pipes = [os.pipe(), os.pipe()]
        for read_end, _ in self._pipes:
            os.set_blocking(read_end, False)
            fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def connect(self) -> None:
        """Makes this process a group of its own that writes into the pipes."""
        os.setsid()
        for number, (_, write_end) in enumerate(self._pipes, start=1):
            os.dup2(write_end, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Those of the campaign may know that they are files.
        sys.stdout = os.fdopen(1, 'w', encoding='utf-8', closefd=False)
        sys.stderr = os.fdopen(2, 'w', errors='backslashreplace', buffering=1, closefd=False)

    def close_write_ends(self) -> None:
        """Leaves the write ends to the command."""
        for _, write_end in self._pipes:
            os.close(write_end)

    def read(self) -> list[str]:
        """Returns what is in the pipes and closes them."""
        texts = []
        for read_end, _ in self._pipes:
            text = b''
            # A process that the command left behind may still hold the other end.
            with contextlib.suppress(BlockingIOError):
                text = os.read(read_end, _PIPE_BYTES)
            texts.append(text.decode(errors='replace'))
            os.close(read_end)
        return texts


class Process:
    """Holds a command that was started."""

    def __init__(self, pid: int, output: Output):
        self.pid, self._output, self._begun = pid, output, time.monotonic()
        output.close_write_ends()

    def send(self, number: int, after: float = 0.0) -> None:
        """Sends a signal after some seconds, or does nothing where the command has ended."""
        deadline = time.monotonic() + after
        while time.monotonic() < deadline and self._alive():
            time.sleep(0.005)
        if self._alive():
            os.kill(self.pid, number)

    def _alive(self) -> bool:
        # WNOWAIT leaves the exit code for `wait`.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is None

    def wait(self, limit: float = LIMIT_SECONDS) -> Done:
        """Returns how the command ended; kills it after `limit` seconds."""
        deadline, hangs = time.monotonic() + limit, False
        while self._alive():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                hangs = True
                break
            time.sleep(0.01)
        _, status = os.waitpid(self.pid, 0)
        # A command that ended leaves nothing behind that runs on.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        out, err = self._output.read()
        code = None if hangs else os.waitstatus_to_exitcode(status)
        return Done(code, out, err, time.monotonic() - self._begun)


def start(
    folder: pathlib.Path, name: str, *flags: object, before: Callable[[], object] = lambda: None
) -> Process:
    """Starts a command in a fork of this process; `before` is called there first."""
    sys.stdout.flush()
    sys.stderr.flush()
    output = Output()
    pid = os.fork()
    if pid:
        return Process(pid, output)
    code = 1
    try:
        output.connect()
        os.chdir(folder)
        before()
        sys.argv = [f'bsft_jax/{name}.py', *map(_text, flags)]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        runpy.run_module(f'bsft_jax.{name}', run_name='__main__')
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    _end(code)
    raise AssertionError('unreachable')


def _text(flag: object) -> str:
    return os.fsdecode(flag) if isinstance(flag, bytes) else str(flag)


def _end(code: int) -> None:
    """Ends a fork as an interpreter ends, with what was registered for the exit."""
    import atexit
    import threading

    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def start_fresh(folder: pathlib.Path, name: str, *flags: object) -> Process:
    """Starts a command in a fresh interpreter; returns once that handles signals."""
    command = [sys.executable, '-m', f'bsft_jax.{name}', *map(str, flags)]
    output = Output()
    process = subprocess.Popen(command, cwd=folder, preexec_fn=output.connect)
    # Nobody but `Process` asks how it ended.
    process.returncode = 0
    status = pathlib.Path(f'/proc/{process.pid}/status')
    with contextlib.suppress(OSError):
        while not _handles_interrupts(status.read_text()):
            time.sleep(0.002)
    return Process(process.pid, output)


def _handles_interrupts(status: str) -> bool:
    """Returns whether a process handles SIGINT, as an interpreter does once it runs code."""
    caught = re.search(r'SigCgt:\s*(\w+)', status)
    return caught is None or bool(int(caught[1], 16) >> (signal.SIGINT - 1) & 1)


def run(folder: pathlib.Path, name: str, *flags: object, **options) -> Done:
    """Runs a command to its end."""
    return start(folder, name, *flags, **options).wait()


def refused(done: Done, says: str = '') -> str:
    """Returns '' for one line on stderr that matches `says` and exit code 2, else what was seen."""
    lines = [line for line in done.err.splitlines() if line.startswith('error: ')]
    if 'Traceback' in done.err + done.out:
        return f'traceback, {done.end}'
    if done.code != 2 or len(lines) != 1:
        return f'{len(lines)} error lines, {done.end}'
    return '' if re.search(says, lines[0], re.I) else f'does not say {says!r}: {lines[0][:300]}'


def succeeded(done: Done) -> str:
    """Returns '' for exit code 0 without a traceback, else what was seen."""
    if 'Traceback' in done.err + done.out:
        return f'traceback, {done.end}'
    return '' if done.code == 0 else done.end
