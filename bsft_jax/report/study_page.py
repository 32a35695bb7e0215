"""Writes the page of a study: one self-contained report.html.

It is made from the study's summary.json and the metrics.jsonl of its runs.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.report import arms, html, results, training

_TEST_HEADERS = ('difference', '95 % interval', 'p', 'p (Holm)')


def write_page(directory: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` of the study in `directory` and returns its path.

    A run without metrics.jsonl has no curves.

    Raises:
      UserError: `summary.json` in `directory` is missing or not JSON.
    """
    directory = pathlib.Path(directory)
    summary = read_summary(directory)
    page = directory / 'report.html'
    title = f'Study {summary["study"]}'
    links = arms.page_links(directory, summary['runs'])
    text = html.document(title, parts(summary, directory, links), scripts=('page.js', 'dial.js'))
    files.write_text(page, text)
    return page


def read_summary(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the content of `summary.json`; raises UserError where it is missing or not JSON."""
    path = directory / 'summary.json'
    try:
        return files.read_json(path)
    except FileNotFoundError:
        raise UserError('does not exist', where=str(path), fix='run the study first') from None


def parts(
    summary: Mapping[str, Any],
    directory: pathlib.Path,
    links: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> list[str]:
    """Returns the parts of a study's page as HTML.

    Args:
      summary: the content of its summary.json.
      directory: its folder.
      links: by arm the (text, address) of other pages, where they are shown.
    """
    rows, runs = summary['rows'], summary['runs']
    names = list(dict.fromkeys(item['arm'] for item in [*rows, *runs]))
    colours = {arm: n for n, arm in enumerate(names)}
    missed = summary.get('missed_at_equal_over')
    workdirs = [(run['arm'], directory / run['workdir']) for run in runs]
    at_rates = arms.arms_section(
        summary.get('missed_by_rate'),
        colours,
        over_rate=missed['over_rate'] if missed else 0.05,
        links=links or {},
    )
    text = [
        *(
            f'<p class="outcome">{escape(summary[name])}</p>'
            for name in ('outcome', 'second_outcome')
            if name in summary
        ),
        '<p><a href="#arms">All arms at another rate, and their cases</a></p>' if at_rates else '',
        results.results(rows),
        results.bars(rows, colours),
        _comparisons(summary['comparisons'], summary['smallest_effect']),
        _missed_at_equal_over(missed),
        at_rates,
        training.curves(workdirs, colours),
        results.categories(rows),
        _published(summary['published']),
    ]
    if summary['shortcuts']:
        text += ['<h2>Shortcut baselines</h2>', f'<pre>{escape(summary["shortcuts"])}</pre>']
    if summary['notes']:
        notes = ''.join(f'<li>{escape(note)}</li>' for note in summary['notes'])
        text += ['<h2>Notes</h2>', f'<ul>{notes}</ul>']
    return text


def _test_row(item: dict[str, Any], mark: str, more: Sequence[str] = ()) -> str:
    """Returns a row of a table of comparisons; `mark` follows the name of an endpoint."""
    interval = '–'
    if item['low'] is not None:
        interval = f'{html.signed(item["low"])} to {html.signed(item["high"])}'
    cells = [
        html.cell(item['name'] + (mark if item['endpoint'] else ''), 'name'),
        *more,
        html.cell(html.signed(item['difference'])),
        html.cell(interval),
        html.cell(html.probability(item['p'])),
        html.cell(html.probability(item['p_holm'])),
    ]
    return html.row(cells, 'endpoint' if item['endpoint'] else '')


def _comparisons(comparisons: Sequence[dict[str, Any]], effect: dict[str, Any] | None) -> str:
    body = [_test_row(item, ' (endpoint)') for item in comparisons]
    text = '<h2>Comparisons</h2>'
    text += html.table('comparisons', ['comparison', *_TEST_HEADERS], body, name_columns=1)
    text += (
        '<p class="soft">Differences of macro-F1. p (Holm): adjusted for the number of '
        'comparisons; –: none.'
    )
    if effect:
        smallest = html.number(effect['difference'])
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
            [html.cell(html.number(item[side]['missed'])) for side in ('first', 'second')],
        )
        for item in missed['comparisons']
    ]
    header = ['comparison', 'missed by first', 'by second', *_TEST_HEADERS]
    return (
        f'<h2>Missed interventions at {100 * missed["over_rate"]:g} % over-intervention</h2>'
        + html.table('missed', header, body, name_columns=1)
        + '<p class="soft">Rates of missed interventions where the dial of each side '
        'over-intervenes at that rate; without behavior tokens the dial turns the options.</p>'
    )


def _published(published: Sequence[dict[str, Any]]) -> str:
    if not published:
        return ''
    body = []
    for item in published:
        cells = [html.cell(item[name], 'name') for name in ('method', 'source')]
        cells += [html.cell(html.number(item.get(name))) for name in ('proactive', 'overall')]
        body.append(html.row(cells))
    return (
        '<h2>Published figures</h2><p><strong>another data set, not comparable</strong></p>'
        + html.table(
            'published', ['method', 'source', 'proactive', 'overall'], body, name_columns=2
        )
    )
