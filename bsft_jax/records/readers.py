"""Readers of JSONL, CSV and Parquet files and of data sets that the library `datasets` reads.

Every reader yields pairs of `where` and the row's value. Errors about a row begin with `where`:
`FILE:LINE`, or the name of the data set and the number of the row.
"""

from __future__ import annotations

import csv
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
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
    '.json': 'write one object a line and use jsonl:',
}

Rows = Iterable[tuple[str, Any]]


def _lines(path: str | pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields where each line stands and its text; raises UserError for anything but a text file."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError('is a folder, not a file', where=str(path))
    if not path.is_file():
        raise UserError('no such file', where=str(path))
    try:
        with path.open('rb') as file:
            number = 0
            while line := file.readline(_MAX_LINE_BYTES + 1):
                number += 1
                where = f'{path}:{number}'
                if len(line) > _MAX_LINE_BYTES:
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
    """Yields the values of a JSONL file; empty lines are skipped.

    Raises:
      UserError: for a line that is not JSON or not UTF-8, holds a NUL byte or a key twice, or is
        longer than MAX_LINE_MIB. Its message names the file and the line.
    """
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            yield where, json.loads(line, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise UserError(
                f'not valid JSON ({error.msg} at column {error.colno})', where=where
            ) from error
        # Duplicate keys, a number of 5,000 digits, and brackets nested 100,000 deep.
        except (ValueError, RecursionError) as error:
            raise UserError(f'not readable JSON ({error})', where=where) from error


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


def read_csv_rows(path: str | pathlib.Path) -> Rows:
    """Yields the rows of a CSV file with a header as objects; tabs separate cells in a `.tsv` file.

    Every cell is text, and an empty one is None.

    Raises:
      UserError: as `read_jsonl_rows`, and for a header with an empty or a duplicate name, a row
        that is longer or shorter than the header, and quotes that do not close.
    """
    # The default limit of 128 KiB refuses long notes.
    csv.field_size_limit(_MAX_LINE_BYTES)
    dialect = 'excel-tab' if str(path).endswith('.tsv') else 'excel'
    reader = csv.reader((line for _, line in _lines(path)), dialect, strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            where = f'{path}:{reader.line_num}'
            if not cells:
                continue
            if not header:
                header = [name.strip() for name in cells]
                if not all(header) or len(set(header)) < len(header):
                    raise UserError('a column without a name, or two with the same', where=where)
                continue
            if len(cells) != len(header):
                raise UserError(f'{len(cells)} cells below {len(header)} columns', where=where)
            row = zip(header, cells, strict=True)
            yield where, {name: cell if cell.strip() else None for name, cell in row}
    except csv.Error as error:
        raise UserError(f'not valid CSV ({error})', where=f'{path}:{reader.line_num}') from error


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
