"""Shows whether the probability of stepping in can be believed: a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from bsft_jax.evaluation.operating import find_choices
from bsft_jax.evaluation.probabilities import ECE_BINS
from bsft_jax.report import html, svg, terms
from bsft_jax.report.evaluated import Evaluated

# Radius of the dots of the smallest and the largest bin, in pixels.
_RADII = (2.5, 9.0)


def reliability_bins(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Returns the bins of `stepping_in.ece` that hold records, ascending.

    Returns:
      `low` and `high`: its ends; `n` records, of which `due` are due; `mean`: of the probability of
      stepping in, and `share`: of due records. Nothing where there is no such ECE.
    """
    section = evaluated.metrics.get('stepping_in') or {}
    if section.get('ece') is None:
        return []
    choices = find_choices(evaluated.scored, evaluated.levels)
    if choices is None:
        return []
    scored_R = choices.open_R & ~np.isnan(choices.label_R)
    due_R = choices.label_R[scored_R] > choices.level_range[0]
    probs_R = np.exp(-np.logaddexp(0.0, -choices.log_odds_R[scored_R]))
    bin_R = np.minimum((probs_R * ECE_BINS).astype(int), ECE_BINS - 1)
    bins = []
    for b in np.unique(bin_R).tolist():
        in_bin_R = bin_R == b
        bins.append(
            {
                'low': b / ECE_BINS,
                'high': (b + 1) / ECE_BINS,
                'n': int(in_bin_R.sum()),
                'due': int(due_R[in_bin_R].sum()),
                'mean': float(probs_R[in_bin_R].mean()),
                'share': float(due_R[in_bin_R].mean()),
            }
        )
    return bins


def calibration_section(evaluations: Sequence[Evaluated]) -> str:
    """Returns the section with a diagram and a table for each evaluation."""
    parts = []
    for n, evaluated in enumerate(evaluations):
        bins = reliability_bins(evaluated)
        if not bins:
            continue
        most = max(b['n'] for b in bins)
        dots = [
            svg.Dot(
                b['mean'],
                b['share'],
                _RADII[0] + (_RADII[1] - _RADII[0]) * (b['n'] / most) ** 0.5,
                n,
                f'{b["n"]} records given {b["mean"]:.3f}: {b["due"]} due ({b["share"]:.3f})',
            )
            for b in bins
        ]
        line = svg.Line(tuple((b['mean'], b['share']) for b in bins), n, seed=True)
        chart = svg.unit_square(
            evaluated.name,
            'probability given',
            'share of records due',
            [line],
            dots=dots,
            diagonal=True,
        )
        body = [
            html.row(
                [
                    html.cell(f'{b["low"]:.3f}–{b["high"]:.3f}'),
                    html.cell(b['n']),
                    html.cell(b['due']),
                    html.cell(html.number(b['mean'])),
                    html.cell(html.number(b['share'])),
                ]
            )
            for b in bins
        ]
        header = ['probability', 'n', 'due', 'mean given', 'share due']
        table = html.table(f'calibration of {evaluated.name}', header, body, name_columns=0)
        scores = evaluated.metrics['stepping_in']
        parts.append(
            f'<div><p>{escape(evaluated.name)}: {terms.term("ece", "ECE")} '
            f'{html.number(scores["ece"])}, {terms.term("brier", "Brier score")} '
            f'{html.number(scores["brier"])}, {scores["n"]} records of which {scores["due"]} are '
            f'due.</p><div class="charts">{chart}</div>'
            f'<details><summary>The bins as a table</summary>{table}</details>'
            f'{_before_and_after(evaluated)}</div>'
        )
    if not parts:
        parts = [
            '<p>The probability of stepping in was not judged: no record has a label and '
            'options both for and against it.</p>'
        ]
    return html.section(
        'calibration',
        'Calibration',
        f'<p>{terms.term("calibration", "Calibrated")} probabilities lie on the dashed line. Below '
        'it the model is too eager, above it too shy. A dot is a bin; its area grows with the '
        'number of records in it.</p>',
        f'<div class="side halves">{"".join(parts)}</div>',
    )


def _before_and_after(evaluated: Evaluated) -> str:
    """Returns what the section `calibration` of metrics.json says, if it is there."""
    found = evaluated.metrics.get('calibration')
    if not found:
        return ''
    body = [
        html.row(
            [
                f'<td class="name">{terms.term(name)}</td>',
                html.cell(html.number(found[f'{name}_before'])),
                html.cell(html.number(found[name])),
            ]
        )
        for name in ('ece', 'brier')
    ]
    return html.table(
        f'calibrated {evaluated.name}',
        ['measure', 'as the model has it', 'calibrated'],
        body,
        name_columns=1,
    )
