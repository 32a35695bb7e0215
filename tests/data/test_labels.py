"""Labels a run changes, and a category it leaves out: exact counts, nothing else touched."""

import collections
import dataclasses

import pytest

from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import Message, Record, behavior_of
from bsft_jax.data import labels
from bsft_jax.errors import UserError

NAMES = ('reactive', 'proactive', 'watchful')


@pytest.fixture(scope='module')
def records():
    unlabelled = Record((Message('user', 'a'), Message('assistant', 'b')), id='none')
    spoken = Record((Message('user', 'a'), Message('assistant', 'b', behavior='proactive')), id='spoken')
    return [unlabelled, *sources.load_records('synthetic:80', 'train'), spoken]


def changed(before, after):
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert dataclasses.replace(new, behavior=old.behavior) == old  # nothing but the label
    return [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if behavior_of(a) != behavior_of(b)]


def counts(records):
    return collections.Counter((record.category, behavior_of(record)) for record in records)


def test_a_permutation_keeps_the_counts_of_every_category(records):
    permuted = labels.permute(records, 3)
    assert len(changed(records, permuted)) > 20
    assert counts(permuted) == counts(records)
    assert permuted == labels.permute(records, 3) != labels.permute(records, 4)


@pytest.mark.parametrize('share', [0.0, 0.013, 0.5, 1.0])
def test_noise_changes_exactly_its_share(records, share):
    noisy = labels.flip(records, share, NAMES, 3)
    labelled = sum(bool(behavior_of(record)) for record in records)
    assert labelled == len(records) - 1
    assert len(changed(records, noisy)) == round(share * labelled)
    assert {behavior_of(record) for record in noisy} <= {'', *NAMES}
    assert noisy == labels.flip(records, share, NAMES, 3)
    if share == 0.5:
        assert noisy != labels.flip(records, share, NAMES, 4)


def test_hold_out_leaves_one_category_out(records):
    kept = labels.hold_out(records, 'omission_detection')
    assert kept == [r for r in records if r.category != 'omission_detection'] and kept[1].category
    assert labels.hold_out(records, '') == records
    with pytest.raises(UserError, match=r'--config\.data\.hold_out'):
        labels.hold_out([r for r in records if r.category == 'omission_detection'], 'omission_detection')
    assert labels.hold_out([], 'omission_detection') == []
