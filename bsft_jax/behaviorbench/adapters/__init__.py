"""One adapter per public set, and `open`, which puts all of them into one set without leakage.

An adapter is one file with `read(directory, seed) -> common.Loaded`; docs/data.md shows how to write one.
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
from bsft_jax.behaviorbench.records import Record, label_of, record_from_dict, record_to_dict
from bsft_jax.errors import UserError

_READERS = {
    'medec': medec.read,
    'mediq': mediq.read,
    'aci_bench': aci_bench.read,
    'mts_dialog': mts_dialog.read,
    'pubmedqa': pubmedqa.read,
}
ADAPTERS = (*_READERS, 'open')


def load(scheme: str, directory: str | pathlib.Path, seed: int = 0) -> tuple[list[Record], dict[str, Any]]:
    """Records of all splits of one set, or with `open` of all that are folders of `directory`, and the card's notes.

    Cases that are nearly the same text are one case, across sets too, and in one split; what a set's authors keep for
    testing is tested on, and so is everything that is nearly the same.

    Raises UserError as the adapters do, and for an `open` folder that holds no set.
    """
    if scheme != 'open':
        loaded = {scheme: _READERS[scheme](directory, seed)}
    else:
        loaded = {name: _READERS[name](folder, seed) for name, folder in _folders(directory).items()}
    records, notes = _in_splits(loaded, seed)
    if scheme == 'open':
        evened = [_evened(records, name, loaded, seed) for name in loaded]
        records, notes['left_out_to_even_answers'] = (
            [record for kept, _ in evened for record in kept],
            sum(left for _, left in evened),
        )
    return [record_from_dict(record_to_dict(record), label_of(record)) for record in records], notes


def _folders(directory: str | pathlib.Path) -> dict[str, pathlib.Path]:
    """Folder of each set that is there: named as its scheme, `-` and `_` alike."""
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise UserError('no such folder', where=f'open:{directory}')
    by_name = {path.name.replace('-', '_'): path for path in sorted(directory.iterdir()) if path.is_dir()}
    found = {name: by_name[name] for name in _READERS if name in by_name}
    if not found:
        raise UserError(
            'holds none of the sets', where=f'open:{directory}', fix=f'name folders {", ".join(_READERS)}'
        )
    return found


def _in_splits(loaded: Mapping[str, common.Loaded], seed: int) -> tuple[list[Record], dict[str, Any]]:
    records = [record for one in loaded.values() for record in one.records]
    of_text = {(record.case_id, splits.told(record)): record.source for record in records}
    cases = [case for case, _ in of_text]
    firsts = splits.near_duplicates([text for _, text in of_text], cases)
    cluster = {case: cases[first] for case, first in zip(cases, firsts, strict=True)}
    held_out = frozenset().union(*(one.held_out for one in loaded.values())) & cluster.keys()
    tested = {cluster[case] for case in held_out}
    free = sorted({*cluster.values()} - tested)
    split_of = dict(zip(free, splits.split_of_clusters(free, seed), strict=True)) | dict.fromkeys(
        tested, 'test'
    )
    sets_of = collections.defaultdict(set)
    for (case, _), source in of_text.items():
        sets_of[cluster[case]].add(source)
    notes = {name: one.notes for name, one in loaded.items()}
    if len(loaded) == 1:
        (notes,) = notes.values()
    placed = [
        dataclasses.replace(record, case_id=cluster[record.case_id], split=split_of[cluster[record.case_id]])
        for record in records
    ]
    return placed, notes | {
        'clusters': len(sets_of),
        'clusters_across_sets': sum(len(found) > 1 for found in sets_of.values()),
        'moved_to_test': sorted(case for case in cluster if cluster[case] in tested and case not in held_out),
    }


def _evened(
    records: Sequence[Record], name: str, loaded: Mapping[str, common.Loaded], seed: int
) -> tuple[list[Record], int]:
    """The records of a set; where its options stand in one order as many of each answer in each split as of the
    rarest, and how many that leaves out."""
    own = [record for record in records if record.source == name]
    if not loaded[name].fixed_options:
        return own, 0
    of_answer = collections.defaultdict(list)
    for record in own:
        of_answer[record.split, record.answer].append(record.id)
    kept = set()
    for split in {split for split, _ in of_answer}:
        answers = [ids for (of, _), ids in sorted(of_answer.items()) if of == split]
        fewest = min(map(len, answers))
        for ids in answers:
            kept.update(random.Random(f'even/{seed}/{split}').sample(sorted(ids), fewest))
    return [record for record in own if record.id in kept], len(own) - len(kept)
