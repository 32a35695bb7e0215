"""Shows what each arm of a study misses where all over-intervene at one rate, set by a slider."""

from __future__ import annotations

import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bsft_jax.report import html, svg, terms

PAGE = 'report.html'
_SECTION = 'arms'


def arms_section(
    found: Mapping[str, Any] | None,
    colours: Mapping[str, int],
    *,
    over_rate: float,
    links: Mapping[str, Sequence[tuple[str, str]]],
) -> str:
    """Returns the section: a slider, the arms at its rate, their curves, all rates as a table.

    Scripts only copy texts of the large table into the small one, so that every figure is
    Python's. Without scripts the small one stays at `over_rate`.

    Args:
      found: `missed_by_rate` of summary.json; None for a study that was summarized without.
      colours: number of each arm.
      over_rate: the rate that is shown at first, of which the nearest that is at hand is taken.
      links: by arm the (text, address) of the pages of its evaluations.
    """
    if not (found and found['arms']):
        return ''
    rates, arms = found['rates'], found['arms']
    start = min(range(len(rates)), key=lambda i: abs(rates[i] - over_rate))
    names = [_name(arm) for arm in arms]
    lines = [
        svg.Line(tuple(zip(a['over'], a['missed'], strict=True)), colours[a['arm']]) for a in arms
    ]
    chart = svg.unit_square(
        'Missed at equal over-intervention',
        'uninvited (share of records, 0 to 1)',
        'missed (share of due records, 0 to 1)',
        lines,
        markers=[(arm['over'][start], arm['missed'][start]) for arm in arms],
    )
    shown = {arm['arm']: colours[arm['arm']] for arm in arms}
    return html.section(
        _SECTION,
        'Arms at equal over-intervention',
        f'<p>Each arm\u2019s {terms.term("dial")} is set so that it steps in '
        f'{terms.term("uninvited")} at the rate that you choose; the table says what it then '
        f'{terms.term("missed", "misses")}. Without behavior tokens the dial turns the options, as '
        'a curve to compare with.</p>',
        f'<label class="live" hidden>At most <output>{html.percent(rates[start])}</output> '
        f'uninvited<input type="range" min="0" max="{len(rates) - 1}" step="1" value="{start}" '
        f'aria-label="Rate of uninvited interventions"></label>',
        _table_at(start, found, names, links),
        f'{html.legend(shown, line=True)}<div class="charts">{chart}</div>',
        '<details><summary>Every rate as a table</summary>',
        _table_of_all(found, names),
        '</details>',
    )


def page_links(
    directory: pathlib.Path, runs: Sequence[Mapping[str, Any]]
) -> dict[str, list[tuple[str, str]]]:
    """Returns by arm the pages of its runs' evaluations, relative to the folder of the study.

    Args:
      directory: folder of the study.
      runs: `runs` of summary.json.
    """
    links: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for path in sorted((directory / run['workdir']).glob(f'eval/*/{PAGE}')):
            seed = '' if run['seed'] is None else f'seed {run["seed"]}, '
            address = pathlib.PurePath(os.path.relpath(path, directory)).as_posix()
            # `./`: a name with a colon would be taken for a scheme.
            address = './' + urllib.parse.quote(address)
            links.setdefault(run['arm'], []).append((seed + path.parent.name, address))
    return links


def _name(arm: Mapping[str, Any]) -> str:
    return arm['arm'] if arm['prompt'] == 'plain' else f'{arm["arm"]} / {arm["prompt"]}'


def _missed(arm: Mapping[str, Any], i: int) -> str:
    """Returns a cell: the mean of the seeds, below it their range."""
    small = ''
    if arm['seeds'] > 1:
        small = f'<small>{html.percent(arm["low"][i])} to {html.percent(arm["high"][i])}</small>'
    return f'<td>{html.percent(arm["missed"][i])}{small}</td>'


def _table_at(
    i: int,
    found: Mapping[str, Any],
    names: Sequence[str],
    links: Mapping[str, Sequence[tuple[str, str]]],
) -> str:
    header = ['arm', 'seeds', 'missed\nleast to most of the seeds', 'uninvited']
    if links:
        header.append('pages: dial and cases')
    body = []
    for name, arm in zip(names, found['arms'], strict=True):
        cells = [html.cell(name, 'name'), html.cell(arm['seeds']), _missed(arm, i)]
        cells.append(html.cell(html.percent(arm['over'][i])))
        if links:
            pages = ', '.join(
                f'<a href="{escape(address)}">{escape(text)}</a>'
                for text, address in links.get(arm['arm'], ())
            )
            cells.append(f'<td class="name">{pages or "–"}</td>')
        body.append(html.row(cells))
    return html.table('arms', header, body, name_columns=1)


def _table_of_all(found: Mapping[str, Any], names: Sequence[str]) -> str:
    header = ['at most', *(text for name in names for text in (f'{name}\nmissed', 'uninvited'))]
    body = []
    for i, rate in enumerate(found['rates']):
        cells = [html.cell(html.percent(rate))]
        for arm in found['arms']:
            at = f'{arm["over"][i]:.6f} {arm["missed"][i]:.6f}'
            over = f'<td data-at="{at}">{html.percent(arm["over"][i])}</td>'
            cells += [_missed(arm, i), over]
        body.append(html.row(cells))
    return html.table('arms by rate', header, body, name_columns=0)
