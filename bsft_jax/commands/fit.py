"""Fits scaling laws to a file of points and writes `fit.json`, `fit.html` and `fit_points.csv`."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax import files, places
from bsft_jax.errors import UserError
from bsft_jax.report import fit_page, table
from bsft_jax.scaling import losses, saturating
from bsft_jax.scaling import points as points_lib
from bsft_jax.training.progress import progress

FIT_FILE = 'fit.json'
_LEAST_DELTA = 1e-5
# Lines of the terminal.
_SHOWN_REASONS = 12


@dataclasses.dataclass(frozen=True)
class FitCommand:
    """Describes what `fit` does; the fields are its flags."""

    points: str
    output: str
    arm: str = ''
    gain: str = ''
    drop_highest: int = 0
    huber_delta: float = 1e-3
    resamples: int = 2000
    seed: int = 0


def fit_points(options: FitCommand, forecast: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fits the losses, macro-F1 and gains of a file and writes the files of the output folder.

    Args:
      options: the flags.
      forecast: what a study had forecast of a point, and what came of it; shown beside the fits.

    Returns:
      The content of `fit.json`, which docs/formats.md describes.

    Raises:
      UserError: the file is no file of points, a flag does not fit it, or nothing can be written.
    """
    places.check_output(options.output, 'output')
    # With less the objective is a sum of absolute values, whose corners stop a smooth search.
    if not _LEAST_DELTA <= options.huber_delta < math.inf:
        raise UserError(
            f'is not a number from {_LEAST_DELTA:g} on',
            where=f'--huber_delta={options.huber_delta}',
        )
    rows = points_lib.read_rows(options.points)
    found: dict[str, Any] = {'options': dataclasses.asdict(options), 'refused': {}}
    points = fits = None
    if 'loss' in rows[0]:
        points = points_lib.loss_points(
            rows, options.points, arm=options.arm, drop_highest=options.drop_highest
        )
    elif not any(name in rows[0] for name in points_lib.SCORES):
        raise UserError(
            'has no column loss, macro_f1 or gain', where=options.points, fix='add loss'
        )
    elif options.arm or options.drop_highest:
        flag = '--arm' if options.arm else '--drop_highest'
        raise UserError('is about losses', where=flag, fix=f'{options.points} has no column loss')
    scores = _scores(rows, options)
    if points is not None:
        left_out = len([r for r in rows if not options.arm or r['arm'] == options.arm])
        found['points'] = {
            'n': len(points),
            'sizes': len(np.unique(points.params_P)),
            'clusters': points.clusters,
            'budgets': len(points.budgets),
            'left_out': left_out - len(points),
        }
        fits = _fit_losses(points, options)
        found |= fits.content
        found['refused'] |= fits.refused
    for score, by_arm in scores.items():
        found[score] = {}
        for arm, of_arm in by_arm.items():
            found[score][arm], refused = saturating.fit_scores(
                of_arm, score, resamples=options.resamples, seed=options.seed
            )
            place = f'{score}.{arm}' if arm else score
            found['refused'] |= {f'{place}.{scale}': why for scale, why in refused.items()}
    if forecast:
        found['forecast'] = dict(forecast)
    output = pathlib.Path(options.output)
    with files.writing(output):
        output.mkdir(parents=True, exist_ok=True)
    files.write_json(output / FIT_FILE, found)
    if points is not None and fits is not None:
        files.write_text(output / 'fit_points.csv', _csv(points, fits))
    fit_page.write_fit_page(output / 'fit.html', found, points, fits, scores)
    return found


def _scores(
    rows: Sequence[Mapping[str, Any]], options: FitCommand
) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Returns the rows of each score by arm; raises UserError as `saturating.pair_gains` does."""
    scores: dict[str, dict[str, list]] = {}
    for score in points_lib.SCORES:
        if score not in rows[0]:
            continue
        if not any(scale in rows[0] for scale in points_lib.SCALES):
            raise UserError(
                f'has {score} but none of params, tokens and flops',
                where=options.points,
                fix='add the column to fit it against',
            )
        by_arm: dict[str, list] = {}
        for row in rows:
            by_arm.setdefault(row.get('arm', ''), []).append(row)
        scores[score] = by_arm
    if options.gain:
        paired = saturating.pair_gains(rows, options.gain, options.points)
        scores.setdefault('gain', {})[options.gain] = paired
    return scores


def _fit_losses(points: points_lib.Points, options: FitCommand) -> losses.LossFits:
    """Fits under a progress bar."""
    total = 2 * (options.resamples + len(points.budgets)) + len(points)
    with progress('fits', total) as bar:
        step: Callable[[int], Any] = bar.update
        return losses.fit_losses(
            points,
            losses.FitOptions(
                delta=options.huber_delta,
                resamples=options.resamples,
                seed=options.seed,
                progress=step,
            ),
        )


def _csv(points: points_lib.Points, fits: losses.LossFits) -> str:
    """Returns a row per point, with what each surface predicts."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(
        ['where', 'params', 'tokens', 'flops', 'budget', 'loss']
        + [f'{method}_loss' for method in fits.surfaces]
    )
    predicted = [s.predict(points.params_P, points.tokens_P) for s in fits.surfaces.values()]
    for i in range(len(points)):
        known = [x[i] for x in (points.params_P, points.tokens_P, points.flops_P)]
        values = [repr(float(x)) for x in (*known, points.loss_P[i], *(p[i] for p in predicted))]
        writer.writerow([points.where_P[i], *values[:3], points.budget_P[i], *values[3:]])
    return file.getvalue()


def format_fits(found: Mapping[str, Any]) -> str:
    """Returns a short table of the fits as plain text, and below it what was refused."""
    text = []
    if 'points' in found:
        n = found['points']
        text.append(
            f'{n["n"]} points of {n["sizes"]} sizes and {n["budgets"]} budgets'
            + (f', the {n["left_out"]} highest losses left out' if n['left_out'] else '')
        )
        names = (*losses.EXPONENTS, 'alpha', 'beta', 'E')
        lines = [['', 'N_opt ~ C^', '95 %', 'D_opt ~ C^', '95 %']]
        lines[0] += [cell for name in names[2:] for cell in (name, '95 %')]
        for method in losses.METHODS:
            content = found[method] or {}
            cells = [method]
            for name in names:
                cells += [
                    table.format_number(content.get(name)),
                    format_interval(content.get(f'{name}_interval')),
                ]
            lines.append(cells)
        text += ['', *table.align_columns(lines, left=1), '']
        text += fit_page.warnings(found)
    for score in points_lib.SCORES:
        lines = [[score, 'against', 'limit', '95 %', 'exponent', '95 %', 'points']]
        for arm, fits in found.get(score, {}).items():
            for scale, fit in fits.items():
                cells = [arm or '-', scale]
                for name in ('limit', 'exponent'):
                    cells += [
                        table.format_number(fit[name]),
                        format_interval(fit[f'{name}_interval']),
                    ]
                lines.append([*cells, str(fit['points'])])
        if len(lines) > 1:
            text += ['', *table.align_columns(lines, left=2)]
    if found['refused']:
        text += ['', 'Not fitted:']
        reasons = [f'  {place}: {reason}' for place, reason in found['refused'].items()]
        text += reasons[:_SHOWN_REASONS]
        if len(reasons) > _SHOWN_REASONS:
            text.append(f'  and {len(reasons) - _SHOWN_REASONS} more in {FIT_FILE}')
    output = found['options']['output']
    return '\n'.join([*text, '', f'{output}/{FIT_FILE}, {output}/fit.html'])


def format_interval(ends: Sequence[float] | None) -> str:
    """Returns an interval with three decimals; - where there is none."""
    return '-' if ends is None else ' to '.join(map(table.format_number, ends))
