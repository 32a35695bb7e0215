"""Helpers of the adapters: input files and their checks, sentences, records with options."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.records import readers
from bsft_jax.records.record import Message, Record
from bsft_jax.records.taxonomy import group_of

_SENTENCE_END = re.compile(r'(?<=[.?!])\s+(?=["“(]?[A-Z0-9])')


@dataclasses.dataclass(frozen=True)
class AdapterResult:
    """Holds the records that an adapter makes from a folder.

    Attributes:
      records: records without splits. `case_id` names the row that a record comes from. The last
        paragraph of a message is the request; near duplicates are found by the text before it.
      notes: entries for the data card: the number of rows, and how many were dropped for which
        reason.
      held_out: case ids of the rows that the authors of the set keep for testing.
      fixed_options: whether the options of all records are in one fixed order. If so, `open` keeps
        equally many records of each answer.
    """

    records: list[Record]
    notes: dict[str, Any]
    held_out: frozenset[str] = frozenset()
    fixed_options: bool = False


def find_files(scheme: str, directory: str | pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Returns the files of a folder that match a glob pattern, sorted by name.

    Raises:
      UserError: if the folder does not exist or holds no such file. `scheme` names the set in the
        message.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise UserError('no such folder', where=f'{scheme}:{directory}')
    paths = sorted(directory.glob(pattern))
    if not paths:
        raise UserError(f'no {pattern} in this folder', where=f'{scheme}:{directory}')
    return paths


def read_csv(path: pathlib.Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (`FILE:LINE`, row) for each row of a CSV file; empty cells are ''.

    Raises:
      UserError: as `readers.read_csv_rows` does, and for a file without rows or without one of the
        columns.
    """
    empty = True
    for where, row in readers.read_csv_rows(path):
        if missing := [name for name in columns if empty and name not in row]:
            raise UserError(f'column {", ".join(missing)} is missing', where=str(path))
        empty = False
        yield where, {name: cell or '' for name, cell in row.items()}
    if empty:
        raise UserError('the file has no rows', where=str(path))


def json_field(obj: Any, name: str, kind: type, where: str) -> Any:
    """Returns a field of a JSON object.

    Raises:
      UserError: if `obj` is not an object, or the field is missing or not of type `kind`.
    """
    value = obj.get(name) if isinstance(obj, dict) else None
    if not isinstance(value, kind):
        raise UserError(f'field {name!r} is missing or not a {kind.__name__}', where=where)
    return value


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text with single spaces; the end of a line ends a sentence too."""
    sentences = (
        sentence
        for line in text.splitlines()
        for sentence in _SENTENCE_END.split(' '.join(line.split()))
    )
    return [sentence for sentence in sentences if sentence]


def make_record(
    content: str,
    choices: Sequence[tuple[str, str]],
    correct: int,
    order: Sequence[int] | None = None,
    *,
    category: str = '',
    **fields: Any,
) -> Record:
    """Returns a record of one user message with options.

    Its behavior is the behavior of the correct choice.

    Args:
      content: the message.
      choices: (text, behavior) of each option.
      correct: index of the correct choice.
      order: order in which the choices become options; None keeps it.
      category: category of the task. A record without one is a plain question, and its group is
        `reactive`.
      **fields: other fields of the record.
    """
    order = range(len(choices)) if order is None else order
    return Record(
        messages=(Message('user', content),),
        options=tuple(choices[k][0] for k in order),
        option_behaviors=tuple(choices[k][1] for k in order),
        answer=list(order).index(correct),
        behavior=choices[correct][1],
        category=category,
        group=group_of(category) if category else 'reactive',
        **fields,
    )


def shuffled_order(rng: random.Random, choices: Sequence[Any]) -> list[int]:
    """Returns a random order of the choices as indices; the two records of a pair share one."""
    return rng.sample(range(len(choices)), len(choices))
