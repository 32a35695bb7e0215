"""Splits by cluster: records of one case, or of nearly the same note, stay together."""

from __future__ import annotations

import collections
import random
import re
from collections.abc import Sequence

SHINGLE_WORDS = 4
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


def near_duplicates(texts: Sequence[str]) -> list[int]:
    """Cluster of each text: the index of the first text in it.

    Two texts are near duplicates if they share at least `NEAR` of the runs of `SHINGLE_WORDS`
    words of the one that has fewer; clusters are the connected components. Case, spacing and
    punctuation do not count.
    """
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    sizes: list[int] = []
    holders: dict[tuple[str, ...], list[int]] = {}
    for i, text in enumerate(texts):
        words = re.findall(r'\w+', text.lower())
        last = max(len(words) - SHINGLE_WORDS + 1, 1)
        shingles = {tuple(words[k : k + SHINGLE_WORDS]) for k in range(last)}
        sizes.append(len(shingles))
        shared = collections.Counter(j for shingle in shingles for j in holders.get(shingle, ()))
        for j, count in shared.items():
            if count >= NEAR * min(sizes[i], sizes[j]):
                first, second = sorted((root(i), root(j)))
                parent[second] = first
        for shingle in shingles:
            holders.setdefault(shingle, []).append(i)
    return [root(i) for i in range(len(texts))]
