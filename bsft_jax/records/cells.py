"""Reads the cells of a row: by column or path, as text, and as lists that are written as text."""

from __future__ import annotations

import ast
import io
import json
import math
import tokenize
from collections.abc import Iterable
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.records.readers import WrittenFloat, parse_json

# What a row holds where it lacks a column.
ABSENT = object()

_MAX_NAMES_LISTED = 20
# Longer texts are not read as Python literals, whose parser needs many times their size.
_MAX_LITERAL = 2**20


def as_list(names: str | list[str]) -> list[str]:
    """Returns one or several columns as a list."""
    return [names] if isinstance(names, str) else names


def join_names(names: Iterable[str]) -> str:
    """Joins names by commas; the first 20 where there are more."""
    names = list(names)
    num_more = len(names) - _MAX_NAMES_LISTED
    joined = ', '.join(map(str, names[:_MAX_NAMES_LISTED]))
    return f'{joined} and {num_more} more' if num_more > 0 else joined


def find_cell(row: dict[str, Any], name: str, where: str) -> Any:
    """Returns the cell of a column, None where it is empty, and ABSENT where there is none.

    `a.b` is the column of that name, else the field `b` of the object in column `a`. In a list of
    objects it is the list of their fields `b`. The objects may be written as text.
    """
    value = row[name] if name in row else _descend(row, name.split('.'), name, where)
    return None if is_empty(value) else value


def is_empty(value: Any) -> bool:
    """Returns whether a cell is null, NaN, a blank text or an empty list."""
    if isinstance(value, str):
        return not value.strip()
    # pandas and Parquet write empty cells as NaN.
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def _descend(value: Any, keys: list[str], name: str, where: str) -> Any:
    if not keys or value is None:
        return value
    if isinstance(value, str):
        value = parse_nested(value, name, where)
    if isinstance(value, list):
        items = [_descend(item, keys, name, where) for item in value]
        return ABSENT if all(item is ABSENT for item in items) else items
    if not isinstance(value, dict) or keys[0] not in value:
        return ABSENT
    return _descend(value[keys[0]], keys[1:], name, where)


def to_text(value: Any, field: str, where: str) -> str:
    """Returns a cell as text: a flag as JSON writes it, a number as the file writes it.

    Line ends become `\\n`; tables that went through Excel hold `\\r\\n`.

    Raises:
      UserError: for a NaN and for anything else than text, a number or a flag.
    """
    if isinstance(value, WrittenFloat) and value == value:
        return value.text
    if not isinstance(value, (str, int, float)) or value != value:
        raise UserError(f'{field!r}: {str(value)[:80]} is neither text nor a number', where=where)
    if isinstance(value, bool):
        return json.dumps(value)
    return str(value).strip().replace('\r\n', '\n').replace('\r', '\n')


def parse_nested(value: Any, column: str, where: str) -> Any:
    """Returns the list or object of a cell, which may be a text in JSON or as Python writes it."""
    if not isinstance(value, str):
        return value
    fault = UserError(f'column {column!r} holds neither a list nor JSON of one', where=where)
    if value.strip()[:1] not in ('[', '{'):
        raise fault
    try:
        return parse_json(value, where)
    except UserError as error:
        if len(value) > _MAX_LITERAL or _joins_texts(value):
            raise fault from error
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise fault from error


def _joins_texts(literal: str) -> bool:
    """Returns whether texts follow one another without a comma, as numpy prints an array.

    Python would read `['a' 'b']` as a list of one text.
    """
    previous = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(literal.strip()).readline):
            if token.type == previous == tokenize.STRING:
                return True
            if token.type != tokenize.NL:
                previous = token.type
    except (tokenize.TokenError, SyntaxError):
        return True
    return False
