"""Runs what is missing of a study: trains and evaluates its points with the real command line."""

from __future__ import annotations

import itertools
import pathlib
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from bsft_jax import places
from bsft_jax.config import RunConfig
from bsft_jax.data import eval_records
from bsft_jax.errors import printable
from bsft_jax.studies import commands, results
from bsft_jax.studies.launchers import Launcher
from bsft_jax.studies.study import (
    Arm,
    Point,
    Study,
    base_config,
    check_records,
    check_study,
    distinct_configs,
    make_point,
    with_shared_workdirs,
)


def run_study(study: Study, directory: pathlib.Path, launcher: Launcher) -> list[Point]:
    """Trains and evaluates every point that has no results yet.

    A point that fails twice is left out and named in `launcher.failed`; so is an arm when all
    trials of its learning rate failed. A dry run prints the commands that can be started now:
    points whose trials are unfinished come later.

    Args:
      study: the study.
      directory: its folder.
      launcher: runs or prints the commands.

    Returns:
      All points of the study, finished or not.

    Raises:
      UserError: the study cannot be run, or the folder belongs to another one or holds something
        else or cannot be written.
      Preempted: the process was told to stop.
    """
    check_study(study)
    if not launcher.dry_run:
        places.check_study_folder(directory, 'workdir')
    trials, base = trial_points(study), base_config(study)
    # Until the learning rates are known, only the number of runs is.
    runs = [make_point(study, arm, seed, None) for arm in study.arms for seed in study.seeds]
    planned = len(study.base_prompts) + len(distinct_configs(trials)) + len(distinct_configs(runs))
    if not launcher.dry_run:
        check_records(study, base.data.source)
        if warning := eval_records.unsplit_warning(base.data.source):
            print(printable(warning), file=sys.stderr)
        results.create_study_dir(study, directory)
        line = f'{study.name}: {planned} runs, logs in {directory / "logs"}'
        print(printable(line), file=sys.stderr)
    runner = _Runner(study, base, directory, launcher, planned)

    # 1. Every arm tries the same learning rates, with the first seed, on the validation split.
    launcher.map(
        lambda trial: runner.train_and_evaluate(trial, 'validation'), distinct_configs(trials)
    )
    rates = runner.choose_learning_rates(trials)

    # 2. Every arm with its learning rate and every seed, on the test split.
    points = final_points(study, rates)

    def finish(point: Point) -> None:
        runner.train_and_evaluate(point, 'test')
        runner.write_results(points)

    launcher.map(finish, distinct_configs(points))

    # 3. The untouched base model under its prompt styles.
    launcher.map(runner.evaluate_base, study.base_prompts)
    runner.write_results(points)
    return points


class _Runner:
    """Runs the missing commands of points, and numbers and reports them.

    Args:
      study: the study.
      base: config whose base model and data stand for the whole study.
      directory: folder of the study.
      launcher: runs or prints the commands.
      planned: number of points and base evaluations, for the log.
    """

    def __init__(
        self,
        study: Study,
        base: RunConfig,
        directory: pathlib.Path,
        launcher: Launcher,
        planned: int,
    ):
        self._study, self._base = study, base
        self._directory, self._launcher = directory, launcher
        self._planned, self._numbers = planned, itertools.count(1)
        self._lock = threading.Lock()

    def train_and_evaluate(self, point: Point, split: str) -> None:
        """Runs the commands that a point's metrics on a split still need."""
        missing = missing_commands(self._study, point, self._directory, split)
        if missing and not self._launcher.dry_run:
            results.remove_stale_metrics(point, self._directory)
        self._run_commands(pathlib.Path(point.workdir).name, missing)

    def evaluate_base(self, prompt: str) -> None:
        """Evaluates the base model under a prompt style, unless that has been done."""
        study, base, directory = self._study, self._base, self._directory
        name = commands.evaluation_name(study, 'test', prompt)
        done = results.read_metrics(directory, commands.base_workdir(base), name)
        missing = [] if done else [commands.base_command(study, base, directory, prompt)]
        self._run_commands(f'base-{name}', missing)

    def choose_learning_rates(self, trials: Sequence[Point]) -> dict[str, float | None]:
        """Returns the learning rate by name of every arm that can be trained now.

        None stands for the config's own rate. An arm without a successful trial is left out and
        named in `launcher.failed`; a dry run leaves out arms with unfinished trials.
        """
        rates: dict[str, float | None] = {}
        dry_run = self._launcher.dry_run
        for arm in self._study.arms:
            finished = [
                results.point_metrics(self._study, trial, self._directory, 'validation')
                for trial in trials
                if trial.arm == arm.name
            ]
            if all(finished) or (any(finished) and not dry_run):
                rates[arm.name] = best_learning_rate(self._study, arm, self._directory)
            elif dry_run:
                print(f'# {arm.name}: print again when its trials are done')
            else:
                self._launcher.failed[arm.name] = 'no trial of its learning rate succeeded'
        return rates

    def write_results(self, points: Sequence[Point]) -> None:
        """Writes results.jsonl of what has finished so far, unless this is a dry run."""
        if not self._launcher.dry_run:
            with self._lock:
                results.write_results(self._study, points, self._directory)

    def _run_commands(self, name: str, missing: Sequence[list[str]]) -> None:
        """Runs the commands of one point in turn, until one fails."""
        with self._lock:
            number = next(self._numbers)
        for i, command in enumerate(missing):
            app = command[2].rpartition('.')[2]
            title = f'[{number}/{self._planned}] {app} {name}'
            if not run_logged(title, self._launcher, f'{name}-{i}' if i else name, command):
                break


def run_logged(title: str, launcher: Launcher, name: str, command: Sequence[str]) -> bool:
    """Launches a command, reports its start, end and time on stderr, and returns its success.

    A dry run reports nothing.
    """
    if launcher.dry_run:
        return launcher(name, command)
    # One write per line, unlike print: commands begin and end in several threads.
    sys.stderr.write(f'{title} …\n')
    start = time.monotonic()
    succeeded = launcher(name, command)
    seconds = time.monotonic() - start
    sys.stderr.write(f'{title} {"done" if succeeded else "failed"} {seconds:.0f} s\n')
    return succeeded


def missing_commands(
    study: Study, point: Point, directory: pathlib.Path, split: str
) -> list[list[str]]:
    """Returns the commands that a point's metrics on a split still need.

    None, the evaluation, or training and then the evaluation.
    """
    if results.point_metrics(study, point, directory, split):
        return []
    checkpoint = directory / point.workdir / 'checkpoints' / str(point.config.steps)
    missing = [commands.evaluate_command(study, point, directory, split)]
    if not (checkpoint.is_dir() and results.has_config_of(point, directory)):
        missing.insert(0, commands.train_command(study, point, directory))
    return missing


def trial_points(study: Study) -> list[Point]:
    """Returns the runs that learning rates are chosen by: every arm and rate, the first seed."""
    return with_shared_workdirs(
        [
            make_point(study, arm, study.seeds[0], rate)
            for arm in study.arms
            for rate in study.learning_rates
        ]
    )


def final_points(study: Study, rates: Mapping[str, float | None]) -> list[Point]:
    """Returns the runs that are evaluated on the test split, of the arms that have a rate."""
    points = [
        make_point(study, arm, seed, rates[arm.name])
        for seed in study.seeds
        for arm in study.arms
        if arm.name in rates
    ]
    return with_shared_workdirs(points)


def best_learning_rate(study: Study, arm: Arm, directory: pathlib.Path) -> float | None:
    """Returns the rate with the best overall macro-F1 on the validation split.

    The smaller one of equals; None without a finished trial.
    """
    candidates = [
        (-metrics['overall']['macro_f1'], trial.config.optimizer.learning_rate)
        for trial in trial_points(study)
        if trial.arm == arm.name
        and (metrics := results.point_metrics(study, trial, directory, 'validation'))
    ]
    return min(candidates)[1] if candidates else None
