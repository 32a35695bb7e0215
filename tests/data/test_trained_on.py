"""Tests of the hashes of what a model was trained on, and what counts as trained on."""

import dataclasses

import numpy as np
import pytest

from bsft_jax.data import sources
from bsft_jax.data.trained_on import FILE, Overlap, TrainedOn, read
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record

NOTE = 'Mrs. Ito, 71, takes warfarin.\nINR 5.2 today, no bleeding.'


def task(i, **fields):
    content = f'{NOTE} Visit {i}.\n\nWhat is next?'
    return Record(
        **{
            'messages': (Message('user', content),),
            'options': (f'hold it {i}', f'double it {i}', 'go on'),
            'answer': 0,
            'id': f'r{i}',
            'case_id': f'c{i}',
            **fields,
        }
    )


RECORDS = [task(i) for i in range(10)]
TRAINED = TrainedOn.of_records(RECORDS)


def renamed(record, **fields):
    return dataclasses.replace(record, id='other', case_id='other', **fields)


def with_content(record, content):
    return renamed(record, messages=(Message('user', content),))


@pytest.mark.parametrize(
    'copy',
    [
        renamed(RECORDS[0]),
        renamed(RECORDS[0], options=RECORDS[0].options[::-1], answer=2),
        renamed(RECORDS[0], options=tuple(f' {o.upper()} ' for o in RECORDS[0].options)),
        with_content(RECORDS[0], RECORDS[0].messages[0].content.upper()),
        with_content(RECORDS[0], '  ' + RECORDS[0].messages[0].content.replace(' ', '\t ') + '\n'),
        with_content(RECORDS[0], RECORDS[0].messages[0].content.replace(' ', '\u00a0')),
        renamed(RECORDS[0], rationale='new', behavior='proactive', source='mine', category=''),
        renamed(RECORDS[0], messages=(Message('user', RECORDS[0].messages[0].content, name='A'),)),
    ],
)
def test_a_copy_under_other_names_is_known_by_its_words(copy):
    assert TRAINED.overlap([copy]) == Overlap(scored=1, ids=0, cases=0, texts=1, records=1)


@pytest.mark.parametrize(
    'other',
    [
        task(10),
        # The request and the options are those of every record.
        with_content(task(11, options=('a', 'b')), 'Another note.\n\nWhat is next?'),
        renamed(RECORDS[0], options=(*RECORDS[0].options[:2], 'stop')),
        Record((), id='empty'),
        Record((Message('user', ' '),)),
    ],
)
def test_another_record_is_not_known(other):
    assert TRAINED.overlap([other]) == Overlap(1, 0, 0, 0, 0)
    assert not TRAINED.overlap([other])


def test_records_are_known_by_id_in_their_case_and_by_case_and_pair():
    edited = dataclasses.replace(RECORDS[3], messages=(Message('user', 'Edited.'),))
    assert TRAINED.overlap([edited]) == Overlap(1, ids=1, cases=1, texts=0, records=1)
    sibling = dataclasses.replace(edited, id='new')
    assert TRAINED.overlap([sibling]) == Overlap(1, ids=0, cases=1, texts=0, records=0)
    # Files count from 1 each: an id alone is said, but is no record.
    counted = dataclasses.replace(edited, case_id='')
    assert TRAINED.overlap([counted]) == Overlap(1, ids=1, cases=0, texts=0, records=0)
    assert not TRAINED.overlap([counted])
    twins = TrainedOn.of_records([Record((Message('user', 'a'),), pair_id='p')])
    other = Record((Message('user', 'b'),), pair_id='p')
    assert twins.overlap([other, dataclasses.replace(other, pair_id='', case_id='p')]).cases == 1


@pytest.mark.parametrize('scheme', ['synthetic', 'synthetic_text'])
def test_generated_splits_are_apart_and_another_size_is_not(scheme):
    trained = TrainedOn.of_records(sources.load_records(f'{scheme}:40', 'train'))
    for split in ('validation', 'test'):
        records = sources.load_records(f'{scheme}:40', split)
        assert trained.overlap(records) == Overlap(len(records), 0, 0, 0, 0)
        longer = trained.overlap(sources.load_records(f'{scheme}:60', split))
        assert longer.cases == longer.ids == longer.records > 0
        assert not trained.overlap(sources.load_records(f'{scheme}:40:1', split))


def test_the_file_holds_hashes_alone_and_reads_back(tmp_path):
    trained = TRAINED.from_source(f'jsonl:{tmp_path}', TRAINED.digest)
    trained.write(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    assert all(word not in content for word in (b'warfarin', b'r3', b'c3', bytes(tmp_path)))
    back = read(tmp_path)
    assert back.digest == trained.digest and back.digests == trained.digests
    assert back.overlap(RECORDS).records == 10
    # The same folder by another spelling, but not another one.
    assert back.digest_of(f'jsonl:{tmp_path}/../{tmp_path.name}') == trained.digest
    assert back.digest_of(f'jsonl:{tmp_path.parent}') == back.digest_of('synthetic:40') == ''
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04torn', b'no archive'])
def test_a_damaged_file_is_an_error_and_an_absent_one_is_not_zero(tmp_path, content):
    assert read(tmp_path) is None
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match=rf'{FILE}: is damaged'):
        read(tmp_path)
    np.savez(tmp_path / FILE, ids=np.zeros(1))
    with pytest.raises(UserError, match=rf'{FILE}: is damaged'):
        read(tmp_path)


def test_joined_parts_know_both_and_keep_their_digests():
    halves = [TrainedOn.of_records(half) for half in (RECORDS[:6], RECORDS[4:])]
    parts = [h.from_source(f'synthetic:{n + 3}', str(n)) for n, h in enumerate(halves)]
    both = TrainedOn.joined(parts)
    assert both.digest == TRAINED.digest
    assert [both.digest_of(f'synthetic:{n}') for n in (3, 4, 5)] == ['0', '1', '']
    # The digest is of the records, in any order.
    assert TrainedOn.of_records(RECORDS[::-1]).digest == TRAINED.digest
    assert halves[0].digest != TRAINED.digest
