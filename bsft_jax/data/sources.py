"""Data sources, loaded by their names in a config or on a command line.

A source is `synthetic:CASES[:SEED[:LEVELS[:CATEGORIES]]]`, `jsonl:PATH`,
`hf:PATH_OR_HUB_ID[:CONFIG]`, `tfds:behavior_bench/CONFIG`, or a mixture
`0.7*SOURCE + 0.3*SOURCE` of them. For pretraining there are `synthetic_lists`, `synthetic_sheets`
and `synthetic_text`, with `:CASES[:SEED]` as well. `prepare` also reads `csv:FILE` and the public
data sets of `behaviorbench.adapters`.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from bsft_jax.behaviorbench import adapters, splits
from bsft_jax.data import example_cache, generated, source_names
from bsft_jax.errors import UserError
from bsft_jax.records import readers, tfds_reader
from bsft_jax.records.column_map import ColumnMap
from bsft_jax.records.record import (
    SPLITS,
    Record,
    describe_record,
    read_jsonl,
    records_from_rows,
)

PREPARE_ONLY = ('csv', *adapters.ADAPTERS)

_SYNTAX = ', '.join(
    [
        *generated.SYNTAX.values(),
        'jsonl:FILE_OR_PREPARED_DIR',
        'hf:PATH_OR_HUB_ID[:CONFIG]',
        'tfds:behavior_bench/CONFIG',
    ]
)
# Each function takes the name of a data set and returns split → rows.
SPLIT_READERS = {
    'hf': readers.read_hugging_face_splits,
    'tfds': tfds_reader.read_tfds_splits,
}
_WEIGHTED_SOURCE = re.compile(r'(\d+(?:\.\d*)?)\*(\S.*)')


# Where most commands name their source; others say theirs to `check_name`.
_FLAG = '--config.data.source'


class NoSuchSplit(UserError):
    """Reports that a source exists but does not have the requested split."""


def check_name(source: str, flag: str) -> None:
    """Checks how the sources that a flag names are spelled.

    Raises:
      UserError: for a malformed mixture and an unknown scheme; it names the flag.
    """
    for part, _ in parse_mixture(source, flag):
        scheme, _, rest = part.partition(':')
        if not rest or scheme not in (*generated.SCHEMES, 'jsonl', *SPLIT_READERS):
            raise _unknown_source(part, flag)


def parse_mixture(source: str, flag: str = _FLAG) -> list[tuple[str, float]]:
    """Splits `0.7*SOURCE + 0.3*SOURCE` into sources and their weights.

    Any other source is returned alone, with weight 1. Errors name the flag.

    Raises:
      UserError: for a weight of 0 and for a part without a weight.
    """
    if not _WEIGHTED_SOURCE.match(source):
        return [(source, 1.0)]
    weighted = []
    for part in source.split(' + '):
        match = _WEIGHTED_SOURCE.fullmatch(part.strip())
        if not match or not float(match[1]):
            raise UserError(
                f'cannot read {part.strip()!r} in a mixture',
                where=flag,
                fix='write 0.7*SOURCE + 0.3*SOURCE with weights above 0',
            )
        weighted.append((match[2].strip(), float(match[1])))
    return weighted


def _unknown_source(source: str, flag: str = _FLAG) -> UserError:
    is_prepare = flag == '--source'
    known = (*generated.SCHEMES, 'jsonl', *SPLIT_READERS, *PREPARE_ONLY)
    scheme, _, rest = source.partition(':')
    if rest and scheme in PREPARE_ONLY:
        fix = f'{scheme}: goes through prepare first'
    elif meant := source_names.guess(source, known):
        scheme = meant.partition(':')[0]
        hint = f'; {scheme}: goes through prepare first' if scheme in PREPARE_ONLY else ''
        fix = f'did you mean {meant}?{"" if is_prepare else hint}'
    else:
        others = ', '.join(f'{name}:...' for name in PREPARE_ONLY)
        fix = f'use {_SYNTAX}, {others}' if is_prepare else f'use {_SYNTAX}'
    return UserError(f'unknown data source {source!r}', where=flag, fix=fix)


def load_records(source: str, split: str) -> list[Record]:
    """Returns the records of one split of a source; for a mixture, those of all its parts.

    A prepared directory has one file per split. A data set whose records name no split serves every
    split.

    Raises:
      UserError: for a source that does not exist, for records of which only some name a split, and
        for an id that two parts of a mixture share.
      NoSuchSplit: where no part has the split.
    """
    records, part_by_id, missing = [], {}, None
    for part, _ in parse_mixture(source):
        try:
            part_records = _load_part(part, split)
        except NoSuchSplit as error:
            missing = error
            continue
        ids = [record.id for record in part_records if record.id]
        if shared := next((name for name in ids if name in part_by_id), ''):
            raise UserError(f'record id {shared!r} is also in {part_by_id[shared]}', where=part)
        part_by_id |= dict.fromkeys(ids, part)
        records += part_records
    if missing is not None and not records:
        raise missing
    return records


def _load_part(source: str, split: str) -> list[Record]:
    scheme, _, rest = source.partition(':')
    if generated.is_generated(source):
        records = [r for r in generated.generate_records(source) if r.split == split]
        if not records:
            raise NoSuchSplit(
                f'no record of split {split!r}: its difficulty levels are for training and '
                'validation',
                where=source,
                fix=f'name one of the levels {generated.TESTED_LEVELS} too',
            )
        return records
    path = pathlib.Path(rest)
    if scheme in SPLIT_READERS and rest:
        rows_by_split = SPLIT_READERS[scheme](rest)
        if '' not in rows_by_split and split not in rows_by_split:
            raise NoSuchSplit(
                f'no split {split!r}, there are {", ".join(rows_by_split)}',
                where=source,
                fix='prepare --map=FILE renames splits',
            )
        records = records_from_rows(rows_by_split.get(split) or rows_by_split[''], source)
    elif scheme != 'jsonl' or not rest:
        raise _unknown_source(source)
    elif path.is_dir():
        file = path / f'{split}.jsonl'
        if not has_records(file):
            raise NoSuchSplit(
                f'no {split}.jsonl with records in this folder',
                where=source,
                fix='name a folder that prepare wrote',
            )
        return [_with_split_of_file(record, split, file) for record in read_jsonl(file)]
    else:
        records = read_jsonl(path)
    _check_all_or_none_name_a_split(records, source)
    records = [record for record in records if record.split in ('', split)]
    if not records:
        raise NoSuchSplit(f'no record of split {split!r}', where=source)
    return records


def has_records(file: pathlib.Path) -> bool:
    """Returns whether the file of a split is there and not empty."""
    return file.is_file() and file.stat().st_size > 0


def _with_split_of_file(record: Record, split: str, file: pathlib.Path) -> Record:
    if record.split not in ('', split):
        raise UserError(
            f'record {record.id!r} names the split {record.split!r} in line '
            f'{record.origin.rpartition(":")[2]}',
            where=str(file),
            fix='move it or drop its split',
        )
    return dataclasses.replace(record, split=split)


def _check_all_or_none_name_a_split(records: list[Record], where: str) -> None:
    unnamed = [(number, record) for number, record in enumerate(records, 1) if not record.split]
    if unnamed and len(unnamed) < len(records):
        number, record = unnamed[0]
        raise UserError(
            f'{len(unnamed)} of {len(records)} records name no split, the first is number '
            f'{number}, {describe_record(record)}',
            where=where,
            fix='name one in each or in none',
        )


def count_without_split(source: str) -> int:
    """Returns the number of records of a source, which is not a mixture, that name no split."""
    scheme, _, rest = source.partition(':')
    if generated.is_generated(source) or (scheme == 'jsonl' and pathlib.Path(rest).is_dir()):
        return 0
    if scheme in SPLIT_READERS and '' not in SPLIT_READERS[scheme](rest):
        return 0
    # Whatever names no split serves every one, and all or none do.
    try:
        return sum(not record.split for record in _load_part(source, 'test'))
    except NoSuchSplit:
        return 0


def fingerprint(source: str, split: str) -> str:
    """Returns a digest that changes with the records of a split.

    The name of a generated source is its digest. Returns '' for sources whose records would have to
    be read to tell.
    """
    scheme, _, rest = source.partition(':')
    path = pathlib.Path(rest)
    if generated.is_generated(source):
        return source
    if scheme == 'jsonl' and rest:
        path = path / f'{split}.jsonl' if path.is_dir() else path
        return example_cache.digest_of_files([path]) if path.is_file() else ''
    return ''


def load_raw(
    source: str, seed: int, column_map: ColumnMap | None = None
) -> tuple[list[Record], dict[str, Any]]:
    """Loads all splits of a source that `prepare` accepts, the raw data sets included.

    Returns the records, and notes for the card of `prepare`, as `load_together` does.
    """
    ((_, records, notes),), _ = load_together([source], seed, column_map)
    return records, notes


def _read_raw(
    source: str, seed: int, column_map: ColumnMap | None
) -> tuple[list[Record], dict[str, Any]]:
    """Reads a source that `prepare` accepts; its rows may name no split.

    Raises UserError for a source that does not exist or cannot be read, and for a column map with a
    source whose rows are records already.
    """
    scheme, _, rest = source.partition(':')
    named_rows = _open_rows(scheme, rest, column_map)
    if named_rows is None and column_map is not None:
        raise UserError(
            'its rows are records already', where=source, fix='prepare it without --map'
        )
    if named_rows is not None:
        name, rows = named_rows
        if column_map is None:
            records, notes = records_from_rows(rows, name), {}
        else:
            records, notes = column_map.to_records(rows, name)
        _check_all_or_none_name_a_split(records, source)
        return records, notes
    if scheme in adapters.ADAPTERS and rest:
        return adapters.load(scheme, rest, seed)
    if generated.is_generated(source):
        return generated.generate_records(source), {}
    if scheme == 'jsonl' and rest:
        present = [split for split in SPLITS if has_records(pathlib.Path(rest, f'{split}.jsonl'))]
        # A folder without any file fails on the first split, with the error that says so.
        return [record for split in present or SPLITS for record in _load_part(source, split)], {}
    raise _unknown_source(source, '--source')


# Source, its records, and notes about how they were made.
Loaded = tuple[str, list[Record], dict[str, Any]]


def load_together(
    names: Sequence[str], seed: int, column_map: ColumnMap | None = None
) -> tuple[list[Loaded], splits.NearDuplicates]:
    """Loads all splits of sources that `prepare` accepts, and assigns those that are missing.

    Rows of one case, and near duplicates, stay together, whichever source they are from. Rows that
    are near duplicates become one case. Generated records share their wording, which says nothing,
    so their names alone count.

    Args:
      names: sources; none is a mixture.
      seed: assigns the splits of records that name none, and shuffles within adapters.
      column_map: how the rows of `jsonl:FILE`, `csv:FILE` and `hf:SET` become records.

    Returns:
      Name, records and notes for the card of each source; and the near duplicates among the records
      that are not generated.

    Raises:
      UserError: for a source that does not exist or cannot be read, and for a column map with a
        source whose rows are records already.
    """
    loaded: list[Loaded] = [(name, *_read_raw(name, seed, column_map)) for name in names]
    owned = [(name, record) for name, part, _ in loaded for record in part]
    natural = [i for i, (name, _) in enumerate(owned) if not generated.is_generated(name)]
    near = splits.near_duplicates([owned[i][1] for i in natural])
    if not any(map(_has_rows, names)):
        return loaded, near
    # Texts of generated records are numbered after the others.
    texts = list(range(len(owned), 2 * len(owned)))
    for i, text in zip(natural, near.texts, strict=True):
        texts[i] = text
    clusters = splits.join_near_duplicates([r for _, r in owned], near._replace(texts=texts))
    records = splits.assign_missing_splits([r for _, r in owned], clusters, seed)
    together = iter(
        zip(records, splits.name_joined_cases(records, clusters), strict=True),
    )
    complete = []
    for name, part, notes in loaded:
        own, joined = zip(*itertools.islice(together, len(part)), strict=True)
        renamed = sum(a.case_id != b.case_id for a, b in zip(own, joined, strict=True))
        if _has_rows(name) and renamed:
            own, notes = joined, notes | {'joined_to_a_near_duplicate': renamed}
        complete.append((name, list(own), notes))
    return complete, near


def _has_rows(source: str) -> bool:
    """Returns whether a source consists of rows of a user, which `prepare` divides."""
    scheme, _, rest = source.partition(':')
    return scheme in ('csv', *SPLIT_READERS) or (
        scheme == 'jsonl' and not pathlib.Path(rest).is_dir()
    )


def _open_rows(
    scheme: str, rest: str, column_map: ColumnMap | None
) -> tuple[str, readers.Rows] | None:
    """Returns the name and the rows of a source that consists of rows; None for any other."""
    if scheme == 'csv' and rest:
        return rest, readers.read_csv_rows(rest, column_map and column_map.used_names)
    if scheme == 'jsonl' and rest and not pathlib.Path(rest).is_dir():
        return rest, readers.read_jsonl_rows(rest)
    if scheme in SPLIT_READERS and rest:
        rows_by_split = SPLIT_READERS[scheme](rest)
        return f'{scheme}:{rest}', itertools.chain.from_iterable(rows_by_split.values())
    return None
