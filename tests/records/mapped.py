"""Reads rows through a column map, for tests."""

import json

import datasets

from bsft_jax.data import sources
from bsft_jax.records.column_map import read_column_map


def read(folder, rows, given, kind='jsonl'):
    """Returns the records that a map makes of rows, and the notes."""
    (folder / 'map.json').write_text(json.dumps(given))
    path = folder / f'x.{kind}'
    if kind == 'parquet':
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif isinstance(rows, str):
        path.write_bytes(rows.encode())
    else:
        path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    source = f'{"hf" if kind == "parquet" else kind}:{path}'
    return sources.load_raw(source, 0, read_column_map(folder / 'map.json'))
