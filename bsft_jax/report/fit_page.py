"""Makes the page of a scaling fit: fit.html, one self-contained file."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from bsft_jax import files
from bsft_jax.report import html, svg
from bsft_jax.scaling import losses
from bsft_jax.scaling.points import FLOPS_PER_PARAM_TOKEN, SCALES, SCORES, Points

_NAMES = {
    'approach2': 'approach 2 (iso-FLOP parabolas)',
    'approach3': "approach 3 (Huber's loss of log L)",
    'vpnls': 'VPNLS (least squares of L)',
}
_LABELS = {'params': 'parameters', 'tokens': 'training tokens', 'flops': 'training FLOPs'}
_SCORE_LABELS = {'macro_f1': 'macro-F1', 'gain': 'gain in macro-F1'}
_CURVE_POINTS = 60
_RADIUS = 3.0


def write_fit_page(
    path: pathlib.Path,
    content: Mapping[str, Any],
    points: Points | None,
    fits: losses.LossFits | None,
    scores: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
) -> None:
    """Writes the page of a fit.

    Args:
      path: the file.
      content: that of `fit.json`.
      points: the points whose losses were fitted, or None.
      fits: their fits, or None.
      scores: by score and arm, the rows that were fitted.
    """
    parts = []
    if 'forecast' in content:
        parts.append(_forecast(content['forecast']))
    if points is not None and fits is not None:
        summary = content['points']
        left_out = summary['left_out']
        parts.append(
            f'<p>{summary["n"]:,} points of {summary["sizes"]} sizes and {summary["budgets"]} '
            f'budgets{f"; the {left_out} highest losses left out" if left_out else ""}.</p>'
        )
        parts += [f'<p class="warning">{escape(text)}</p>' for text in warnings(content)]
        parts += [
            _exponents(content),
            _surface_parameters(content),
            _charts(content, points, fits),
            _budgets(content),
            _left_out(content),
            _influence(content),
        ]
    parts += [
        _score_section(score, content[score], scores[score]) for score in SCORES if score in scores
    ]
    if content['refused']:
        items = ''.join(
            f'<li><strong>{escape(place)}</strong>: {escape(reason)}</li>'
            for place, reason in content['refused'].items()
        )
        parts.append(html.section('refused', 'Not fitted', f'<ul>{items}</ul>'))
    title = f'Scaling fit of {pathlib.Path(content["options"]["points"]).name}'
    files.write_text(path, html.document(title, parts, scripts=['page.js']))


def _forecast(found: Mapping[str, Any]) -> str:
    """Returns what a study had forecast of its largest point, and what came of it."""
    what = f'{escape(found["measure"])} of {escape(found["point"])}'
    head = (
        f'<p>The {what} ({found["params"]:,} parameters, {found["tokens"]:,} tokens) was forecast '
        f'from the other points on {escape(found["written"])}, before it was trained.</p>'
    )
    values = ', '.join(_number(value) for value in found['outcome']) or 'not finished'
    body = []
    for method, own in found['forecast'].items():
        inside = {True: 'yes', False: 'no', None: '–'}[found['inside'].get(method)]
        ends = own['interval']
        cells = [html.cell(_NAMES.get(method, method), 'name')]
        cells += [html.cell(_number(own[found['measure']]))]
        cells += [html.cell(f'{_number(ends[0])} to {_number(ends[1])}' if ends else '–')]
        cells += [html.cell(values), html.cell(inside)]
        body.append(html.row(cells))
    header = ['method', 'forecast', '95 % of a run', 'measured', 'inside']
    table = html.table('forecast', header, body, name_columns=1) if body else ''
    refused = ''.join(
        f'<p class="warning">No forecast by {escape(_NAMES.get(method, method))}: '
        f'{escape(reason)}.</p>'
        for method, reason in found['refused'].items()
    )
    return html.section('forecast', 'Forecast', head, table, refused)


def warnings(content: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each reason to distrust the fits of the losses."""
    text = []
    for found in content['disagreements']:
        methods = ' and '.join(found['methods'])
        ends = ' and '.join(f'{low:.3f} to {high:.3f}' for low, high in found['intervals'])
        text.append(
            f'{methods} disagree on {found["exponent"]}: their 95 % intervals, {ends}, do not '
            'overlap.'
        )
    few = content['depends_on_few']
    if few and few['depends']:
        what = ', which are the highest losses' if few['are_highest_losses'] else ''
        text.append(
            f'The fit of approach 3 depends on few points: without {few["points"]} '
            f'({", ".join(few["where"])}){what}, {few["exponent"]} is {few["without"]:.3f} and not '
            f'{few["value"]:.3f}. Look at them; --drop_highest=N leaves out the N highest losses.'
        )
    return text


def _estimate(content: Mapping[str, Any] | None, name: str) -> str:
    """Returns a cell with a value of a method and its interval."""
    if not content or content.get(name) is None:
        return html.cell('–')
    ends = content.get(f'{name}_interval')
    shown = f'<small>{_number(ends[0])} to {_number(ends[1])}</small>' if ends else ''
    return f'<td>{_number(content[name])}{shown}</td>'


def _number(value: float | None) -> str:
    if value is None:
        return '–'
    return f'{value:.4g}' if abs(value) >= 100 or 0 < abs(value) < 0.001 else f'{value:.3f}'


def _exponents(content: Mapping[str, Any]) -> str:
    disagreeing = {
        (method, found['exponent'])
        for found in content['disagreements']
        for method in found['methods']
    }
    body = []
    for method in losses.METHODS:
        cells = [html.cell(_NAMES[method], 'name')]
        cells += [_estimate(content[method], name) for name in (*losses.EXPONENTS, 'alpha', 'beta')]
        marked = [name for of_method, name in disagreeing if of_method == method]
        cells.append(html.cell(', '.join(sorted(marked)) or ('no' if content[method] else '–')))
        body.append(html.row(cells))
    header = ['method', 'N_opt ∝ C^', 'D_opt ∝ C^', 'alpha', 'beta', 'disagrees in']
    return html.section(
        'exponents',
        'Exponents',
        html.table('exponents', header, body, name_columns=1),
        '<p class="soft">Small figures are 95 % intervals over sizes and seeds. Methods disagree '
        'where their intervals do not overlap.</p>',
    )


def _surface_parameters(content: Mapping[str, Any]) -> str:
    body = []
    for method in losses.METHODS[1:]:
        found = content[method]
        cells = [html.cell(_NAMES[method], 'name')]
        cells += [_estimate(found, name) for name in 'EAB']
        cells += [html.cell(_number(found[name]) if found else '–') for name in ('rmse_log_loss',)]
        cells.append(html.cell(f'{found["objective"]:.6g}' if found else '–'))
        body.append(html.row(cells))
    header = ['method', 'E', 'A', 'B', 'RMSE of log L', 'objective']
    return html.section(
        'surface',
        'L(N, D) = E + A / N^alpha + B / D^beta',
        html.table('surface', header, body, name_columns=1),
    )


def _charts(content: Mapping[str, Any], points: Points, fits: losses.LossFits) -> str:
    flops = np.geomspace(points.flops_P.min(), points.flops_P.max(), _CURVE_POINTS)
    lines, colours = [], {}
    for n, (method, fit) in enumerate(fits.surfaces.items(), 1):
        if content[method]['params_exponent'] is None:
            continue
        # N_opt = G (C / 6)^a with G = (alpha A / (beta B))^(1 / (alpha + beta)), Hoffmann et al. 4.
        scale = (fit.alpha * fit.A / (fit.beta * fit.B)) ** (1 / (fit.alpha + fit.beta))
        compute = flops / FLOPS_PER_PARAM_TOKEN
        params = scale * compute**fit.params_exponent
        best = fit.predict(params, compute / params)
        lines.append(svg.Line(tuple(zip(flops.tolist(), best.tolist(), strict=True)), n))
        colours[f'best at this compute, {_NAMES[method]}'] = n
    dots = [
        svg.Dot(points.flops_P[i], points.loss_P[i], _RADIUS, 0, _hint(points, i))
        for i in range(len(points))
    ]
    found = content['approach2']
    for budget in found['budgets'] if found else []:
        hint = f'minimum of the budget {budget["budget"]}: {budget["loss_optimum"]:.3f}'
        dots.append(svg.Dot(budget['flops'], budget['loss_optimum'], 5.0, 3, hint))
    if found:
        colours['minima of parabolas'] = 3
    charts = svg.scatter('Loss against compute', 'training FLOPs', 'loss', lines, dots)
    if found:
        charts += _parabolas(found, points)
    return html.section(
        'charts',
        'Points and fits',
        f'<div class="charts">{charts}</div>',
        html.legend({'points': 0} | colours, line=False),
    )


def _parabolas(found: Mapping[str, Any], points: Points) -> str:
    lines, dots = [], []
    members = points.budgets
    for n, budget in enumerate(found['budgets']):
        index = np.flatnonzero(members[budget['budget']])
        params = points.params_P[index]
        x = np.geomspace(params.min(), params.max(), _CURVE_POINTS)
        turned = np.log(x / budget['params_optimum']) ** 2
        y = budget['loss_optimum'] + budget['curvature'] * turned
        lines.append(svg.Line(tuple(zip(x.tolist(), y.tolist(), strict=True)), n))
        dots += [
            svg.Dot(points.params_P[i], points.loss_P[i], _RADIUS, n, _hint(points, i))
            for i in index.tolist()
        ]
    return svg.scatter('Iso-FLOP parabolas', 'parameters', 'loss', lines, dots)


def _hint(points: Points, i: int) -> str:
    return (
        f'{points.where_P[i]}: {points.params_P[i]:.3g} parameters, {points.tokens_P[i]:.3g} '
        f'tokens, loss {points.loss_P[i]:.4f}'
    )


def _budgets(content: Mapping[str, Any]) -> str:
    found = content['approach2']
    if not found:
        return ''
    body = []
    for budget in found['budgets']:
        cells = [html.cell(budget['budget'], 'name'), html.cell(f'{budget["flops"]:.4g}')]
        cells += [html.cell(budget[name]) for name in ('points', 'sizes')]
        optimum = (budget[f'{name}_optimum'] for name in ('params', 'tokens'))
        cells += [html.cell(f'{value:.4g}') for value in optimum]
        cells.append(html.cell(_number(budget['loss_optimum'])))
        body.append(html.row(cells))
    header = ['budget', 'FLOPs', 'points', 'sizes', 'N_opt', 'D_opt', 'loss at minimum']
    table = html.table('budgets', header, body, name_columns=1)
    return html.section('budgets', 'Minima at equal compute', table)


def _left_out(content: Mapping[str, Any]) -> str:
    """Returns the exponents without each budget."""
    found = content['leave_one_budget_out']
    if not found:
        return ''
    columns = [
        (method, name)
        for method in losses.METHODS
        for name in (('params_exponent',) if method == 'approach2' else ('alpha', 'beta'))
        if content[method]
    ]
    body = [
        html.row(
            [html.cell(budget, 'name')]
            + [html.cell(_number(values[method][name])) for method, name in columns]
        )
        for budget, values in found.items()
    ]
    header = ['without'] + [
        f'{"N_opt ∝ C^" if name == "params_exponent" else name}\n{method}'
        for method, name in columns
    ]
    table = html.table('left out', header, body, name_columns=1)
    return html.section('left-out', 'Without one budget', table)


def _influence(content: Mapping[str, Any]) -> str:
    if not content['influence']:
        return ''
    body = []
    for point in content['influence']:
        cells = [html.cell(point['where'], 'name')]
        cells += [html.cell(f'{point[name]:.4g}') for name in ('params', 'tokens', 'loss')]
        cells += [html.cell(html.signed(point[f'{name}_change'])) for name in ('alpha', 'beta')]
        body.append(html.row(cells))
    header = ['point', 'parameters', 'tokens', 'loss', 'alpha changes by', 'beta changes by']
    return html.section(
        'influence',
        'Most influential points',
        html.table('influence', header, body, name_columns=1),
        '<p class="soft">Change of the exponents of approach 3 when the point is left out.</p>',
    )


def _score_section(
    score: str, fits: Mapping[str, Any], by_arm: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    body, charts = [], []
    for arm, of_arm in fits.items():
        for scale, fit in of_arm.items():
            cells = [html.cell(arm or '–', 'name'), html.cell(_LABELS[scale], 'name')]
            cells += [_estimate(fit, name) for name in ('limit', 'exponent')]
            cells += [html.cell(_number(fit['rmse'])), html.cell(fit['points'])]
            body.append(html.row(cells))
    for scale in SCALES:
        lines, dots = [], []
        for n, (arm, rows) in enumerate(by_arm.items()):
            if scale not in rows[0]:
                continue
            x = np.array([row[scale] for row in rows])
            dots += [
                svg.Dot(row[scale], row[score], _RADIUS, n, f'{arm} {row["where"]}: {row[score]}')
                for row in rows
            ]
            if fit := fits[arm].get(scale):
                at = np.geomspace(x.min(), x.max(), _CURVE_POINTS)
                y = fit['limit'] - fit['scale'] * at ** -fit['exponent']
                lines.append(svg.Line(tuple(zip(at.tolist(), y.tolist(), strict=True)), n))
        if dots:
            title = f'{_SCORE_LABELS[score]} against {_LABELS[scale]}'
            charts.append(
                svg.scatter(title, _LABELS[scale], _SCORE_LABELS[score], lines, dots, log_y=False)
            )
    header = ['arm', 'against', 'limit', 'exponent', 'RMSE', 'points']
    table = html.table(score, header, body, name_columns=2) if body else '<p>No fit.</p>'
    names = {arm or 'points': n for n, arm in enumerate(by_arm)}
    return html.section(
        score,
        f'{_SCORE_LABELS[score][0].upper()}{_SCORE_LABELS[score][1:]}: limit − scale / x^exponent',
        table,
        f'<div class="charts">{"".join(charts)}</div>',
        html.legend(names, line=False),
    )
