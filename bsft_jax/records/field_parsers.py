"""Parsers of single fields: (JSON value, name of the field, where) → value of the Record's field.

Each raises a UserError that begins with `where` and names the field.
"""

from __future__ import annotations

import re
from typing import Any

from bsft_jax.errors import UserError

# Fields that a pretraining text does not have.
CONVERSATION_FIELDS = (
    'behavior',
    'options',
    'option_behaviors',
    'answer',
    'rationale',
    'must_mention',
    'must_not_mention',
)
# NUL and lone surrogates: a UTF-8 text file cannot hold the latter and should not hold the former.
_NOT_TEXT = re.compile('[\0\ud800-\udfff]')


def parse_text(value: Any, field: str, where: str) -> str:
    """Returns a text without NUL and lone surrogates."""
    if not isinstance(value, str):
        raise UserError(f'field {field!r} must be text', where=where)
    if match := _NOT_TEXT.search(value):
        raise UserError(f'field {field!r} holds the character U+{ord(match[0]):04X}', where=where)
    return value


def parse_flag(value: Any, field: str, where: str) -> bool:
    """Returns a flag."""
    if not isinstance(value, bool):
        raise UserError(f'field {field!r} must be true or false', where=where)
    return value


def parse_index(value: Any, field: str, where: str) -> int:
    """Returns a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f'field {field!r} must be an index, got {value!r}', where=where)
    return value


def parse_difficulty(value: Any, field: str, where: str) -> int:
    """Returns a difficulty level, a whole number from 1 to 9; tables hold it as text."""
    if isinstance(value, (int, str)) and re.fullmatch('[1-9]', str(value).strip()):
        return int(value)
    raise UserError(f'field {field!r} must be a whole number from 1 to 9', where=where)


def parse_texts(value: Any, field: str, where: str) -> tuple[str, ...]:
    """Returns a list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f'field {field!r} must be a list of texts', where=where)
    return tuple(parse_text(item, field, where) for item in value)


def parse_options(value: Any, field: str, where: str) -> tuple[str, ...]:
    """Returns the options without blanks around them, which would single an option out."""
    return tuple(text.strip() for text in parse_texts(value, field, where))


def parse_text_groups(value: Any, field: str, where: str) -> tuple[tuple[str, ...], ...]:
    """Returns a list of lists of texts."""
    if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
        raise UserError(f'field {field!r} must be a list of lists of texts', where=where)
    return tuple(parse_texts(group, field, where) for group in value)
