"""Shows what was due against what the model did, from the section `confusion` of metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bsft_jax.report import html
from bsft_jax.report.evaluated import Evaluated


def confusion_section(evaluations: Sequence[Evaluated]) -> str:
    """Returns the section with the matrices of each evaluation; '' where none has any."""
    parts = []
    for evaluated in evaluations:
        found = evaluated.metrics.get('confusion')
        if not found:
            continue
        matrices = {'answers': found['answers'], 'behavior tokens': found['tokens']}
        if len(found['groups']) > 1:
            matrices |= {
                f'{name or "no"} group': counts for name, counts in found['groups'].items()
            }
        if len(evaluations) > 1:
            parts.append(f'<h3>{escape(evaluated.name)}</h3>')
        parts.append('<div class="side">')
        parts += [
            f'<div>{_matrix(evaluated.name, title, counts, found["behaviors"])}</div>'
            for title, counts in matrices.items()
            if counts
        ]
        parts.append('</div>')
    if not parts:
        return ''
    return html.section(
        'confusion',
        'What was due, and what it did',
        '<p>Rows: the label. Columns: the behavior that the chosen answer stands for, or the '
        'token that was written. The framed cells are right.</p>',
        *parts,
    )


def _matrix(
    name: str, title: str, counts: Sequence[Sequence[int]], behaviors: Sequence[str]
) -> str:
    body = [
        html.row(
            [
                html.cell(label, 'name'),
                *(html.cell(f'{n:,}', 'right' if i == j else '') for j, n in enumerate(line)),
                html.cell(f'{sum(line):,}'),
            ]
        )
        for i, (label, line) in enumerate(zip(behaviors, counts, strict=True))
    ]
    header = [f'label\n{title}', *behaviors, 'n']
    return html.table(f'{title} of {name}', header, body, name_columns=1, kind='matrix')
