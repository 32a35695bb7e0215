"""Column maps: JSON files that say which columns of a table become which fields of a record.

{"columns": {"question": "Vignette", "options": ["A", "B", "C", "D"], "answer": "Gold",
             "category": "Task"},
 "answer": "letter",
 "values": {"category": {"Finding omissions": "omission_detection"}},
 "constants": {"source": "mine", "license": "CC-BY-4.0"},
 "leave_out": {"Gold": [null]}}
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.records import choices
from bsft_jax.records.cells import (
    ABSENT,
    as_list,
    find_cell,
    is_empty,
    join_names,
    parse_nested,
    to_text,
)
from bsft_jax.records.map_file import (
    JOINED_FIELDS,
    JSON_FIELDS,
    LIST_FIELDS,
    MESSAGE_FIELDS,
    check_parts,
    read_map_object,
)
from bsft_jax.records.readers import Rows
from bsft_jax.records.record import Record, record_from_dict, records_from_rows

# Rows that did not fit and are named in the notes.
_MAX_ROWS_NAMED = 100


@dataclasses.dataclass(frozen=True)
class ColumnMap:
    """Describes how the rows of a table become records.

    Attributes:
      columns: field → its column; several columns for `question`, `prompt` and lists of texts.
      answer: how the answer's column names an option: by its `letter`, its `index` from 0, its
        `number` from 1, its `text`, or by `flags`, one for each option.
      values: field → value of a cell → value of the record's field; null for none.
      constants: field → its value in every record.
      leave_out: column → cells whose rows are left out; null stands for an empty cell.
      max_unfit: number of rows that do not fit and may be left out.
    """

    columns: dict[str, str | list[str]]
    answer: str = ''
    values: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)
    leave_out: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    max_unfit: int = 0

    @property
    def used_columns(self) -> set[str]:
        """Returns the columns and paths that are read."""
        named = {name for names in self.columns.values() for name in as_list(names)}
        return named | self.leave_out.keys()

    @property
    def used_names(self) -> set[str]:
        """Returns the columns that are read, also by a path into their objects."""
        return self.used_columns | {name.split('.')[0] for name in self.used_columns}

    def to_records(self, rows: Rows, name: str) -> tuple[list[Record], dict[str, Any]]:
        """Converts rows to records.

        Args:
          rows: pairs of where a row stands and its value.
          name: what errors about the whole source begin with.

        Returns:
          The records, and notes for the card: the columns used and not used, and the rows that were
          left out, each kind with its number.

        Raises:
          UserError: for the first row that does not fit, with the number of those that do not, and
            for a column that no row has.
        """
        reading = _Reading(self)
        records = records_from_rows(reading.valid_records(rows), name, lambda record, _: record)
        notes = {
            'columns': self.columns,
            'columns_not_used': sorted(reading.seen.keys() - self.used_names),
            'left_out': reading.left_out(),
        }
        return records, notes


class _Reading:
    """Reads the rows of one source by a map, and counts what it leaves out.

    Attributes:
      seen: the columns of all rows, in their order.
    """

    def __init__(self, column_map: ColumnMap):
        self._map = column_map
        self.seen: dict[str, None] = {}
        self._found: set[str] = set()
        self._unfit: list[UserError] = []
        self._left_out: collections.Counter[str] = collections.Counter()
        self._left_out_cells = {
            column: {None if is_empty(cell) else to_text(cell, column, '--map') for cell in cells}
            for column, cells in column_map.leave_out.items()
        }

    def left_out(self) -> list[dict[str, Any]]:
        """Returns what was left out: the reason, the number of rows, and where unfit ones are."""
        entries: list[dict[str, Any]] = [
            {'reason': reason, 'rows': rows} for reason, rows in self._left_out.items()
        ]
        if self._unfit:
            named = [str(error) for error in self._unfit[:_MAX_ROWS_NAMED]]
            entries.append({'reason': 'does not fit', 'rows': len(self._unfit), 'errors': named})
        return entries

    def valid_records(self, rows: Rows) -> Iterator[tuple[str, Record]]:
        """Yields where each row that fits stands and its record; raises after the last row."""
        num_rows = 0
        for where, row in rows:
            num_rows += 1
            try:
                if not isinstance(row, dict):
                    raise UserError(
                        f'a row must be an object, got {type(row).__name__}', where=where
                    )
                self._note_columns(row, where)
                if reason := self._reason_to_leave_out(row, where):
                    self._left_out[reason] += 1
                    continue
                yield where, record_from_dict(self._to_object(row, where), where)
            except UserError as error:
                self._unfit.append(error)
        # A column that no row has explains errors of the rows, so it is reported before them.
        if num_rows and (absent := sorted(self._map.used_columns - self._found)):
            raise UserError(
                f'no row has the column {absent[0]!r}',
                where='--map',
                fix=f'there are {join_names(self.seen)}',
            )
        if len(self._unfit) > self._map.max_unfit:
            raise UserError(
                f'{self._unfit[0]}; mend them, or leave them out by --map: "max_unfit": '
                f'{len(self._unfit)} ({len(self._unfit)} of {num_rows} rows do not fit)'
            ) from self._unfit[0]

    def _note_columns(self, row: dict[str, Any], where: str) -> None:
        self.seen |= dict.fromkeys(row)
        for name in self._map.used_columns - self._found:
            try:
                is_found = find_cell(row, name, where) is not ABSENT
            # The column is there; what is wrong with its cell is told when it is read.
            except UserError:
                is_found = True
            if is_found:
                self._found.add(name)

    def _reason_to_leave_out(self, row: dict[str, Any], where: str) -> str:
        for column, listed in self._left_out_cells.items():
            cell = _cell(row, column, where)
            is_scalar = cell is None or isinstance(cell, (str, int, float))
            text = None if cell is None else to_text(cell, column, where) if is_scalar else ''
            if text in listed:
                return f'{column} is {"empty" if text is None else text}'
        return ''

    def _to_object(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        """Returns a record's JSON object, with the fields that the row has and the constants."""
        columns = self._map.columns
        fields = {
            field: self._read_field(field, column, row, where) for field, column in columns.items()
        }
        obj = self._map.constants | {
            field: value for field, value in fields.items() if not is_empty(value)
        }
        # A question is the prompt of a record; what is mapped to `prompt` may also be messages.
        for field in ('question', 'prompt'):
            if field in columns and field not in obj:
                raise UserError(f'nothing in {join_names(as_list(columns[field]))}', where=where)
        if 'question' in columns:
            obj['prompt'] = obj.pop('question')
        if speaker := obj.pop('speaker', ''):
            if not isinstance(obj['prompt'], str):
                raise UserError("'speaker': the messages of 'prompt' name theirs", where=where)
            obj['prompt'] = [{'role': 'user', 'content': obj['prompt'], 'name': speaker}]
        letters = obj.pop('letters', [])
        if 'answer' in columns:
            column = columns['answer']
            if 'answer' not in obj:
                raise UserError(f'column {column!r} holds no answer', where=where)
            options = obj.get('options', [])
            if self._map.answer == 'letter' and not letters:
                for name in as_list(columns.get('options', [])):
                    choices.check_letter_order(name, row, where)
            try:
                obj['answer'] = choices.option_index(
                    self._map.answer, obj['answer'], options, letters, f'column {column!r}'
                )
            except UserError as error:
                raise UserError(str(error), where=where) from error
        return obj

    def _read_field(
        self, field: str, column: str | list[str], row: dict[str, Any], where: str
    ) -> Any:
        """Returns the value of one field of the record's object."""
        if field in LIST_FIELDS or (field == 'answer' and self._map.answer == 'flags'):
            items = choices.read_items(field, column, row, where)
            names = column if isinstance(column, list) else [field] * len(items)
            return [
                self._translate(field, item, where, name)
                for item, name in zip(items, names, strict=False)
            ]
        cells = [_cell(row, name, where) for name in as_list(column)]
        if field in JSON_FIELDS:
            return None if cells[0] is None else parse_nested(cells[0], str(column), where)
        is_chat = field in MESSAGE_FIELDS and isinstance(cells[0], list)
        if is_chat and field not in self._map.values:
            return cells[0]
        if field in JOINED_FIELDS:
            texts = (
                self._translate(field, cell, where, name)
                for cell, name in zip(cells, as_list(column), strict=True)
            )
            return '\n\n'.join(filter(None, texts))
        (cell,) = cells
        if field == 'answer' and isinstance(cell, list):
            if len(cell) > 1:
                raise UserError(
                    f"'answer': {str(cell)[:80]} is neither text nor a number, a record has one "
                    'answer',
                    where=where,
                )
            (cell,) = cell
        value = self._translate(field, cell, where)
        if field != 'hard' or value is None or isinstance(value, bool):
            return value
        if (text := value.lower()) not in choices.FLAGS:
            raise UserError(f'column {column!r}: {value!r} is not true or false', where=where)
        return choices.FLAGS[text]

    def _translate(self, field: str, value: Any, where: str, name: str = '') -> Any:
        """Returns what `values` says for a cell; where it has no entry for the field, the text.

        Errors call the cell `name`, or by its field.
        """
        translations = self._map.values.get(field)
        if value is None and '' not in (translations or {}) and field not in LIST_FIELDS:
            return None
        # A null in a list is no empty cell but an error.
        is_empty_cell = value is None and field not in LIST_FIELDS
        text = '' if is_empty_cell else to_text(value, name or field, where)
        if translations is None:
            return text
        if text not in translations:
            raise UserError(
                f'{text!r} is none of the values of {field!r} in --map',
                where=where,
                fix=f'there are {join_names(translations)}',
            )
        return translations[text]


def _cell(row: dict[str, Any], name: str, where: str) -> Any:
    """Returns the cell of a column; None where it is empty or absent."""
    cell = find_cell(row, name, where)
    return None if cell is ABSENT else cell


def read_column_map(path: str | pathlib.Path) -> ColumnMap:
    """Reads a column map from a JSON file.

    Raises:
      UserError: that names the part of the map that is wrong.
    """
    where = f'--map={path}'
    obj = read_map_object(path, where)
    check_parts(obj, where)
    values = {
        field: {key.strip(): value for key, value in translations.items()}
        for field, translations in obj.get('values', {}).items()
    }
    return ColumnMap(**(obj | {'values': values}))
