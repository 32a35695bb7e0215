"""Tests the chat layouts of other projects: from every reader they become the same records."""

import json

import datasets
import pytest

from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, behavior_of, read_jsonl, record_from_dict, write_jsonl

TURNS = (
    Message('system', 'You help a clinician.'),
    Message('user', 'K 5.9?', name='Dr. Ito'),
    Message('assistant', 'High.', behavior='reactive'),
    Message('user', 'Sure?'),
    Message('assistant', 'Yes, and stop the lisinopril.', behavior='proactive'),
)
OWN = [{key: text for key, text in vars(m).items() if text} for m in TURNS]
LAYOUTS = {
    'messages': {'messages': OWN},
    'lists': {'prompt': OWN[:4], 'completion': OWN[4:]},
    'sharegpt': {
        'system': OWN[0]['content'],
        'conversations': [
            {'from': 'human', 'value': 'K 5.9?', 'name': 'Dr. Ito'},
            {'from': 'gpt', 'value': 'High.', 'behavior': 'reactive'},
            {'from': 'human', 'value': 'Sure?'},
            {'from': 'gpt', 'value': 'Yes, and stop the lisinopril.', 'behavior': 'proactive'},
        ],
    },
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_is_the_same_record(layout):
    record = record_from_dict(LAYOUTS[layout])
    assert record.messages == TURNS
    assert behavior_of(record) == 'proactive'


def test_a_prompt_and_completion_of_text_are_two_turns():
    record = record_from_dict(
        {'prompt': 'K 5.9?', 'completion': 'High.', 'behavior': 'reactive', 'id': 'x'}
    )
    assert record.messages == (Message('user', 'K 5.9?'), Message('assistant', 'High.'))
    assert behavior_of(record) == 'reactive' and record.id == 'x'
    asked = record_from_dict({'prompt': 'K 5.9?', 'options': ['high', 'low'], 'answer': 0})
    assert asked.messages == record.messages[:1] and asked.options == ('high', 'low')


def test_null_is_absent():
    row = {
        'messages': [{'role': 'user', 'content': 'a', 'name': None}],
        'answer': None,
        'options': None,
    }
    assert record_from_dict(row | {'conversations': None}).messages == (Message('user', 'a'),)


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        ({}, "exactly one of 'messages' .* got none"),
        ({'messages': OWN, 'prompt': 'a'}, 'got messages and prompt'),
        ({'messages': OWN, 'completion': 'a'}, "'prompt' is missing beside 'completion'"),
        ({'prompt': 3}, "'prompt' must be text or a list of messages"),
        (
            {'prompt': 'a', 'completion': [{'role': 'user', 'content': 'x'}]},
            'turns of the assistant alone',
        ),
        ({'prompt': 'a', 'completion': ['x']}, 'turns of the assistant alone'),
        ({'conversations': 'a'}, "'conversations' must be a list"),
        ({'conversations': ['a']}, r'conversations\[0\]: a turn must be an object'),
        (
            {'conversations': [{'from': 'human'}]},
            r"conversations\[0\]: turn field 'value' is missing",
        ),
        (
            {'conversations': [{'from': 'Dr. Ito', 'value': 'x'}]},
            "speaker 'Dr. Ito' .*field 'name'",
        ),
        ({'conversations': [{'from': ['gpt'], 'value': 'x'}]}, 'speaker'),
        (
            {'conversations': [{'from': 'gpt', 'value': 'x', 'weight': 1}]},
            "unknown message field 'weight'",
        ),
        ({'messages': OWN, 'system': 'a'}, "unknown field 'system'; prepare --map"),
        ({'messages': OWN, 'score': 3}, "unknown field 'score'; prepare --map"),
        (
            {'messages': [{'role': 'user', 'content': 'a', 'behavior': 'reactive'}]},
            'turns of the assistant',
        ),
        ({'messages': OWN, 'behavior': 'reactive'}, "'reactive', but its answer says 'proactive'"),
    ],
)
def test_a_malformed_row_is_one_clear_line(row, message):
    with pytest.raises(UserError, match=f'^here: .*{message}') as caught:
        record_from_dict(row, 'here')
    assert '\n' not in str(caught.value)


@pytest.fixture
def rows():
    return [{'messages': OWN, 'id': f'm{i}'} for i in range(12)]


def saved(kind, rows, folder):
    """Saves `rows` and returns their source; where it has splits, all rows are in train."""
    if kind == 'jsonl':
        (folder / 'x.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
        return f'jsonl:{folder}/x.jsonl'
    made = datasets.Dataset.from_list(rows)
    if kind == 'parquet':
        made.to_parquet(folder / 'x.parquet')
        return f'hf:{folder}/x.parquet'
    if kind == 'folder':
        (folder / 'set').mkdir()
        made.to_parquet(folder / 'set/train-00000.parquet')
    elif kind == 'saved':
        made.save_to_disk(folder / 'set')
    else:
        datasets.DatasetDict({'train': made, 'test': made.select([0])}).save_to_disk(folder / 'set')
    return f'hf:{folder}/set'


@pytest.mark.parametrize('kind', ['jsonl', 'parquet', 'folder', 'saved', 'splits'])
def test_every_reader_gives_the_same_records(kind, rows, tmp_path):
    records = sources.load_records(saved(kind, rows, tmp_path), 'train')
    assert [record.id for record in records] == [row['id'] for row in rows]
    assert {record.messages for record in records} == {TURNS}


def test_the_splits_of_a_data_set_are_kept(rows, tmp_path):
    source = saved('splits', rows, tmp_path)
    assert [record.id for record in sources.load_records(source, 'test')] == ['m0']
    with pytest.raises(sources.NoSuchSplit, match="no split 'validation', there are train, test"):
        sources.load_records(source, 'validation')
    named = datasets.Dataset.from_list([row | {'split': 'test'} for row in rows])
    named.to_parquet(tmp_path / 'named.parquet')
    assert len(sources.load_records(f'hf:{tmp_path}/named.parquet', 'test')) == 12
    told_apart = [
        row | {'messages': [{'role': 'user', 'content': row['id']}, *OWN[2:]]} for row in rows
    ]
    made, _ = sources.load_raw(saved('parquet', told_apart, tmp_path), 0)
    assert {record.split for record in made} == {'train', 'validation', 'test'}


def test_a_changed_file_is_read_anew(rows, tmp_path):
    source = saved('parquet', rows, tmp_path)
    assert len(sources.load_records(source, 'train')) == 12
    assert len(sources.load_records(saved('parquet', rows[:5], tmp_path), 'train')) == 5


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('hf:', 'unknown data source'),
        ('hf:absent.parquet', 'cannot be read by datasets .no such file'),
        ('hf:no/such-set', 'cannot be read by datasets'),
        ('hf:{}/set:french', "cannot be read by datasets .*'french' not found"),
        ('hf:{}/bad.parquet', 'cannot be read by datasets'),
        ('csv:{}/x.csv', 'unknown data source .*csv: goes through prepare first'),
    ],
)
def test_a_set_that_cannot_be_read_is_one_clear_line(source, message, rows, tmp_path):
    saved('folder', rows, tmp_path)
    (tmp_path / 'bad.parquet').write_bytes(b'PAR1 nothing')
    with pytest.raises(UserError, match=message) as caught:
        sources.load_records(source.format(tmp_path), 'train')
    assert '\n' not in str(caught.value)


def test_a_bad_row_of_a_set_is_named(rows, tmp_path):
    made = datasets.Dataset.from_list([*rows[:2], rows[0]])
    made.to_parquet(tmp_path / 'twice.parquet')
    with pytest.raises(
        UserError, match=r"^hf:.*twice\.parquet: row 2: field 'id': 'm0' is also at .* row 0"
    ):
        sources.load_records(f'hf:{tmp_path}/twice.parquet', 'train')


def test_written_records_are_read_back(tmp_path):
    made = [record_from_dict(row | {'id': name}) for name, row in LAYOUTS.items()]
    write_jsonl(tmp_path / 'y.jsonl', made)
    assert read_jsonl(tmp_path / 'y.jsonl') == made


def test_a_row_that_cannot_be_decoded_is_one_clear_line(monkeypatch):
    def rows_of_a_set():
        yield {'prompt': 'q', 'completion': 'a'}
        raise ImportError('To support decoding images, please install Pillow.\nAnd more.')

    monkeypatch.setattr(datasets, 'load_dataset', lambda *_: {'train': rows_of_a_set()})
    with pytest.raises(
        UserError, match=r'^hf:a/b: cannot be read .* after row 0 .To support'
    ) as caught:
        sources.load_records('hf:a/b', 'train')
    assert '\n' not in str(caught.value) and 'more' not in str(caught.value)
