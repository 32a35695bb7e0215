"""Readers of JSONL, CSV and Parquet files and of data sets that the library `datasets` reads.

Every reader yields pairs of `where` and the row's value. Errors about a row begin with `where`:
`FILE:LINE`, or the name of the data set and the number of the row. Numbers with a point or an
exponent are `WrittenFloat`s where the file spells them.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from bsft_jax.errors import UserError

# No record is longer than this; a longer line is a file of another kind.
MAX_LINE_MIB = 16
_MAX_LINE_BYTES = MAX_LINE_MIB * 2**20

# What to do with a file that `hf:` does not read, by its extension.
_FIX_BY_EXTENSION = {
    '.csv': 'prepare it by csv:',
    '.tsv': 'prepare it by csv:',
    '.jsonl': 'use jsonl:',
    '.json': 'use jsonl:, which also reads an array of objects',
}
_UTF16_MARKS = (b'\xff\xfe', b'\xfe\xff')
# The beginning of a file that holds one array of objects instead of an object a line.
_ARRAY_OF_OBJECTS = re.compile(rb'(?:\xef\xbb\xbf)?\s*\[\s*\{')
_PEEKED_BYTES = 4096
_BLANK = re.compile(r'\s*')
# The first line with which Excel names the separator of a CSV file.
_SEPARATOR_LINE = re.compile(r'(?:\ufeff)?"?sep=([,;|\t])"?\s*', re.IGNORECASE)

Rows = Iterable[tuple[str, Any]]


class WrittenFloat(float):
    """Is a number that remembers how a file writes it: 1.10 and 1E2 are not 1.1 and 100.0.

    Attributes:
      text: the number as it is written.
    """

    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        """Reads a number."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def _lines(path: str | pathlib.Path, *, limited: bool = True) -> Iterator[tuple[str, str]]:
    """Yields where each line stands and its text; raises UserError for anything but a text file.

    `limited` refuses lines of more than MAX_LINE_MIB.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError('is a folder, not a file', where=str(path))
    if not path.is_file():
        raise UserError('no such file', where=str(path))
    try:
        with path.open('rb') as file:
            number = 0
            while line := file.readline(_MAX_LINE_BYTES + 1 if limited else -1):
                number += 1
                where = f'{path}:{number}'
                if number == 1 and line.startswith(_UTF16_MARKS):
                    raise UserError(
                        'not UTF-8 but UTF-16', where=where, fix='save the file as UTF-8'
                    )
                if limited and len(line) > _MAX_LINE_BYTES:
                    raise UserError(
                        f'a line of more than {MAX_LINE_MIB} MiB',
                        where=where,
                        fix='write one record a line',
                    )
                if b'\0' in line:
                    raise UserError(f'a NUL byte in column {line.index(0) + 1}', where=where)
                try:
                    yield where, line.decode('utf-8-sig' if number == 1 else 'utf-8')
                except UnicodeDecodeError as error:
                    what = f'not UTF-8 ({error.reason} at byte {error.start} of the line)'
                    raise UserError(what, where=where) from error
    except OSError as error:
        raise UserError(f'cannot be read ({error.strerror})', where=str(path)) from error


def read_jsonl_rows(path: str | pathlib.Path) -> Rows:
    """Yields the values of a JSONL file, or of a file with one array of objects.

    Empty lines are skipped.

    Raises:
      UserError: for a line that is not JSON or not UTF-8, holds a NUL byte or a key twice, or is
        longer than MAX_LINE_MIB. Its message names the file and the line.
    """
    if _holds_array(path):
        yield from _array_entries(path)
        return
    for where, line in _lines(path):
        if line.strip():
            yield where, parse_json(line, where)


def parse_json(text: str, where: str) -> Any:
    """Returns the value of a JSON text, with floats as they are written.

    Raises:
      UserError: for anything but one value, for a key that occurs twice, and for values nested too
        deep.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_float=WrittenFloat)
    except (ValueError, RecursionError) as error:
        raise _json_error(error, text, where) from error


def _json_error(error: Exception, text: str, where: str) -> UserError:
    """Returns the error for a text that `json` cannot read."""
    # Duplicate keys, a number of 5,000 digits, and brackets nested 100,000 deep.
    if not isinstance(error, json.JSONDecodeError):
        return UserError(f'not readable JSON ({error})', where=where)
    within_text = error.msg.startswith('Unterminated string')
    if within_text or error.pos >= len(text.rstrip()):
        return UserError(
            f'not valid JSON: the line ends within {"a text" if within_text else "a value"}',
            where=where,
            fix='is the file whole? A file has one object a line, or one array of objects',
        )
    message = error.msg.removesuffix(' at')
    return UserError(f'not valid JSON ({message} at column {error.colno})', where=where)


def _holds_array(path: str | pathlib.Path) -> bool:
    try:
        with open(path, 'rb') as file:
            return bool(_ARRAY_OF_OBJECTS.match(file.read(_PEEKED_BYTES)))
    # `_lines` says what is wrong with the file.
    except OSError:
        return False


def _array_entries(path: str | pathlib.Path) -> Rows:
    """Yields the entries of a file that holds one JSON array of objects, one after the other."""
    text = ''.join(line for _, line in _lines(path, limited=False))
    decoder = json.JSONDecoder(object_pairs_hook=unique_keys, parse_float=WrittenFloat)
    begin = text.index('[') + 1
    line, counted, number, closed = 1, 0, 0, False
    while not closed:
        begin = _BLANK.match(text, begin).end()
        line, counted = line + text.count('\n', counted, begin), begin
        number += 1
        where = f'{path}:{line} (entry {number})'
        try:
            value, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            raise _json_error(error, text, where) from error
        yield where, value
        end = _BLANK.match(text, end).end()
        closed = text[end : end + 1] == ']'
        if not closed and text[end : end + 1] != ',':
            what = 'no comma after this entry' if end < len(text) else 'the array does not end'
            raise UserError(f'not valid JSON: {what}', where=where, fix='is the file whole?')
        begin = end + 1
    if text[begin:].strip():
        raise UserError(
            'not valid JSON: text after the end of the array',
            where=where,
            fix='write one object a line, or one array of objects',
        )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object, as `object_pairs_hook` of `json.loads`.

    Raises:
      ValueError: for a key that occurs twice.
    """
    obj = dict(pairs)
    if len(obj) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f'the key {key!r} is there twice')
            seen.add(key)
    return obj


def read_csv_rows(path: str | pathlib.Path, needed: Collection[str] | None = None) -> Rows:
    """Yields the rows of a CSV file with a header as objects.

    Tabs separate the cells of a `.tsv` file. In any other file it is what a first line `sep=;`
    names, or a semicolon or tab in a header without commas. Every cell is text, and an empty one or
    `nan` is None. Columns without a name, such as the index that pandas writes, are left out.

    Args:
      path: the file.
      needed: the columns that must have a name of their own; None for all.

    Raises:
      UserError: as `read_jsonl_rows`, and for two needed columns with one name, a row that is
        longer or shorter than the header, and quotes that do not close.
    """
    # The default limit of 128 KiB refuses long notes.
    csv.field_size_limit(_MAX_LINE_BYTES)
    lines = (line for _, line in _lines(path))
    first = next(lines, '')
    separator = '\t' if str(path).endswith('.tsv') else ''
    num_skipped = 0
    if match := _SEPARATOR_LINE.fullmatch(first):
        separator, first, num_skipped = match[1], next(lines, ''), 1
    separator = separator or _separator_of(first)
    reader = csv.reader(itertools.chain([first], lines), delimiter=separator, strict=True)
    header: list[str] = []
    line = num_skipped + 1
    try:
        for cells in reader:
            # A record with line breaks in its cells is named by its first line.
            where, line = f'{path}:{line}', num_skipped + reader.line_num + 1
            if not any(cells):
                continue
            if not header:
                header = [name.strip() for name in cells]
                _check_header(header, needed, where)
                continue
            # Excel writes commas behind the last column.
            if len(cells) > len(header) and not any(cells[len(header) :]):
                del cells[len(header) :]
            if len(cells) != len(header):
                raise UserError(f'{len(cells)} cells below {len(header)} columns', where=where)
            row = zip(header, cells, strict=True)
            yield where, {name: _cell_or_none(cell) for name, cell in row if name}
    except csv.Error as error:
        where = f'{path}:{num_skipped + reader.line_num}'
        raise UserError(f'not valid CSV ({error})', where=where) from error


def _separator_of(header: str) -> str:
    """Returns what separates the cells of a header."""
    unquoted = re.sub('"[^"]*"', '', header)
    return next((mark for mark in ',;\t' if mark in unquoted), ',')


def _cell_or_none(cell: str) -> str | None:
    """Returns None for an empty cell, also for one that pandas wrote as `nan`."""
    return None if cell.strip().lower() in ('', 'nan') else cell


def _check_header(header: list[str], needed: Collection[str] | None, where: str) -> None:
    """Raises UserError for a needed column without a name or with that of another."""
    if needed is None and '' in header:
        raise UserError(
            f'column {header.index("") + 1} has no name',
            where=where,
            fix='name it, or choose columns with prepare --map=FILE',
        )
    for name in header if needed is None else needed:
        if name and header.count(name) > 1:
            raise UserError(f'two columns are called {name!r}', where=where, fix='rename one')


def read_hugging_face_splits(name: str) -> dict[str, Rows]:
    """Opens a data set with the library `datasets`.

    A row without a `split` of its own gets the name of the split that it is in.

    Args:
      name: `PATH_OR_HUB_ID[:CONFIG]`: a Parquet file, a folder that `save_to_disk` wrote, a folder
        of data files, or the name of a data set on the hub.

    Returns:
      Split → its rows; '' is the only key of a data set without splits.

    Raises:
      UserError: for a data set that cannot be read.
    """
    import datasets

    where = f'hf:{name}'
    path, _, config = name.partition(':')
    is_parquet = path.endswith('.parquet')
    if os.path.isfile(path) and not is_parquet:
        extension = os.path.splitext(path)[1].lower()
        raise UserError(
            'is a file, of which hf: reads Parquet alone',
            where=where,
            fix=_FIX_BY_EXTENSION.get(extension, 'export it as CSV'),
        )
    # Files that `save_to_disk` leaves in the folder.
    is_saved = any(
        os.path.isfile(os.path.join(path, file)) for file in ('dataset_dict.json', 'state.json')
    )
    datasets.disable_progress_bars()
    try:
        if is_parquet:
            if not os.path.isfile(path):
                raise FileNotFoundError('no such file')
            data = datasets.Dataset.from_parquet(path)
        elif is_saved:
            data = datasets.load_from_disk(path)
        else:
            data = datasets.load_dataset(path, config or None)
    # The library raises its own errors and those of pyarrow, the hub and the system.
    except Exception as error:
        raise unreadable('datasets', error, where) from error
    splits = data if isinstance(data, dict) else {'': data}
    return {split: _rows_of_split(where, split, rows) for split, rows in splits.items()}


def _rows_of_split(name: str, split: str, rows: Iterable[dict[str, Any]]) -> Rows:
    number = -1
    try:
        for number, row in enumerate(rows):
            where = f'{name}: {split} row {number}' if split else f'{name}: row {number}'
            yield where, row if row.get('split') or not split else row | {'split': split}
    # For example a column of images where the library that decodes them is missing.
    except Exception as error:
        raise unreadable('datasets', error, name, f' after row {number}') from error


def unreadable(
    library: str, error: Exception, where: str, detail: str = '', fix: str = ''
) -> UserError:
    """Returns the error for data that a library cannot read, with one line of the cause."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f'cannot be read by {library}{detail} ({reason})', where=where, fix=fix)
