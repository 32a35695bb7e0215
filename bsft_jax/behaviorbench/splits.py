"""Splits by cluster: records of one case, or of nearly the same text, stay in one split."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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
# A shingle in more texts than this, or than this share of them, is part of a request or a form. In
# a small set it is one in more than `MIN_FORM_TEXTS`, or in more than half of the texts.
MAX_TEXTS_PER_SHINGLE = 100
FORM_SHARE = 1 / 20
MIN_FORM_TEXTS = 3
# Near duplicates that chain more than this share of all clusters together fill in one form.
MAX_CHAIN_SHARE = 1 / 10
MIN_CHAIN = 5
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
    return [names[first] for first in _components(len(records), _same_names(records))]


def _same_names(records: Sequence[Record]) -> Iterator[tuple[int, int]]:
    """Yields (record, first record of the same case, pair or words)."""
    return _pairs_by_label(
        [('name', name), ('pair', record.pair_id), ('words', record_words(record))]
        for name, record in zip(case_names(records), records, strict=True)
    )


class NearDuplicates(NamedTuple):
    """Holds the near duplicates among records, by their texts alone.

    Attributes:
      texts: the text of each record that is compared, as its number.
      pairs: pairs of numbers, the larger one first, whose texts are near duplicates.
    """

    texts: list[int]
    pairs: list[tuple[int, int]]


def near_duplicates(records: Sequence[Record]) -> NearDuplicates:
    """Finds records whose texts before the request are near duplicates.

    What many records share is a form, and does not count: a text that is said before the requests
    of many cases (their full texts are compared then), and shingles of many texts.
    """
    names, texts = case_names(records), [case_text(record) for record in records]
    cases_of: dict[str, set[str]] = {}
    for name, text in zip(names, texts, strict=True):
        cases_of.setdefault(text, set()).add(name)
    limit = _max_texts_of_form(len(set(names)))
    number_of: dict[str, int] = {}
    for i, record in enumerate(records):
        if len(cases_of[texts[i]]) > limit:
            texts[i] = full_text(record)
    numbers = [number_of.setdefault(text, len(number_of)) for text in texts]
    pairs = _near_pairs(list(number_of), _max_texts_of_form(len(number_of)))
    return NearDuplicates(numbers, list(pairs))


def _max_texts_of_form(count: int) -> int:
    """Returns the most of `count` texts that may share what is no form."""
    share = max(MIN_FORM_TEXTS, int(count * FORM_SHARE))
    return min(MAX_TEXTS_PER_SHINGLE, share, max(2, count // 2))


def join_near_duplicates(records: Sequence[Record], near: NearDuplicates) -> list[int]:
    """Returns the cluster of each record as the index of its first record.

    Records are in one cluster if they share a case, a pair or every word, or if their texts are
    near duplicates. Near duplicates that chain many clusters together are texts of one form, and
    are not joined.
    """
    by_name = _components(len(records), _same_names(records))
    first_of = [-1] * (max(near.texts, default=-1) + 1)
    same_text = []
    for i, text in enumerate(near.texts):
        if first_of[text] < 0:
            first_of[text] = i
        same_text.append((i, first_of[text]))
    by_text = ((first_of[later], first_of[earlier]) for later, earlier in near.pairs)
    joined = _components(len(records), itertools.chain(enumerate(by_name), same_text, by_text))
    members: dict[int, set[int]] = {}
    for i, cluster in enumerate(joined):
        members.setdefault(cluster, set()).add(by_name[i])
    limit = max(MIN_CHAIN, int(len(set(by_name)) * MAX_CHAIN_SHARE))
    return [
        cluster if len(members[cluster]) <= limit else by_name[i]
        for i, cluster in enumerate(joined)
    ]


def assign_missing_splits(
    records: Sequence[Record], clusters: Sequence[int], seed: int
) -> list[Record]:
    """Returns the records, each with a split, those without one by their cluster.

    A cluster with records that name a split gets that split, of several the one that is held out
    most. The others are divided by `assign_splits`.
    """
    names = case_names(records)
    named: dict[int, set[str]] = {}
    for cluster, record in zip(clusters, records, strict=True):
        named.setdefault(cluster, set()).add(record.split)
    split_of = {
        cluster: next(split for split in ('test', 'validation', 'train') if split in own)
        for cluster, own in named.items()
        if own != {''}
    }
    free = [cluster for cluster in named if cluster not in split_of]
    assigned = assign_splits([names[cluster] for cluster in free], seed)
    split_of |= dict(zip(free, assigned, strict=True))
    return [
        record if record.split else dataclasses.replace(record, split=split_of[cluster])
        for cluster, record in zip(clusters, records, strict=True)
    ]


def name_joined_cases(records: Sequence[Record], clusters: Sequence[int]) -> list[Record]:
    """Returns the records, those of one cluster and split with the case of the first of them.

    Only clusters that near duplicates make are renamed: other records keep the case they name.
    """
    by_name = _components(len(records), _same_names(records))
    first_of: dict[tuple[int, str], int] = {}
    parts: dict[tuple[int, str], set[int]] = {}
    for i, key in enumerate(zip(clusters, (r.split for r in records), strict=True)):
        first_of.setdefault(key, i)
        parts.setdefault(key, set()).add(by_name[i])
    renamed = []
    for cluster, record in zip(clusters, records, strict=True):
        key = cluster, record.split
        if len(parts[key]) > 1:
            first = records[first_of[key]]
            words = '\0'.join(record_words(first)).encode()
            name = cluster_of(vars(first)) or f'text-{hashlib.sha256(words).hexdigest()[:12]}'
            record = dataclasses.replace(record, case_id=name)
        renamed.append(record)
    return renamed


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


def normalized(text: str) -> str:
    """Returns a text without what a copy may change: case, spaces, and forms of a character."""
    return ' '.join(unicodedata.normalize('NFKC', text).casefold().split())


def record_words(record: Record) -> tuple[str, ...]:
    """Returns the normalized messages, sorted options and text of a record, without empty ones.

    Two records with the same words ask the same.
    """
    parts = [normalized(message.content) for message in record.messages]
    parts += [*sorted(map(normalized, record.options)), normalized(record.text)]
    return tuple(part for part in parts if part)


def case_text(record: Record) -> str:
    """Returns a record's messages without their last paragraphs, which are the requests.

    A message of one paragraph is kept. If all messages are such, the full text is returned.
    """
    contents = [message.content for message in record.messages]
    cases = [content.rpartition('\n\n')[0].strip() or content for content in contents]
    return '\n\n'.join(cases) if cases != contents else full_text(record)


def leakage(records: Sequence[Record], near: NearDuplicates | None = None) -> dict[str, Any]:
    """Counts near duplicates in different splits, from the texts of the records alone.

    It uses nothing that made the splits.

    Args:
      records: the records.
      near: their near duplicates, if they have been found already.

    Returns:
      `cases`, the number of cases compared; `pairs`, the number of pairs of cases that are near
      duplicates in different splits; and `examples`, the names of the first ten of these pairs.
    """
    names, near = case_names(records), near or near_duplicates(records)
    # The first case with each (text, split).
    first_of: dict[int, dict[str, str]] = {}
    for name, text, record in zip(names, near.texts, records, strict=True):
        first_of.setdefault(text, {}).setdefault(record.split, name)
    across = {
        (later, earlier)
        for i, j in itertools.chain(near.pairs, ((text, text) for text in first_of))
        for split, later in first_of[i].items()
        for other, earlier in first_of[j].items()
        if split != other and (i != j or split > other)
    }
    return {
        'cases': len(set(names)),
        'pairs': len(across),
        'examples': [[first, second] for first, second in sorted(across)[:10]],
    }
