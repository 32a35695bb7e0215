"""What adapters share: what they return, files that may be wrong, options in a seeded order, sentences."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from bsft_jax.behaviorbench import rows
from bsft_jax.behaviorbench.records import Message, Record
from bsft_jax.behaviorbench.taxonomy import group_of
from bsft_jax.errors import UserError

_SENTENCE = re.compile(r'(?<=[.?!])\s+(?=["“(]?[A-Z0-9])')


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What an adapter makes of a folder.

    Attributes:
      records: without splits. `case_id` is the row; the last paragraph of a message is the request, what stands
        before it is what near duplicates are found by.
      held_out: case ids of rows that the set's authors keep for testing.
      notes: for the card: rows, and how many were dropped why.
      fixed_options: the options of all records stand in one order; `open` keeps as many of each answer.
    """

    records: list[Record]
    notes: dict[str, Any]
    held_out: frozenset[str] = frozenset()
    fixed_options: bool = False


def files(scheme: str, directory: str | pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Files of a folder by name; raises UserError where there is no folder or none of them."""
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise UserError('no such folder', where=f'{scheme}:{directory}')
    found = sorted(directory.glob(pattern))
    if not found:
        raise UserError(f'no {pattern} in this folder', where=f'{scheme}:{directory}')
    return found


def table(path: pathlib.Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file with their places, empty cells ''.

    Raises UserError as `rows.delimited` does, and for a file without rows or without one of the columns.
    """
    empty = True
    for where, row in rows.delimited(path):
        if missing := [name for name in columns if empty and name not in row]:
            raise UserError(f'column {", ".join(missing)} is missing', where=str(path))
        empty = False
        yield where, {name: cell or '' for name, cell in row.items()}
    if empty:
        raise UserError('no rows in it', where=str(path))


def field(obj: Any, name: str, kind: type, where: str) -> Any:
    """A field of a JSON object; raises UserError where it is absent or of another kind."""
    value = obj.get(name) if isinstance(obj, dict) else None
    if not isinstance(value, kind):
        raise UserError(f'field {name!r} is missing or no {kind.__name__}', where=where)
    return value


def sentences(text: str) -> list[str]:
    """Sentences of a text, spaces made single; a line ends one too."""
    pieces = (piece for line in text.splitlines() for piece in _SENTENCE.split(' '.join(line.split())))
    return [piece for piece in pieces if piece]


def record(
    content: str,
    choices: Sequence[tuple[str, str]],
    right: int,
    order: Sequence[int] | None = None,
    *,
    category: str = '',
    **fields: Any,
) -> Record:
    """A record whose options are the choices (text, behavior) in an order; its behavior is that of the right one.

    Without a category it is a plain question, and its group `reactive`.
    """
    order = range(len(choices)) if order is None else order
    return Record(
        messages=(Message('user', content),),
        options=tuple(choices[k][0] for k in order),
        option_behaviors=tuple(choices[k][1] for k in order),
        answer=list(order).index(right),
        behavior=choices[right][1],
        category=category,
        group=group_of(category) if category else 'reactive',
        **fields,
    )


def shuffled(rng: random.Random, choices: Sequence[Any]) -> list[int]:
    """An order of the choices; twins share it."""
    return rng.sample(range(len(choices)), len(choices))
