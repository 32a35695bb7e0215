"""Makes the tables and charts of results that pages share, from rows as a study's summary has them.

A row has `arm`, `policy`, `prompt`, `seeds`, `n`, `overall` and `groups` (each `value`, `low` and
`high`), `categories` and a value for each of `columns.COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bsft_jax.records import taxonomy
from bsft_jax.report import columns, html, svg

# Rows that one table of categories shows side by side.
_ROWS_PER_CATEGORY_TABLE = 6


def row_of_metrics(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of one evaluation from the content of its metrics.json."""

    def estimate(values: Mapping[str, Any]) -> dict[str, Any]:
        low, high = values.get('macro_f1_interval') or (None, None)
        return {'value': values['macro_f1'], 'low': low, 'high': high}

    return {
        'arm': name,
        'policy': metrics['policy'],
        'prompt': metrics['prompt'],
        'seeds': 1,
        'n': metrics['overall']['n'],
        'overall': estimate(metrics['overall']),
        'groups': {group: estimate(values) for group, values in metrics['groups'].items()},
        'categories': {name: v['macro_f1'] for name, v in metrics['categories'].items()},
        **{column.key: column.value(metrics) for column in columns.COLUMNS},
    }


def results(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of all rows with intervals."""
    groups = _groups(rows)
    header = ['arm\npolicy / prompt', 'seeds', 'n', 'overall', *groups, *columns.headers()]
    body = []
    for row in rows:
        setting = escape(f'{row["policy"]} / {row["prompt"]}')
        cells = [f'<td class="name">{escape(row["arm"])}<small>{setting}</small></td>']
        cells += [html.cell(row['seeds']), html.cell(f'{row["n"]:,}')]
        cells.append(html.estimate_cell(row['overall']))
        cells += [html.estimate_cell(row['groups'].get(group)) for group in groups]
        cells += [html.cell(html.number(row.get(column.key))) for column in columns.COLUMNS]
        body.append(html.row(cells))
    text = (
        'overall and groups: mean macro-F1 of the categories, 95 % interval below it; '
        'a single case has none. '
        f'n: test records. {columns.legend()} –: does not apply.'
    )
    return (
        '<h2>Results</h2>'
        + html.table('results', header, body, name_columns=1, kind='rows')
        + f'<p class="soft">{escape(text)}</p>'
    )


def bars(rows: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> str:
    """Returns a chart of macro-F1 for each group and overall, with a bar per row."""
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
        f'{html.legend(shown, line=False)}<div class="charts bars">{"".join(charts)}</div>'
    )


def categories(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns macro-F1 by category, with a column per row."""
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
            cells = [html.cell(name, 'name'), html.cell(group, 'name')]
            cells += [html.cell(html.number(row['categories'].get(name))) for row in part]
            body.append(html.row(cells))
        header = [f'{row["arm"]}\n{row["policy"]} / {row["prompt"]}' for row in part]
        tables.append(
            html.table('categories', ['category', 'group', *header], body, name_columns=2)
        )
    return '<h2>Macro-F1 by category</h2>' + '<br>'.join(tables)


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return taxonomy.ordered_groups(group for row in rows for group in row['groups'])
