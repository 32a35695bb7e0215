"""Reads the options of a row in the forms that tables use, and which of them is right."""

from __future__ import annotations

import string
import unicodedata
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.records.cells import (
    ABSENT,
    find_cell,
    is_empty,
    join_names,
    parse_nested,
    to_text,
)
from bsft_jax.records.record import MAX_OPTIONS, option_words

# How a column may name the right option.
ANSWER_KINDS = ('letter', 'index', 'number', 'text', 'flags')
FLAGS = {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}

# The keys of an object that holds options, in the order of the options.
_KEY_RUNS = (
    string.ascii_uppercase,
    string.ascii_lowercase,
    [str(i) for i in range(MAX_OPTIONS)],
    [str(i + 1) for i in range(MAX_OPTIONS)],
)


def read_items(field: str, column: str | list[str], row: dict[str, Any], where: str) -> list[Any]:
    """Returns the items of a list, such as the options; those at its end may be empty.

    One column holds a list, or an object with the keys A, B, C and so on (or a, b, or 0, 1, or 1,
    2), also as text. Several columns hold an item each.

    Raises:
      UserError: for an item that is empty before others, and for objects instead of texts.
    """
    if isinstance(column, list):
        cells = {name: find_cell(row, name, where) for name in column}
        return _without_empty_end({k: None if v is ABSENT else v for k, v in cells.items()}, where)
    value = find_cell(row, column, where)
    if value is None or value is ABSENT:
        return []
    value = parse_nested(value, column, where)
    if isinstance(value, dict):
        return _without_empty_end(_in_order(value, column, where), where)
    if not isinstance(value, list):
        raise UserError(f'column {column!r} ({field}) holds no list', where=where)
    if fields := sorted({key for item in value if isinstance(item, dict) for key in item}):
        raise UserError(
            f'column {column!r} ({field}) holds objects with {join_names(fields)}',
            where=where,
            fix=f'name one of their fields, as {column}.{fields[0]}',
        )
    while value and is_empty(value[-1]):
        value = value[:-1]
    return value


def _in_order(items: dict[Any, Any], column: str, where: str) -> dict[str, Any]:
    """Returns the items of an object from its first letter or number to its last."""
    items = {str(key): item for key, item in items.items()}
    for run in _KEY_RUNS:
        # Arrow fills up letters that another row has with null.
        if items and items.keys() <= set(run) and run[0] in items:
            last = max(run.index(key) for key in items)
            return {f'{column}.{key}': items.get(key) for key in run[: last + 1]}
    letters = string.ascii_uppercase[: max(len(items), 2)]
    raise UserError(f'column {column!r}: its keys are not {join_names(letters)}', where=where)


def _without_empty_end(items: dict[str, Any], where: str) -> list[Any]:
    is_filled = [not is_empty(item) for item in items.values()]
    if is_filled != sorted(is_filled, reverse=True):
        name = list(items)[is_filled.index(False)]
        raise UserError(f'column {name!r} is empty before others', where=where)
    return [item for item, filled in zip(items.values(), is_filled, strict=True) if filled]


def option_index(kind: str, cell: Any, options: list[str], letters: list[str], where: str) -> int:
    """Returns the index of the right option.

    Args:
      kind: one of ANSWER_KINDS.
      cell: what names the right option; for `flags` a list of flags, one per option.
      options: the options.
      letters: their names, where they are not A, B, C and so on.
      where: what errors begin with.

    Raises:
      UserError: unless the cell names exactly one option.
    """
    if kind == 'flags':
        return _flagged_index(cell, options, where)
    text = to_text(cell, 'answer', where)
    if kind == 'text':
        matches = _text_matches(text, options)
    elif kind == 'letter':
        letters = letters or list(string.ascii_uppercase[: len(options)])
        if len(letters) != len(options):
            raise UserError(f'{len(letters)} letters of {len(options)} options', where=where)
        matches = [i for i, letter in enumerate(letters) if _letter(letter) == _letter(text)]
    else:
        first = 0 if kind == 'index' else 1
        matches = [i for i in range(len(options)) if text in (str(i + first), f'{i + first}.0')]
    if len(matches) != 1:
        raise UserError(
            f'{text[:80]!r} is not the {kind} of one of the {len(options)} options', where=where
        )
    return matches[0]


def _letter(text: str) -> str:
    return text.strip('().: ').upper()


def _text_matches(text: str, options: list[str]) -> list[int]:
    """Returns the options of a text: equal ones, else equal but for a final dot, else for case."""
    matches: list[int] = []
    for form in (str.strip, option_words, lambda option: option_words(option).casefold()):
        wanted = unicodedata.normalize('NFC', form(text))
        matches = matches or [
            i
            for i, option in enumerate(options)
            if unicodedata.normalize('NFC', form(option)) == wanted
        ]
    return matches


def _flagged_index(cell: Any, options: list[str], where: str) -> int:
    flags = [FLAGS.get(to_text(flag, 'answer', where).lower()) for flag in cell]
    if len(flags) != len(options) or None in flags:
        raise UserError(
            f'{str(cell)[:80]} is not one true or false for each of {len(options)} options',
            where=where,
        )
    if sum(map(bool, flags)) != 1:
        raise UserError(f'{sum(map(bool, flags))} options are flagged as right', where=where)
    return flags.index(True)


def check_letter_order(column: str, row: dict[str, Any], where: str) -> None:
    """Checks that the options of `LIST.FIELD` stand in the order of their letters.

    Raises:
      UserError: where another field of the objects holds the letters A, B, C in another order, so
        that an answer's letter would name the wrong option.
    """
    parent, _, field = column.rpartition('.')
    objects = find_cell(row, parent, where) if parent and column not in row else ABSENT
    if not isinstance(objects, (list, str, dict)):
        return
    objects = parse_nested(objects, parent, where)
    fields = objects if isinstance(objects, dict) else objects[0] if objects else {}
    for other in sorted(set(fields) - {field}) if isinstance(fields, dict) else ():
        found = find_cell({'items': objects}, f'items.{other}', where)
        letters = [_letter(item) for item in found or [] if isinstance(item, str)]
        if sorted(letters) == list(string.ascii_uppercase[: len(letters)]) != letters:
            raise UserError(
                f'the letters of {parent}.{other} are not in order: {join_names(letters)}',
                where=where,
                fix=f'add "letters": "{parent}.{other}" to the columns of --map',
            )
