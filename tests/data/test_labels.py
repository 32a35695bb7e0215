"""Tests changed labels and an excluded category: exact counts, and nothing else changes."""

import collections
import dataclasses

import pytest

from bsft_jax.data import labels, sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record, behavior_of

NAMES = ('reactive', 'proactive', 'watchful')


@pytest.fixture(scope='module')
def records():
    unlabelled = Record((Message('user', 'a'), Message('assistant', 'b')), id='none')
    spoken = Record(
        (Message('user', 'a'), Message('assistant', 'b', behavior='proactive')), id='spoken'
    )
    return [unlabelled, *sources.load_records('synthetic:80', 'train'), spoken]


def changed(before, after):
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert dataclasses.replace(new, behavior=old.behavior) == old  # nothing but the label
    return [
        i
        for i, (a, b) in enumerate(zip(before, after, strict=True))
        if behavior_of(a) != behavior_of(b)
    ]


def counts(records):
    return collections.Counter((record.category, behavior_of(record)) for record in records)


def test_a_permutation_keeps_the_counts_of_every_category(records):
    permuted = labels.shuffle_labels(records, 3)
    assert len(changed(records, permuted)) > 20
    assert counts(permuted) == counts(records)
    assert permuted == labels.shuffle_labels(records, 3) != labels.shuffle_labels(records, 4)


@pytest.mark.parametrize('share', [0.0, 0.013, 0.5, 1.0])
def test_noise_changes_exactly_its_share(records, share):
    noisy = labels.add_label_noise(records, share, NAMES, 3)
    labelled = sum(bool(behavior_of(record)) for record in records)
    assert labelled == len(records) - 1
    assert len(changed(records, noisy)) == round(share * labelled)
    assert {behavior_of(record) for record in noisy} <= {'', *NAMES}
    assert noisy == labels.add_label_noise(records, share, NAMES, 3)
    if share == 0.5:
        assert noisy != labels.add_label_noise(records, share, NAMES, 4)


def test_exclude_category_leaves_one_category_out(records):
    remaining = labels.exclude_category(records, 'omission_detection')
    assert (
        remaining == [r for r in records if r.category != 'omission_detection']
        and remaining[1].category
    )
    assert labels.exclude_category(records, '') == records
    with pytest.raises(UserError, match=r'--config\.data\.exclude_category'):
        labels.exclude_category(
            [r for r in records if r.category == 'omission_detection'], 'omission_detection'
        )
    assert labels.exclude_category([], 'omission_detection') == []
