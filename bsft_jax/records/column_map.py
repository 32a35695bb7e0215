"""Column maps: JSON files that say which columns of a table become which fields of a record.

{"columns": {"question": "Vignette", "options": ["A", "B", "C", "D"], "answer": "Gold",
             "category": "Task"},
 "answer": "letter",
 "values": {"category": {"Finding omissions": "omission_detection"}},
 "constants": {"source": "mine", "license": "CC-BY-4.0"}}
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import string
from collections.abc import Iterable, Iterator
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.records.readers import Rows, unique_keys
from bsft_jax.records.record import Record, record_from_dict, records_from_rows

# How a column may name the right option.
ANSWER_KINDS = ('letter', 'index', 'number', 'text')

_PARTS = ('columns', 'answer', 'values', 'constants')
# A map gives exactly one of these, since each of them becomes the messages or the text.
_CONTENT_FIELDS = ('question', 'messages', 'text', 'prompt', 'conversations')
_LIST_FIELDS = ('options', 'option_behaviors')
# Fields whose cells hold lists or objects, which a CSV file writes as JSON.
_JSON_FIELDS = ('messages', 'conversations', 'must_mention', 'must_not_mention', *_LIST_FIELDS)
# Fields of a map that a Record does not have.
_MAP_FIELDS = ('question', 'system', 'speaker', 'prompt', 'completion', 'conversations')
FIELDS = (*(field.name for field in dataclasses.fields(Record)), *_MAP_FIELDS)
_FLAGS = {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}

_MAX_NAMES_LISTED = 20


@dataclasses.dataclass(frozen=True)
class ColumnMap:
    """Describes how the rows of a table become records.

    Attributes:
      columns: field → its column; several columns for `question` and for lists of texts.
      answer: how the answer's column names an option: by its `letter`, its `index` from 0, its
        `number` from 1, or its `text`.
      values: field → value of a cell → value of the record's field.
      constants: field → its value in every record.
    """

    columns: dict[str, str | list[str]]
    answer: str = ''
    values: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_records(self, rows: Rows, name: str) -> tuple[list[Record], dict[str, Any]]:
        """Converts rows to records.

        Args:
          rows: pairs of where a row stands and its value.
          name: what errors about the whole source begin with.

        Returns:
          The records, and notes for the card: the columns used and not used.

        Raises:
          UserError: for the first row that does not fit, with the number of those that do not, and
            for a column that no row has.
        """
        seen: dict[str, None] = {}
        records = records_from_rows(self._valid_records(rows, seen), name, lambda record, _: record)
        unused = sorted(seen.keys() - self._used_columns)
        return records, {'columns': self.columns, 'columns_not_used': unused}

    @property
    def _used_columns(self) -> set[str]:
        return {name for names in self.columns.values() for name in _as_list(names)}

    def _valid_records(self, rows: Rows, seen: dict[str, None]) -> Iterator[tuple[str, Record]]:
        """Yields where each row that fits stands and its record; raises after the last row.

        Adds the columns of all rows to `seen`, in their order.
        """
        num_wrong, num_rows, first_error = 0, 0, None
        for where, row in rows:
            num_rows += 1
            try:
                if not isinstance(row, dict):
                    raise UserError(
                        f'a row must be an object, got {type(row).__name__}', where=where
                    )
                seen |= dict.fromkeys(row)
                yield where, record_from_dict(self._to_object(row, where), where)
            except UserError as error:
                num_wrong, first_error = num_wrong + 1, first_error or error
        # A column that no row has explains errors of the rows, so it is reported before them.
        if num_rows and (absent := sorted(self._used_columns - seen.keys())):
            raise UserError(
                f'no row has the column {absent[0]!r}',
                where='--map',
                fix=f'there are {_join_names(seen)}',
            )
        if first_error:
            raise UserError(
                f'{first_error} ({num_wrong} of {num_rows} rows do not fit)'
            ) from first_error

    def _to_object(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        """Returns a record's JSON object, with the fields that the row has and the constants."""
        # pandas and Parquet write empty cells as NaN.
        row = {
            name: None if isinstance(cell, float) and math.isnan(cell) else cell
            for name, cell in row.items()
        }
        fields = {
            field: self._read_field(field, column, row, where)
            for field, column in self.columns.items()
        }
        obj = self.constants | {
            field: value for field, value in fields.items() if value not in (None, '', [])
        }
        system, speaker = obj.pop('system', ''), obj.pop('speaker', '')
        if 'question' in self.columns:
            if not (question := obj.pop('question', '')):
                raise UserError(
                    f'nothing in {_join_names(_as_list(self.columns["question"]))}', where=where
                )
            turn = {'role': 'user', 'content': question, **({'name': speaker} if speaker else {})}
            obj['messages'] = [*([{'role': 'system', 'content': system}] if system else []), turn]
        elif system:
            obj['system'] = system
        if 'answer' in self.columns:
            if 'answer' not in obj:
                raise UserError(f'column {self.columns["answer"]!r} holds no answer', where=where)
            obj['answer'] = self._option_index(obj['answer'], obj.get('options', []), where)
        return obj

    def _read_field(
        self, field: str, column: str | list[str], row: dict[str, Any], where: str
    ) -> Any:
        """Returns the value of one field of the record's object."""
        if field == 'question':
            cells = (_cell_text(row, name, where) for name in _as_list(column))
            return '\n\n'.join(filter(None, cells))
        if field in _LIST_FIELDS:
            items = _list_cell(field, column, row, where)
            return [self._translate(field, item, where) for item in items]
        (name,) = _as_list(column)
        value = row.get(name)
        # The answer's cell is looked up among the options later.
        if value is None or field == 'answer':
            return value
        if field in _JSON_FIELDS:
            return _parse_json_cell(value, name, where)
        # Lists of messages.
        if field in ('prompt', 'completion') and not isinstance(value, str):
            return value
        value = self._translate(field, value, where)
        if field != 'hard' or isinstance(value, bool):
            return value
        if (text := _to_text(value, field, where).lower()) not in _FLAGS:
            raise UserError(f'column {name!r}: {value!r} is not true or false', where=where)
        return _FLAGS[text]

    def _translate(self, field: str, value: Any, where: str) -> Any:
        """Returns what `values` says for a cell; where it has no entry for the field, the text."""
        translations = self.values.get(field)
        if translations is None:
            is_flag = field == 'hard' and isinstance(value, bool)
            return value if is_flag else _to_text(value, field, where)
        if (text := _to_text(value, field, where)) not in translations:
            raise UserError(
                f'{text!r} is none of the values of {field!r} in --map',
                where=where,
                fix=f'there are {_join_names(translations)}',
            )
        return translations[text]

    def _option_index(self, value: Any, options: list[str], where: str) -> int:
        """Returns the index of the option that the answer's cell names."""
        text = _to_text(value, 'answer', where)
        if self.answer == 'text':
            matches = [i for i, option in enumerate(options) if option.strip() == text]
            # An exact match wins; else case is ignored.
            matches = matches or [
                i for i, option in enumerate(options) if option.strip().lower() == text.lower()
            ]
        elif self.answer == 'letter':
            letter = text.strip('().: ').upper()
            letters = string.ascii_uppercase[: len(options)]
            matches = [i for i, candidate in enumerate(letters) if candidate == letter]
        else:
            first = 0 if self.answer == 'index' else 1
            matches = [i for i in range(len(options)) if text in (str(i + first), f'{i + first}.0')]
        if len(matches) != 1:
            raise UserError(
                f'column {self.columns["answer"]!r}: {text[:80]!r} is not the {self.answer} of one '
                f'of the {len(options)} options',
                where=where,
            )
        return matches[0]


def read_column_map(path: str | pathlib.Path) -> ColumnMap:
    """Reads a column map from a JSON file.

    Raises:
      UserError: that names the part of the map that is wrong.
    """
    where = f'--map={path}'
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
    if unknown := sorted(obj.keys() - set(_PARTS)):
        raise UserError(
            f'unknown part {unknown[0]!r}', where=where, fix=f'there are {_join_names(_PARTS)}'
        )
    for part in ('values', 'constants'):
        if not isinstance(obj.get(part, {}), dict):
            raise UserError(f'{part!r} must be an object', where=where)
    for part in ('columns', 'values', 'constants'):
        if unknown := sorted(obj.get(part, {}).keys() - set(FIELDS)):
            raise UserError(
                f'{part}: unknown field {unknown[0]!r}',
                where=where,
                fix=f'there are {_join_names(FIELDS)}',
            )
    column_map = ColumnMap(**obj)
    _check_column_map(column_map, where)
    return column_map


def _check_column_map(column_map: ColumnMap, where: str) -> None:
    columns = column_map.columns
    for field, column in columns.items():
        if isinstance(column, list) and field in ('question', *_LIST_FIELDS):
            is_valid = bool(column) and all(isinstance(name, str) for name in column)
        else:
            is_valid = isinstance(column, str)
        if not is_valid:
            raise UserError(f'columns: {field!r} must name a column', where=where)
    if len([field for field in _CONTENT_FIELDS if field in columns]) != 1:
        raise UserError(f'columns: give exactly one of {_join_names(_CONTENT_FIELDS)}', where=where)
    for field, translations in column_map.values.items():
        if field not in columns or not isinstance(translations, dict):
            raise UserError(
                f'values: {field!r} must be an object for a field of "columns"', where=where
            )
    if both := sorted(columns.keys() & column_map.constants.keys()):
        raise UserError(f'{both[0]!r} is in "columns" and in "constants"', where=where)
    if ('answer' in columns) != (column_map.answer in ANSWER_KINDS):
        raise UserError(
            'says how a column names the answer',
            where=f'{where}: answer',
            fix=f'use one of {_join_names(ANSWER_KINDS)}',
        )


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _join_names(names: Iterable[str]) -> str:
    """Joins names by commas; the first 20 where there are more."""
    names = list(names)
    num_more = len(names) - _MAX_NAMES_LISTED
    joined = ', '.join(map(str, names[:_MAX_NAMES_LISTED]))
    return f'{joined} and {num_more} more' if num_more > 0 else joined


def _to_text(value: Any, field: str, where: str) -> str:
    """Returns a cell as text: a flag as JSON writes it, a number as Python does.

    Raises:
      UserError: for a NaN and for anything else than text, a number or a flag.
    """
    if not isinstance(value, (str, int, float)) or value != value:
        raise UserError(f'{field!r}: {str(value)[:80]} is neither text nor a number', where=where)
    return json.dumps(value) if isinstance(value, bool) else str(value).strip()


def _cell_text(row: dict[str, Any], name: str, where: str) -> str:
    """Returns the text of a column; '' where it is empty or absent."""
    return '' if row.get(name) is None else _to_text(row[name], name, where)


def _parse_json_cell(value: Any, column: str, where: str) -> Any:
    """Returns the list or object of a cell, which may be JSON in a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'column {column!r} holds neither a list nor JSON of one', where=where
        ) from error


def _list_cell(field: str, column: str | list[str], row: dict[str, Any], where: str) -> list[Any]:
    """Returns the items of a list.

    One column holds a list, or an object with the keys A, B, C and so on. Several columns hold an
    item each, and only the last of them may be empty.
    """
    if isinstance(column, list):
        is_filled = [bool(_cell_text(row, name, where)) for name in column]
        if is_filled != sorted(is_filled, reverse=True):
            raise UserError(
                f'column {column[is_filled.index(False)]!r} is empty before others', where=where
            )
        return [row[name] for name, filled in zip(column, is_filled, strict=True) if filled]
    value = _parse_json_cell(row.get(column), column, where)
    if isinstance(value, dict):
        letters = string.ascii_uppercase[: len(value)]
        if sorted(value) != list(letters):
            raise UserError(
                f'column {column!r}: its keys are not {_join_names(letters)}', where=where
            )
        value = [value[letter] for letter in letters]
    if value is not None and not isinstance(value, list):
        raise UserError(f'column {column!r} ({field}) holds no list', where=where)
    return value or []
