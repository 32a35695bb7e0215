"""Data sources by name: `synthetic:CASES[:SEED]`, `jsonl:PATH`, `hf:PATH_OR_HUB_ID[:CONFIG]`,
`tfds:behavior_bench/CONFIG`, mixtures `0.7*SOURCE + 0.3*SOURCE` of them, and for pretraining `synthetic_lists`,
`synthetic_sheets` and `synthetic_text` with the same numbers."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from typing import Any

from bsft_jax import cache
from bsft_jax.behaviorbench import adapters, rows, splits, text
from bsft_jax.behaviorbench.builders import records_of
from bsft_jax.behaviorbench.cases import simulate
from bsft_jax.behaviorbench.mapping import Mapping
from bsft_jax.behaviorbench.records import SPLITS, Record, read_jsonl, records_of_rows
from bsft_jax.errors import UserError

PRETRAINING = {
    'synthetic_lists': text.list_records,
    'synthetic_sheets': text.sheet_records,
    'synthetic_text': text.conversation_records,
}
_FORMS = ', '.join(
    [
        *(f'{scheme}:CASES[:SEED]' for scheme in ('synthetic', *PRETRAINING)),
        'jsonl:FILE_OR_PREPARED_DIR',
        'hf:PATH_OR_HUB_ID[:CONFIG]',
        'tfds:behavior_bench/CONFIG',
    ]
)
RAW = ('csv', *adapters.ADAPTERS)  # what only `prepare` reads
_PART = re.compile(r'(\d+(?:\.\d*)?)\*(\S.*)')


def _tfds(name: str) -> dict[str, rows.Rows]:
    from bsft_jax.behaviorbench import tfds_builder

    return tfds_builder.read(name)


_SETS = {'hf': rows.hugging_face, 'tfds': _tfds}  # a name → split → rows


class NoSuchSplit(UserError):
    """The source is there, the split that was asked for is not."""


def parts_of(source: str) -> list[tuple[str, float]]:
    """The sources of `0.7*SOURCE + 0.3*SOURCE` with their weights; any other source alone, weight 1.

    Raises UserError for a weight of 0 and for a part without one.
    """
    if not _PART.match(source):
        return [(source, 1.0)]
    parts = []
    for part in source.split(' + '):
        match = _PART.fullmatch(part.strip())
        if not match or not float(match[1]):
            raise UserError(
                f'cannot read {part.strip()!r} in a mixture',
                where='data source',
                fix='write 0.7*SOURCE + 0.3*SOURCE with weights above 0',
            )
        parts.append((match[2].strip(), float(match[1])))
    return parts


def _numbers(source: str, rest: str) -> tuple[int, int]:
    parts = rest.split(':')
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() for part in parts) or int(parts[0]) < 3:
        raise UserError(
            f'cannot read {source!r}',
            where='data source',
            fix='write synthetic:CASES[:SEED] with 3 cases or more',
        )
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else 0


def _with_splits(records: list[Record], seed: int) -> list[Record]:
    assigned = splits.split_of_clusters([record.case_id for record in records], seed)
    return [dataclasses.replace(r, split=split) for r, split in zip(records, assigned, strict=True)]


def _synthetic(cases: int, seed: int) -> list[Record]:
    """Records of simulated cases; those of the test split are worded as training never sees."""
    simulated = [simulate(seed, index) for index in range(cases)]
    assigned = splits.split_of_clusters([case.case_id for case in simulated], seed)
    return [
        dataclasses.replace(record, split=split)
        for case, split in zip(simulated, assigned, strict=True)
        for record in records_of(case, held_out=split == 'test')
    ]


def _generated(scheme: str, source: str, rest: str) -> list[Record]:
    cases, seed = _numbers(source, rest)
    if scheme in PRETRAINING:
        return _with_splits(PRETRAINING[scheme](cases, seed), seed)
    return _synthetic(cases, seed)


def _unknown(source: str, forms: str) -> UserError:
    return UserError(f'unknown data source {source!r}', where='data source', fix=f'use {forms}')


def load_records(source: str, split: str) -> list[Record]:
    """The records of one split of a source, of a mixture those of all its parts.

    A prepared directory has one file per split; of a set without splits those records count whose
    `split` is the one asked for or empty. Raises UserError for a source that does not exist, and
    NoSuchSplit where no part has the split.
    """
    parts, records, missing = parts_of(source), [], None
    for part, _ in parts:
        try:
            records += _load_part(part, split)
        except NoSuchSplit as error:
            missing = error
    if missing is not None and not records:
        raise missing
    return records


def _load_part(source: str, split: str) -> list[Record]:
    scheme, _, rest = source.partition(':')
    if scheme in ('synthetic', *PRETRAINING):
        return [record for record in _generated(scheme, source, rest) if record.split == split]
    path = pathlib.Path(rest)
    if scheme in _SETS and rest:
        found = _SETS[scheme](rest)
        if '' not in found and split not in found:
            what = f'no split {split!r}, there are {", ".join(found)}'
            raise NoSuchSplit(what, where=source, fix='prepare --map=FILE renames splits')
        records = records_of_rows(found.get(split) or found[''], source)
    elif scheme != 'jsonl' or not rest:
        prepared = f'; {scheme}: goes through prepare first' if scheme in RAW else ''
        raise _unknown(source, _FORMS + prepared)
    elif path.is_dir():
        file = path / f'{split}.jsonl'
        if not file.is_file() or not file.stat().st_size:
            what = f'no {split}.jsonl with records in this folder'
            raise NoSuchSplit(what, where=source, fix='name a folder that prepare wrote')
        records = read_jsonl(file)
    else:
        records = read_jsonl(path)
    records = [record for record in records if record.split in ('', split)]
    if not records:
        raise NoSuchSplit(f'no record of split {split!r}', where=source)
    return records


def fingerprint(source: str, split: str) -> str:
    """A digest that changes with the records of a split; '' where only reading them could tell.

    For simulated cases that is the name of the source.
    """
    scheme, _, rest = source.partition(':')
    path = pathlib.Path(rest)
    if scheme in ('synthetic', *PRETRAINING):
        return source
    if scheme == 'jsonl' and rest:
        path = path / f'{split}.jsonl' if path.is_dir() else path
        return cache.digest_of_files([path]) if path.is_file() else ''
    return ''


def load_raw(source: str, seed: int, mapping: Mapping | None = None) -> tuple[list[Record], dict[str, Any]]:
    """All splits of a source that `prepare` takes (raw adapters included), and notes for its card.

    With a `mapping` the rows of `jsonl:FILE`, `csv:FILE` and `hf:SET` become records as it says.
    """
    scheme, _, rest = source.partition(':')
    found = _rows_of(scheme, rest)
    if mapping is not None and not found:
        raise UserError('its rows are records already', where=source, fix='prepare it without --map')
    if found:
        name, given = found
        records, notes = mapping.records(given, name) if mapping else (records_of_rows(given, name), {})
        return _in_splits(records, seed), notes
    if scheme in adapters.ADAPTERS and rest:
        return adapters.load(scheme, rest, seed)
    if scheme in ('synthetic', *PRETRAINING):
        return _generated(scheme, source, rest), {}
    if scheme == 'jsonl' and rest:
        return [record for split in SPLITS for record in load_records(source, split)], {}
    raise _unknown(source, f'{_FORMS}, {", ".join(f"{name}:..." for name in RAW)}')


def _rows_of(scheme: str, rest: str) -> tuple[str, rows.Rows] | None:
    """Name and rows of a source of rows; None for any other."""
    if scheme == 'csv' and rest:
        return rest, rows.delimited(rest)
    if scheme == 'jsonl' and rest and not pathlib.Path(rest).is_dir():
        return rest, rows.jsonl(rest)
    if scheme in _SETS and rest:
        return f'{scheme}:{rest}', itertools.chain.from_iterable(_SETS[scheme](rest).values())
    return None


def _in_splits(records: list[Record], seed: int) -> list[Record]:
    """Records with the splits that they name, or with new ones where one of them names none."""
    if all(record.split for record in records):
        return records
    named = [
        r if r.case_id else dataclasses.replace(r, case_id=r.id or f'line {i}') for i, r in enumerate(records)
    ]
    return _with_splits(named, seed)
