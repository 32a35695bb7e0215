"""Shows what was due against what the model did, as counts."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from html import escape

from bsft_jax.report import html
from bsft_jax.report.evaluated import Evaluated


def confusion_section(evaluations: Sequence[Evaluated]) -> str:
    """Returns the section with the confusion matrices of each evaluation."""
    parts = []
    for evaluated in evaluations:
        rows = evaluated.scored
        of_answers = collections.Counter(
            (row['behavior'], row['option_behaviors'][row['prediction']])
            for row in rows
            if row.get('behavior') and row.get('option_behaviors')
        )
        of_tokens = collections.Counter(
            (row['behavior'], row['behavior_prediction'])
            for row in rows
            if row.get('behavior') and row.get('behavior_prediction')
        )
        matrices = [
            _matrix(f'{title} of {evaluated.name}', title, counts, evaluated.levels)
            for title, counts in (('answers', of_answers), ('behavior tokens', of_tokens))
            if counts
        ]
        if matrices:
            parts += [
                f'<h3>{escape(evaluated.name)}</h3>' if len(evaluations) > 1 else '',
                *matrices,
            ]
    if not parts:
        parts = ['<p>No record has a label and says what its options stand for.</p>']
    return html.section(
        'confusion',
        'What was due, and what it did',
        '<p>Rows: the label. Columns: the behavior that the chosen answer stands for, and the '
        'token that was written. The framed cells are right.</p>',
        *parts,
    )


def _matrix(
    name: str, title: str, counts: collections.Counter[tuple[str, str]], levels: dict[str, float]
) -> str:
    named = {behavior for pair in counts for behavior in pair}
    # An odd level of a behavior that the model lacks does not matter: names follow.
    order = sorted(named, key=lambda behavior: (levels.get(behavior, 0.0), behavior))
    body = [
        html.row(
            [
                html.cell(label, 'name'),
                *(
                    html.cell(f'{counts[label, done]:,}', 'right' if label == done else '')
                    for done in order
                ),
                html.cell(f'{sum(counts[label, done] for done in order):,}'),
            ]
        )
        for label in order
        if any(counts[label, done] for done in order)
    ]
    header = [f'label \\ {title}', *order, 'n']
    return html.table(name, header, body, name_columns=1, kind='matrix')
