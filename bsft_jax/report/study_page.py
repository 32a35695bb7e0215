"""Writes the page of a study: one self-contained report.html.

It is made from the study's summary.json and the metrics.jsonl of its runs.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Sequence
from html import escape
from typing import Any

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.records import taxonomy
from bsft_jax.report import columns, svg

_MAX_CURVE_POINTS = 200
# Rows of the summary that one table of categories shows side by side.
_ROWS_PER_CATEGORY_TABLE = 6
_LIGHT = (
    '--ink:#1b1f24;--muted:#59626c;--grid:#dde1e6;--paper:#fff;--band:#f3f5f7;'
    '--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;'
    '--c4:#e69f00;--c5:#56b4e9;--c6:#555;--c7:#8f7d00'
)
_DARK = (
    '--ink:#e8ebee;--muted:#a3acb6;--grid:#363d45;--paper:#15181c;--band:#1f2429;'
    '--c0:#3f9fe0;--c1:#f0803c;--c2:#1fbf93;--c3:#e29bc4;'
    '--c4:#f2b134;--c5:#9bd4f5;--c6:#bbb;--c7:#f0e442'
)
_STYLE = (
    f':root{{color-scheme:light dark;{_LIGHT}}}'
    f'@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}'
    '*{box-sizing:border-box}'
    'body{margin:0 auto;padding:1rem;max-width:76rem;background:var(--paper);color:var(--ink);'
    'font:1rem/1.5 system-ui,sans-serif;-webkit-text-size-adjust:100%}'
    'h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .4rem}'
    'p,li{max-width:46rem}'
    '.outcome{font-size:1.1rem;border-left:4px solid var(--c0);padding-left:.8rem}'
    '.soft{color:var(--muted);font-size:.88rem}.scroll{overflow-x:auto}'
    'table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}'
    'th,td{padding:.3rem .6rem;text-align:right;white-space:nowrap;vertical-align:top;'
    'border-bottom:1px solid var(--grid)}tr{background:var(--paper)}'
    'thead th{border-bottom:2px solid var(--muted);vertical-align:bottom}'
    '.name{text-align:left}td.name{white-space:normal;min-width:7rem}'
    '.rows .name{position:sticky;left:0;background:inherit;white-space:nowrap}'
    'tbody tr:nth-child(even){background:var(--band)}'
    'small{display:block;color:var(--muted);font-weight:400}tr.endpoint{font-weight:600}'
    '.charts svg{display:inline-block;width:min(100%,23.5rem);'
    'margin:0 .6rem 1rem 0;vertical-align:top}'
    '.bars{max-width:50rem}'
    '.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.6rem 0;list-style:none;'
    'font-size:.88rem}.legend li{display:flex;align-items:center;gap:.4rem}'
    'svg.key{height:12px;flex:none}'
    'pre{overflow-x:auto;background:var(--band);padding:.7rem;font-size:.8rem;line-height:1.35}'
    '@media print{:root{font-size:9.5pt}body{max-width:none;padding:0}'
    '.scroll,pre{overflow:visible}pre{white-space:pre-wrap}table{font-size:7pt}'
    'th,td{padding:2px 4px}svg,tr,table{break-inside:avoid}'
    'h2,.legend,.lead{break-after:avoid}.charts svg{width:47%}'
    '*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}'
)
_TEST_HEADERS = ('difference', '95 % interval', 'p', 'p (Holm)')
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


def write_page(directory: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` of the study in `directory` and returns its path.

    A run without metrics.jsonl has no curves.

    Raises:
      UserError: `summary.json` in `directory` is missing or not JSON.
    """
    directory = pathlib.Path(directory)
    path = directory / 'summary.json'
    try:
        summary = files.read_json(path)
    except FileNotFoundError:
        raise UserError('does not exist', where=str(path), fix='run the study first') from None
    page = directory / 'report.html'
    files.write_text(page, _page(summary, directory))
    return page


def _page(summary: dict[str, Any], directory: pathlib.Path) -> str:
    rows, runs = summary['rows'], summary['runs']
    arms = list(dict.fromkeys(item['arm'] for item in [*rows, *runs]))
    colours = {arm: n for n, arm in enumerate(arms)}
    title = f'Study {summary["study"]}'
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{escape(title)}</title><style>{_STYLE}{svg.STYLE}</style></head><body>',
        f'<h1>{escape(title)}</h1>',
        *(
            f'<p class="outcome">{escape(summary[name])}</p>'
            for name in ('outcome', 'second_outcome')
            if name in summary
        ),
        _results(rows),
        _bars(rows, colours),
        _comparisons(summary['comparisons'], summary['smallest_effect']),
        _missed_at_equal_over(summary.get('missed_at_equal_over')),
        _curves(runs, directory, colours),
        _categories(rows),
        _published(summary['published']),
    ]
    if summary['shortcuts']:
        parts += ['<h2>Shortcut baselines</h2>', f'<pre>{escape(summary["shortcuts"])}</pre>']
    if summary['notes']:
        notes = ''.join(f'<li>{escape(note)}</li>' for note in summary['notes'])
        parts += ['<h2>Notes</h2>', f'<ul>{notes}</ul>']
    return '\n'.join([*parts, '</body></html>\n'])


def _results(rows: Sequence[dict[str, Any]]) -> str:
    groups = _groups(rows)
    header = ['arm\npolicy / prompt', 'seeds', 'n', 'overall', *groups, *columns.headers()]
    body = []
    for row in rows:
        setting = escape(f'{row["policy"]} / {row["prompt"]}')
        cells = [f'<td class="name">{escape(row["arm"])}<small>{setting}</small></td>']
        cells += [_cell(row['seeds']), _cell(f'{row["n"]:,}'), _estimate(row['overall'])]
        cells += [_estimate(row['groups'].get(group)) for group in groups]
        cells += [_cell(_number(row.get(column.key))) for column in columns.COLUMNS]
        body.append('<tr>' + ''.join(cells) + '</tr>')
    legend = (
        'overall and groups: mean macro-F1 of the categories, 95 % interval below it; '
        'a single case has none. '
        f'n: test records. {columns.legend()} –: does not apply.'
    )
    return (
        '<h2>Results</h2>'
        + _table(header, body, name_columns=1, kind='rows')
        + f'<p class="soft">{escape(legend)}</p>'
    )


def _bars(rows: Sequence[dict[str, Any]], colours: dict[str, int]) -> str:
    charts = []
    for group in [*_groups(rows), 'overall']:
        items = []
        for row in rows:
            value = (row['overall'] if group == 'overall' else row['groups'].get(group)) or {}
            label = f'{row["arm"]} / {row["policy"]} / {row["prompt"]}'
            ends = value.get('low'), value.get('high')
            items.append(svg.Bar(label, value.get('value'), *ends, colours[row['arm']]))
        charts.append(svg.bars(group.capitalize(), 'macro-F1 (0 to 1)', items))
    shown = {row['arm']: colours[row['arm']] for row in rows}
    return (
        '<h2>Macro-F1 by group</h2><p class="soft lead">One bar per arm / policy / prompt, '
        'coloured by arm; whiskers: 95 % interval.</p>'
        f'{_legend(shown, line=False)}<div class="charts bars">{"".join(charts)}</div>'
    )


def _test_row(item: dict[str, Any], mark: str, more: Sequence[str] = ()) -> str:
    """Returns a row of a table of comparisons; `mark` follows the name of an endpoint."""
    interval = '–'
    if item['low'] is not None:
        interval = f'{_signed(item["low"])} to {_signed(item["high"])}'
    cells = [
        _cell(item['name'] + (mark if item['endpoint'] else ''), 'name'),
        *more,
        _cell(_signed(item['difference'])),
        _cell(interval),
        _cell(_probability(item['p'])),
        _cell(_probability(item['p_holm'])),
    ]
    return f'<tr class="{"endpoint" if item["endpoint"] else ""}">' + ''.join(cells) + '</tr>'


def _comparisons(comparisons: Sequence[dict[str, Any]], effect: dict[str, Any] | None) -> str:
    body = [_test_row(item, ' (endpoint)') for item in comparisons]
    text = '<h2>Comparisons</h2>'
    text += _table(['comparison', *_TEST_HEADERS], body, name_columns=1)
    text += (
        '<p class="soft">Differences of macro-F1. p (Holm): adjusted for the number of '
        'comparisons; –: none.'
    )
    if effect:
        smallest = _number(effect['difference'])
        if effect['difference'] is None:
            smallest = f'cannot be estimated ({escape(effect["reason"])})'
        text += (
            f' Smallest difference the endpoint can show: {smallest}, with '
            f'{effect["proactive_records"]:,} proactive records.'
        )
    return text + '</p>'


def _missed_at_equal_over(missed: dict[str, Any] | None) -> str:
    if not (missed and missed['comparisons']):
        return ''
    body = [
        _test_row(
            item,
            ' (second endpoint)',
            [_cell(_number(item[side]['missed'])) for side in ('first', 'second')],
        )
        for item in missed['comparisons']
    ]
    header = ['comparison', 'missed by first', 'by second', *_TEST_HEADERS]
    return (
        f'<h2>Missed interventions at {100 * missed["over_rate"]:g} % over-intervention</h2>'
        + _table(header, body, name_columns=1)
        + '<p class="soft">Rates of missed interventions where the dial of each side '
        'over-intervenes at that rate; without behavior tokens the dial turns the options.</p>'
    )


def _curves(
    runs: Sequence[dict[str, Any]], directory: pathlib.Path, colours: dict[str, int]
) -> str:
    histories = [
        (run['arm'], _history(directory / run['workdir'] / 'metrics.jsonl')) for run in runs
    ]
    charts, shown = [], set()
    for name, title, axis in _CURVES:
        log, lines = name == 'loss', []
        for arm, colour in colours.items():
            seeds = [_series(rows, name, positive=log) for owner, rows in histories if owner == arm]
            seeds = [points for points in seeds if points]
            if not seeds:
                continue
            shown.add(arm)
            if len(seeds) > 1:
                lines += [svg.Line(_thin_out(points), colour, seed=True) for points in seeds]
            lines.append(svg.Line(_thin_out(_mean_curve(seeds)), colour))
        if lines:
            charts.append(svg.curves(title, 'optimizer step', axis, lines, log=log))
    if not charts:
        return '<h2>Training</h2><p>No metrics.jsonl of a run was found.</p>'
    legend = _legend({arm: n for arm, n in colours.items() if arm in shown}, line=True)
    return (
        '<h2>Training</h2><p class="soft lead">Thick: mean of an arm’s seeds; thin: each seed. '
        'An arm without a behavior token has no behavior accuracy. '
        'Of long runs a point is the mean of its neighbours.</p>'
        f'{legend}<div class="charts">{"".join(charts)}</div>'
    )


def _categories(rows: Sequence[dict[str, Any]]) -> str:
    present = {name for row in rows for name in row['categories']}
    names = [name for name in taxonomy.CATEGORIES if name in present]
    names += sorted(present - set(names))
    if not names:
        return ''
    tables = []
    for start in range(0, len(rows), _ROWS_PER_CATEGORY_TABLE):
        part = rows[start : start + _ROWS_PER_CATEGORY_TABLE]
        body = []
        for name in names:
            group = taxonomy.CATEGORIES[name].group if name in taxonomy.CATEGORIES else '–'
            cells = [_cell(name, 'name'), _cell(group, 'name')]
            cells += [_cell(_number(row['categories'].get(name))) for row in part]
            body.append('<tr>' + ''.join(cells) + '</tr>')
        header = [f'{row["arm"]}\n{row["policy"]} / {row["prompt"]}' for row in part]
        tables.append(_table(['category', 'group', *header], body, name_columns=2))
    return '<h2>Macro-F1 by category</h2>' + '<br>'.join(tables)


def _published(published: Sequence[dict[str, Any]]) -> str:
    if not published:
        return ''
    body = []
    for item in published:
        cells = [_cell(item[name], 'name') for name in ('method', 'source')]
        cells += [_cell(_number(item.get(name))) for name in ('proactive', 'overall')]
        body.append('<tr>' + ''.join(cells) + '</tr>')
    return (
        '<h2>Published figures</h2><p><strong>another data set, not comparable</strong></p>'
        + _table(['method', 'source', 'proactive', 'overall'], body, name_columns=2)
    )


def _groups(rows: Sequence[dict[str, Any]]) -> list[str]:
    return taxonomy.ordered_groups(group for row in rows for group in row['groups'])


def _history(path: pathlib.Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding='utf-8').splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            # A run that is still writing leaves an incomplete last line.
            continue
        rows.append(row)
    return rows


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
    curves = [dict(points) for points in seeds]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return [(step, sum(curve[step] for curve in curves) / len(curves)) for step in steps]


def _thin_out(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Averages neighbouring points, so that at most `_MAX_CURVE_POINTS` are left."""
    size = math.ceil(len(points) / _MAX_CURVE_POINTS)
    chunks = [points[n : n + size] for n in range(0, len(points), max(size, 1))]
    return tuple((sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks)


def _legend(colours: dict[str, int], *, line: bool) -> str:
    items = ''.join(
        f'<li>{svg.key(n, line=line)}<span>{escape(arm)}</span></li>' for arm, n in colours.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _table(header: Sequence[str], body: Sequence[str], *, name_columns: int, kind: str = '') -> str:
    """Returns a table as HTML.

    Args:
      header: a text per column; its lines after the first are set small.
      body: the rows as HTML.
      name_columns: number of leading columns that hold names and are flush left.
      kind: CSS class of the table.
    """
    cells = []
    for n, text in enumerate(header):
        first, *rest = escape(text).split('\n')
        cells.append(f'<th class="{"name" if n < name_columns else ""}">{first}')
        cells += [f'<small>{line}</small>' for line in rest] + ['</th>']
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{"".join(cells)}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div>'
    )


def _cell(value: Any, kind: str = '') -> str:
    return f'<td class="{kind}">{escape(str(value))}</td>'


def _estimate(value: dict[str, Any] | None) -> str:
    if not value:
        return _cell('–')
    ends = ''
    if value['low'] is not None and value['high'] is not None:
        ends = f'<small>{_number(value["low"])}–{_number(value["high"])}</small>'
    return f'<td>{_number(value["value"])}{ends}</td>'


def _number(value: float | None) -> str:
    return '–' if value is None else f'{value:.3f}'


def _signed(value: float | None) -> str:
    if value is None:
        return '–'
    # An exact zero has no sign.
    return f'{value:+.3f}'.replace('-', '−') if value else '0.000'


def _probability(value: float | None) -> str:
    if value is None:
        return '–'
    return '< 0.001' if value < 0.001 else f'{value:.3f}'
