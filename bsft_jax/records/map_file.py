"""Reads the file of a column map and checks all of it before a row is read.

Whatever a map admits is used: a part that no row could use is refused here.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.records import choices
from bsft_jax.records.cells import join_names
from bsft_jax.records.field_parsers import CONVERSATION_FIELDS
from bsft_jax.records.readers import unique_keys
from bsft_jax.records.record import FIELD_NAMES, MAX_OPTIONS, record_from_dict

PARTS = ('columns', 'answer', 'values', 'constants', 'leave_out', 'max_unfit')
# A map gives exactly one of these, since each of them becomes the messages or the text.
CONTENT_FIELDS = ('question', 'messages', 'text', 'prompt', 'conversations')
LIST_FIELDS = ('options', 'option_behaviors', 'letters')
# Several columns of these are joined by an empty line.
JOINED_FIELDS = ('question', 'prompt')
# Fields whose cells may be lists of messages instead of texts.
MESSAGE_FIELDS = ('prompt', 'completion')
# Fields whose cells hold lists or objects, which a CSV file writes as text.
JSON_FIELDS = ('messages', 'conversations', 'must_mention', 'must_not_mention')
# Fields of a map that a Record does not have.
_MAP_FIELDS = (
    'question',
    'system',
    'speaker',
    'prompt',
    'completion',
    'conversations',
    'letters',
)
FIELDS = (*FIELD_NAMES, *_MAP_FIELDS)

# Field → the fields of which it needs one.
_NEEDS = {
    'system': ('question', 'prompt', 'conversations'),
    'speaker': ('question', 'prompt'),
    'completion': ('question', 'prompt'),
    'answer': ('options',),
    'option_behaviors': ('options',),
    'rationale': ('options',),
    'letters': ('options',),
}


def read_map_object(path: str | pathlib.Path, where: str) -> dict[str, Any]:
    """Reads the JSON object of a map.

    Raises:
      UserError: for a file that is not an object with `columns`.
    """
    try:
        obj = json.loads(
            pathlib.Path(path).read_text(encoding='utf-8-sig'), object_pairs_hook=unique_keys
        )
    except OSError as error:
        raise UserError(f'cannot be read ({error.strerror})', where=where) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'not valid JSON ({error})', where=where) from error
    if not isinstance(obj, dict) or not isinstance(obj.get('columns'), dict):
        raise UserError('must be an object with "columns": {field: column}', where=where)
    return obj


def check_parts(obj: Mapping[str, Any], where: str) -> None:
    """Checks a map without its rows.

    Raises:
      UserError: for an unknown part or field, and for a part that no row could use.
    """
    if unknown := sorted(obj.keys() - set(PARTS)):
        raise UserError(
            f'unknown part {unknown[0]!r}', where=where, fix=f'there are {join_names(PARTS)}'
        )
    for part in ('values', 'constants', 'leave_out'):
        if not isinstance(obj.get(part, {}), dict):
            raise UserError(f'{part!r} must be an object', where=where)
    for part in ('columns', 'values', 'constants'):
        if unknown := sorted(obj.get(part, {}).keys() - set(FIELDS)):
            raise UserError(
                f'{part}: unknown field {unknown[0]!r}',
                where=where,
                fix=f'there are {join_names(FIELDS)}',
            )
    columns, constants = obj['columns'], obj.get('constants', {})
    _check_columns(columns, obj.get('answer', ''), where)
    if both := sorted(columns.keys() & constants.keys()):
        raise UserError(f'{both[0]!r} is in "columns" and in "constants"', where=where)
    _check_values(columns, obj.get('values', {}), obj.get('answer', ''), where)
    _check_constants(constants, where)
    _check_needs(columns, constants, obj.get('answer', ''), where)
    _check_left_out(obj, where)


def _check_columns(columns: Mapping[str, Any], answer: Any, where: str) -> None:
    several = (*JOINED_FIELDS, *LIST_FIELDS, *(['answer'] if answer == 'flags' else []))
    for field, column in columns.items():
        if isinstance(column, list) and field in several:
            is_valid = bool(column) and all(isinstance(name, str) and name for name in column)
        else:
            is_valid = isinstance(column, str) and bool(column)
        if not is_valid:
            raise UserError(f'columns: {field!r} must name a column', where=where)
    if len([field for field in CONTENT_FIELDS if field in columns]) != 1:
        raise UserError(f'columns: give exactly one of {join_names(CONTENT_FIELDS)}', where=where)


def _check_needs(
    columns: Mapping[str, Any], constants: Mapping[str, Any], answer: Any, where: str
) -> None:
    """Raises UserError for a field without another that it belongs to."""
    given = columns.keys() | constants.keys()
    if 'text' in given and (unread := sorted(given & set(CONVERSATION_FIELDS))):
        raise UserError(f"{unread[0]!r} belongs to a conversation, not to 'text'", where=where)
    for field in sorted(given & _NEEDS.keys()):
        if not given & set(_NEEDS[field]):
            raise UserError(
                f'{field!r} belongs beside {" or ".join(_NEEDS[field])}, which the map does not '
                'give',
                where=where,
            )
    if ('answer' in columns) != (answer in choices.ANSWER_KINDS if answer else False):
        raise UserError(
            'says how a column names the answer',
            where=f'{where}: answer',
            fix=f'use one of {join_names(choices.ANSWER_KINDS)}',
        )
    if 'letters' in given and answer != 'letter':
        raise UserError('\'letters\' belongs to "answer": "letter"', where=where)


def _check_values(
    columns: Mapping[str, Any], values: Mapping[str, Any], answer: Any, where: str
) -> None:
    """Raises UserError for translations that no cell could use or that no record could hold."""
    for field, translations in values.items():
        if field not in columns or not isinstance(translations, dict):
            raise UserError(
                f'values: {field!r} must be an object for a field of "columns"', where=where
            )
        if field in JSON_FIELDS:
            raise UserError(
                f'values: the cells of {field!r} are lists, which have no values', where=where
            )
        if len({key.strip() for key in translations}) < len(translations):
            raise UserError(f'values: two of {field!r} differ in blanks alone', where=where)
        for key, value in translations.items():
            value_where = f'{where}: values: {field}: {key!r}'
            if field in LIST_FIELDS and (not key.strip() or not isinstance(value, str)):
                raise UserError('an item of a list is a text before and after', where=value_where)
            if value is None or field in LIST_FIELDS:
                continue
            if field == 'answer':
                _check_answer_value(value, answer, value_where)
            elif field == 'hard' and str(value).lower() in choices.FLAGS:
                continue
            else:
                _check_field(field, value, value_where)


def _check_answer_value(value: Any, answer: Any, where: str) -> None:
    is_flag = isinstance(value, bool)
    if not isinstance(value, (str, int)) or (is_flag and answer != 'flags'):
        raise UserError(
            f'{value!r} is not what a column would hold to name an option by its {answer}',
            where=where,
        )


def _check_constants(constants: Mapping[str, Any], where: str) -> None:
    for field, value in constants.items():
        if field in CONTENT_FIELDS:
            raise UserError(
                f'constants: {field!r} differs between records',
                where=where,
                fix='name its column in "columns"',
            )
        if value is None:
            raise UserError(f'constants: {field!r} is null', where=where, fix='leave it out')
        _check_field(field, value, f'{where}: constants')


def _check_field(field: str, value: Any, where: str) -> None:
    """Raises UserError for a value that the field of a record cannot have."""
    obj: dict[str, Any] = {'prompt': 'q'}
    letters = [str(i) for i in range(MAX_OPTIONS)]
    if field == 'speaker':
        obj = {'messages': [{'role': 'user', 'content': 'q', 'name': value}]}
    elif field in ('question', 'text', 'prompt', 'completion', 'system'):
        if not isinstance(value, str):
            raise UserError(f'field {field!r} must be text', where=where)
    elif field == 'letters':
        obj['options'] = value
    elif field == 'answer':
        obj |= {'options': letters, 'answer': value}
    elif field == 'option_behaviors':
        count = len(value) if isinstance(value, list) else MAX_OPTIONS
        obj |= {'options': letters[:count], field: value}
    else:
        obj[field] = value
    record_from_dict(obj, where)


def _check_left_out(obj: Mapping[str, Any], where: str) -> None:
    for column, cells in obj.get('leave_out', {}).items():
        is_valid = isinstance(cells, list) and all(
            cell is None or isinstance(cell, (str, int, float)) for cell in cells
        )
        if not is_valid or not cells:
            raise UserError(
                f'leave_out: {column!r} must list cells, as [-1, "n/a", null]', where=where
            )
    limit = obj.get('max_unfit', 0)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise UserError('"max_unfit" must be a number of rows', where=where)
