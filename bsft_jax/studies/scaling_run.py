"""Runs what is missing of a scaling study, and registers a forecast before its last point."""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import json
import pathlib
import sys
import threading
from collections.abc import Sequence
from typing import Any

from bsft_jax import files, places
from bsft_jax.errors import UserError, printable
from bsft_jax.scaling import forecast, losses, saturating
from bsft_jax.scaling import points as points_lib
from bsft_jax.studies import commands, results
from bsft_jax.studies.launchers import Launcher
from bsft_jax.studies.launching import run_logged
from bsft_jax.studies.scaling_plan import ScalingRun, check_data, fit_rows, plan_runs, split_runs
from bsft_jax.studies.scaling_study import ScalingStudy
from bsft_jax.studies.study import json_digest

POINTS_FILE = 'points.csv'
FORECAST_FILE = 'forecast.json'
_LOSS = 'validation/loss'


def run_scaling_study(
    study: ScalingStudy, directory: pathlib.Path, launcher: Launcher
) -> list[ScalingRun]:
    """Trains and measures every run that has no result yet, the held-out point last.

    Before that point starts, its forecast from the others is written to `forecast.json`, which is
    never changed again. A run that fails twice is left out and named in `launcher.failed`.

    Args:
      study: the study.
      directory: its folder.
      launcher: runs or prints the commands.

    Returns:
      All runs of the study, finished or not.

    Raises:
      UserError: the study cannot be run, or the folder belongs to another one or holds something
        else or cannot be written.
      Preempted: the process was told to stop.
    """
    runs = plan_runs(study)
    others, held_out = split_runs(study, runs)
    numbers, lock = itertools.count(1), threading.Lock()

    def finish(planned: ScalingRun) -> None:
        with lock:
            number = next(numbers)
        name = pathlib.Path(planned.run.workdir).name
        for i, command in enumerate(missing_commands(study, planned, directory)):
            app = command[2].rpartition('.')[2]
            title = f'[{number}/{len(runs)}] {app} {name}'
            if not run_logged(title, launcher, f'{name}-{i}' if i else name, command):
                break
        if not launcher.dry_run:
            with lock:
                write_points(study, runs, directory)

    if launcher.dry_run:
        launcher.map(finish, runs)
        return runs
    places.check_study_folder(directory, 'workdir')
    check_data(study, runs)
    named = {'study': study.name, 'endpoint': study.gain or 'loss', 'held_out': study.held_out}
    sources = {planned.run.config.data.source for planned in runs}
    results.write_study_file(directory, named, sources)
    line = f'{study.name}: {len(runs)} runs, logs in {directory / "logs"}'
    print(printable(line), file=sys.stderr)
    launcher.map(finish, others)
    # A forecast rests on all other points: where one has failed, the next start tries again.
    if held_out and not launcher.failed:
        register_forecast(study, others, held_out, directory)
        launcher.map(finish, held_out)
    write_points(study, runs, directory)
    return runs


def missing_commands(
    study: ScalingStudy, planned: ScalingRun, directory: pathlib.Path
) -> list[list[str]]:
    """Returns the commands that the result of a run still needs, in their order."""
    run, missing = planned.run, []
    if results.has_config_of(run, directory):
        if point_row(study, planned, directory):
            return []
    else:
        results.remove_stale_metrics(run, directory)
    if _trained(planned, directory) is None:
        missing.append(commands.train_command(study, run, directory))
    if study.arms:
        missing.append(commands.evaluate_command(study, run, directory, 'test'))
    return missing


def point_row(
    study: ScalingStudy, planned: ScalingRun, directory: pathlib.Path
) -> dict[str, Any] | None:
    """Returns a run's row of `points.csv`; None until it is trained and measured."""
    trained = _trained(planned, directory)
    if trained is None:
        return None
    tokens, loss = trained
    if not study.arms:
        return planned.row(tokens, {'loss': loss})
    metrics = results.point_metrics(study, planned.run, directory, 'test')
    if metrics is None:
        return None
    # Arms have other targets, so that no surface is fitted to their losses.
    return planned.row(
        tokens, {'macro_f1': metrics['overall']['macro_f1'], 'validation_loss': loss}
    )


def _trained(planned: ScalingRun, directory: pathlib.Path) -> tuple[int, float] | None:
    """Returns the tokens and the last loss of a run; None until it has its last step."""
    workdir, last = directory / planned.run.workdir, planned.run.config.steps
    path = workdir / 'metrics.jsonl'
    if not (path.is_file() and (workdir / 'checkpoints' / str(last)).is_dir()):
        return None
    if not results.has_config_of(planned.run, directory):
        return None
    merged: dict[str, Any] = {}
    for line in files.read_metrics(path):
        if line['step'] == last:
            merged |= line
    if 'tokens' not in merged or _LOSS not in merged:
        raise UserError(
            f'has no {_LOSS} of step {last}', where=str(path), fix='delete the folder of the run'
        )
    return int(merged['tokens']), float(merged[_LOSS])


def write_points(
    study: ScalingStudy, runs: Sequence[ScalingRun], directory: pathlib.Path
) -> list[dict[str, Any]]:
    """Writes `points.csv` and `results.jsonl`, a row per finished run, and returns the rows.

    The files are written atomically; none is written without a result.
    """
    rows, lines = [], []
    for planned in runs:
        if row := point_row(study, planned, directory):
            rows.append(row)
            run = planned.run
            place = {'study': study.name, 'workdir': run.workdir, 'config': run.config.to_dict()}
            lines.append({**place, **row})
    if rows:
        file = io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(directory / POINTS_FILE, file.getvalue())
        files.write_lines(directory / 'results.jsonl', lines)
    return rows


def register_forecast(
    study: ScalingStudy,
    others: Sequence[ScalingRun],
    held_out: Sequence[ScalingRun],
    directory: pathlib.Path,
) -> None:
    """Writes `forecast.json`, unless the folder has one.

    It holds the forecast of the held-out point by method, why another method has none, the points
    that it rests on, and the time. Its `digest` is that of all else in it.
    """
    path = directory / FORECAST_FILE
    if path.is_file():
        read_forecast(directory)
        return
    measured = [(planned, point_row(study, planned, directory)) for planned in others]
    rows = [row for _, row in measured if row]
    # Rows are not quite full, to the same share in all runs on one kind of record.
    planned_tokens = sum(planned.tokens for planned, row in measured if row)
    share = sum(row['tokens'] for row in rows) / max(planned_tokens, 1)
    largest = held_out[0]
    content: dict[str, Any] = {
        'point': study.held_out,
        'params': largest.size.params,
        'tokens': round(share * largest.tokens),
        'points': rows,
    }
    if any((directory / planned.run.workdir / 'config.json').is_file() for planned in held_out):
        content |= {'forecast': {}, 'refused': {'any method': 'the point had been started before'}}
    elif not rows:
        content |= {'forecast': {}, 'refused': {'any method': 'no other point has a result'}}
    else:
        content |= _forecast(study, content)
    content['written'] = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    files.write_json(path, {**content, 'digest': json_digest(content)})


def _forecast(study: ScalingStudy, content: dict[str, Any]) -> dict[str, Any]:
    """Returns `forecast` and `refused` for the point and from the points of `forecast.json`."""
    params, tokens = content['params'], content['tokens']
    rows = fit_rows(content['points'], POINTS_FILE)
    if study.arms:
        gains = saturating.pair_gains(rows, study.gain, POINTS_FILE)
        found, refused = forecast.forecast_score(gains, 'gain', 'tokens', tokens)
    else:
        points = points_lib.loss_points(rows, POINTS_FILE)
        if reason := losses.too_few(points):
            return {'forecast': {}, 'refused': {'any method': reason}}
        found, refused = forecast.forecast_loss(points, params, tokens)
    return {'forecast': found, 'refused': refused}


def read_forecast(directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns the content of `forecast.json`, or None without one.

    Raises:
      UserError: it is not what was written.
    """
    path = directory / FORECAST_FILE
    if not path.is_file():
        return None
    content = files.read_json(path)
    rest = {key: value for key, value in content.items() if key != 'digest'}
    if content.get('digest') != json_digest(json.loads(json.dumps(rest))):
        raise UserError(
            'was changed after it was written', where=str(path), fix='name a new --workdir'
        )
    return content
