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

from bsft_jax.errors import EXIT_RESTART, EXIT_USER, Preempted
from bsft_jax.studies import resources

MAX_TRIES = 2
_TERMINATED = -signal.SIGTERM


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
                code = self._run(command, log)
            if self._stopping.is_set() or code in (EXIT_RESTART, _TERMINATED):
                raise Preempted(f'{name} was stopped; start the study again to continue')
            if code == 0:
                self.failed.pop(name, None)
                return True
            if code == EXIT_USER:
                break
        lines = path.read_text(encoding='utf-8', errors='replace').strip().splitlines()
        self.failed[name] = f'exit code {code}: {lines[-1] if lines else "no output"} ({path})'
        return False

    def _run(self, command: Sequence[str], log) -> int:
        child = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self._assigned.resources.environment},
        )
        self._children.add(child)
        try:
            # SIGTERM may have come before the child was in the set.
            if self._stopping.is_set():
                child.terminate()
            return child.wait()
        finally:
            self._children.discard(child)


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
