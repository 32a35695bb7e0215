"""Splits by cluster: records of one case, or of nearly the same note, stay together."""

from __future__ import annotations

import collections
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from bsft_jax.behaviorbench.records import Record

SHINGLE_WORDS = 4
FEWEST_RUNS = 20  # what fewer hold is what everybody says: `No known drug allergies.`
NEAR = 0.4  # MEDEC: two versions of a vignette share 0.49 or more, two vignettes at most 0.28


def split_of_clusters(cluster_ids: Sequence[str], seed: int) -> list[str]:
    """Split of each record, given the cluster that it belongs to.

    Of the distinct clusters a tenth goes to validation, a tenth to test, the rest to train, by a
    permutation seeded with `seed` that does not depend on the order of the records. With three
    clusters or more no split is empty.
    """
    distinct = sorted(set(cluster_ids))
    random.Random(f'split/{seed}').shuffle(distinct)
    tenth = max(1, round(len(distinct) / 10)) if len(distinct) >= 3 else 0
    split_of = {
        cluster: 'test' if i < tenth else 'validation' if i < 2 * tenth else 'train'
        for i, cluster in enumerate(distinct)
    }
    return [split_of[cluster] for cluster in cluster_ids]


def near_duplicates(texts: Sequence[str], cases: Sequence[str] = ()) -> list[int]:
    """Cluster of each text: the index of the first text in it. Texts of one case are in one cluster.

    Two texts are near duplicates if they share at least `NEAR` of the runs of `SHINGLE_WORDS`
    words of the one that has fewer, or of `FEWEST_RUNS`; or all of them, both. Clusters are the connected
    components. Case, spacing and punctuation do not count.
    """
    first_of: dict[str, int] = {}
    parent = [first_of.setdefault(case, i) for i, case in enumerate(cases)] or list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in _near_pairs(texts):
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    return [root(i) for i in range(len(texts))]


def _near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """All pairs (later, earlier) of near duplicates, by counting the runs that each shares with those before it."""
    sizes: list[int] = []
    holders: dict[tuple[str, ...], list[int]] = {}
    for i, text in enumerate(texts):
        words = re.findall(r'\w+', text.lower())
        last = max(len(words) - SHINGLE_WORDS + 1, 1)
        shingles = {tuple(words[k : k + SHINGLE_WORDS]) for k in range(last)}
        sizes.append(len(shingles))
        shared = collections.Counter(j for shingle in shingles for j in holders.get(shingle, ()))
        for j, count in shared.items():
            fewer, more = sorted((sizes[i], sizes[j]))
            if count >= NEAR * max(fewer, FEWEST_RUNS) or count == more:
                yield i, j
        for shingle in shingles:
            holders.setdefault(shingle, []).append(i)


def told(record: Record) -> str:
    """What a record says without the last paragraph of each message, which is its request."""
    return '\n\n'.join(message.content.rpartition('\n\n')[0] for message in record.messages)


def leakage(records: Sequence[Record]) -> dict[str, Any]:
    """What the splits share, counted anew from what the records say, whatever made the splits.

    Returns `pairs`: how many pairs of cases in different splits are near duplicates, and their ids (ten at most) as
    `examples`; and `cases`, how many were compared.
    """
    texts = {(record.case_id, record.split, told(record)): None for record in records}
    keys = [(case, split) for case, split, _ in texts]
    near = {(keys[i], keys[j]) for i, j in _near_pairs([text for _, _, text in texts])}
    shared = sorted(pair for pair in near if pair[0][1] != pair[1][1])
    return {
        'cases': len({case for case, _ in keys}),
        'pairs': len(shared),
        'examples': [[first, second] for (first, _), (second, _) in shared[:10]],
    }
