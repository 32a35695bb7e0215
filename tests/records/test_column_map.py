"""Tests column maps: tables in the layout of the paper's benchmark become records."""

import csv
import json
import re
import subprocess
import sys

import datasets
import pytest

from bsft_jax.commands import prepare as app
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records import taxonomy
from bsft_jax.records.column_map import read_column_map
from bsft_jax.records.record import read_jsonl

TITLES = {name: name.replace('_', ' ').title() for name in taxonomy.CATEGORIES}
MAP = {
    'columns': {
        'id': 'Task ID',
        'case_id': 'Report',
        'question': ['Case', 'Request'],
        'speaker': 'Asked by',
        'options': ['Option A', 'Option B', 'Option C', 'Option D', 'Option E'],
        'answer': 'Gold',
        'category': 'Task',
        'behavior': 'Mode',
        'hard': 'Hard subset',
        'split': 'Part',
        'rationale': 'Why',
    },
    'answer': 'letter',
    'values': {
        'category': {title: name for name, title in TITLES.items()},
        'behavior': {'Respond': 'reactive', 'Intervene': 'proactive'},
        'split': {'train': 'train', 'dev': 'validation', 'test': 'test'},
    },
    'constants': {'source': 'mock', 'license': 'none'},
}


def rows():
    """Returns two tasks per category (13) and split (3); every third is hard."""
    made = []
    for part in ('train', 'dev', 'test'):
        for c, title in enumerate(TITLES.values()):
            for mode in ('Respond', 'Intervene'):
                count = 3 + len(made) % 3
                made.append(
                    {
                        'Task ID': f'T{len(made)}',
                        'Report': f'{part}-{c}',
                        'Case': f'A case, no. {len(made)},\nwith "quotes".',
                        'Request': 'What now?',
                        'Asked by': 'Dr. Ito',
                        **{f'Option {x}': f'choice {x}' for x in 'ABCDE'[:count]},
                        'Gold': 'ABC'[len(made) % 3],
                        'Task': title,
                        'Mode': mode,
                        'Hard subset': ('yes', 'no', 'no')[len(made) % 3],
                        'Part': part,
                        'Why': 'Because.',
                        'Journal': 'unused',
                    }
                )
    return made


def with_list(row, kind):
    """Returns the row with its options in one column: a list, or an object with letters as keys."""
    options = {x: row[f'Option {x}'] for x in 'ABCDE' if f'Option {x}' in row}
    rest = {key: value for key, value in row.items() if not key.startswith('Option')}
    return rest | {'Options': options if kind == 'letters' else list(options.values())}


def write(folder, kind, rows):
    """Writes the rows to a file of the kind and returns its source."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if kind in ('csv', 'tsv'):
        with (folder / f'x.{kind}').open('w', newline='') as file:
            writer = csv.DictWriter(file, columns, delimiter=',' if kind == 'csv' else '\t')
            writer.writeheader()
            writer.writerows(rows)
        return f'csv:{folder}/x.{kind}'
    if kind == 'jsonl':
        (folder / 'x.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
        return f'jsonl:{folder}/x.jsonl'
    filled = [{name: row.get(name) for name in columns} for row in rows]
    datasets.Dataset.from_list(filled).to_parquet(folder / 'x.parquet')
    return f'hf:{folder}/x.parquet'


def mapping_of(folder, given=MAP, **changes):
    (folder / 'map.json').write_text(json.dumps(given | changes))
    return read_column_map(folder / 'map.json')


def columns(**changes):
    return {key: value for key, value in (MAP['columns'] | changes).items() if value is not None}


@pytest.mark.parametrize('kind', ['csv', 'tsv', 'jsonl', 'parquet'])
def test_the_papers_layout_from_every_kind_of_file(kind, tmp_path):
    made, notes = sources.load_raw(write(tmp_path, kind, rows()), 0, mapping_of(tmp_path))
    assert len(made) == 78 and notes['columns_not_used'] == ['Journal']
    for record, row in zip(made, rows(), strict=True):
        assert record.id == row['Task ID'] and record.case_id == row['Report']
        (turn,) = record.messages
        assert turn.content == f'{row["Case"]}\n\n{row["Request"]}' and turn.name == 'Dr. Ito'
        assert record.options[record.answer] == f'choice {row["Gold"]}'
        assert len(record.options) == sum(key.startswith('Option') for key in row)
        assert TITLES[record.category] == row['Task']
        assert record.group == taxonomy.group_of(record.category)
        assert record.behavior == {'Respond': 'reactive', 'Intervene': 'proactive'}[row['Mode']]
        assert record.hard == (row['Hard subset'] == 'yes')
        assert (record.source, record.license, record.rationale) == ('mock', 'none', 'Because.')
    assert {record.category for record in made if record.hard} == set(taxonomy.CATEGORIES)


@pytest.mark.parametrize('kind', ['list', 'letters'])
@pytest.mark.parametrize('file', ['jsonl', 'csv'])
def test_options_in_one_column(kind, file, tmp_path):
    given = [with_list(row, kind) for row in rows()]
    if file == 'csv':
        given = [row | {'Options': json.dumps(row['Options'])} for row in given]
    mapping = mapping_of(tmp_path, columns=columns(options='Options'))
    made, _ = sources.load_raw(write(tmp_path, file, given), 0, mapping)
    (tmp_path / 'wide').mkdir()
    assert (
        made
        == sources.load_raw(write(tmp_path / 'wide', 'jsonl', rows()), 0, mapping_of(tmp_path))[0]
    )


@pytest.mark.parametrize(
    ('kind', 'value', 'index'),
    [
        ('letter', 'b', 1),
        ('letter', '(B)', 1),
        ('letter', 'B. ', 1),
        ('index', 1, 1),
        ('index', '1', 1),
        ('index', 1.0, 1),
        ('number', 2, 1),
        ('text', 'choice B', 1),
        ('text', 'Choice b ', 1),
        ('letter', 'F', None),
        ('letter', 1, None),
        ('letter', '', None),
        ('index', 'B', None),
        ('index', -1, None),
        ('index', 5, None),
        ('index', True, None),
        ('number', 0, None),
        ('text', 'choice', None),
    ],
)
def test_an_answer_by_letter_index_number_or_text(kind, value, index, tmp_path):
    source = write(tmp_path, 'jsonl', [rows()[2] | {'Gold': value}])
    mapping = mapping_of(tmp_path, answer=kind)
    if index is not None:
        assert sources.load_raw(source, 0, mapping)[0][0].answer == index
        return
    with pytest.raises(
        UserError, match=rf"x\.jsonl:1: column 'Gold'.*{kind if value != '' else 'no answer'}"
    ):
        sources.load_raw(source, 0, mapping)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'Task': 'Gardening'},
            "'Gardening' is none of the values of 'category' in --map; there are Diff",
        ),
        ({'Case': '', 'Request': None}, 'nothing in Case, Request'),
        ({'Hard subset': 'maybe'}, "column 'Hard subset': 'maybe' is not true or false"),
        ({'Option B': ''}, "column 'Option B' is empty before others"),
        ({'Option B': 'choice A'}, 'distinct'),
        ({'Case': ['a', 'b']}, r"'Case': \['a', 'b'\] is neither text nor a number"),
        ({'Option B': {'t': 1}}, r"'Option B': \{'t': 1\} is neither text nor a number"),
        ({'Gold': ['A', 'B']}, r"'answer': \['A', 'B'\] is neither text nor a number"),
    ],
)
def test_a_row_that_does_not_fit_is_named_and_counted(change, message, tmp_path):
    given = rows()
    for i in (4, 9):
        given[i] |= change
    with pytest.raises(UserError, match=message) as caught:
        sources.load_raw(write(tmp_path, 'jsonl', given), 0, mapping_of(tmp_path))
    assert str(caught.value).startswith(f'{tmp_path}/x.jsonl:5: ')
    assert str(caught.value).endswith('(2 of 78 rows do not fit)') and '\n' not in str(caught.value)


def test_nan_is_an_empty_cell(tmp_path):
    empty = {
        'Report': float('nan'),
        'Option C': float('nan'),
        'Option D': None,
        'Why': float('nan'),
    }
    given = [rows()[0] | empty | {'Option E': '', 'Gold': 'A'}]
    (record,), _ = sources.load_raw(write(tmp_path, 'jsonl', given), 0, mapping_of(tmp_path))
    assert (record.case_id, record.rationale, record.options) == ('', '', ('choice A', 'choice B'))


@pytest.mark.parametrize('hole', [None, float('nan')])
def test_a_null_inside_a_list_is_an_error(hole, tmp_path):
    given = [with_list(rows()[0], 'list') | {'Options': ['x', hole, 'z']}]
    mapping = mapping_of(tmp_path, columns=columns(options='Options'))
    with pytest.raises(UserError, match=r"x\.jsonl:1: 'options': \w+ is neither text nor a number"):
        sources.load_raw(write(tmp_path, 'jsonl', given), 0, mapping)


def test_a_column_that_no_row_has(tmp_path):
    mapping = mapping_of(tmp_path, columns=columns(rationale='Reason'))
    with pytest.raises(
        UserError, match="--map: no row has the column 'Reason'; there are Task ID, Report"
    ):
        sources.load_raw(write(tmp_path, 'csv', rows()), 0, mapping)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('{', 'not valid JSON'),
        ('[]', 'must be an object with "columns"'),
        ('{"columns": {}, "columns": {}}', "the key 'columns' is there twice"),
        ({'columns': {}}, 'give exactly one of question'),
        ({**MAP, 'column': {}}, "unknown part 'column'"),
        ({**MAP, 'columns': columns(colour='x')}, "columns: unknown field 'colour'"),
        ({**MAP, 'columns': columns(id=['a', 'b'])}, "'id' must name a column"),
        ({**MAP, 'columns': columns(text='x')}, 'give exactly one of'),
        (
            {**MAP, 'answer': 'word'},
            'answer: says how .* use one of letter, index, number, text, flags',
        ),
        ({**MAP, 'columns': columns(answer=None)}, 'answer: says how'),
        ({**MAP, 'values': {'license': {}}}, "values: 'license' must be"),
        ({**MAP, 'values': []}, "'values' must be an object"),
        ({**MAP, 'constants': {'id': 'x'}}, "'id' is in .columns. and in .constants."),
        ({**MAP, 'constants': {'licence': 'x'}}, "constants: unknown field 'licence'"),
    ],
)
def test_a_wrong_map_is_one_clear_line(given, message, tmp_path):
    path = tmp_path / 'map.json'
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    with pytest.raises(UserError, match=message) as caught:
        read_column_map(path)
    assert str(caught.value).startswith(f'--map={path}')


def test_a_map_with_a_byte_order_mark(tmp_path):
    (tmp_path / 'map.json').write_text(json.dumps(MAP), encoding='utf-8-sig')
    assert read_column_map(tmp_path / 'map.json').columns == MAP['columns']


def test_a_map_for_chats_on_the_hub(tmp_path):
    answer = {'role': 'assistant', 'content': 'a'}
    chats = [[{'role': 'user', 'content': f'q{i}'}, answer] for i in range(9)]
    source = write(
        tmp_path,
        'parquet',
        [{'prompt': 'q', 'prompt_id': str(i), 'chat': chat} for i, chat in enumerate(chats)],
    )
    given = {
        'columns': {'id': 'prompt_id', 'messages': 'chat'},
        'constants': {'behavior': 'reactive'},
    }
    made, notes = sources.load_raw(source, 0, mapping_of(tmp_path, given))
    assert notes['columns_not_used'] == ['prompt']
    assert len(made) == 9 and {record.behavior for record in made} == {'reactive'}
    assert {record.split for record in made} == {'train', 'validation', 'test'}


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'bsft_jax.prepare', *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prepares_a_mapped_table(tmp_path):
    source = write(tmp_path, 'csv', rows())
    mapping_of(tmp_path)
    given = (f'--source={source}', f'--map={tmp_path}/map.json', f'--output={tmp_path}/set')
    done = run(*given)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / 'set/card.json').read_text())
    assert [file['records'] for file in card['files'].values()] == [26, 26, 26]
    assert set(card['counts']['test']) == set(taxonomy.CATEGORIES)
    assert card['sources'][0]['notes']['columns'] == MAP['columns']
    assert sum(record.hard for record in read_jsonl(tmp_path / 'set/test.jsonl')) in (8, 9)
    wrong = rows()
    wrong[3]['Gold'] = 'Z'
    write(tmp_path, 'csv', wrong)
    failed = run(*given[:2], f'--output={tmp_path}/other')
    assert failed.returncode == 2
    (line,) = failed.stderr.splitlines()
    assert re.search(
        r"x\.csv:\d+: column 'Gold': 'Z' is not the letter of one of the . options", line
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ['map.json', 'set', 'x.csv']


def test_a_map_is_refused_for_sources_of_records(tmp_path):
    for source in ('synthetic:10', f'jsonl:{tmp_path}'):
        with pytest.raises(UserError, match='prepare it without --map'):
            app.prepare([source], tmp_path / 'set', 0, mapping_of(tmp_path))
