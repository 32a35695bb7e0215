"""Data sources by name: `synthetic:CASES[:SEED]`, `jsonl:PATH`, and for pretraining
`synthetic_lists`, `synthetic_sheets` and `synthetic_text` with the same numbers."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from bsft_jax.behaviorbench import adapters, splits, text
from bsft_jax.behaviorbench.builders import records_of
from bsft_jax.behaviorbench.cases import simulate
from bsft_jax.behaviorbench.records import SPLITS, Record, read_jsonl
from bsft_jax.errors import UserError

PRETRAINING = {
    'synthetic_lists': text.list_records,
    'synthetic_sheets': text.sheet_records,
    'synthetic_text': text.conversation_records,
}
_FORMS = ', '.join(
    [*(f'{scheme}:CASES[:SEED]' for scheme in ('synthetic', *PRETRAINING)), 'jsonl:FILE_OR_PREPARED_DIR']
)


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
    """The records of one split of a source.

    A prepared directory has one file per split; of a single file those records count whose
    `split` is the one asked for or empty. Raises UserError for a source that does not exist.
    """
    scheme, _, rest = source.partition(':')
    if scheme in ('synthetic', *PRETRAINING):
        return [record for record in _generated(scheme, source, rest) if record.split == split]
    if scheme != 'jsonl' or not rest:
        prepared = f'; {scheme}: goes through prepare first' if scheme in adapters.ADAPTERS else ''
        raise _unknown(source, _FORMS + prepared)
    path = pathlib.Path(rest)
    if path.is_dir():
        if not (path / f'{split}.jsonl').is_file():
            raise UserError(
                f'no {split}.jsonl in this folder', where=source, fix='name a folder that prepare wrote'
            )
        return read_jsonl(path / f'{split}.jsonl')
    records = [record for record in read_jsonl(path) if record.split in ('', split)]
    if not records:
        raise UserError(f'no record of split {split!r}', where=source)
    return records


def load_raw(source: str, seed: int) -> tuple[list[Record], dict[str, Any]]:
    """All splits of a source that `prepare` takes (raw adapters included), and notes for its card."""
    scheme, _, rest = source.partition(':')
    if scheme in adapters.ADAPTERS and rest:
        return adapters.ADAPTERS[scheme](rest, seed)
    if scheme in ('synthetic', *PRETRAINING):
        return _generated(scheme, source, rest), {}
    if scheme == 'jsonl' and rest:
        if pathlib.Path(rest).is_dir():
            return [record for split in SPLITS for record in load_records(source, split)], {}
        records = read_jsonl(rest)
        if all(record.split for record in records):
            return records, {}
        named = [
            r if r.case_id else dataclasses.replace(r, case_id=r.id or f'line {i}')
            for i, r in enumerate(records)
        ]
        return _with_splits(named, seed), {}
    raise _unknown(source, f'{_FORMS}, {", ".join(f"{name}:DIR" for name in adapters.ADAPTERS)}')
