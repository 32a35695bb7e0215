"""Tests records: their files, their validation, and subsets of them."""

import collections
import dataclasses
import json
import re

import pytest

from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records import taxonomy
from bsft_jax.records.record import (
    Message,
    Record,
    evenly_spaced_subset,
    read_jsonl,
    record_from_dict,
    record_to_dict,
    write_jsonl,
)
from tests.conftest import ROOT

GOOD = {
    'id': 'x1',
    'category': 'omission_detection',
    'behavior': 'reactive',
    'messages': [{'role': 'user', 'name': 'Dr. Ito', 'content': 'Look.'}],
    'options': ['a', 'b'],
    'option_behaviors': ['reactive', 'proactive'],
    'answer': 0,
}


def write(path, *lines):
    path.write_text(''.join(line + '\n' for line in lines))
    return path


def test_round_trip_keeps_answer_zero(tmp_path):
    path = write(tmp_path / 'a.jsonl', json.dumps(GOOD))
    (record,) = read_jsonl(path)
    assert record.answer == 0 and record.group == 'proactive'
    assert record_to_dict(record)['answer'] == 0
    write_jsonl(tmp_path / 'b.jsonl', [record])
    assert read_jsonl(tmp_path / 'b.jsonl') == [record]


def test_round_trip_keeps_an_empty_turn():
    empty = record_from_dict({'messages': [{'role': 'user', 'content': ''}]})
    assert record_from_dict(record_to_dict(empty)) == empty


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'category': 'gardening'}, "unknown category 'gardening'"),
        ({'group': 'reactive'}, 'omission_detection is proactive'),
        ({'answer': 2}, '2 is not an index of 2 options'),
        ({'answer': '0'}, "'answer' must be an index"),
        ({'answer': True}, "'answer' must be an index"),
        ({'options': 'a'}, "'options' must be a list"),
        ({'options': ['a', 'a']}, 'distinct'),
        ({'option_behaviors': ['reactive']}, 'one entry per option'),
        ({'messages': []}, "exactly one of 'messages' and 'text'"),
        ({'messages': [{'role': 'nurse', 'content': 'x'}]}, "role 'nurse'"),
        ({'messages': [{'role': 'user'}]}, "'content' is missing"),
        ({'messages': [{'role': 'user', 'content': 3}]}, "'content' must be text"),
        ({'colour': 'red'}, "unknown field 'colour'"),
        ({'split': 'dev'}, "'split'"),
        ({'hard': 1}, "'hard'"),
        ({'difficulty': 0}, "'difficulty'"),
        ({'difficulty': True}, "'difficulty'"),
        ({'difficulty': 'high'}, "'difficulty'"),
        ({'must_mention': [3]}, "'must_mention'"),
        ({'options': ['Yes', ' Yes.']}, 'distinct'),
        ({'options': ['Yes', '.']}, 'distinct'),
        ({'behavior': 'proactive'}, "'behavior': 'proactive', but the right option is 'reactive'"),
        (
            {'messages': [*GOOD['messages'], {'role': 'assistant', 'content': 'B.'}]},
            'would show the answer',
        ),
    ],
)
def test_wrong_records_name_file_line_and_field(change, message, tmp_path):
    path = write(tmp_path / 'r.jsonl', json.dumps(GOOD), json.dumps(GOOD | {'id': 'x2'} | change))
    with pytest.raises(UserError, match=message) as error:
        read_jsonl(path)
    assert str(error.value).startswith(f'{path}:2: ')


@pytest.mark.parametrize(
    'change',
    [
        {'options': ['a', 'b'], 'answer': 0},
        {'behavior': 'proactive'},
        {'rationale': 'because'},
        {'must_mention': [['a']]},
    ],
)
def test_a_pretraining_text_has_nothing_that_training_would_not_read(change):
    with pytest.raises(UserError, match=f"field '{next(iter(change))}' belongs to a conversation"):
        record_from_dict({'text': 'Some words.'} | change)
    text = record_from_dict({'text': 'Some words.', 'case_id': 'c', 'group': 'mine'})
    assert (text.text, text.case_id, text.group) == ('Some words.', 'c', 'mine')


def test_wrong_files(tmp_path):
    for line, message in (('{"id": ', 'not valid JSON'), ('[1]', 'must be an object')):
        with pytest.raises(UserError, match=message):
            read_jsonl(write(tmp_path / 'x.jsonl', line))
    with pytest.raises(UserError, match=r'also at .*x\.jsonl:1'):
        read_jsonl(write(tmp_path / 'x.jsonl', json.dumps(GOOD), json.dumps(GOOD)))
    with pytest.raises(UserError, match='no records'):
        read_jsonl(write(tmp_path / 'x.jsonl'))
    with pytest.raises(UserError, match='no such file'):
        read_jsonl(tmp_path / 'absent.jsonl')
    (tmp_path / 'latin.jsonl').write_bytes('{"text": "caf\u00e9"}'.encode('latin-1'))
    with pytest.raises(UserError, match='not UTF-8'):
        read_jsonl(tmp_path / 'latin.jsonl')


def test_thirteen_categories_in_three_groups():
    assert len(taxonomy.CATEGORIES) == 13
    groups = [category.group for category in taxonomy.CATEGORIES.values()]
    assert [groups.count(group) for group in taxonomy.GROUPS] == [5, 3, 5]
    assert sum(category.from_paper for category in taxonomy.CATEGORIES.values()) == 6


def test_the_documented_fields_are_those_of_a_record():
    page = (ROOT / 'docs/formats.md').read_text()
    section = page[page.index('## The fields of a record') : page.index('## Your own benchmark')]
    rows = [line.split('|')[1] for line in section.splitlines() if line.startswith('| `')]
    named = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
    assert named == {field.name for field in dataclasses.fields(Record)}
    example = section[section.index('{"id"') : section.rindex('```')]
    assert record_from_dict(json.loads(example)).messages[-1].role == 'assistant'


def plain(n, **fields):
    return [Record((Message('user', f'q{i}'),), id=str(i), **fields) for i in range(n)]


def test_a_subset_of_a_sorted_file_has_every_kind_in_proportion():
    records = plain(70, source='medec') + plain(30, source='mediq')
    assert collections.Counter(r.source for r in evenly_spaced_subset(records, 10)) == {
        'medec': 7,
        'mediq': 3,
    }
    assert [r.id for r in evenly_spaced_subset(plain(9), 3)] == ['0', '3', '6']
    assert len(evenly_spaced_subset(records, 33)) == 33


def test_a_subset_holds_whole_cases_in_their_order():
    records = sources.load_records('synthetic:60', 'train')
    size = collections.Counter(r.case_id for r in records)
    subset = evenly_spaced_subset(records, 5 * max(size.values()))
    assert {case: size[case] for case in {r.case_id for r in subset}} == collections.Counter(
        r.case_id for r in subset
    )
    assert len({r.case_id for r in subset}) == 5 and subset == [r for r in records if r in subset]
    assert subset != records[: len(subset)]
    twins = [Record(id=str(i), pair_id=f'p{i // 2}') for i in range(40)]
    assert set(collections.Counter(r.pair_id for r in evenly_spaced_subset(twins, 8)).values()) == {
        2
    }


def test_a_subset_never_exceeds_its_limit_and_0_takes_all():
    records = sources.load_records('synthetic:60', 'train')
    assert (
        evenly_spaced_subset(records, 0) == evenly_spaced_subset(records, len(records)) == records
    )
    assert [len(evenly_spaced_subset(records, limit)) for limit in (1, 4, 63, 100)] == [
        1,
        4,
        63,
        100,
    ]
