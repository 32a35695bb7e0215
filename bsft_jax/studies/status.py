"""Says how far the runs of a study are, from their folders: `study --status`."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from bsft_jax import files
from bsft_jax.report import table
from bsft_jax.studies import results, scaling_run
from bsft_jax.studies.launching import best_learning_rate, final_points, trial_points
from bsft_jax.studies.scaling_plan import plan_runs
from bsft_jax.studies.scaling_study import ScalingStudy
from bsft_jax.studies.study import Point, Study, check_study, distinct_configs

_HEADER = ['run', 'state', 'step', 'of', 'loss', 'tokens/s', 'left', 'last line']


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Holds how far a run is.

    Attributes:
      name: folder of the run.
      state: `waiting`, `started`, `trained` (its evaluation is missing) or `done`.
      step: last step that is logged; 0 for none.
      steps: steps of the run.
      loss: training loss of that step, in nats per token, or None.
      tokens_per_second: rate when the step was logged, or None.
      seconds_left: of training, at the mean rate since it began or resumed; None unless started.
      seconds_ago: since a line was logged, or None. A run whose lines are old has stopped.
    """

    name: str
    state: str
    step: int
    steps: int
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    seconds_ago: float | None = None


def study_status(study: Study | ScalingStudy, directory: pathlib.Path) -> list[RunStatus]:
    """Returns the status of every run that is known by now, in the order in which they run.

    Runs of a `Study` whose learning rates are still being tried are not yet known.

    Raises:
      UserError: the study is wrong.
    """
    if isinstance(study, ScalingStudy):
        return [
            _status(p.run, directory, bool(scaling_run.point_row(study, p, directory)))
            for p in plan_runs(study)
        ]
    check_study(study)
    rates = {arm.name: best_learning_rate(study, arm, directory) for arm in study.arms}
    known = {n: rate for n, rate in rates.items() if rate is not None or not study.learning_rates}
    return [
        _status(point, directory, bool(results.point_metrics(study, point, directory, split)))
        for split, points in (
            ('validation', trial_points(study)),
            ('test', final_points(study, known)),
        )
        for point in distinct_configs(points)
    ]


def _status(point: Point, directory: pathlib.Path, done: bool) -> RunStatus:
    workdir, steps = directory / point.workdir, point.config.steps
    path = workdir / 'metrics.jsonl'
    own = results.has_config_of(point, directory)
    rows = [row for row in files.read_metrics(path) if 'loss' in row] if own else []
    step = int(rows[-1]['step']) if rows else 0
    state = 'started' if own else 'waiting'
    if own and (workdir / 'checkpoints' / str(steps)).is_dir():
        state, step = 'done' if done else 'trained', steps
    if not rows:
        return RunStatus(workdir.name, state, step, steps)
    return RunStatus(
        workdir.name,
        state,
        step,
        steps,
        rows[-1]['loss'],
        rows[-1].get('tokens_per_second'),
        _seconds_left(rows, steps) if state == 'started' else None,
        max(time.time() - path.stat().st_mtime, 0.0),
    )


def _seconds_left(rows: Sequence[dict[str, Any]], steps: int) -> float | None:
    """Returns the steps that are left times the mean seconds of a step since the last start."""
    last = rows[-1]
    # `seconds` begins again when a run resumes.
    begin = len(rows) - 1
    while begin and rows[begin - 1].get('seconds', 0.0) < rows[begin].get('seconds', 0.0):
        begin -= 1
    first = rows[begin]
    if last['step'] <= first['step']:
        return None
    per_step = (last['seconds'] - first['seconds']) / (last['step'] - first['step'])
    return (steps - last['step']) * per_step


def format_status(statuses: Sequence[RunStatus]) -> str:
    """Returns the runs as a table, and how many are in each state."""
    lines = [_HEADER]
    for s in statuses:
        rate = '-' if s.tokens_per_second is None else f'{s.tokens_per_second:.0f}'
        ago = '-' if s.seconds_ago is None else f'{format_seconds(s.seconds_ago)} ago'
        left = '-' if s.seconds_left is None else format_seconds(s.seconds_left)
        loss = '-' if s.loss is None else table.format_number(s.loss)
        lines.append([s.name, s.state, str(s.step), str(s.steps), loss, rate, left, ago])
    states = [s.state for s in statuses]
    counts = ', '.join(f'{states.count(state)} {state}' for state in dict.fromkeys(states))
    return '\n'.join([*table.align_columns(lines, left=2), '', counts])


def format_seconds(seconds: float) -> str:
    """Returns a duration with its two largest units: `45 s`, `12 min 5 s`, `3 h 20 min`."""
    total = round(seconds)
    hours, minutes = total // 3600, total // 60 % 60
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {total % 60} s' if minutes else f'{total} s'
