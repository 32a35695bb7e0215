"""Tests column maps on real files, compared with what pandas and json read in them."""

import csv
import json

import datasets
import pandas
import pytest

from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records.column_map import read_column_map


def load(folder, source, given):
    (folder / 'map.json').write_text(json.dumps(given))
    return sources.load_raw(source, 0, read_column_map(folder / 'map.json'))


@pytest.fixture
def mediq(shared):
    path = shared / 'data/mediq/all_dev_good.jsonl'
    if not path.is_file():
        pytest.skip('no MediQ')
    return path


@pytest.fixture
def medec(shared):
    path = shared / 'data/medec/validation.csv'
    if not path.is_file():
        pytest.skip('no MEDEC')
    return path


MEDIQ = {
    'columns': {'id': 'id', 'question': 'question', 'options': 'options', 'answer': 'answer_idx'},
    'answer': 'letter',
}


@pytest.mark.parametrize('form', ['jsonl', 'array', 'parquet', 'list', 'python'])
def test_options_of_mediq_in_every_form(form, mediq, tmp_path):
    rows = [json.loads(line) for line in mediq.read_text().splitlines()]
    columns = ('id', 'question', 'options', 'answer', 'answer_idx')
    rows = [{name: row[name] for name in columns} for row in rows]
    expected = [(r['question'].strip(), r['answer'].strip()) for r in rows]
    given, source = MEDIQ, f'jsonl:{mediq}'
    if form == 'array':
        (tmp_path / 'x.json').write_text(json.dumps(rows, indent=1))
        source = f'jsonl:{tmp_path}/x.json'
    elif form == 'parquet':
        # A fifth option in some rows, so that Arrow fills the others with null.
        for row in rows[::7]:
            row['options'] |= {'E': 'None of these'}
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / 'x.parquet')
        source = f'hf:{tmp_path}/x.parquet'
    elif form == 'list':
        for row in rows:
            row['options'] = [{'key': k, 'value': v} for k, v in row['options'].items()]
        (tmp_path / 'x.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
        source = f'jsonl:{tmp_path}/x.jsonl'
        given = MEDIQ | {
            'columns': MEDIQ['columns'] | {'options': 'options.value', 'letters': 'options.key'}
        }
    elif form == 'python':
        # pandas writes its index and the dict as Python does.
        pandas.DataFrame(rows).to_csv(tmp_path / 'x.csv')
        source = f'csv:{tmp_path}/x.csv'
    made, _ = load(tmp_path, source, given)
    assert [(r.messages[0].content, r.options[r.answer]) for r in made] == expected
    by_text = {**given, 'answer': 'text', 'columns': {**given['columns'], 'answer': 'answer'}}
    by_text['columns'].pop('letters', None)
    assert load(tmp_path, source, by_text)[0] == made


MEDEC = {
    'columns': {'id': 'Text ID', 'question': 'Text', 'answer': 'Error Flag', 'group': 'Error Type'},
    'answer': 'index',
    'constants': {'options': ['error', 'no error'], 'system': 'Review the note.'},
    'values': {'answer': {'0': 1, '1': 0}},
}


@pytest.mark.parametrize('separator', [',', ';', '\t'])
def test_flags_of_medec_are_turned_round_as_the_map_says(separator, medec, tmp_path):
    rows = list(csv.DictReader(medec.open(newline='')))
    table = pandas.DataFrame(rows).replace('NA', float('nan'))
    table.to_csv(tmp_path / 'x.csv', sep=separator, na_rep='nan')
    made, notes = load(tmp_path, f'csv:{tmp_path}/x.csv', MEDEC)
    assert [r.options[r.answer] for r in made] == [
        ('no error', 'error')[int(row['Error Flag'])] for row in rows
    ]
    assert [r.group for r in made] == [row['Error Type'].replace('NA', '') for row in rows]
    assert [m.role for m in made[0].messages] == ['system', 'user']
    assert not notes['left_out'] and 'Corrected Text' in notes['columns_not_used']
    wrong_rows = [row for row in rows if row['Error Flag'] == '1']
    kept, notes = load(
        tmp_path, f'csv:{tmp_path}/x.csv', MEDEC | {'leave_out': {'Error Type': [None]}}
    )
    assert len(kept) == len(wrong_rows)
    assert notes['left_out'] == [
        {'reason': 'Error Type is empty', 'rows': len(rows) - len(wrong_rows)}
    ]


def test_a_fault_in_a_real_file_is_named_by_its_line(medec, tmp_path):
    with pytest.raises(UserError, match=r"validation\.csv:\d+: '0' is none of the values"):
        load(tmp_path, f'csv:{medec}', MEDEC | {'values': {'answer': {'1': 0}}})
    with pytest.raises(UserError, match="no row has the column 'Error'"):
        load(tmp_path, f'csv:{medec}', MEDEC | {'leave_out': {'Error': [1]}})
