"""Shows what `compare` finds of two evaluations of the same records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bsft_jax.report import html

_HEADER = ('macro-F1', 'cases', 'difference', '95 % interval', 'p', 'p (Holm)')


def comparison_section(pairs: Sequence[tuple[str, Mapping[str, Any] | str]]) -> str:
    """Returns the section of comparisons.

    Args:
      pairs: (title, content of compare.json), or in its place the reason why there is none.
    """
    parts = []
    for title, found in pairs:
        parts.append(f'<h3>{escape(title)}</h3>')
        if isinstance(found, str):
            parts.append(f'<p>Not compared: {escape(found)}.</p>')
            continue
        body = [
            _line(group, entry['cases'], entry['interval'], entry)
            for group, entry in found['groups'].items()
        ]
        missed = found['missed_at_equal_over']
        for entry in missed['comparisons']:
            interval = None if entry['low'] is None else [entry['low'], entry['high']]
            name = f'missed at {100 * missed["over_rate"]:g} % uninvited'
            body.append(_line(name, entry['cases'], interval, {**entry, 'p_holm': None}))
        mcnemar = found['mcnemar']
        parts += [
            html.table(f'comparison {title}', _HEADER, body, name_columns=1),
            f'<p class="soft">{found["n"]:,} records of {found["cases"]:,} cases, '
            f'{found["left_out"]:,} left out. Right in the first alone {mcnemar["only_a"]:,}, in '
            f'the second alone {mcnemar["only_b"]:,}: exact McNemar p '
            f'{html.probability(mcnemar["p"])}, records taken as independent. They speak of '
            'these two models, on other cases; another training may differ.</p>',
        ]
    return html.section('comparison', 'Compared, first minus second', *parts)


def _line(name: str, cases: int, interval: Sequence[float] | None, entry: Mapping[str, Any]) -> str:
    ends = '–' if interval is None else ' to '.join(map(html.signed, interval))
    return html.row(
        [
            html.cell(name, 'name'),
            html.cell(cases),
            html.cell(html.signed(entry['difference'])),
            html.cell(ends),
            html.cell(html.probability(entry['p'])),
            html.cell(html.probability(entry['p_holm'])),
        ]
    )
