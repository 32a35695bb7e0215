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
from bsft_jax.behaviorbench.records import SPLITS, Record, label_of, read_jsonl, records_of_rows
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
GENERATED = ('synthetic', *PRETRAINING)
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


def _with_splits(records: list[Record], clusters: list[str], seed: int) -> list[Record]:
    assigned = splits.split_of_clusters(clusters, seed)
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
        records = PRETRAINING[scheme](cases, seed)
        return _with_splits(records, [record.case_id for record in records], seed)
    return _synthetic(cases, seed)


def _unknown(source: str, forms: str) -> UserError:
    return UserError(f'unknown data source {source!r}', where='data source', fix=f'use {forms}')


def load_records(source: str, split: str) -> list[Record]:
    """The records of one split of a source, of a mixture those of all its parts.

    A prepared directory has one file per split; a set whose records name no split serves every one. Raises UserError
    for a source that does not exist, for records of which only some name a split, and for an id that two parts have,
    and NoSuchSplit where no part has the split.
    """
    records, part_of, missing = [], {}, None
    for part, _ in parts_of(source):
        try:
            found = _load_part(part, split)
        except NoSuchSplit as error:
            missing = error
            continue
        ids = [record.id for record in found if record.id]
        if twice := next((name for name in ids if name in part_of), ''):
            raise UserError(f'record id {twice!r} is also in {part_of[twice]}', where=part)
        part_of |= dict.fromkeys(ids, part)
        records += found
    if missing is not None and not records:
        raise missing
    return records


def _load_part(source: str, split: str) -> list[Record]:
    scheme, _, rest = source.partition(':')
    if scheme in GENERATED:
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
        if not _has_records(file):
            what = f'no {split}.jsonl with records in this folder'
            raise NoSuchSplit(what, where=source, fix='name a folder that prepare wrote')
        return [_of_file(record, split, file) for record in read_jsonl(file)]
    else:
        records = read_jsonl(path)
    _check_all_or_none(records, source)
    records = [record for record in records if record.split in ('', split)]
    if not records:
        raise NoSuchSplit(f'no record of split {split!r}', where=source)
    return records


def _has_records(file: pathlib.Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _of_file(record: Record, split: str, file: pathlib.Path) -> Record:
    if record.split not in ('', split):
        raise UserError(
            f'{label_of(record)} names the split {record.split!r}',
            where=str(file),
            fix='move it or drop its split',
        )
    return dataclasses.replace(record, split=split)


def _check_all_or_none(records: list[Record], where: str) -> None:
    """Raises UserError where only some records name a split."""
    blank = [(number, record) for number, record in enumerate(records, 1) if not record.split]
    if blank and len(blank) < len(records):
        number, record = blank[0]
        raise UserError(
            f'{len(blank)} of {len(records)} records name no split, the first is number {number}, {label_of(record)}',
            where=where,
            fix='name one in each or in none',
        )


def fingerprint(source: str, split: str) -> str:
    """A digest that changes with the records of a split; '' where only reading them could tell.

    For simulated cases that is the name of the source.
    """
    scheme, _, rest = source.partition(':')
    path = pathlib.Path(rest)
    if scheme in GENERATED:
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
        _check_all_or_none(records, source)
        if not records[0].split:
            records = _with_splits(records, splits.clusters(records), seed)
        return records, notes
    if scheme in adapters.ADAPTERS and rest:
        return adapters.load(scheme, rest, seed)
    if scheme in GENERATED:
        return _generated(scheme, source, rest), {}
    if scheme == 'jsonl' and rest:
        held = [split for split in SPLITS if _has_records(pathlib.Path(rest, f'{split}.jsonl'))]
        return [record for split in held or SPLITS for record in _load_part(source, split)], {}
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
