"""What a run changes of its records before it renders them: the labels, and a category left out.

Answers, options and order stay as they are, and a result depends on records and seed alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bsft_jax.behaviorbench.records import Record, behavior_of, earlier_answers
from bsft_jax.errors import UserError

_PERMUTATION, _NOISE = 1, 2  # streams of random numbers of one seed


def hold_out(records: Sequence[Record], category: str) -> list[Record]:
    """The records outside `category`; all of them for ''. Raises UserError when none is left."""
    kept = [record for record in records if not category or record.category != category]
    if records and not kept:
        raise UserError('no record of another category is left', where='--config.data.hold_out')
    return kept


def _answers(record: Record) -> dict[int | None, str]:
    """Behaviors of the answer (None) and of earlier turns (their place), where they have one."""
    earlier = {i: record.messages[i].behavior for i in earlier_answers(record)}
    return {place: name for place, name in {None: behavior_of(record), **earlier}.items() if name}


def _relabelled(records: Sequence[Record], behaviors: dict[tuple[int, int | None], str]) -> list[Record]:
    """The records with the behavior of (record, answer of it) changed."""
    changed = list(records)
    for (i, place), name in behaviors.items():
        if place is None:
            changed[i] = dataclasses.replace(changed[i], behavior=name)
        else:
            messages = list(changed[i].messages)
            messages[place] = dataclasses.replace(messages[place], behavior=name)
            changed[i] = dataclasses.replace(changed[i], messages=tuple(messages))
    return changed


def permute(records: Sequence[Record], seed: int) -> list[Record]:
    """The records with the behaviors of their answers and turns permuted within each category.

    What has no behavior gets none.
    """
    labels: dict[str, dict[tuple[int, int | None], str]] = {}
    for i, record in enumerate(records):
        for place, name in _answers(record).items():
            labels.setdefault(record.category, {})[i, place] = name
    rng = np.random.default_rng((seed, _PERMUTATION))
    changed = {}
    for _, mine in sorted(labels.items()):
        names = list(mine.values())
        changed |= {key: names[j] for key, j in zip(mine, rng.permutation(len(names)), strict=True)}
    return _relabelled(records, changed)


def flip(records: Sequence[Record], share: float, names: Sequence[str], seed: int) -> list[Record]:
    """The records with `round(share · n)` of their n behaviors changed to another one of `names`."""
    labelled = [
        (i, place, name) for i, record in enumerate(records) for place, name in _answers(record).items()
    ]
    rng = np.random.default_rng((seed, _NOISE))
    changed = {}
    for chosen in rng.permutation(len(labelled))[: round(share * len(labelled))]:
        i, place, old = labelled[chosen]
        others = [name for name in names if name != old]
        changed[i, place] = others[rng.integers(len(others))]
    return _relabelled(records, changed)
