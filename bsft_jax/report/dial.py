"""Shows what an evaluation's model does at each setting of its dial.

The settings and most figures are `stepping_in.points` of metrics.json; macro-F1 by group and the
counts that costs need are added here, from the predictions at the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.evaluation import statistics
from bsft_jax.evaluation.operating import OperatingCurve, find_choices
from bsft_jax.records.record import cluster_of
from bsft_jax.report import html, svg, terms
from bsft_jax.report.evaluated import Evaluated

# The rate of uninvited interventions within which pages look for the best setting.
MOST_UNINVITED = 0.05
# Rates that differ by less are equal.
_ROUNDING = 1e-12
# (key of a point, term)
_FIGURES = (
    ('macro_f1', 'overall'),
    ('over', 'uninvited'),
    ('missed', 'missed'),
    ('alerts', 'alerts / 100'),
    ('ppv', 'ppv'),
)


def dial_points(evaluated: Evaluated) -> dict[str, Any] | None:
    """Returns what the page's dial shows; None for an evaluation without operating points.

    Returns:
      `cases`: number of cases that count.
      `can_be_over`, `can_be_missed`: number of records that count in each of the two rates.
      `points`: by setting, ascending: `dial`, the rates `over`, `missed` and `ppv`, `alerts` per
        100 cases, `macro_f1`, `groups` (macro-F1 of each), and how many records are `overs` and
        `misses`.
    """
    points = (evaluated.metrics.get('stepping_in') or {}).get('points')
    if not points:
        return None
    rows = evaluated.scored
    choices = find_choices(rows, evaluated.levels)
    curve = choices and OperatingCurve.of(choices)
    if choices is None or curve is None:
        return None
    counts_R = curve.can_be_over_R | curve.can_be_missed_R
    case_R = statistics.cluster_ids([cluster_of(row) for row in rows])
    shown = []
    for point in points:
        prediction_R, over_R, missed_R = _actions_at(curve, point['dial'])
        shown.append(
            {
                'dial': point['dial'],
                'over': point['over_intervention_rate'],
                'missed': point['missed_intervention_rate'],
                'ppv': point['ppv'],
                'alerts': point['alerts_per_100_cases'],
                'macro_f1': point['macro_f1'],
                'groups': _macro_f1_by_group(rows, prediction_R),
                'overs': int(over_R.sum()),
                'misses': int(missed_R.sum()),
            }
        )
    return {
        'cases': len(np.unique(case_R[counts_R])),
        'can_be_over': int(curve.can_be_over_R.sum()),
        'can_be_missed': int(curve.can_be_missed_R.sum()),
        'points': shown,
    }


def _actions_at(curve: OperatingCurve, dial: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns at a setting each record's answer, and whether it is uninvited, and a miss."""
    choices, choice_R1 = curve.choices, curve.path.choice_at(dial)[:, None]
    prediction_R, over_R, missed_R = (
        np.take_along_axis(value_Rn, choice_R1, 1)[:, 0]
        for value_Rn in (choices.prediction_Rn, choices.over_Rn, choices.missed_Rn)
    )
    return prediction_R, over_R & curve.can_be_over_R, missed_R & curve.can_be_missed_R


def setting_within(
    points: Sequence[Mapping[str, Any]], key: str = 'over', missed: str = 'missed'
) -> Mapping[str, Any] | None:
    """Returns the point that misses least with at most MOST_UNINVITED, the first of equals.

    The button of the page goes there. None where every setting is above that rate.

    Args:
      points: settings of the dial.
      key: name of the rate of uninvited interventions in them.
      missed: name of the rate of missed ones.
    """
    allowed = [point for point in points if point[key] <= MOST_UNINVITED + _ROUNDING]
    return min(allowed, key=lambda point: point[missed], default=None)


def actions_within(evaluated: Evaluated) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns which of the scored rows are uninvited, and misses, at `setting_within`.

    None without such a setting.
    """
    points = (evaluated.metrics.get('stepping_in') or {}).get('points') or ()
    best = setting_within(points, 'over_intervention_rate', 'missed_intervention_rate')
    choices = None if best is None else find_choices(evaluated.scored, evaluated.levels)
    curve = choices and OperatingCurve.of(choices)
    return None if best is None or curve is None else _actions_at(curve, best['dial'])[1:]


def _macro_f1_by_group(
    rows: Sequence[Mapping[str, Any]], prediction_R: np.ndarray
) -> dict[str, float]:
    members = metrics_lib.group_members(rows)
    categories = [name for names in members.values() for name in names]
    category_R = np.array([categories.index(metrics_lib.category_of(row)) for row in rows])
    answer_R = np.array([row['answer'] for row in rows])
    confusion_CKK = metrics_lib.confusion_counts(
        answer_R,
        prediction_R,
        category_R,
        categories=len(categories),
        options=int(max(answer_R.max(), prediction_R.max())) + 1,
    )
    by_category = dict(
        zip(categories, metrics_lib.confusion_macro_f1(confusion_CKK).tolist(), strict=True)
    )
    return {
        group: float(np.mean([by_category[name] for name in names]))
        for group, names in members.items()
    }


def dial_section(evaluations: Sequence[Evaluated], dials: Sequence[dict[str, Any] | None]) -> str:
    """Returns the section with a slider for each evaluation that has operating points."""
    shown = [(n, e, d) for n, (e, d) in enumerate(zip(evaluations, dials, strict=True)) if d]
    if not shown:
        return html.section(
            'dial',
            'The dial',
            '<p>No operating points: the records do not say which behavior their options stand '
            'for, or none has a label.</p>',
        )
    lines = [svg.Line(tuple((p['over'], p['missed']) for p in d['points']), n) for n, _, d in shown]
    chart = svg.unit_square(
        'What each setting costs',
        'uninvited (share of records, 0 to 1)',
        'missed (share of due records, 0 to 1)',
        lines,
        markers=[
            (d['points'][_zero(d)]['over'], d['points'][_zero(d)]['missed']) for *_, d in shown
        ],
    )
    legend = ''
    if len(shown) > 1:
        legend = html.legend({e.name: n for n, e, _ in shown}, line=True)
    return html.section(
        'dial',
        'The dial',
        f'<p>The {terms.term("dial")} trades {terms.term("uninvited", "uninvited alerts")} for '
        f'{terms.term("missed", "missed ones")}, without training again. Move it, or say what a '
        'miss and a false alarm cost: it then goes to the setting of least expected cost.</p>',
        '<div class="controls live" hidden>'
        '<label>Cost of a miss <input type="number" id="cost-miss" min="0" step="any" value="1">'
        '</label><label>Cost of a false alarm '
        '<input type="number" id="cost-alarm" min="0" step="any" value="1"></label>'
        '<button type="button" id="least-cost">Set to least cost</button>'
        '<button type="button" data-most="0.05">At most 5 % uninvited</button>'
        '<button type="button" data-most="0.1">At most 10 %</button>'
        '<button type="button" id="as-trained">As trained (0)</button></div>',
        *(_card(n, e, d) for n, e, d in shown),
        f'{legend}<div class="charts">{chart}</div>',
        '<details><summary>Every setting as a table</summary>',
        *(_table(e, d, len(shown) > 1) for _, e, d in shown),
        '</details>',
    )


def _card(n: int, evaluated: Evaluated, dial: Mapping[str, Any]) -> str:
    points, zero = dial['points'], _zero(dial)
    figures = [(key, terms.term(name)) for key, name in _FIGURES]
    figures[1:1] = [(f'group:{name}', terms.term(name)) for name in points[0]['groups']]
    figures.append(('cost', terms.term('cost / 100')))
    items = ''.join(
        f'<div><dt>{name}</dt>'
        f'<dd data-figure="{escape(key)}">{_shown(points[zero], key)}</dd></div>'
        for key, name in figures
    )
    note = ''
    if evaluated.metrics['stepping_in']['source'] == 'options':
        note = (
            '<p class="soft">This model has no behavior tokens: its dial turns the options, as a '
            'curve to compare with. No policy does that.</p>'
        )
    return (
        f'<div class="dial" data-evaluation="{n}"><h3>{escape(evaluated.name)}</h3>'
        f'<label class="live" hidden>Dial <output>{position(points[zero])}</output>'
        f'<input type="range" min="0" max="{len(points) - 1}" step="1" value="{zero}" '
        f'aria-label="Dial of {escape(evaluated.name)}"></label>'
        f'<dl class="figures">{items}</dl>{note}</div>'
    )


def _zero(dial: Mapping[str, Any]) -> int:
    """Returns the index of the setting at which the model is as it was trained."""
    return [point['dial'] for point in dial['points']].index(0.0)


def _shown(point: Mapping[str, Any], key: str) -> str:
    if key == 'cost':
        return '–'
    if key.startswith('group:'):
        return html.number(point['groups'][key.removeprefix('group:')])
    if key == 'alerts':
        return f'{point[key]:.1f}'
    return html.number(point[key]) if key == 'macro_f1' else html.percent(point[key])


def position(point: Mapping[str, Any]) -> str:
    """Returns the setting of a point as pages show it."""
    return f'{point["dial"]:+.2f}'.replace('-', '−')


def _table(evaluated: Evaluated, dial: Mapping[str, Any], several: bool) -> str:
    groups = list(dial['points'][0]['groups'])
    keys = ['macro_f1', *(f'group:{group}' for group in groups), 'over', 'missed', 'alerts', 'ppv']
    header = ['dial', 'overall', *groups, 'uninvited', 'missed', 'alerts / 100', 'ppv']
    body = [
        html.row([html.cell(position(p)), *(html.cell(_shown(p, key)) for key in keys)])
        for p in dial['points']
    ]
    title = f'<h3>{escape(evaluated.name)}</h3>' if several else ''
    return title + html.table(f'dial of {evaluated.name}', header, body, name_columns=0)
