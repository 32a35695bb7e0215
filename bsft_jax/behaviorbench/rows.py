"""Rows: the objects that a JSONL or CSV file, a Parquet file or a set of `datasets` holds, each with its place.

A place is what an error begins with: `FILE:LINE`, or the name of the set and the number of the row.
"""

from __future__ import annotations

import csv
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from bsft_jax.errors import UserError

LINE_MIB = 16  # a longer line is no record
_LINE_BYTES = LINE_MIB * 2**20

_READ_BY = {
    '.csv': 'prepare it by csv:',
    '.tsv': 'prepare it by csv:',
    '.jsonl': 'use jsonl:',
    '.json': 'write one object a line and use jsonl:',
}

Rows = Iterable[tuple[str, Any]]


def _lines(path: str | pathlib.Path) -> Iterator[tuple[str, str]]:
    """Place and text of each line; raises UserError for what is not a text file."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError('is a folder, not a file', where=str(path))
    if not path.is_file():
        raise UserError('no such file', where=str(path))
    try:
        with path.open('rb') as file:
            number = 0
            while line := file.readline(_LINE_BYTES + 1):
                number += 1
                where = f'{path}:{number}'
                if len(line) > _LINE_BYTES:
                    raise UserError(
                        f'a line of more than {LINE_MIB} MiB', where=where, fix='write one record a line'
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


def jsonl(path: str | pathlib.Path) -> Rows:
    """The values of a JSONL file; empty lines are passed over.

    Raises UserError that names file and line for a line that is not JSON, not UTF-8, holds a NUL byte
    or is longer than LINE_MIB.
    """
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            yield where, json.loads(line, object_pairs_hook=distinct)
        except json.JSONDecodeError as error:
            raise UserError(f'not valid JSON ({error.msg} at column {error.colno})', where=where) from error
        # double keys; a number of 5,000 digits; brackets 100,000 deep
        except (ValueError, RecursionError) as error:
            raise UserError(f'not readable JSON ({error})', where=where) from error


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object for `json.loads`; raises ValueError for a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if any(key == k for k, _ in pairs[:i]))
        raise ValueError(f'the key {twice!r} is there twice')
    return found


def delimited(path: str | pathlib.Path) -> Rows:
    """The rows of a CSV file (`.tsv`: of tabs) below its header, all cells text, empty ones None.

    Raises UserError as `jsonl` does, and for a header with an empty or a double name, a row that is
    longer or shorter than the header, and quotes that do not close.
    """
    csv.field_size_limit(_LINE_BYTES)  # the default refuses notes of 128 KiB
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
            yield (
                where,
                {name: cell if cell.strip() else None for name, cell in zip(header, cells, strict=True)},
            )
    except csv.Error as error:
        raise UserError(f'not valid CSV ({error})', where=f'{path}:{reader.line_num}') from error


def hugging_face(name: str) -> dict[str, Rows]:
    """Split → its rows, of what the library `datasets` reads; '' for a set that has no splits.

    Args:
      name: `PATH_OR_HUB_ID[:CONFIG]`: a Parquet file, a folder that `save_to_disk` wrote, a folder of
        data files, or the name of a set on the hub.

    A row that has no `split` gets the name of its own. Raises UserError for what cannot be read.
    """
    import datasets

    path, _, config = name.partition(':')
    if os.path.isfile(path) and not path.endswith('.parquet'):
        ending = os.path.splitext(path)[1].lower()
        raise UserError(
            'is a file, of which hf: reads Parquet alone',
            where=f'hf:{name}',
            fix=_READ_BY.get(ending, 'export it as CSV'),
        )
    saved = any(os.path.isfile(os.path.join(path, n)) for n in ('dataset_dict.json', 'state.json'))
    datasets.disable_progress_bars()
    try:
        if path.endswith('.parquet'):
            if not os.path.isfile(path):
                raise FileNotFoundError('no such file')
            found = datasets.Dataset.from_parquet(path)
        elif saved:
            found = datasets.load_from_disk(path)
        else:
            found = datasets.load_dataset(path, config or None)
    except Exception as error:  # the library raises its own, pyarrow's, the hub's and the system's
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f'cannot be read by datasets ({what})', where=f'hf:{name}') from error
    if not isinstance(found, dict):
        found = {'': found}
    return {split: _named_rows(f'hf:{name}', split, rows) for split, rows in found.items()}


def _named_rows(name: str, split: str, rows: Iterable[dict[str, Any]]) -> Rows:
    number = -1
    try:
        for number, row in enumerate(rows):
            where = f'{name}: {split} row {number}' if split else f'{name}: row {number}'
            yield where, row if row.get('split') or not split else row | {'split': split}
    except Exception as error:  # a column of pictures without a library for them
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f'cannot be read by datasets behind row {number} ({what})', where=name) from error
