"""Runs the points of a study one after another with the real command line, and collects what they found."""

from __future__ import annotations

import json
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from bsft_jax import config as config_lib
from bsft_jax.errors import EXIT_RESTART, EXIT_USER, Preempted
from bsft_jax.studies import study as study_lib
from bsft_jax.studies.study import Point, Study

TRIES = 2
TEST, VALIDATION = 'test-auto', 'validation-auto'


def _python(module: str, *flags: str) -> list[str]:
    return [sys.executable, '-m', f'bsft_jax.{module}', *flags]


def train_command(study: Study, point: Point, directory: pathlib.Path) -> list[str]:
    changed = [f'--config.{path}={value}' for path, value in point.overrides.items()]
    return _python('train', f'--config={study.config}', *changed, f'--workdir={directory / point.workdir}')


def evaluate_command(study: Study, point: Point, directory: pathlib.Path, split: str) -> list[str]:
    name = TEST if split == 'test' else VALIDATION
    limit = study.test_limit if split == 'test' else 0
    return _python(
        'evaluate',
        f'--workdir={directory / point.workdir}',
        f'--split={split}',
        '--policy=auto',
        f'--name={name}',
        f'--limit={limit}',
    )


def base_command(study: Study, point: Point, directory: pathlib.Path, prompt: str) -> list[str]:
    data = point.config.data
    return _python(
        'evaluate',
        f'--model={point.config.model.base}',
        f'--workdir={directory / "points/base"}',
        f'--data={data.source}',
        f'--answer_format={data.answer_format}',
        f'--prompt={prompt}',
        f'--name={base_name(prompt)}',
        f'--limit={study.test_limit}',
    )


def base_name(prompt: str) -> str:
    return f'test-{prompt.replace(":", "-")}'


class Local:
    """Runs commands on this machine, each with a log of its own; a failed one is tried once more."""

    def __init__(self, directory: pathlib.Path):
        self._logs = directory / 'logs'
        self.failed: dict[str, str] = {}

    def __call__(self, name: str, command: Sequence[str]) -> bool:
        """Whether the command ended well. Raises Preempted when it or this process is told to stop."""
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f'{name}.log'
        for _ in range(TRIES):
            with path.open('ab') as log:
                code = self._run(command, log)
            if code == 0:
                self.failed.pop(name, None)
                return True
            if code == EXIT_RESTART:
                raise Preempted(f'{name} is saved; start the study again to continue')
            if code == EXIT_USER:
                break
        lines = path.read_text(encoding='utf-8', errors='replace').strip().splitlines()
        self.failed[name] = f'exit code {code}: {lines[-1] if lines else "no output"} ({path})'
        return False

    def _run(self, command: Sequence[str], log) -> int:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        return EXIT_RESTART if code == -signal.SIGTERM else code


class Printer:
    """Prints commands instead of running them."""

    def __init__(self):
        self.failed: dict[str, str] = {}

    def __call__(self, name: str, command: Sequence[str]) -> bool:
        del name
        print(shlex.join(['python', *command[1:]]))
        return True


def _metrics(directory: pathlib.Path, workdir: str, name: str) -> dict[str, Any] | None:
    path = directory / workdir / 'eval' / name / 'metrics.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None


def evaluated(point: Point, directory: pathlib.Path, name: str) -> dict[str, Any] | None:
    """Metrics of a finished point, or None: not there, or of another config."""
    path = directory / point.workdir / 'config.json'
    metrics = _metrics(directory, point.workdir, name)
    if metrics is None or not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding='utf-8'))
    return None if config_lib.differences(stored, point.config.to_dict()) else metrics


def run(study: Study, directory: pathlib.Path, launcher: Local | Printer) -> list[Point]:
    """Trains and evaluates every point that is not there yet; returns all points of the study.

    Learning rates are tried first, each arm as often, with the first seed. A point that fails twice
    is left out and named in `launcher.failed`.
    """
    study_lib.check(study)
    rates = {arm.name: study.learning_rates for arm in study.arms}
    trials = [
        study_lib.point(study, arm, study.seeds[0], rate) for arm in study.arms for rate in rates[arm.name]
    ]
    planned = len(study_lib.unique(trials)) + len(study.arms) * (len(study.seeds) - bool(trials))
    with tqdm(total=planned + len(study.base_prompts), desc=study.name, unit='run', disable=None) as bar:

        def work(name: str, todo: Sequence[list[str]]) -> None:
            bar.set_postfix_str(name)
            for number, command in enumerate(todo):
                if not launcher(f'{name}-{number}' if number else name, command):
                    break
            bar.update()

        def make(point: Point, *splits: str) -> None:
            names = {'test': TEST, 'validation': VALIDATION}
            missing = [split for split in splits if evaluated(point, directory, names[split]) is None]
            commands = [evaluate_command(study, point, directory, split) for split in missing]
            if commands:
                commands.insert(0, train_command(study, point, directory))
            work(pathlib.Path(point.workdir).name, commands)

        for trial in study_lib.unique(trials):
            make(trial, 'validation')
        points = []
        for seed in study.seeds:
            for arm in study.arms:
                rate = best_rate(study, arm, directory)
                points.append(study_lib.point(study, arm, seed, rate))
        for point in study_lib.unique(points):
            make(point, 'test')
            write_results(study, points, directory)
        for prompt in study.base_prompts:
            done = _metrics(directory, 'points/base', base_name(prompt))
            work(base_name(prompt), [] if done else [base_command(study, points[0], directory, prompt)])
        write_results(study, points, directory)
    return points


def best_rate(study: Study, arm: study_lib.Arm, directory: pathlib.Path) -> float | None:
    """The learning rate of an arm: best overall macro-F1 on the validation split, the smaller of equals."""
    best: tuple[float, float] | None = None
    for rate in sorted(study.learning_rates):
        trial = study_lib.point(study, arm, study.seeds[0], rate)
        metrics = evaluated(trial, directory, VALIDATION)
        if metrics and (best is None or metrics['overall']['macro_f1'] > best[0]):
            best = metrics['overall']['macro_f1'], rate
    if best is None and study.learning_rates:
        return min(study.learning_rates)
    return best[1] if best else None


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
    home = {candidate.hash: candidate.workdir for candidate in reversed(points)}
    rows = []
    for point in points:
        shared = Point(point.arm, point.seed, point.config, point.overrides, home[point.hash])
        if metrics := evaluated(shared, directory, TEST):
            rows.append(_row(study, point, shared.workdir, TEST, metrics))
    for prompt in study.base_prompts:
        if metrics := _metrics(directory, 'points/base', base_name(prompt)):
            rows.append(_row(study, None, 'points/base', base_name(prompt), metrics))
    if rows:
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / 'results.jsonl.partial'
        partial.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
        partial.replace(directory / 'results.jsonl')
    return rows
