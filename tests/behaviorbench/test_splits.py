"""Tests of splits by cluster, near duplicates and leakage."""

import collections
import random

import pytest

from bsft_jax.behaviorbench.splits import (
    MAX_TEXTS_PER_SHINGLE,
    assign_splits,
    cluster_near_duplicates,
    cluster_records,
    leakage,
)
from bsft_jax.records.record import Message, Record, cluster_of

NOTE = (
    'A 43-year-old woman has had fever, nausea and a dry cough for 7 days and takes insulin and '
    'ibuprofen.'
)


@pytest.mark.parametrize(
    'clusters, counts',
    [
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (10, (8, 1, 1)),
        (14, (12, 1, 1)),
        (15, (11, 2, 2)),
        (1000, (800, 100, 100)),
    ],
)
def test_counts_are_exact(clusters, counts):
    split_counts = collections.Counter(assign_splits([f'c{i}' for i in range(clusters)], seed=0))
    assert tuple(split_counts[split] for split in ('train', 'validation', 'test')) == counts


def test_a_cluster_is_in_one_split():
    clusters = [f'c{i % 50}' for i in range(500)]
    pairs = set(zip(clusters, assign_splits(clusters, seed=3), strict=True))
    assert len(pairs) == 50


def test_splits_depend_on_the_seed_and_not_on_the_order_of_records():
    clusters = [f'c{i}' for i in range(100)]
    shuffled = random.Random(0).sample(clusters, 100)
    expected = dict(zip(clusters, assign_splits(clusters, seed=5), strict=True))
    assert expected == dict(zip(shuffled, assign_splits(shuffled, seed=5), strict=True))
    assert expected != dict(zip(clusters, assign_splits(clusters, seed=6), strict=True))


def test_fewer_than_three_clusters_are_all_train():
    assert assign_splits(['a', 'b', 'a'], seed=0) == ['train'] * 3
    assert assign_splits([], seed=0) == []


def test_near_duplicates_ignore_case_spacing_and_one_changed_sentence():
    other = (
        'A boy of 4 years fell from a swing and now holds his left arm close to the body without '
        'moving it.'
    )
    texts = [f'{NOTE} She has gout.', other, f'{NOTE.upper()}\n  She has lupus.', NOTE]
    assert cluster_near_duplicates(texts) == [0, 1, 0, 0]


def test_near_duplicates_are_joined_through_a_text_between_them():
    words = [f'w{i}' for i in range(40)]
    a, b, between = ' '.join(words[:20]), ' '.join(words[20:]), ' '.join(words[8:32])
    assert cluster_near_duplicates([a, b]) == [0, 1]
    assert cluster_near_duplicates([a, b, between]) == [0, 0, 0]


def test_short_texts_are_duplicates_only_if_equal():
    assert cluster_near_duplicates(['No fever.', 'no fever', 'No pain.']) == [0, 0, 2]


def record(content, **fields):
    return Record((Message('user', content),), **fields)


def test_a_cluster_is_named_by_its_case_else_its_pair_else_its_id():
    assert cluster_of({'case_id': 'c', 'pair_id': 'p', 'id': 'x'}) == 'c'
    assert cluster_of({'case_id': '', 'pair_id': 'p', 'id': 'x'}) == 'p'
    assert cluster_of({'id': 'x'}) == 'x' and cluster_of({'id': None}) == ''


def test_records_that_share_a_case_a_pair_or_every_word_are_one_cluster():
    records = [
        record('a', id='0', case_id='c', pair_id='p'),
        record('b', id='1', pair_id='p'),
        record('c', id='2', case_id='c'),
        record('d', id='3', options=('x', 'y')),
        record('d', id='4', options=('y', 'x')),
        record('d', id='5', options=('x', 'z')),
        record('e'),
        record('f'),
    ]
    assert cluster_records(records) == ['c', 'c', 'c', '3', '3', '5', 'record 6', 'record 7']


def test_texts_without_words_are_not_duplicates():
    assert cluster_near_duplicates(['', '?', 'No fever.', '']) == [0, 1, 2, 3]


def test_leakage_reads_one_paragraph_messages_and_ignores_common_instructions():
    instruction = (
        'Read the case below with care and say in one sentence what is to be done for the patient '
        'and why.'
    )
    notes = [
        ' '.join(f'w{k}' for k in random.Random(i).sample(range(10_000), 12)) for i in range(300)
    ]
    records = [
        record(f'{instruction} {note}', id=str(i), split=('train', 'test')[i % 2])
        for i, note in enumerate(notes)
    ]
    assert len(records) > MAX_TEXTS_PER_SHINGLE
    assert leakage(records) == {'cases': 300, 'pairs': 0, 'examples': []}
    again = record(f'{instruction} {notes[0]} Also fever.', id='again', split='test')
    assert leakage([*records, again]) == {'cases': 301, 'pairs': 1, 'examples': [['again', '0']]}
