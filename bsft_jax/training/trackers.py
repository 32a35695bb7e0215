"""Trackers: Weights & Biases and Trackio get the lines of metrics.jsonl while a run trains.

Each tracker works in a thread of its own, so that no network can delay or stop a step. What a
tracker gets is the metrics and the config, in which no folder of this machine is named.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import pathlib
import queue
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.training import run_record

# Seconds that trackers have for their last lines at the end of a run, and of one that is stopped.
LAST_SECONDS = 30.0
STOPPED_SECONDS = 5.0
# Field of run.json: tracker → id of the run there.
IDS = 'trackers'
_PROJECT = 'bsft_jax'
# Where a path begins that says something of this machine, as in `0.7*jsonl:/home/…`.
_PATH = re.compile(r'(?:^|(?<=[:*=]))(?:~|/|\.\.?/)')


class TrackedRun(NamedTuple):
    """Describes a run as a tracker knows it.

    Attributes:
      project: the project that it belongs to.
      name: its name there.
      id: its id, by which a run that is started again continues it.
      config: the config, without folders of this machine.
      folder: where the tracker may keep files.
    """

    project: str
    name: str
    id: str
    config: dict[str, Any]
    folder: pathlib.Path


class Tracker(Protocol):
    """Sends the metrics of one run; it is made, called and closed by one thread."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step; several calls may name the same step."""
        ...

    def close(self, *, failed: bool) -> None:
        """Sends what is left and ends the run, as one that failed or not."""
        ...


class WandbTracker:
    """Sends metrics to Weights & Biases; the variables `WANDB_…` say to which account, and how."""

    def __init__(self, run: TrackedRun):
        wandb = importlib.import_module('wandb')
        # Without these it also sends host, user, command, packages, git state, output and load.
        settings = wandb.Settings(
            console='off',
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            # Ends before the thread is given up.
            finish_timeout=LAST_SECONDS - 10,
            host='',
            init_timeout=LAST_SECONDS,
            save_code=False,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            config=run.config,
            dir=str(run.folder),
            resume='allow',
            settings=settings,
        )

    @staticmethod
    def check() -> None:
        """Logs in, which asks for a key on a terminal; raises UserError without one elsewhere."""
        # It reports errors of its own, with their places in files, to somebody else.
        os.environ.setdefault('WANDB_ERROR_REPORTING', 'false')
        wandb = importlib.import_module('wandb')
        try:
            # A server that cannot be reached at the moment is no reason not to train.
            wandb.login(verify=False)
        except Exception as error:
            raise UserError(
                f'Weights & Biases knows no account to send to ({str(error).rstrip(".")})',
                where='--config.tracking.report_to=wandb',
                fix='run `wandb login`, or set WANDB_MODE=offline',
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        """Waits until everything is sent."""
        self._run.finish(exit_code=int(failed))


class TrackioTracker:
    """Writes metrics to Trackio's files on this machine, or to a server that its variables name.

    Those are `TRACKIO_SPACE_ID` and `TRACKIO_SERVER_URL`.
    """

    def __init__(self, run: TrackedRun):
        # Its runs continue by name. What it prints is no result of the command.
        with contextlib.redirect_stdout(sys.stderr):
            self._run = importlib.import_module('trackio').init(
                project=run.project,
                name=f'{run.name}-{run.id}',
                config=run.config,
                resume='allow',
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    @staticmethod
    def check() -> None:
        """Needs nothing: without a server it writes to this machine."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        """Waits until everything is written; Trackio does not say that a run failed."""
        del failed
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


# By the names of `config.TRACKERS`, which are those of the packages and of the extras.
_TRACKERS = {'wandb': WandbTracker, 'trackio': TrackioTracker}


class Reporter:
    """Hands lines to one tracker, in a thread of its own.

    Whatever the tracker raises ends it with one warning; training goes on.
    """

    def __init__(self, name: str, make_tracker: Callable[[], Tracker], sent: Iterable[Any] = ()):
        """Starts the thread.

        Args:
          name: name of the tracker, for the warning.
          make_tracker: makes the tracker, which may take long or fail.
          sent: keys of lines that the tracker has already, see `key_of_line`.
        """
        self._name, self._make_tracker, self._sent = name, make_tracker, frozenset(sent)
        self._lines: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._failed = self._is_over = self._has_warned = False
        self._thread = threading.Thread(target=self._work, daemon=True, name=f'tracker {name}')
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the values of a step, and returns at once."""
        if not self._is_over and key_of_line(step, values) not in self._sent:
            self._lines.put((step, dict(values)))

    def close(self, *, failed: bool = False, seconds: float = LAST_SECONDS) -> None:
        """Ends the run there, and waits at most `seconds` for it."""
        self._failed = failed
        self._lines.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn(f'does not take the last metrics within {seconds:g} seconds')

    def _work(self) -> None:
        try:
            tracker = self._make_tracker()
            while (line := self._lines.get()) is not None:
                tracker.log(*line)
            tracker.close(failed=self._failed)
        except Exception as error:
            self._warn(' '.join(f'{type(error).__name__}: {error}'.split()))
        finally:
            self._is_over = True

    def _warn(self, problem: str) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        processes.log_first(
            f'warning: {self._name} gets no more metrics ({problem}); metrics.jsonl has them all'
        )


def key_of_line(step: float, values: Iterable[str]) -> tuple[int, frozenset[str]]:
    """Returns what tells a line of metrics.jsonl from the others: its step and its names."""
    return int(step), frozenset(values) - {'step'}


def check(config: RunConfig) -> None:
    """Raises UserError for a tracker whose package is absent, or that has no account to send to."""
    check_packages(config)
    for name in config.tracking.names:
        _TRACKERS[name].check()


def check_packages(config: RunConfig) -> None:
    """Raises UserError for a tracker whose package is not installed."""
    for name in config.tracking.names:
        spec = importlib.util.find_spec(name)
        # A folder `wandb` of earlier runs looks like a package without a file.
        if spec is None or spec.origin is None:
            raise UserError(
                f'the package {name} is not installed',
                where=f'--config.tracking.report_to={config.tracking.report_to}',
                fix=f"pip install '.[{name}]'",
            )


def start(
    config: RunConfig,
    workdir: pathlib.Path,
    kept: Iterable[Mapping[str, float]] = (),
    dropped: Iterable[Mapping[str, float]] = (),
) -> list[Reporter]:
    """Starts the trackers of a run, or continues them where the run has been tracked before.

    A tracker that is new to the run gets its earlier lines, too.

    Args:
      config: the run.
      workdir: its folder, whose `run.json` has the ids.
      kept: lines that metrics.jsonl had before, and keeps.
      dropped: lines that it had beyond the step that the run continues at. They come again, and
        are not sent twice.
    """
    old = run_record.read(workdir).get(IDS, {})
    ids = {name: old.get(name) or secrets.token_hex(4) for name in config.tracking.names}
    if ids:
        run_record.update(workdir, **{IDS: old | ids})
    sent = [key_of_line(row['step'], row) for row in dropped]
    reporters = []
    for name, id in ids.items():
        run = TrackedRun(
            config.tracking.project or os.environ.get(f'{name.upper()}_PROJECT') or _PROJECT,
            config.tracking.run_name or workdir.resolve().name,
            id,
            without_folders(config.to_dict()),
            workdir,
        )
        is_known = name in old
        tracker = functools.partial(_TRACKERS[name], run)
        reporters.append(Reporter(name, tracker, sent if is_known else ()))
        for row in () if is_known else kept:
            values = {key: value for key, value in row.items() if key != 'step'}
            reporters[-1].write(int(row['step']), values)
    return reporters


def without_folders(value: Any) -> Any:
    """Returns JSON values with each path of this machine cut to its last part.

    That holds for texts that begin with `/`, `~`, `./` or `../`, also after the scheme of a data
    source, in every part of a mixture.
    """
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    return ' + '.join(map(_last_part, value.split(' + ')))


def _last_part(text: str) -> str:
    match = _PATH.search(text)
    return text[: match.start()] + pathlib.PurePath(text[match.start() :]).name if match else text
