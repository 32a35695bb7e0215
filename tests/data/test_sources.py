"""Tests data sources by name."""

import json

import pytest

from bsft_jax.data import sources
from bsft_jax.errors import UserError
from tests.records.test_record import GOOD, write


def test_synthetic_splits_go_by_case_and_are_reproducible():
    splits = {
        split: sources.load_records('synthetic:50:1', split)
        for split in ('train', 'validation', 'test')
    }
    cases = {split: {record.case_id for record in records} for split, records in splits.items()}
    assert [len(cases[split]) for split in splits] == [40, 5, 5]
    assert not cases['train'] & cases['test'] and not cases['train'] & cases['validation']
    assert sum(map(len, splits.values())) == 50 * 21
    assert sources.load_records('synthetic:50:1', 'test') == splits['test']
    assert sources.load_records('synthetic:50:2', 'test') != splits['test']


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('synthetic:many', 'cannot read'),
        ('synthetic:2', '3 cases or more'),
        ('synthetic:10:1:1', 'cannot read'),
        ('nowhere', 'unknown data source'),
        ('medec:dir', 'prepare first'),
        ('jsonl:', 'unknown data source'),
        ('jsonl:absent', 'no such file'),
    ],
)
def test_sources_that_do_not_exist(source, message):
    with pytest.raises(UserError, match=message):
        sources.load_records(source, 'train')


def test_a_file_serves_the_split_it_names(tmp_path):
    lines = [
        json.dumps(GOOD | {'id': str(i), 'split': split})
        for i, split in enumerate(('train', 'test', 'test'))
    ]
    path = write(tmp_path / 'f.jsonl', *lines)
    assert len(sources.load_records(f'jsonl:{path}', 'test')) == 2
    with pytest.raises(UserError, match='no record of split'):
        sources.load_records(f'jsonl:{path}', 'validation')
    with pytest.raises(UserError, match=r'no train\.jsonl'):
        sources.load_records(f'jsonl:{tmp_path}', 'train')
