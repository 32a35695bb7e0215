"""What a run changes of its records before it renders them: the labels, and a category left out.

Answers, options and order stay as they are, and a result depends on records and seed alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bsft_jax.behaviorbench.records import Record, behavior_of
from bsft_jax.errors import UserError

_PERMUTATION, _NOISE = 1, 2  # streams of random numbers of one seed


def hold_out(records: Sequence[Record], category: str) -> list[Record]:
    """The records outside `category`; all of them for ''. Raises UserError when none is left."""
    kept = [record for record in records if not category or record.category != category]
    if records and not kept:
        raise UserError('no record of another category is left', where='--config.data.hold_out')
    return kept


def _relabelled(records: Sequence[Record], behaviors: dict[int, str]) -> list[Record]:
    return [
        dataclasses.replace(record, behavior=behaviors[i]) if i in behaviors else record
        for i, record in enumerate(records)
    ]


def permute(records: Sequence[Record], seed: int) -> list[Record]:
    """The records with their behaviors permuted within each category; those without one keep none."""
    places: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        if behavior_of(record):
            places.setdefault(record.category, []).append(i)
    rng = np.random.default_rng((seed, _PERMUTATION))
    changed = {}
    for _, mine in sorted(places.items()):
        changed |= {i: behavior_of(records[j]) for i, j in zip(mine, rng.permutation(mine), strict=True)}
    return _relabelled(records, changed)


def flip(records: Sequence[Record], share: float, names: Sequence[str], seed: int) -> list[Record]:
    """The records with `round(share · n)` of the n labelled ones changed to another behavior of `names`."""
    labelled = [i for i, record in enumerate(records) if behavior_of(record)]
    rng = np.random.default_rng((seed, _NOISE))
    changed = {}
    for i in rng.permutation(labelled)[: round(share * len(labelled))]:
        others = [name for name in names if name != behavior_of(records[i])]
        changed[int(i)] = others[rng.integers(len(others))]
    return _relabelled(records, changed)
