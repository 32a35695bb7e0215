"""Mappings: a JSON file that says which columns of a table are which fields of a record.

{"columns": {"question": "Vignette", "options": ["A", "B", "C", "D"], "answer": "Gold", "category": "Task"},
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
from collections.abc import Iterator
from typing import Any

from bsft_jax.behaviorbench.records import Record, record_from_dict, records_of_rows
from bsft_jax.behaviorbench.rows import Rows, distinct
from bsft_jax.errors import UserError

ANSWERS = ('letter', 'index', 'number', 'text')
_PARTS = ('columns', 'answer', 'values', 'constants')
_ASKED = ('question', 'messages', 'text', 'prompt', 'conversations')
_LISTS = ('options', 'option_behaviors')
_OBJECTS = ('messages', 'conversations', 'must_mention', 'must_not_mention', *_LISTS)
_BESIDE = ('question', 'system', 'speaker', 'prompt', 'completion', 'conversations')
FIELDS = (*(field.name for field in dataclasses.fields(Record)), *_BESIDE)
_TRUTH = {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}


@dataclasses.dataclass(frozen=True)
class Mapping:
    """How rows become records.

    Attributes:
      columns: field → its column; for `question` and for lists of texts also several columns.
      answer: how the column of the answer names an option: its `letter`, its `index` from 0, its
        `number` from 1, or its `text`.
      values: field → what stands in the column → what the record says.
      constants: field → the value that it has in every record.
    """

    columns: dict[str, str | list[str]]
    answer: str = ''
    values: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)

    def records(self, rows: Rows, name: str) -> tuple[list[Record], dict[str, Any]]:
        """Records of rows, and what the card says of them.

        Raises UserError for the first row that does not fit, with the number of those that do not,
        and for a column that no row has.
        """
        seen: dict[str, int] = {}
        made = records_of_rows(self._good(rows, seen), name, lambda record, _: record)
        return made, {'columns': self.columns, 'columns_not_used': sorted(seen.keys() - self._used)}

    @property
    def _used(self) -> set[str]:
        return {name for named in self.columns.values() for name in _names(named)}

    def _good(self, rows: Rows, seen: dict[str, int]) -> Iterator[tuple[str, Record]]:
        """Place and record of each row that fits; raises behind the last row if some did not."""
        wrong, total, first = 0, 0, None
        for where, row in rows:
            total += 1
            try:
                if not isinstance(row, dict):
                    raise UserError(f'a row must be an object, got {type(row).__name__}', where=where)
                seen |= dict.fromkeys(row, 1)
                yield where, record_from_dict(self._object(row, where), where)
            except UserError as error:
                wrong, first = wrong + 1, first or error
        if total and (absent := sorted(self._used - seen.keys())):
            raise UserError(
                f'no row has the column {absent[0]!r}', where='--map', fix=f'there are {_list(seen)}'
            )
        if first:
            raise UserError(f'{first} ({wrong} of {total} rows do not fit)') from first

    def _object(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        """A record's object, of the fields that the row has."""
        row = {
            name: None if isinstance(cell, float) and math.isnan(cell) else cell for name, cell in row.items()
        }
        made = {field: self._field(field, named, row, where) for field, named in self.columns.items()}
        made = self.constants | {field: value for field, value in made.items() if value not in (None, '', [])}
        system, speaker = made.pop('system', ''), made.pop('speaker', '')
        if 'question' in self.columns:
            if not (question := made.pop('question', '')):
                raise UserError(f'nothing in {_list(_names(self.columns["question"]))}', where=where)
            turn = {'role': 'user', 'content': question, **({'name': speaker} if speaker else {})}
            made['messages'] = [*([{'role': 'system', 'content': system}] if system else []), turn]
        elif system:
            made['system'] = system
        if 'answer' in self.columns:
            if 'answer' not in made:
                raise UserError(f'column {self.columns["answer"]!r} holds no answer', where=where)
            made['answer'] = self._index(made['answer'], made.get('options', []), where)
        return made

    def _field(self, field: str, named: str | list[str], row: dict[str, Any], where: str) -> Any:
        if field == 'question':
            return '\n\n'.join(filter(None, (_cell(row, name, where) for name in _names(named))))
        if field in _LISTS:
            return [self._value(field, item, where) for item in _list_cell(field, named, row, where)]
        value = row.get(named)
        if value is None or field in ('answer', *_OBJECTS):
            return _parsed(value, named, where) if field in _OBJECTS else value
        if field in ('prompt', 'completion') and not isinstance(value, str):
            return value
        value = self._value(field, value, where)
        if field != 'hard' or isinstance(value, bool):
            return value
        if (text := _text(value, field, where).lower()) not in _TRUTH:
            raise UserError(f'column {named!r}: {value!r} is not true or false', where=where)
        return _TRUTH[text]

    def _value(self, field: str, value: Any, where: str) -> Any:
        """A cell as the record says it; without `values` of the field, the cell as text."""
        known = self.values.get(field)
        if known is None:
            return value if isinstance(value, bool) and field == 'hard' else _text(value, field, where)
        if (text := _text(value, field, where)) not in known:
            raise UserError(
                f'{text!r} is none of the values of {field!r} in --map',
                where=where,
                fix=f'there are {_list(known)}',
            )
        return known[text]

    def _index(self, value: Any, options: list[str], where: str) -> int:
        """Index of the option that a cell names."""
        text, found = _text(value, 'answer', where), []
        if self.answer == 'text':
            found = [i for i, option in enumerate(options) if option.strip() == text]
            found = found or [i for i, o in enumerate(options) if o.strip().lower() == text.lower()]
        elif self.answer == 'letter':
            letter = text.strip('().: ').upper()
            found = [i for i, a in enumerate(string.ascii_uppercase[: len(options)]) if a == letter]
        else:
            first = ANSWERS.index(self.answer) - 1
            found = [i for i in range(len(options)) if text in (str(i + first), f'{i + first}.0')]
        if len(found) != 1:
            raise UserError(
                f'column {self.columns["answer"]!r}: {text[:80]!r} is not the {self.answer} of one of the '
                f'{len(options)} options',
                where=where,
            )
        return found[0]


def read(path: str | pathlib.Path) -> Mapping:
    """The mapping in a file; raises UserError that names the part that is wrong."""
    where = f'--map={path}'
    try:
        given = json.loads(pathlib.Path(path).read_text(encoding='utf-8-sig'), object_pairs_hook=distinct)
    except OSError as error:
        raise UserError(f'cannot be read ({error.strerror})', where=where) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'not valid JSON ({error})', where=where) from error
    if not isinstance(given, dict) or not isinstance(given.get('columns'), dict):
        raise UserError('must be an object with "columns": {field: column}', where=where)
    if unknown := sorted(given.keys() - set(_PARTS)):
        raise UserError(f'unknown part {unknown[0]!r}', where=where, fix=f'there are {_list(_PARTS)}')
    mapping = Mapping(**given)
    for part in ('values', 'constants'):
        if not isinstance(given.get(part, {}), dict):
            raise UserError(f'{part!r} must be an object', where=where)
    for part in ('columns', 'values', 'constants'):
        if unknown := sorted(given.get(part, {}).keys() - set(FIELDS)):
            raise UserError(
                f'{part}: unknown field {unknown[0]!r}', where=where, fix=f'there are {_list(FIELDS)}'
            )
    _check(mapping, where)
    return mapping


def _check(mapping: Mapping, where: str) -> None:
    for field, named in mapping.columns.items():
        several = isinstance(named, list) and field in ('question', *_LISTS) and named
        if not isinstance(named, str) and not (several and all(isinstance(n, str) for n in named)):
            raise UserError(f'columns: {field!r} must name a column', where=where)
    if len([field for field in _ASKED if field in mapping.columns]) != 1:
        raise UserError(f'columns: give exactly one of {_list(_ASKED)}', where=where)
    for field, known in mapping.values.items():
        if field not in mapping.columns or not isinstance(known, dict):
            raise UserError(f'values: {field!r} must be an object for a field of "columns"', where=where)
    if both := sorted(mapping.columns.keys() & mapping.constants.keys()):
        raise UserError(f'{both[0]!r} is in "columns" and in "constants"', where=where)
    if ('answer' in mapping.columns) != (mapping.answer in ANSWERS):
        raise UserError(
            'says how a column names the answer', where=f'{where}: answer', fix=f'use one of {_list(ANSWERS)}'
        )


def _names(named: str | list[str]) -> list[str]:
    return [named] if isinstance(named, str) else named


def _list(names) -> str:
    """Names in a row, of many the first twenty."""
    names = list(names)
    return ', '.join(map(str, names[:20])) + (f' and {len(names) - 20} more' if len(names) > 20 else '')


def _text(value: Any, field: str, where: str) -> str:
    """A cell as text: `true` for a true one, a number as it is written; UserError for anything else."""
    if not isinstance(value, (str, int, float)) or value != value:
        raise UserError(f'{field!r}: {str(value)[:80]} is neither text nor a number', where=where)
    return json.dumps(value) if isinstance(value, bool) else str(value).strip()


def _cell(row: dict[str, Any], name: str, where: str) -> str:
    """The text of a column; '' where it holds nothing."""
    return '' if row.get(name) is None else _text(row[name], name, where)


def _parsed(value: Any, named: str, where: str) -> Any:
    """A cell that holds a list or an object, which a CSV file writes as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UserError(f'column {named!r} holds neither a list nor JSON of one', where=where) from error


def _list_cell(field: str, named: str | list[str], row: dict[str, Any], where: str) -> list[Any]:
    """Items of a list in one column, of an object with letters for keys, or of several columns."""
    if isinstance(named, list):
        there = [bool(_cell(row, name, where)) for name in named]
        if there != sorted(there, reverse=True):
            raise UserError(f'column {named[there.index(False)]!r} is empty before others', where=where)
        return [row[name] for name, has in zip(named, there, strict=True) if has]
    value = _parsed(row.get(named), named, where)
    if isinstance(value, dict):
        letters = string.ascii_uppercase[: len(value)]
        if sorted(value) != list(letters):
            raise UserError(f'column {named!r}: its keys are not {_list(letters)}', where=where)
        value = [value[letter] for letter in letters]
    if value is not None and not isinstance(value, list):
        raise UserError(f'column {named!r} ({field}) holds no list', where=where)
    return value or []
