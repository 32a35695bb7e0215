"""Splits by cluster: records of one case, or of nearly the same note, stay together."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviorbench.records import Record, cluster_of

SHINGLE_WORDS = 4
FEWEST_RUNS = 20  # what fewer hold is what everybody says: `No known drug allergies.`
NEAR = 0.4  # MEDEC: two versions of a vignette share 0.49 or more, two vignettes at most 0.28
MOST_TEXTS = 100  # that hold a run of words: in more it is an instruction or a form
_AT_ONCE = 256  # texts that are compared with all before them
_BASE = np.uint64(0x9E3779B97F4A7C15)  # of the hash of a run of words; odd


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


def names_of(records: Sequence[Record]) -> list[str]:
    """What each record is split by: its case, its pair or its id; its place where it names none."""
    return [cluster_of(vars(record)) or f'record {i}' for i, record in enumerate(records)]


def clusters(records: Sequence[Record]) -> list[str]:
    """Cluster of each record, by its first one's name: what shares a case, a pair, or every word, is in one."""
    names = names_of(records)
    labels = (
        [('name', name), ('pair', record.pair_id), ('words', whole(record))]
        for name, record in zip(names, records, strict=True)
    )
    return [names[first] for first in _components(len(records), _sharing(labels))]


def near_duplicates(texts: Sequence[str], cases: Sequence[str] = ()) -> list[int]:
    """Cluster of each text: the index of the first text in it. Texts of one case are in one cluster.

    Two texts are near duplicates if they share at least `NEAR` of the runs of `SHINGLE_WORDS`
    words of the one that has fewer, or of `FEWEST_RUNS`; or all of them, both. Clusters are the connected
    components. Case, spacing and punctuation do not count.
    """
    same_case = _sharing([('case', case)] for case in cases)
    return _components(len(texts), itertools.chain(same_case, _near_pairs(texts)))


def _sharing(labels: Iterable[Sequence[tuple[str, Hashable]]]) -> Iterator[tuple[int, int]]:
    """Each item beside the first one that has a label with it; one with an empty value is none."""
    first_of: dict[tuple[str, Hashable], int] = {}
    for i, mine in enumerate(labels):
        yield from ((i, first_of.setdefault(label, i)) for label in mine if label[1])


def _components(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The first item of the connected component of each."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in pairs:
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    return [root(i) for i in range(count)]


def _runs(text: str, number_of: dict[str, int]) -> np.ndarray:
    """Hashes of the distinct runs of `SHINGLE_WORDS` words of a text, of one run where it has fewer words."""
    words = re.findall(r'\w+', text.lower())
    numbers = [number_of.setdefault(word, len(number_of) + 1) for word in words]
    if not numbers:
        return np.zeros(0, np.uint64)
    padded = np.asarray(numbers + [0] * (SHINGLE_WORDS - len(numbers)), np.uint64)
    found = np.zeros(len(padded) - SHINGLE_WORDS + 1, np.uint64)
    for k in range(SHINGLE_WORDS):
        found = found * _BASE + padded[k : k + len(found)]
    return np.unique(found)


def _near_pairs(texts: Sequence[str], most: int = 0) -> Iterator[tuple[int, int]]:
    """All pairs (later, earlier) of near duplicates, by counting the runs that each shares with those before it.

    A run that more than `most` texts hold does not count; 0 counts them all.
    """
    from scipy import sparse

    number_of: dict[str, int] = {}
    runs = [_runs(text, number_of) for text in texts]
    owners = np.repeat(np.arange(len(runs)), [len(mine) for mine in runs])
    _, columns, held = np.unique(
        np.concatenate([*runs, np.zeros(0, np.uint64)]), return_inverse=True, return_counts=True
    )
    kept = held[columns] <= (most or len(texts))
    sizes = np.bincount(owners[kept], minlength=len(texts))
    kept &= held[columns] > 1  # others are shared with none
    shape = (len(texts), len(held))
    holds = sparse.csr_matrix((np.ones(kept.sum(), np.int32), (owners[kept], columns[kept])), shape)
    held_by = holds.T.tocsr()
    for start in range(0, len(texts), _AT_ONCE):
        shared = (holds[start : start + _AT_ONCE] @ held_by).tocoo()
        later, earlier, count = shared.row + start, shared.col, shared.data
        fewer, more = np.minimum(sizes[later], sizes[earlier]), np.maximum(sizes[later], sizes[earlier])
        near = (earlier < later) & ((count >= NEAR * np.maximum(fewer, FEWEST_RUNS)) | (count == more))
        yield from zip(later[near].tolist(), earlier[near].tolist(), strict=True)


def whole(record: Record) -> str:
    """All that a record asks, the options in an order of their own."""
    return '\n'.join(
        [*(message.content for message in record.messages), *sorted(record.options), record.text]
    )


def told(record: Record) -> str:
    """What a record says without the last paragraph of each message, which is its request.

    A message of one paragraph counts whole; where all are such, so do the options.
    """
    contents = [message.content for message in record.messages]
    before = [content.rpartition('\n\n')[0].strip() or content for content in contents]
    return '\n\n'.join(before) if before != contents else whole(record)


def leakage(records: Sequence[Record]) -> dict[str, Any]:
    """What the splits share, counted anew from what the records say, whatever made the splits.

    Runs of words that more than `MOST_TEXTS` texts hold do not count.

    Returns `pairs`: how many pairs of cases in different splits are near duplicates, and their names (ten at most) as
    `examples`; and `cases`, how many were compared.
    """
    names = names_of(records)
    first_of: dict[tuple[str, str], str] = {}  # text, split -> the first case that says it
    for name, record in zip(names, records, strict=True):
        first_of.setdefault((told(record), record.split), name)
    keys = [(case, split) for (_, split), case in first_of.items()]
    near = {(keys[i], keys[j]) for i, j in _near_pairs([text for text, _ in first_of], MOST_TEXTS)}
    shared = sorted(pair for pair in near if pair[0][1] != pair[1][1])
    return {
        'cases': len(set(names)),
        'pairs': len(shared),
        'examples': [[first, second] for (first, _), (second, _) in shared[:10]],
    }
