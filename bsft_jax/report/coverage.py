"""Shows how good answers are if the least sure ones are left to people: risk against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.evaluation import selective
from bsft_jax.report import html, svg, terms
from bsft_jax.report.evaluated import Evaluated

# Shares of the records that are answered, in per cent. Below them macro-F1 is of few records, of
# which many categories have none.
PERCENT = tuple(range(20, 101, 5))


def coverage_points(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Returns the points of the curve, one for each of PERCENT.

    Returns:
      `percent`: share that is asked for; `n`: records that are answered, which may be more (see
      `selective.most_confident`); `share`: of all records; `confidence`: of the least sure of
      them; `wrong`: share of wrong answers among them; `macro_f1`: theirs. Nothing where metrics
      have no section `selective`.
    """
    rows = evaluated.scored
    if not evaluated.metrics.get('selective'):
        return []
    if any(row.get('confidence') is None for row in rows):
        return []
    confidence_R = np.array([row['confidence'] for row in rows], np.float64)
    answer_R, prediction_R = (
        np.array([row[name] for row in rows]) for name in ('answer', 'prediction')
    )
    names_R = np.array([metrics_lib.category_of(row) for row in rows])
    points = []
    for percent in PERCENT:
        kept_R = selective.most_confident(confidence_R, percent)
        _, category_R = np.unique(names_R[kept_R], return_inverse=True)
        points.append(
            {
                'percent': percent,
                'n': int(kept_R.sum()),
                'share': float(kept_R.mean()),
                'confidence': float(confidence_R[kept_R].min()),
                'wrong': float((answer_R != prediction_R)[kept_R].mean()),
                'macro_f1': metrics_lib.overall_macro_f1(
                    answer_R[kept_R], category_R, prediction_R[kept_R]
                ),
            }
        )
    return points


def coverage_section(evaluations: Sequence[Evaluated]) -> str:
    """Returns the section with both curves and a table; '' where there is no confidence."""
    curves = [coverage_points(evaluated) for evaluated in evaluations]
    shown = [(n, e, c) for n, (e, c) in enumerate(zip(evaluations, curves, strict=True)) if c]
    if not shown:
        return ''
    charts = [
        svg.unit_square(
            title,
            'share of records answered, surest first (0 to 1)',
            axis,
            [svg.Line(tuple((p['share'], p[key]) for p in points), n) for n, _, points in shown],
        )
        for key, title, axis in (
            ('wrong', 'Errors among those answered', 'share of errors (0 to 1)'),
            ('macro_f1', 'Macro-F1 of those answered', 'macro-F1 (0 to 1)'),
        )
    ]
    several = len(shown) > 1
    legend = html.legend({e.name: n for n, e, _ in shown}, line=True) if several else ''
    return html.section(
        'coverage',
        'If the unsure answers are left to people',
        '<p>Records are answered from the surest on, and the rest are left to people. A model '
        'that knows when it is unsure has a curve of wrong answers that falls to the left; '
        f'{terms.term("aurc")} is the mean height of that curve.</p>',
        *(f'<p>{escape(_sentence(e, points, several))}</p>' for _, e, points in shown),
        f'{legend}<div class="charts">{"".join(charts)}</div>',
        '<details><summary>Every share as a table</summary>',
        *(_table(e, points, several) for _, e, points in shown),
        '</details>',
    )


def _sentence(evaluated: Evaluated, points: Sequence[dict[str, Any]], several: bool) -> str:
    """Returns what the curves show: the surest half against all."""
    half, whole = (next(p for p in points if p['percent'] == percent) for percent in (50, 100))
    name = f'{evaluated.name}: ' if several else ''
    return (
        f'{name}Of all {whole["n"]:,} answers {html.percent(whole["wrong"])} are wrong, of the '
        f'surest half {html.percent(half["wrong"])}.'
    )


def _table(evaluated: Evaluated, points: Sequence[dict[str, Any]], several: bool) -> str:
    body = [
        html.row(
            [
                html.cell(f'{p["percent"]} %'),
                html.cell(f'{p["n"]:,}'),
                html.cell(html.number(p['confidence'])),
                html.cell(html.number(p['wrong'])),
                html.cell(html.number(p['macro_f1'])),
            ]
        )
        for p in points
    ]
    header = ['answered', 'n', 'as sure as', 'wrong', 'macro-F1']
    title = f'<h3>{escape(evaluated.name)}</h3>' if several else ''
    return title + html.table(f'coverage of {evaluated.name}', header, body, name_columns=0)
