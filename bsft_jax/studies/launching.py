"""Runs the points of a study with the real command line, and collects what they found."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bsft_jax import config as config_lib
from bsft_jax import files
from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import SPLITS
from bsft_jax.config import RunConfig
from bsft_jax.errors import EXIT_RESTART, EXIT_USER, Preempted, UserError
from bsft_jax.evaluation import records as scored
from bsft_jax.studies import sharing
from bsft_jax.studies import study as study_lib
from bsft_jax.studies.study import Point, Study

TRIES = 2
_TERMINATED = -signal.SIGTERM


def _python(module: str, *flags: str) -> list[str]:
    return [sys.executable, '-m', f'bsft_jax.{module}', *flags]


def train_command(study: Study, point: Point, directory: pathlib.Path) -> list[str]:
    changed = [f'--config.{path}={value}' for path, value in point.overrides.items()]
    return _python('train', f'--config={study.config}', *changed, f'--workdir={directory / point.workdir}')


def evaluate_command(study: Study, point: Point, directory: pathlib.Path, split: str) -> list[str]:
    return _python(
        'evaluate',
        f'--workdir={directory / point.workdir}',
        f'--split={split}',
        '--policy=auto',
        f'--name={evaluation_name(study, split, "auto")}',
        f'--limit={_limit(study, split)}',
    )


def base_command(study: Study, config: RunConfig, directory: pathlib.Path, prompt: str) -> list[str]:
    data = config.data
    return _python(
        'evaluate',
        f'--model={config.model.base}',
        f'--workdir={directory / base_workdir(config)}',
        f'--data={data.source}',
        f'--chat_template={data.chat_template}',
        f'--answer_format={data.answer_format}',
        f'--drop_long={data.drop_long}',
        f'--prompt={prompt}',
        f'--name={evaluation_name(study, "test", prompt)}',
        f'--limit={_limit(study, "test")}',
    )


def _limit(study: Study, split: str) -> int:
    return study.test_limit if split == 'test' else 0


def evaluation_name(study: Study, split: str, what: str) -> str:
    """Folder of an evaluation under `what`, a policy or a prompt style; another limit, another folder."""
    limit = _limit(study, split)
    return '-'.join([split, what.replace(':', '-')] + [f'limit{limit}'] * bool(limit))


def base_workdir(config: RunConfig) -> str:
    """Folder of the untouched base; other records or another base, another folder."""
    d = config.data
    of = [config.model.base, d.source, d.chat_template, d.answer_format, d.drop_long]
    return f'points/base-{study_lib.digest(of)[:8]}'


class _Mine(threading.local):
    """A thread's share of the machine."""

    share = sharing.Share()


class Local:
    """Runs commands on this machine, each with a log of its own; a failed one is tried once more.

    `failed` says why, by name. A wrong config (exit code 2) is not tried again.

    Args:
      directory: of the study.
      jobs: commands at a time, each with its share of this machine; raises UserError when that is none.
    """

    prints = False

    def __init__(self, directory: pathlib.Path, jobs: int = 1):
        self._logs, self._shares, self._mine = directory / 'logs', sharing.shares(jobs), _Mine()
        self._children: set[subprocess.Popen] = set()
        self._stopping = threading.Event()
        self.failed: dict[str, str] = {}

    def each(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Calls `function`, which calls this launcher, on every item: `jobs` of them at a time.

        Raises Preempted when a command or this process is told to stop; the other commands are, too.
        """
        left = iter(self._shares)

        def settle() -> None:
            self._mine.share = next(left)
            if self._mine.share.cores:
                os.sched_setaffinity(0, self._mine.share.cores)  # of this thread and the commands it starts

        self._stopping.clear()
        before = signal.signal(signal.SIGTERM, lambda *_: self._stop())
        pool = concurrent.futures.ThreadPoolExecutor(len(self._shares), initializer=settle)
        try:
            for done in concurrent.futures.as_completed([pool.submit(function, item) for item in items]):
                done.result()
        except BaseException:
            self._stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGTERM, before)

    def _stop(self) -> None:
        self._stopping.set()
        for child in [*self._children]:
            child.terminate()

    def __call__(self, name: str, command: Sequence[str]) -> bool:
        """Whether the command ended well. Raises Preempted when it or this process is told to stop."""
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f'{name}.log'
        for _ in range(TRIES):
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
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **self._mine.share.environment},
        )  # fmt: skip
        self._children.add(child)
        try:
            if self._stopping.is_set():
                child.terminate()
            return child.wait()
        finally:
            self._children.discard(child)


class Printer:
    """Prints commands instead of running them."""

    prints = True

    def __init__(self):
        self.failed: dict[str, str] = {}

    def each(self, function: Callable[[Any], None], items: Iterable[Any]) -> None:
        for item in items:
            function(item)

    def __call__(self, name: str, command: Sequence[str]) -> bool:
        del name
        print(shlex.join(['python', *command[1:]]))
        return True


def claim(study: Study, directory: pathlib.Path) -> None:
    """Writes `study.json`: the endpoint that was named before there was a result, and what the records were.

    Raises UserError when the folder has another study or endpoint, or files of records have changed.
    """
    path = directory / 'study.json'
    mine = json.loads(json.dumps({'study': study.name, 'endpoint': study.endpoint}))
    old = files.read_json(path) if path.is_file() else {}
    if old and (old['study'], old['endpoint']) != (mine['study'], mine['endpoint']):
        raise UserError(
            f'was named before there were results: {old["study"]}, {old["endpoint"]}; '
            f'now it is {mine["study"]}, {mine["endpoint"]}',
            where=f'the endpoint in {directory}',
            fix='name a new --workdir',
        )
    known = old.get('records', {})
    prints = _fingerprints(study)
    for source, found in prints.items():
        if known.get(source, found) != found:
            raise UserError(
                f'other records than those the study in {directory} began with',
                where=source,
                fix='name a new --workdir',
            )
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {**mine, 'records': {**known, **prints}})


def _fingerprints(study: Study) -> dict[str, str]:
    """Digest of the content of every source of the study; of a set that only reading could tell, of nothing."""
    points = [study_lib.point(study, arm, study.seeds[0], None) for arm in study.arms]
    return {
        source: study_lib.digest(
            [sources.fingerprint(part, split) for part, _ in sources.parts_of(source) for split in SPLITS]
        )
        for source in sorted({point.config.data.source for point in points})
    }


def _metrics(directory: pathlib.Path, workdir: str, name: str) -> dict[str, Any] | None:
    path = directory / workdir / 'eval' / name / 'metrics.json'
    return files.read_json(path) if path.is_file() else None


def _is_mine(point: Point, directory: pathlib.Path) -> bool:
    path = directory / point.workdir / 'config.json'
    return path.is_file() and study_lib.config_hash(config_lib.read_workdir(path.parent)) == point.hash


def evaluated(study: Study, point: Point, directory: pathlib.Path, split: str) -> dict[str, Any] | None:
    """Metrics of a finished point, or None: not there, or of another config."""
    metrics = _metrics(directory, point.workdir, evaluation_name(study, split, 'auto'))
    return metrics if metrics and _is_mine(point, directory) else None


def commands(study: Study, point: Point, directory: pathlib.Path, split: str) -> list[list[str]]:
    """What is left to do for a point's metrics on a split: nothing, to evaluate, or to train before."""
    if evaluated(study, point, directory, split):
        return []
    trained = directory / point.workdir / 'checkpoints' / str(point.config.steps)
    todo = [evaluate_command(study, point, directory, split)]
    if not (trained.is_dir() and _is_mine(point, directory)):
        todo.insert(0, train_command(study, point, directory))
    return todo


def _forget(point: Point, directory: pathlib.Path) -> None:
    """Removes metrics that were taken under another config: training is about to make them wrong."""
    if not _is_mine(point, directory):
        for path in (directory / point.workdir).glob('eval/*/metrics.json'):
            path.unlink()


def trials(study: Study) -> list[Point]:
    """The runs that learning rates are chosen by: every arm with every rate and the first seed."""
    return study_lib.shared(
        [
            study_lib.point(study, arm, study.seeds[0], rate)
            for arm in study.arms
            for rate in study.learning_rates
        ]
    )


def _said(what: str, launcher: Local | Printer, name: str, command: Sequence[str]) -> bool:
    """Launches a command and says so, before and after: a study's log moves while its runs do."""
    if launcher.prints:
        return launcher(name, command)
    sys.stderr.write(f'{what} …\n')  # at once, unlike print: commands begin and end beside each other
    began = time.monotonic()
    done = launcher(name, command)
    sys.stderr.write(f'{what} {"done" if done else "failed"} {time.monotonic() - began:.0f} s\n')
    return done


def run(study: Study, directory: pathlib.Path, launcher: Local | Printer) -> list[Point]:
    """Trains and evaluates every point that is not there yet; returns all points of the study.

    Learning rates are tried first, each arm as often, with the first seed. A point that fails twice
    is left out and named in `launcher.failed`; so are the points of an arm all of whose trials failed.
    Printed are the commands that can be started now: points whose trials are not finished come later.
    """
    study_lib.check(study)
    tried, base = trials(study), study_lib.point(study, study.arms[0], study.seeds[0], None).config
    runs = [study_lib.point(study, arm, seed, None) for arm in study.arms for seed in study.seeds]
    planned = len(study.base_prompts) + len(study_lib.unique(tried)) + len(study_lib.unique(runs))
    lock, numbers = threading.Lock(), itertools.count(1)
    if not launcher.prints:
        study_lib.check_records(study, base.data.source)
        if warning := scored.shared_by_splits(base.data.source):
            print(warning, file=sys.stderr)
        claim(study, directory)
        print(f'{study.name}: {planned} runs, logs in {directory / "logs"}', file=sys.stderr)

    def work(name: str, todo: Sequence[list[str]]) -> None:
        with lock:
            number = next(numbers)
        for i, command in enumerate(todo):
            what = f'[{number}/{planned}] {command[2].rpartition(".")[2]} {name}'
            if not _said(what, launcher, f'{name}-{i}' if i else name, command):
                break

    def make(point: Point, split: str) -> None:
        todo = commands(study, point, directory, split)
        if todo and not launcher.prints:
            _forget(point, directory)
        work(pathlib.Path(point.workdir).name, todo)

    launcher.each(lambda trial: make(trial, 'validation'), study_lib.unique(tried))
    rates: dict[str, float | None] = {}
    for arm in study.arms:
        found = [evaluated(study, t, directory, 'validation') for t in tried if t.arm == arm.name]
        if all(found) or (any(found) and not launcher.prints):
            rates[arm.name] = best_rate(study, arm, directory)
        elif launcher.prints:
            print(f'# {arm.name}: print again when its trials are done')
        else:
            launcher.failed[arm.name] = 'no trial of its learning rate succeeded'
    points = [
        study_lib.point(study, arm, seed, rates[arm.name])
        for seed in study.seeds
        for arm in study.arms
        if arm.name in rates
    ]
    points = study_lib.shared(points)

    def finish(point: Point) -> None:
        make(point, 'test')
        if not launcher.prints:
            with lock:
                write_results(study, points, directory)

    def ask_base(prompt: str) -> None:
        name = evaluation_name(study, 'test', prompt)
        done = _metrics(directory, base_workdir(base), name)
        work(f'base-{name}', [] if done else [base_command(study, base, directory, prompt)])

    launcher.each(finish, study_lib.unique(points))
    launcher.each(ask_base, study.base_prompts)
    if not launcher.prints:
        write_results(study, points, directory)
    return points


def best_rate(study: Study, arm: study_lib.Arm, directory: pathlib.Path) -> float | None:
    """The learning rate of an arm: best overall macro-F1 on the validation split, the smaller of equals.

    None without a finished trial.
    """
    found = [
        (-metrics['overall']['macro_f1'], trial.config.optimizer.learning_rate)
        for trial in trials(study)
        if trial.arm == arm.name and (metrics := evaluated(study, trial, directory, 'validation'))
    ]
    return min(found)[1] if found else None


def _row(
    study: Study, point: Point | None, workdir: str, name: str, metrics: dict[str, Any]
) -> dict[str, Any]:
    return {
        'study': study.name,
        'point': pathlib.Path(workdir).name,
        'arm': point.arm if point else 'base',
        'seed': point.seed if point else None,
        'evaluation': {'name': name, 'policy': metrics['policy'], 'prompt': metrics['prompt']},
        'config': point.config.to_dict() if point else None,
        'workdir': workdir,
        'metrics': metrics,
    }


def write_results(study: Study, points: Sequence[Point], directory: pathlib.Path) -> list[dict[str, Any]]:
    """Writes `results.jsonl`, one line per finished evaluation, whole or not at all; returns its rows."""
    name, rows = evaluation_name(study, 'test', 'auto'), []
    for point in study_lib.shared(points):
        if metrics := evaluated(study, point, directory, 'test'):
            rows.append(_row(study, point, point.workdir, name, metrics))
    base = study_lib.point(study, study.arms[0], study.seeds[0], None).config
    for prompt in study.base_prompts:
        workdir, name = base_workdir(base), evaluation_name(study, 'test', prompt)
        if metrics := _metrics(directory, workdir, name):
            rows.append(_row(study, None, workdir, name, metrics))
    if rows:
        directory.mkdir(parents=True, exist_ok=True)
        files.write_lines(directory / 'results.jsonl', rows)
    return rows
