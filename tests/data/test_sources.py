"""Tests data sources by name."""

import collections
import json

import pytest

from bsft_jax.data import generated, sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import SPLITS
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


def test_a_case_gives_its_records_at_every_level_in_one_split():
    splits = {split: sources.load_records('synthetic:50:1:1,2,3', split) for split in SPLITS}
    for split, records in splits.items():
        levels = {3} if split == 'test' else {1, 2, 3}
        assert {record.difficulty for record in records} == levels
        counts = collections.Counter(record.case_id for record in records)
        assert set(counts.values()) == {21 * len(levels)}
        # Level 3 alone is the source without levels.
        hardest = [record for record in records if record.difficulty == 3]
        assert hardest == sources.load_records('synthetic:50:1', split)
    ids = [record.id for records in splits.values() for record in records]
    assert len(set(ids)) == len(ids)
    mixture = '0.4*synthetic:50:1:1 + 0.2*synthetic:50:1:2 + 0.4*synthetic:50:1:3'
    mixed = {record.id: record for record in sources.load_records(mixture, 'train')}
    assert mixed == {record.id: record for record in splits['train']}
    assert sources.load_records(mixture, 'test') == splits['test']


def test_a_source_of_some_categories_has_the_records_that_the_whole_has():
    names = 'laboratory_interpretation,error_correction'
    some = sources.load_records(f'synthetic:20:1:1,3:{names}', 'train')
    every = sources.load_records('synthetic:20:1:1,3', 'train')
    assert some == [record for record in every if record.category in names.split(',')]
    assert {record.category for record in some} == {*names.split(',')}


def test_the_simplest_levels_have_no_test_split():
    assert sources.load_records('synthetic:50:1:1,2', 'validation')
    with pytest.raises(sources.NoSuchSplit) as caught:
        sources.load_records('synthetic:50:1:1,2', 'test')
    assert str(caught.value) == (
        "synthetic:50:1:1,2: no record of split 'test': its difficulty levels are for training and "
        f'validation; name one of the levels {generated.TESTED_LEVELS} too'
    )


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('synthetic:many', 'cannot read'),
        ('synthetic:2', '3 cases or more'),
        ('synthetic:', 'cannot read'),
        ('synthetic:10:1:1:1', "unknown category '1'"),
        ('synthetic:10:1:', r'cannot read .*; write synthetic:CASES\[:SEED\[:LEVELS.* 1,2,3'),
        ('synthetic:10::1', 'cannot read'),
        ('synthetic:10:1:0', 'cannot read'),
        ('synthetic:10:1:9', 'cannot read'),
        ('synthetic:10:1:2,1', 'cannot read'),
        ('synthetic:10:1:1,1', 'cannot read'),
        ('synthetic_text:10:1:1', r'cannot read .*; write synthetic_text:CASES\[:SEED\] with 3'),
        ('synthetic:10:1:3:', 'cannot read'),
        ('synthetic:10:1:3:bedside', "unknown category 'bedside'"),
        ('synthetic:10:1:3:error_correction,omission_detection', 'cannot read .*categories such'),
        ('synthetic:10:1:3:error_correction,error_correction', 'cannot read'),
        ('nowhere', 'unknown data source'),
        ('medec:dir', 'prepare first'),
        ('jsonl:', 'unknown data source'),
        ('jsonl:absent', 'no such file'),
    ],
)
def test_sources_that_do_not_exist(source, message):
    with pytest.raises(UserError, match=message):
        sources.load_records(source, 'train')


@pytest.mark.parametrize(
    ('source', 'meant'),
    [
        ('my.jsonl', 'jsonl:my.jsonl'),
        ('some/where/my.json', 'jsonl:some/where/my.json'),
        ('json:my.jsonl', 'jsonl:my.jsonl'),
        ('JSONL:my.jsonl', 'jsonl:my.jsonl'),
        ('jsnl:my.jsonl', 'jsonl:my.jsonl'),
        ('my.parquet', 'hf:my.parquet'),
        ('parquet:my.parquet', 'hf:my.parquet'),
        ('openai/gsm8k', 'hf:openai/gsm8k'),
        ('sinthetic:40', 'synthetic:40'),
        ('my.csv', 'csv:my.csv'),
        ('0.5*my.jsonl + 0.5*synthetic:40', 'jsonl:my.jsonl'),
    ],
)
def test_a_mistyped_source_names_the_flag_and_what_was_probably_meant(source, meant):
    hint = '; csv: goes through prepare first' if meant.startswith('csv') else ''
    for flag, call in (
        ('--config.data.source', lambda: sources.load_records(source, 'train')),
        ('--data', lambda: sources.check_name(source, '--data')),
    ):
        with pytest.raises(UserError) as caught:
            call()
        given = source if '*' not in source else 'my.jsonl'
        assert str(caught.value) == (
            f'{flag}: unknown data source {given!r}; did you mean {meant}?{hint}'
        )
    if '*' not in source:
        with pytest.raises(UserError, match=r'^--source: unknown data source .*; did you mean'):
            sources.load_raw(source, 0)


def test_a_folder_without_a_scheme_is_told_by_what_is_in_it(tmp_path):
    with pytest.raises(UserError, match=f'did you mean hf:{tmp_path}'):
        sources.load_records(str(tmp_path), 'train')
    write(tmp_path / 'train.jsonl', '{}')
    with pytest.raises(UserError, match=f'did you mean jsonl:{tmp_path}'):
        sources.load_records(str(tmp_path), 'train')
    for source in ('nowhere', 'web:x'):
        with pytest.raises(UserError, match='use synthetic:CASES.*, jsonl:FILE_OR_PREPARED_DIR'):
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
