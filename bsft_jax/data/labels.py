"""Changes to a run's records before they are rendered: other labels, or a category left out.

Answers, options and order stay as they are, and a result depends on records and seed alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.records.record import Record, behavior_of, earlier_answers

# Streams of random numbers of one seed; `mixture` has the third.
_PERMUTATION_STREAM, _NOISE_STREAM = 1, 2


def exclude_category(records: Sequence[Record], category: str) -> list[Record]:
    """Returns the records outside `category`; all records for ''.

    Raises UserError when none is left.
    """
    remaining = [record for record in records if not category or record.category != category]
    if records and not remaining:
        raise UserError(
            'no record of another category is left', where='--config.data.exclude_category'
        )
    return remaining


def shuffle_labels(records: Sequence[Record], seed: int) -> list[Record]:
    """Returns the records, the behaviors of their answers and turns permuted within each category.

    An answer without a behavior gets none.
    """
    labels: dict[str, dict[tuple[int, int | None], str]] = {}
    for i, record in enumerate(records):
        for turn, name in _labels_of(record).items():
            labels.setdefault(record.category, {})[i, turn] = name
    rng = np.random.default_rng((seed, _PERMUTATION_STREAM))
    changes = {}
    for _, of_category in sorted(labels.items()):
        names = list(of_category.values())
        permutation = rng.permutation(len(names))
        changes |= {key: names[j] for key, j in zip(of_category, permutation, strict=True)}
    return _relabel(records, changes)


def add_label_noise(
    records: Sequence[Record], share: float, names: Sequence[str], seed: int
) -> list[Record]:
    """Returns the records, a share of whose n behaviors is replaced by another one of `names`.

    Exactly `round(share * n)` behaviors change.
    """
    labels = [
        (i, turn, name)
        for i, record in enumerate(records)
        for turn, name in _labels_of(record).items()
    ]
    rng = np.random.default_rng((seed, _NOISE_STREAM))
    changes = {}
    for index in rng.permutation(len(labels))[: round(share * len(labels))]:
        i, turn, old = labels[index]
        others = [name for name in names if name != old]
        changes[i, turn] = others[rng.integers(len(others))]
    return _relabel(records, changes)


def _labels_of(record: Record) -> dict[int | None, str]:
    """Returns the behaviors of a record: of its answer (key None) and of earlier turns (index)."""
    names = {None: behavior_of(record)}
    names |= {i: record.messages[i].behavior for i in earlier_answers(record)}
    return {turn: name for turn, name in names.items() if name}


def _relabel(records: Sequence[Record], changes: dict[tuple[int, int | None], str]) -> list[Record]:
    """Returns the records with changed behaviors.

    The keys are the index of a record, and that of a turn as in `_labels_of`.
    """
    relabelled = list(records)
    for (i, turn), name in changes.items():
        if turn is None:
            relabelled[i] = dataclasses.replace(relabelled[i], behavior=name)
        else:
            messages = list(relabelled[i].messages)
            messages[turn] = dataclasses.replace(messages[turn], behavior=name)
            relabelled[i] = dataclasses.replace(relabelled[i], messages=tuple(messages))
    return relabelled
