"""Fits the points of a scaling study and shows them beside the registered forecast."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax import files
from bsft_jax.commands import fit
from bsft_jax.errors import UserError
from bsft_jax.report import table
from bsft_jax.scaling import saturating
from bsft_jax.studies.scaling_plan import fit_rows
from bsft_jax.studies.scaling_run import POINTS_FILE, read_forecast
from bsft_jax.studies.scaling_study import ScalingStudy

_KEPT = ('point', 'params', 'tokens', 'forecast', 'refused', 'written', 'digest')


def write_report(study: ScalingStudy, directory: pathlib.Path) -> str:
    """Writes `fit.json`, `fit.html` and `fit_points.csv` of a study from its `points.csv`.

    The fits are of all points, the held-out one too. `forecast` in `fit.json` is what had been
    forecast of that point, and what it came to.

    Returns:
      The fits and the forecast as plain text.

    Raises:
      UserError: there is no point, or `forecast.json` was changed.
    """
    path = directory / POINTS_FILE
    if not path.is_file():
        raise UserError('no point has a result', where=str(directory))
    outcome = forecast_outcome(study, directory)
    options = fit.FitCommand(points=str(path), output=str(directory), gain=study.gain)
    text = fit.format_fits(fit.fit_points(options, outcome))
    return f'{text}\n\n{format_forecast(outcome)}' if outcome else text


def forecast_outcome(study: ScalingStudy, directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns the forecast with what the held-out point came to; None without a forecast.

    `measure` says of what it is, `outcome` is the value of each seed, and `inside` says by method
    whether all of them are within the interval.
    """
    content = read_forecast(directory)
    if content is None:
        return None
    lines = files.read_lines(directory / 'results.jsonl')
    rows = fit_rows([line for line in lines if line['point'] == content['point']], POINTS_FILE)
    values = _values(study, rows)
    ends = {method: found['interval'] for method, found in content['forecast'].items()}
    inside = {
        method: all(interval[0] <= value <= interval[1] for value in values)
        for method, interval in ends.items()
        if interval and values
    }
    measure = 'gain' if study.arms else 'loss'
    return {name: content[name] for name in _KEPT} | {
        'measure': measure,
        'outcome': values,
        'inside': inside,
    }


def _values(study: ScalingStudy, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the loss of each row, or the gains of the arms that have a row for the same seed."""
    if not study.arms:
        return [row['loss'] for row in rows]
    if len({row['arm'] for row in rows} & set(study.gain_arms)) < 2:
        return []
    return [row['gain'] for row in saturating.pair_gains(rows, study.gain, POINTS_FILE)]


def format_forecast(outcome: Mapping[str, Any]) -> str:
    """Returns the forecast and its outcome as plain text."""
    head = f'{outcome["measure"]} of {outcome["point"]}, forecast on {outcome["written"]}'
    measured = ', '.join(map(table.format_number, outcome['outcome'])) or 'not finished'
    lines = [['method', 'forecast', '95 % of a run', 'measured', 'inside']]
    for method, found in outcome['forecast'].items():
        inside = outcome['inside'].get(method)
        lines.append(
            [
                method,
                table.format_number(found[outcome['measure']]),
                fit.format_interval(found['interval']),
                measured,
                '-' if inside is None else 'yes' if inside else 'no',
            ]
        )
    refused = [f'{method}: no forecast, {why}' for method, why in outcome['refused'].items()]
    shown = table.align_columns(lines, left=1) if outcome['forecast'] else []
    return '\n'.join([head, *shown, *refused])
