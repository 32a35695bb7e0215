"""Launchers: run the commands of a study on this machine, or print them."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bsft_jax import signals
from bsft_jax.errors import (
    EXIT_INTERRUPTED,
    EXIT_RESTART,
    EXIT_TERMINATED,
    EXIT_USER,
    Preempted,
    printable,
)
from bsft_jax.studies import resources

MAX_TRIES = 2
# Exit codes of commands that were told to stop.
_STOPPED = (
    EXIT_RESTART,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    -signal.SIGINT,
    -signal.SIGTERM,
)
# What the line begins with that says why a command has ended.
_REASONS = ('error: ', 'does not fit: ')


class _Assigned(threading.local):
    """Holds the resources that a worker thread has been assigned."""

    resources = resources.Resources()


class LocalLauncher:
    """Runs commands on this machine, each with a log of its own.

    A failed command is tried once more, unless its config is wrong (exit code 2).

    Args:
      directory: folder of the study; logs are written to its `logs`.
      jobs: number of commands at a time, each with its share of this machine. Raises UserError
        when there are fewer GPUs than that.

    Attributes:
      failed: the reason by name of each command that failed for good.
    """

    dry_run = False

    def __init__(self, directory: pathlib.Path, jobs: int = 1):
        self._logs = directory / 'logs'
        self._shares = resources.split_machine(jobs)
        self._assigned = _Assigned()
        self._children: set[subprocess.Popen] = set()
        self._stopping = threading.Event()
        self.failed: dict[str, str] = {}

    def map(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Calls `function` on every item, `jobs` at a time.

        `function` runs its commands by this launcher.

        Raises:
          Preempted: a command or this process was told to stop; all other commands are stopped too.
        """
        unassigned = iter(self._shares)

        def assign() -> None:
            self._assigned.resources = next(unassigned)
            if cores := self._assigned.resources.cores:
                # Binds this thread, and by inheritance the commands it starts.
                os.sched_setaffinity(0, cores)

        self._stopping.clear()
        previous = signal.signal(signal.SIGTERM, lambda *_: self._stop())
        pool = concurrent.futures.ThreadPoolExecutor(len(self._shares), initializer=assign)
        try:
            futures = [pool.submit(function, item) for item in items]
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            self._stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGTERM, previous)

    def _stop(self) -> None:
        self._stopping.set()
        for child in [*self._children]:
            child.terminate()

    def __call__(self, name: str, command: Sequence[str]) -> bool:
        """Runs a command and returns whether it succeeded.

        Raises:
          Preempted: the command or this process was told to stop.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f'{name}.log'
        for _ in range(MAX_TRIES):
            with path.open('ab') as log:
                begin = log.tell()
                code = self._run(command, log)
            if self._stopping.is_set() or code in _STOPPED:
                raise Preempted(f'{name} was stopped; start the study again to continue')
            if code == 0:
                self.failed.pop(name, None)
                return True
            if code == EXIT_USER:
                break
        self.failed[name] = f'{_describe(code)}: {_reason(path, begin)} ({path})'
        return False

    def _run(self, command: Sequence[str], log) -> int:
        child = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                **self._assigned.resources.environment,
                signals.PARENT: str(os.getpid()),
            },
        )
        self._children.add(child)
        try:
            # SIGTERM may have come before the child was in the set.
            if self._stopping.is_set():
                child.terminate()
            return child.wait()
        finally:
            self._children.discard(child)


def _describe(code: int) -> str:
    return f'killed by signal {-code}' if code < 0 else f'exit code {code}'


def _reason(log: pathlib.Path, begin: int) -> str:
    """Returns the line of a command's log that says why it failed, without what stood before it.

    The last line that reports an error, or else the last one: libraries may print more after it.
    """
    with log.open('rb') as file:
        file.seek(begin)
        text = file.read().decode('utf-8', errors='replace')
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(_REASONS)] or lines or ['no output']
    return printable(reasons[-1])


class DryRun:
    """Prints commands instead of running them."""

    dry_run = True

    def __init__(self):
        self.failed: dict[str, str] = {}

    def map(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Calls `function` on every item in turn."""
        for item in items:
            function(item)

    def __call__(self, name: str, command: Sequence[str]) -> bool:
        """Prints a command and returns True."""
        del name
        print(shlex.join(['python', *command[1:]]))
        return True


Launcher = LocalLauncher | DryRun
