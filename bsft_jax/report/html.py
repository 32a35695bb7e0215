"""Makes the parts that pages share: the document, tables and cells as HTML.

A page is one file that asks for nothing outside itself; a policy within it makes browsers refuse
whatever else it might name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib
from collections.abc import Sequence
from html import escape
from typing import Any

from bsft_jax.report import svg, terms

_STATIC = pathlib.Path(__file__).parent / 'static'


def document(
    title: str, parts: Sequence[str], *, scripts: Sequence[str] = (), data: Any = None
) -> str:
    """Returns a page.

    Args:
      title: plain text.
      parts: the body as HTML.
      scripts: names of files in `static/`, run in this order at the end of the page.
      data: what the scripts read from the element `page-data`, as JSON.
    """
    code = '\n'.join((_STATIC / name).read_text(encoding='utf-8') for name in scripts)
    allowed = "default-src 'none'; style-src 'unsafe-inline'"
    end = []
    if scripts:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        allowed += f"; script-src 'sha256-{digest}'"
        end = [
            f'<script type="application/json" id="page-data">{embedded_json(data)}</script>',
            f'<script>{code}</script>',
        ]
    style = (_STATIC / 'page.css').read_text(encoding='utf-8')
    return '\n'.join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{allowed}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escape(title)}</title><style>{style}{svg.STYLE}</style></head><body><main>',
            f'<h1>{escape(title)}</h1>',
            *parts,
            *['</main>', *end, '</body></html>\n'],
        ]
    )


def embedded_json(value: Any) -> str:
    """Returns JSON that stays within its element whatever its texts are."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':'))
    for sign in '<>&\u2028\u2029':
        text = text.replace(sign, f'\\u{ord(sign):04x}')
    # Half a surrogate pair cannot be written as UTF-8.
    return text.encode('utf-8', 'replace').decode()


def section(name: str, title: str, *parts: str) -> str:
    """Returns a section with a heading; `name` is its anchor."""
    content = ''.join(parts)
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def table(
    name: str, header: Sequence[str], body: Sequence[str], *, name_columns: int, kind: str = ''
) -> str:
    """Returns a table as HTML.

    Args:
      name: what it is called aloud, and in the name of its CSV file.
      header: a text per column; its lines after the first are set small.
      body: the rows as HTML.
      name_columns: number of leading columns that hold names and are flush left.
      kind: CSS class of the table.
    """
    cells = []
    for n, text in enumerate(header):
        first, *rest = text.split('\n')
        start = f'<th scope="col" class="{"name" if n < name_columns else ""}">'
        cells.append(start + terms.term(first))
        cells += [f'<small>{escape(line)}</small>' for line in rest] + ['</th>']
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="Table: {escape(name)}">'
        f'<table class="{kind}" data-name="{escape(name)}"><thead><tr>{"".join(cells)}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div>'
    )


def cell(value: Any, kind: str = '') -> str:
    """Returns a cell with a text."""
    return f'<td class="{kind}">{escape(str(value))}</td>'


def row(cells: Sequence[str], kind: str = '') -> str:
    """Returns a row of a table from its cells as HTML."""
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def estimate_cell(value: dict[str, Any] | None) -> str:
    """Returns a cell with `value` and, below it, the interval from `low` to `high`."""
    if not value:
        return cell('–')
    ends = ''
    if value['low'] is not None and value['high'] is not None:
        ends = f'<small>{number(value["low"])}–{number(value["high"])}</small>'
    return f'<td>{number(value["value"])}{ends}</td>'


def legend(colours: dict[str, int], *, line: bool) -> str:
    """Returns a legend: a sample of each colour and whose it is."""
    items = ''.join(
        f'<li>{svg.key(n, line=line)}<span>{escape(name)}</span></li>'
        for name, n in colours.items()
    )
    return f'<ul class="legend">{items}</ul>'


def number(value: float | None) -> str:
    """Returns a number with three decimals, or – for None."""
    return '–' if value is None else f'{value:.3f}'


def percent(value: float | None) -> str:
    """Returns a share in per cent with one decimal, or – for None."""
    return '–' if value is None else f'{100 * value:.1f} %'


def signed(value: float | None) -> str:
    """Returns a difference with its sign, or – for None."""
    if value is None:
        return '–'
    # An exact zero has no sign.
    return f'{value:+.3f}'.replace('-', '−') if value else '0.000'


def probability(value: float | None) -> str:
    """Returns a p-value, or – for None."""
    if value is None:
        return '–'
    return '< 0.001' if value < 0.001 else f'{value:.3f}'
