"""Splits by cluster: records of one case, or of nearly the same text, stay in one split."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bsft_jax.records.record import Record, cluster_of

# A shingle is a run of this many consecutive words.
SHINGLE_WORDS = 4
# Texts with fewer shingles are compared as if they had this many, so that sharing a stock phrase
# (`No known drug allergies.`) does not make short texts duplicates.
MIN_SHINGLES = 20
# In MEDEC two versions of a vignette share 0.49 of their shingles or more, two vignettes at most
# 0.28.
MIN_OVERLAP = 0.4
# A shingle in more texts than this is part of an instruction or a form.
MAX_TEXTS_PER_SHINGLE = 100
# Texts that are compared with all others at a time.
_CHUNK = 256
# Base of the polynomial hash of a shingle; odd.
_HASH_BASE = np.uint64(0x9E3779B97F4A7C15)


def assign_splits(cluster_ids: Sequence[str], seed: int) -> list[str]:
    """Returns the split of each record, given the cluster that it belongs to.

    A tenth of the clusters goes to validation, a tenth to test and the rest to train. The clusters
    are shuffled with `seed`, independently of the order of the records. With three clusters or more
    no split is empty; with fewer all are in train.
    """
    distinct = sorted(set(cluster_ids))
    random.Random(f'split/{seed}').shuffle(distinct)
    tenth = max(1, round(len(distinct) / 10)) if len(distinct) >= 3 else 0
    split_of = {
        cluster: 'test' if i < tenth else 'validation' if i < 2 * tenth else 'train'
        for i, cluster in enumerate(distinct)
    }
    return [split_of[cluster] for cluster in cluster_ids]


def case_names(records: Sequence[Record]) -> list[str]:
    """Returns the name of each record's case: `case_id`, `pair_id`, `id` or else its index."""
    return [cluster_of(vars(record)) or f'record {i}' for i, record in enumerate(records)]


def cluster_records(records: Sequence[Record]) -> list[str]:
    """Returns the cluster of each record, named after the case of its first record.

    Records are in one cluster if they share a case, a pair or every word.
    """
    names = case_names(records)
    labels = (
        [('name', name), ('pair', record.pair_id), ('words', full_text(record))]
        for name, record in zip(names, records, strict=True)
    )
    return [names[first] for first in _components(len(records), _pairs_by_label(labels))]


def cluster_near_duplicates(texts: Sequence[str], cases: Sequence[str] = ()) -> list[int]:
    """Returns the cluster of each text as the index of the first text in it.

    Two texts are near duplicates if the shingles that they share are at least `MIN_OVERLAP` of the
    shingles of the text with fewer, counted as `MIN_SHINGLES` or more; or if they share all of
    them. Clusters are the connected components. Upper case, spaces and punctuation make no
    difference. Texts of one case, if `cases` are given, are in one cluster.
    """
    same_case = _pairs_by_label([('case', case)] for case in cases)
    return _components(len(texts), itertools.chain(same_case, _near_pairs(texts)))


def _pairs_by_label(labels: Iterable[Sequence[tuple[str, Hashable]]]) -> Iterator[tuple[int, int]]:
    """Yields (item, first item with the same label) for each label; empty values are no label."""
    first_of: dict[tuple[str, Hashable], int] = {}
    for i, own in enumerate(labels):
        yield from ((i, first_of.setdefault(label, i)) for label in own if label[1])


def _components(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Returns the first item of each item's connected component, by union-find."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in pairs:
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    return [root(i) for i in range(count)]


def _shingles(text: str, word_ids: dict[str, int]) -> np.ndarray:
    """Returns the hashes of a text's distinct shingles; a shorter text is one shingle.

    `word_ids` numbers the words and grows with new ones.
    """
    words = re.findall(r'\w+', text.lower())
    ids = [word_ids.setdefault(word, len(word_ids) + 1) for word in words]
    if not ids:
        return np.zeros(0, np.uint64)
    padded = np.asarray(ids + [0] * (SHINGLE_WORDS - len(ids)), np.uint64)
    hashes = np.zeros(len(padded) - SHINGLE_WORDS + 1, np.uint64)
    for k in range(SHINGLE_WORDS):
        hashes = hashes * _HASH_BASE + padded[k : k + len(hashes)]
    return np.unique(hashes)


def _near_pairs(texts: Sequence[str], max_texts_per_shingle: int = 0) -> Iterator[tuple[int, int]]:
    """Yields (later, earlier) for all pairs of near duplicates.

    Shingles in more than `max_texts_per_shingle` texts do not count; 0 counts them all.
    """
    from scipy import sparse

    word_ids: dict[str, int] = {}
    shingles = [_shingles(text, word_ids) for text in texts]
    owners = np.repeat(np.arange(len(shingles)), [len(own) for own in shingles])
    _, columns, text_counts = np.unique(
        np.concatenate([*shingles, np.zeros(0, np.uint64)]),
        return_inverse=True,
        return_counts=True,
    )
    selected = text_counts[columns] <= (max_texts_per_shingle or len(texts))
    sizes = np.bincount(owners[selected], minlength=len(texts))
    # A shingle of a single text is part of its size, but no other text shares it.
    selected &= text_counts[columns] > 1
    entries = np.ones(selected.sum(), np.int32), (owners[selected], columns[selected])
    has_shingle = sparse.csr_matrix(entries, (len(texts), len(text_counts)))
    by_shingle = has_shingle.T.tocsr()
    # The product counts the shingles that two texts share. In chunks it fits into memory.
    for start in range(0, len(texts), _CHUNK):
        shared = (has_shingle[start : start + _CHUNK] @ by_shingle).tocoo()
        later, earlier, count = shared.row + start, shared.col, shared.data
        smaller = np.minimum(sizes[later], sizes[earlier])
        larger = np.maximum(sizes[later], sizes[earlier])
        overlaps = count >= MIN_OVERLAP * np.maximum(smaller, MIN_SHINGLES)
        near = (earlier < later) & (overlaps | (count == larger))
        yield from zip(later[near].tolist(), earlier[near].tolist(), strict=True)


def full_text(record: Record) -> str:
    """Returns the messages, the sorted options and the text of a record."""
    return '\n'.join(
        [*(message.content for message in record.messages), *sorted(record.options), record.text]
    )


def case_text(record: Record) -> str:
    """Returns a record's messages without their last paragraphs, which are the requests.

    A message of one paragraph is kept. If all messages are such, the full text is returned.
    """
    contents = [message.content for message in record.messages]
    cases = [content.rpartition('\n\n')[0].strip() or content for content in contents]
    return '\n\n'.join(cases) if cases != contents else full_text(record)


def leakage(records: Sequence[Record]) -> dict[str, Any]:
    """Counts near duplicates in different splits, from the texts of the records alone.

    It uses nothing that made the splits. Shingles in more than `MAX_TEXTS_PER_SHINGLE` texts do not
    count.

    Returns:
      `cases`, the number of cases compared; `pairs`, the number of pairs of cases that are near
      duplicates in different splits; and `examples`, the names of the first ten of these pairs.
    """
    names = case_names(records)
    # The first case with each (text, split).
    first_of: dict[tuple[str, str], str] = {}
    for name, record in zip(names, records, strict=True):
        first_of.setdefault((case_text(record), record.split), name)
    keys = [(case, split) for (_, split), case in first_of.items()]
    texts = [text for text, _ in first_of]
    near = {(keys[i], keys[j]) for i, j in _near_pairs(texts, MAX_TEXTS_PER_SHINGLE)}
    across = sorted(pair for pair in near if pair[0][1] != pair[1][1])
    return {
        'cases': len(set(names)),
        'pairs': len(across),
        'examples': [[first, second] for (first, _), (second, _) in across[:10]],
    }
