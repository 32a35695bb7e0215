"""Draws the training curves of runs from their metrics.jsonl."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax import files
from bsft_jax.report import html, svg

_MAX_CURVE_POINTS = 200
# (name in metrics.jsonl, title, label of the y axis)
_CURVES = (
    ('loss', 'Training loss', 'nats per weighted token, log scale'),
    (
        'behavior_accuracy',
        'Behavior accuracy in training',
        'share of behavior tokens predicted (0 to 1)',
    ),
    ('validation/macro_f1', 'Validation macro-F1', 'macro-F1 (0 to 1), policy auto'),
)
_ENDS = ('curve', 'arm', 'first step', 'value', 'last step', 'value')


def curves(runs: Sequence[tuple[str, pathlib.Path]], colours: Mapping[str, int]) -> str:
    """Returns the curves of runs, given as (arm, workdir) pairs, with a heading.

    Both ends of each curve stand in a table too. A run without metrics.jsonl has no curves.
    """
    histories = [(arm, files.read_metrics(workdir / 'metrics.jsonl')) for arm, workdir in runs]
    charts, shown, ends = [], set(), []
    for name, title, axis in (*_CURVES, *_norms(histories)):
        log, lines = name == 'loss', []
        for arm, colour in colours.items():
            seeds = [_series(rows, name, positive=log) for owner, rows in histories if owner == arm]
            seeds = [points for points in seeds if points]
            if not seeds:
                continue
            shown.add(arm)
            if len(seeds) > 1:
                lines += [svg.Line(_thin_out(points), colour, seed=True) for points in seeds]
            mean = _mean_curve(seeds)
            lines.append(svg.Line(_thin_out(mean), colour))
            if mean:
                ends.append(_ends(title, arm, mean))
        if lines:
            charts.append(svg.curves(title, 'optimizer step', axis, lines, log=log))
    if not charts:
        return '<h2>Training</h2><p>No metrics.jsonl of a run was found.</p>'
    legend = html.legend({arm: n for arm, n in colours.items() if arm in shown}, line=True)
    table = html.table('training', _ENDS, ends, name_columns=2)
    return (
        '<h2>Training</h2><p class="soft lead">Thick: mean of an arm’s seeds; thin: each seed. '
        'An arm without a behavior token has no behavior accuracy and no norms. '
        'Of long runs a point is the mean of its neighbours.</p>'
        f'{legend}<div class="charts">{"".join(charts)}</div>'
        f'<details><summary>Both ends of every curve as a table</summary>{table}</details>'
    )


def _norms(histories: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> list[tuple[str, str, str]]:
    """Returns entries like those of `_CURVES` for the behavior rows that a run has trained."""
    logged = dict.fromkeys(name for _, rows in histories for row in rows for name in row)
    return [
        (name, f'Norm of the {place} row of {name.removeprefix(start)}', 'Euclidean norm')
        for start, place in (('behavior_input_norm/', 'input'), ('behavior_output_norm/', 'output'))
        for name in logged
        if name.startswith(start)
    ]


def _ends(title: str, arm: str, curve: Sequence[tuple[float, float]]) -> str:
    """Returns the row of a curve in the table of ends."""
    cells = [html.cell(title, 'name'), html.cell(arm, 'name')]
    for step, value in (curve[0], curve[-1]):
        cells += [html.cell(f'{step:,}'), html.cell(html.number(value))]
    return html.row(cells)


def _series(
    rows: Sequence[dict[str, Any]], name: str, *, positive: bool
) -> list[tuple[float, float]]:
    """Returns the sorted (step, value) points of one metric of a run.

    Missing and non-finite values are left out, and with `positive` those up to 0. A run without
    behavior tokens logs a behavior accuracy and loss of 0 throughout; it has no behavior accuracy.
    """
    points = [(row['step'], row[name]) for row in rows if row.get(name) is not None]
    if name == 'behavior_accuracy' and not any(
        row.get(name) or row.get('behavior_loss') for row in rows
    ):
        return []
    return sorted((x, y) for x, y in points if math.isfinite(y) and (y > 0 or not positive))


def _mean_curve(seeds: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Returns the mean over the seeds at the steps that all of them have."""
    by_seed = [dict(points) for points in seeds]
    steps = sorted(set.intersection(*(set(curve) for curve in by_seed)))
    return [(step, sum(curve[step] for curve in by_seed) / len(by_seed)) for step in steps]


def _thin_out(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Averages neighbouring points, so that at most `_MAX_CURVE_POINTS` are left."""
    size = math.ceil(len(points) / _MAX_CURVE_POINTS)
    chunks = [points[n : n + size] for n in range(0, len(points), max(size, 1))]
    return tuple((sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks)
