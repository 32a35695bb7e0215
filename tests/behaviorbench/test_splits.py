import collections
import random

import pytest

from bsft_jax.behaviorbench.splits import near_duplicates, split_of_clusters

NOTE = 'A 43-year-old woman has had fever, nausea and a dry cough for 7 days and takes insulin and ibuprofen.'


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
    found = collections.Counter(split_of_clusters([f'c{i}' for i in range(clusters)], seed=0))
    assert tuple(found[split] for split in ('train', 'validation', 'test')) == counts


def test_one_cluster_is_in_one_split():
    clusters = [f'c{i % 50}' for i in range(500)]
    pairs = set(zip(clusters, split_of_clusters(clusters, seed=3), strict=True))
    assert len(pairs) == 50


def test_order_of_records_does_not_count_and_the_seed_does():
    clusters = [f'c{i}' for i in range(100)]
    shuffled = random.Random(0).sample(clusters, 100)
    one = dict(zip(clusters, split_of_clusters(clusters, seed=5), strict=True))
    assert one == dict(zip(shuffled, split_of_clusters(shuffled, seed=5), strict=True))
    assert one != dict(zip(clusters, split_of_clusters(clusters, seed=6), strict=True))


def test_fewer_than_three_clusters_are_all_train():
    assert split_of_clusters(['a', 'b', 'a'], seed=0) == ['train'] * 3
    assert split_of_clusters([], seed=0) == []


def test_near_duplicates_ignore_case_spacing_and_one_changed_sentence():
    other = (
        'A boy of 4 years fell from a swing and now holds his left arm close to the body without moving it.'
    )
    texts = [f'{NOTE} She has gout.', other, f'{NOTE.upper()}\n  She has lupus.', NOTE]
    assert near_duplicates(texts) == [0, 1, 0, 0]


def test_near_duplicates_are_joined_through_a_text_between_them():
    words = [f'w{i}' for i in range(40)]
    a, b, between = ' '.join(words[:20]), ' '.join(words[20:]), ' '.join(words[8:32])
    assert near_duplicates([a, b]) == [0, 1]
    assert near_duplicates([a, b, between]) == [0, 0, 0]


def test_short_texts_are_duplicates_only_if_equal():
    assert near_duplicates(['No fever.', 'no fever', 'No pain.']) == [0, 0, 2]
