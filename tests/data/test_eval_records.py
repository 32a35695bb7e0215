"""Tests the choice of records to score, and the warning about files without splits."""

import dataclasses

import pytest

from bsft_jax.data import eval_records as scored
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record, write_jsonl

TASK = Record((Message('user', 'Sign it?'),), options=('yes', 'no'), answer=0)


def test_what_has_no_options_or_no_answer_is_left_out_and_the_rest_keeps_its_place():
    chat = Record((Message('user', 'a'), Message('assistant', 'b')))
    open_question = dataclasses.replace(TASK, answer=None)
    tasks = scored.scorable(
        [chat, TASK, open_question, dataclasses.replace(TASK, id='named'), TASK], 's'
    )
    assert [record.id for record in tasks] == ['#1', 'named', '#4']
    with pytest.raises(
        UserError, match='^s: no record has options and an answer to score; name a source'
    ):
        scored.scorable([chat, open_question], 's')


def test_a_subset_and_a_limit():
    records = [dataclasses.replace(TASK, id=str(i), hard=i % 2 == 1) for i in range(12)]
    assert [r.id for r in scored.choose_records(records, 's', 'hard', 3)] == ['1', '5', '9']
    assert scored.choose_records(records, 's', 'all', 0) == records
    with pytest.raises(UserError, match='^--subset=hard: no record of s is in it'):
        scored.choose_records(records[::2], 's', 'hard', 0)
    for unknown in ('easy', 'difficulty', 'difficulty=0', 'difficulty=12'):
        with pytest.raises(UserError, match='not one of all, hard, difficulty=N'):
            scored.parse_subset(unknown)


def test_a_difficulty_level_is_a_subset():
    levels = (None, 1, 3, 4, 3)
    records = [dataclasses.replace(TASK, id=str(i), difficulty=d) for i, d in enumerate(levels)]
    chosen = scored.choose_records(records, 's', 'difficulty=3', 0)
    assert [record.id for record in chosen] == ['2', '4']
    with pytest.raises(UserError, match='^--subset=difficulty=2: no record of s is in it'):
        scored.choose_records(records, 's', 'difficulty=2', 0)


def test_a_file_without_splits_is_said_to_be_its_own_test_set(tmp_path):
    write_jsonl(tmp_path / 'one.jsonl', [TASK])
    write_jsonl(tmp_path / 'split.jsonl', [dataclasses.replace(TASK, split='test')])
    for split in ('train', 'test'):
        (tmp_path / 'folder').mkdir(exist_ok=True)
        write_jsonl(tmp_path / 'folder' / f'{split}.jsonl', [TASK])
    quiet = f'0.5*jsonl:{tmp_path / "split.jsonl"} + 0.5*jsonl:{tmp_path / "folder"}'
    assert scored.unsplit_warning(quiet) == scored.unsplit_warning('synthetic:9') == ''
    said = scored.unsplit_warning(f'{quiet} + 1*jsonl:{tmp_path / "one.jsonl"}')
    assert said.startswith(f'warning: 1 records of {tmp_path / "one.jsonl"} name no split')
    assert len(sources.load_records(f'jsonl:{tmp_path / "one.jsonl"}', 'test')) == 1
