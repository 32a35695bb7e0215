"""Adapters for public clinical data sets, and `open`, which joins all of them without leakage.

An adapter is one module with `read(directory, seed) -> common.AdapterResult`; docs/data.md shows
how to write one.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax.behaviorbench import splits
from bsft_jax.behaviorbench.adapters import aci_bench, common, medec, mediq, mts_dialog, pubmedqa
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record, describe_record, record_from_dict, record_to_dict

_READERS = {
    'medec': medec.read,
    'mediq': mediq.read,
    'aci_bench': aci_bench.read,
    'mts_dialog': mts_dialog.read,
    'pubmedqa': pubmedqa.read,
}
ADAPTERS = (*_READERS, 'open')


def load(
    scheme: str, directory: str | pathlib.Path, seed: int = 0
) -> tuple[list[Record], dict[str, Any]]:
    """Loads one public set, or with `open` every set that has a folder in `directory`.

    Cases with nearly the same text, also of different sets, count as one case and share a split.
    Cases that the authors of a set keep for testing are in the test split, together with their near
    duplicates.

    Args:
      scheme: name of an adapter, or `open`.
      directory: folder of the set, or for `open` the folder that holds the folders of the sets.
      seed: seed of the splits and of the order of options.

    Returns:
      The records of all splits, and notes for the data card.

    Raises:
      UserError: as the adapters do, and for an `open` folder without any set.
    """
    if scheme != 'open':
        results = {scheme: _READERS[scheme](directory, seed)}
    else:
        results = {
            name: _READERS[name](folder, seed) for name, folder in _find_sets(directory).items()
        }
    records, notes = _assign_splits(results, seed)
    if scheme == 'open':
        balanced = []
        for name, result in results.items():
            own = [record for record in records if record.source == name]
            balanced += _balance_answers(own, seed) if result.fixed_options else own
        notes['left_out_to_even_answers'] = len(records) - len(balanced)
        records = balanced
    # The round trip refuses records that no file can hold.
    return [
        record_from_dict(record_to_dict(record), describe_record(record)) for record in records
    ], notes


def _find_sets(directory: str | pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folder of each set that `directory` holds, by adapter.

    Folders are named as their adapter; `-` and `_` are the same.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise UserError('no such folder', where=f'open:{directory}')
    by_name = {
        path.name.replace('-', '_'): path for path in sorted(directory.iterdir()) if path.is_dir()
    }
    folders = {name: by_name[name] for name in _READERS if name in by_name}
    if not folders:
        raise UserError(
            'holds none of the sets',
            where=f'open:{directory}',
            fix=f'name folders {", ".join(_READERS)}',
        )
    return folders


def _assign_splits(
    results: Mapping[str, common.AdapterResult], seed: int
) -> tuple[list[Record], dict[str, Any]]:
    """Returns the records with splits and with clusters as `case_id`, and the card's notes."""
    records = [record for result in results.values() for record in result.records]
    # A case has several texts if its records show different ones.
    sources = {(record.case_id, splits.case_text(record)): record.source for record in records}
    cases = [case for case, _ in sources]
    first_of = splits.cluster_near_duplicates([text for _, text in sources], cases)
    cluster_of = {case: cases[first] for case, first in zip(cases, first_of, strict=True)}

    # Clusters with a held-out case are tested; the others are divided at random.
    held_out = frozenset().union(*(result.held_out for result in results.values()))
    held_out &= cluster_of.keys()
    tested = {cluster_of[case] for case in held_out}
    free = sorted({*cluster_of.values()} - tested)
    split_of = dict(zip(free, splits.assign_splits(free, seed), strict=True))
    split_of |= dict.fromkeys(tested, 'test')

    cluster_sources = collections.defaultdict(set)
    for (case, _), source in sources.items():
        cluster_sources[cluster_of[case]].add(source)
    notes = {name: result.notes for name, result in results.items()}
    if len(results) == 1:
        (notes,) = notes.values()
    assigned = [
        dataclasses.replace(
            record,
            case_id=cluster_of[record.case_id],
            split=split_of[cluster_of[record.case_id]],
        )
        for record in records
    ]
    return assigned, notes | {
        'clusters': len(cluster_sources),
        'clusters_across_sets': sum(len(names) > 1 for names in cluster_sources.values()),
        'moved_to_test': sorted(
            case
            for case, cluster in cluster_of.items()
            if cluster in tested and case not in held_out
        ),
    }


def _balance_answers(records: Sequence[Record], seed: int) -> list[Record]:
    """Returns as many records of each answer, in each split, as the rarest answer has."""
    ids_of = collections.defaultdict(list)
    for record in records:
        ids_of[record.split, record.answer].append(record.id)
    chosen = set()
    for split in {split for split, _ in ids_of}:
        answers = [ids for (of, _), ids in sorted(ids_of.items()) if of == split]
        smallest = min(map(len, answers))
        for ids in answers:
            chosen.update(random.Random(f'even/{seed}/{split}').sample(sorted(ids), smallest))
    return [record for record in records if record.id in chosen]
