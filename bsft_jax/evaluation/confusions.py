"""Computes the section `confusion` of metrics.json: labels against the behaviors taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def behavior_confusion(
    rows: Sequence[Mapping[str, Any]], levels: Mapping[str, float], groups: Sequence[str]
) -> dict[str, Any] | None:
    """Counts records by labelled behavior (row) and behavior taken (column).

    Args:
      rows: rows of `predictions.jsonl`.
      levels: the level of each behavior; one that the rows name besides has 0.
      groups: group of each row.

    Returns:
      `behaviors`: names of rows and columns, ascending by level.
      `answers`: taken is what the chosen option stands for (`option_behaviors`).
      `tokens`: taken is `behavior_prediction`, the behavior that the policy used.
      `groups`: `answers` of each group; where no record has `option_behaviors`, its `tokens`.
      A matrix is None where no record counts; None instead of all that where none counts in either.
    """
    answers = [_by_answer(row) for row in rows]
    tokens = [(row.get('behavior'), row.get('behavior_prediction')) for row in rows]
    levels = dict.fromkeys(_named(answers + tokens), 0.0) | dict(levels)
    names = sorted(levels, key=lambda name: (levels[name], name))
    by_group = answers if _named(answers) else tokens
    counted = {'answers': _count(answers, names), 'tokens': _count(tokens, names)}
    if counted['answers'] is None and counted['tokens'] is None:
        return None
    return {
        'behaviors': names,
        **counted,
        'groups': {
            group: _count(
                [pair for pair, own in zip(by_group, groups, strict=True) if own == group], names
            )
            for group in dict.fromkeys(groups)
        },
    }


def _by_answer(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Returns the label of a row and the behavior that its chosen option stands for."""
    stands_for = row.get('option_behaviors')
    return row.get('behavior'), stands_for[row['prediction']] if stands_for else None


def _named(pairs: Sequence[tuple[str | None, str | None]]) -> list[str]:
    """Returns the behaviors in pairs that count: those with both a label and a behavior taken."""
    return sorted({name for pair in pairs if all(pair) for name in pair if name})


def _count(
    pairs: Sequence[tuple[str | None, str | None]], names: Sequence[str]
) -> list[list[int]] | None:
    index = {name: i for i, name in enumerate(names)}
    cells = [index[label] * len(names) + index[taken] for label, taken in pairs if label and taken]
    if not cells:
        return None
    counts = np.bincount(cells, minlength=len(names) ** 2)
    return counts.reshape(len(names), len(names)).tolist()
