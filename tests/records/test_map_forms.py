"""Tests what real tables need of a column map: forms of options, answers, prompts and rows."""

import json

import pytest

from bsft_jax.commands import prepare
from bsft_jax.errors import UserError
from bsft_jax.records.column_map import read_column_map
from tests.records.mapped import read

QUESTION = {'question': 'q', 'options': 'o', 'answer': 'g'}
LETTER = {'columns': QUESTION, 'answer': 'letter'}


def answers(folder, rows, given, kind='jsonl'):
    return [record.options[record.answer] for record in read(folder, rows, given, kind)[0]]


# values: whatever a map lists is used, and what it does not list is an error.

FLAGS = {
    'columns': {'question': 'q', 'answer': 'f'},
    'answer': 'index',
    'constants': {'options': ['error', 'no error']},
}


def test_values_of_an_answer_are_translated_before_it_is_looked_up(tmp_path):
    rows = [{'q': f'note {i}', 'f': i % 2} for i in range(3)]
    assert answers(tmp_path, rows, FLAGS) == ['error', 'no error', 'error']
    swapped = FLAGS | {'values': {'answer': {'0': 1, '1': 0}}}
    assert answers(tmp_path, rows, swapped) == ['no error', 'error', 'no error']
    words = FLAGS | {'answer': 'letter', 'values': {'answer': {'yes': 'A', ' no ': 'B'}}}
    assert answers(tmp_path, [{'q': 'n', 'f': 'no'}, {'q': 'm', 'f': ' yes'}], words) == [
        'no error',
        'error',
    ]


@pytest.mark.parametrize(
    ('columns', 'values', 'row'),
    [
        ({'question': 'q'}, {'question': {'other': 'x'}}, {'q': 'note'}),
        ({'prompt': 'q'}, {'prompt': {'other': 'x'}}, {'q': 'note'}),
        ({'prompt': 'q'}, {'prompt': {'other': 'x'}}, {'q': [{'role': 'user', 'content': 'a'}]}),
        (QUESTION, {'answer': {'1': 'A'}}, {'q': 'n', 'o': ['a', 'b'], 'g': 'A'}),
        (QUESTION, {'options': {'x': 'a'}}, {'q': 'n', 'o': ['a', 'b'], 'g': 'A'}),
    ],
)
def test_a_value_that_is_not_listed_is_an_error(columns, values, row, tmp_path):
    given = {'columns': columns, 'values': values} | ({'answer': 'letter'} if 'g' in row else {})
    with pytest.raises(UserError, match='none of the values|neither text nor a number'):
        read(tmp_path, [row], given)


def test_values_of_questions_lists_and_empty_cells_are_used(tmp_path):
    given = LETTER | {
        'columns': QUESTION | {'behavior': 'b'},
        'values': {
            'question': {'code 7': 'Is it urgent?'},
            'options': {'y': 'yes', 'n': 'no'},
            'behavior': {'': 'reactive', 'P': 'proactive', '?': None},
        },
    }
    row = {'q': 'code 7', 'o': ['y', 'n'], 'g': 'B'}
    made, _ = read(tmp_path, [row | {'b': b} for b in ('', 'P', '?')], given)
    assert [record.behavior for record in made] == ['reactive', 'proactive', '']
    assert made[0].messages[0].content == 'Is it urgent?' and made[0].options == ('yes', 'no')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'columns': {'messages': 'm'}, 'values': {'messages': {'a': 'b'}}},
            'lists, which have no',
        ),
        (
            {'columns': {'prompt': 'p', 'must_mention': 'm'}, 'values': {'must_mention': {}}},
            'lists, which have no',
        ),
        ({'columns': {'conversations': 'c'}, 'values': {'conversations': {'a': 1}}}, 'lists'),
        (
            {'columns': {'text': 't'}, 'constants': {'system': 's'}},
            "'system' belongs beside question",
        ),
        ({'columns': {'messages': 'm'}, 'constants': {'speaker': 's'}}, "'speaker' belongs beside"),
        ({'columns': {'text': 't', 'options': 'o'}}, "'options' belongs to a conversation"),
        ({'columns': {'text': 't'}, 'constants': {'behavior': 'reactive'}}, "'behavior' belongs"),
        ({'columns': {'prompt': 'p', 'rationale': 'r'}}, "'rationale' belongs beside options"),
        ({'columns': {'text': 't', 'completion': 'c'}}, "'completion' belongs beside question or"),
        (
            {'columns': {'prompt': 'p'}, 'constants': {'question': 'q'}},
            "'question' differs between",
        ),
        ({'columns': {'prompt': 'p', 'answer': 'a'}, 'answer': 'letter'}, 'belongs beside options'),
        ({'columns': {'prompt': 'p'}, 'constants': {'category': 'gardening'}}, 'unknown category'),
        (
            {'columns': {'prompt': 'p'}, 'constants': {'hard': 'yes'}},
            "'hard' must be true or false",
        ),
        ({'columns': {'prompt': 'p'}, 'constants': {'options': ['a', 'a']}}, 'A and B are both'),
        ({'columns': {'prompt': 'p'}, 'constants': {'license': None}}, "'license' is null"),
        (
            {'columns': {'prompt': 'p', 'split': 's'}, 'values': {'split': {'dev': 'valid'}}},
            "values: split: 'dev': field 'split': 'valid' is not one of",
        ),
        (
            {'columns': {'prompt': 'p', 'hard': 'h'}, 'values': {'hard': {'x': 'perhaps'}}},
            "'hard' must be true or false",
        ),
        ({**LETTER, 'values': {'answer': {'x': 1.5}}}, 'not what a column would hold'),
        ({**LETTER, 'values': {'options': {'': 'x'}}}, 'text before and after'),
        ({**LETTER, 'values': {'answer': {'a': 'A', ' a': 'B'}}}, 'differ in blanks alone'),
        ({**LETTER, 'answer': 'index', 'constants': {'letters': ['x', 'y']}}, "'letters' belongs"),
        ({**LETTER, 'leave_out': {'g': None}}, "leave_out: 'g' must list cells"),
        ({**LETTER, 'leave_out': {'g': []}}, "leave_out: 'g' must list cells"),
        ({**LETTER, 'max_unfit': True}, '"max_unfit" must be a number'),
        ({**LETTER, 'max_unfit': -1}, '"max_unfit" must be a number'),
    ],
)
def test_a_part_that_no_row_could_use_is_refused_with_the_map(change, message, tmp_path):
    (tmp_path / 'map.json').write_text(json.dumps(change))
    with pytest.raises(UserError, match=message) as caught:
        read_column_map(tmp_path / 'map.json')
    assert str(caught.value).startswith(f'--map={tmp_path}/map.json')


# Options and answers.


@pytest.mark.parametrize('kind', ['jsonl', 'parquet'])
def test_objects_with_different_numbers_of_options(kind, tmp_path):
    """Arrow fills the letters that a row lacks with null."""
    rows = [
        {'q': f'q{i}', 'o': dict(zip('ABCDE'[: 4 + i % 2], 'wxyzv', strict=False)), 'g': 'A'}
        for i in range(10)
    ]
    made, _ = read(tmp_path, rows, LETTER, kind)
    assert [len(record.options) for record in made] == [4, 5] * 5
    assert {record.options[0] for record in made} == {'w'}


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'A': 'x', 'B': 'y', 'C': ''}, ('x', 'y')),
        ({'B': 'y', 'C': None, 'A': 'x', 'D': None}, ('x', 'y')),
        ({'a': 'x', 'b': 'y'}, ('x', 'y')),
        ({'1': 'x', '2': 'y', '3': 'z'}, ('x', 'y', 'z')),
        (['x', 'y', '', None], ('x', 'y')),
        ("{'0': 'x', '1': \"it's y\"}", ('x', "it's y")),
        ("{0: 'x', 1: 'y'}", ('x', 'y')),
        ("['x', 'y']", ('x', 'y')),
        ('["x", "y"]', ('x', 'y')),
    ],
)
def test_forms_of_options(options, expected, tmp_path):
    (record,), _ = read(tmp_path, [{'q': 'q', 'o': options, 'g': 'A'}], LETTER)
    assert record.options == expected


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'A': 'x', 'B': None, 'C': 'z'}, "'o.B' is empty before others"),
        ({'A': 'x', 'C': 'z'}, "'o.B' is empty before others"),
        ({'B': 'x', 'C': 'z'}, 'its keys are not A, B'),
        ({'A': 'x', 'b': 'z'}, 'its keys are not A, B'),
        ("['x' 'y']", 'neither a list nor JSON of one'),
        ("['x', open('y')]", 'neither a list nor JSON of one'),
        ('x or y', 'neither a list nor JSON of one'),
        (
            [{'letter': 'A', 'content': 'x'}],
            'holds objects with content, letter; name one of .* o.c',
        ),
        (['x', ' x.'], "A and B are both 'x'"),
        (['caf\u00e9', 'b', 'cafe\u0301'], "A and C are both 'caf"),
    ],
)
def test_options_that_cannot_be_read_are_one_line(options, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, [{'q': 'q', 'o': options, 'g': 'A'}], LETTER)
    assert str(caught.value).startswith(f'{tmp_path}/x.jsonl:1: ')


LETTERED = [{'letter': 'A', 'content': 'x'}, {'letter': 'B', 'content': 'y'}]


@pytest.mark.parametrize('kind', ['jsonl', 'parquet'])
def test_lists_of_objects(kind, tmp_path):
    given = {'columns': QUESTION | {'options': 'o.content'}, 'answer': 'letter'}
    assert answers(tmp_path, [{'q': 'q', 'o': LETTERED, 'g': ['B']}], given, kind) == ['y']
    flagged = {'columns': {'question': 'c.q', 'options': 'o.text', 'answer': 'o.correct'}}
    rows = [
        {
            'c': {'q': f'q{i}'},
            'o': [{'text': text, 'correct': text == right} for text in ('x', 'y', 'z')],
        }
        for i, right in enumerate('zx')
    ]
    assert answers(tmp_path, rows, flagged | {'answer': 'flags'}, kind) == ['z', 'x']


def test_letters_of_their_own_and_out_of_order(tmp_path):
    given = {'columns': QUESTION | {'options': 'o.content'}, 'answer': 'letter'}
    row = {'q': 'q', 'o': LETTERED[::-1], 'g': 'B'}
    with pytest.raises(
        UserError, match='letters of o.letter are not in order: B, A; add "letters"'
    ):
        read(tmp_path, [row], given)
    given['columns']['letters'] = 'o.letter'
    assert answers(tmp_path, [row], given) == ['y']
    # ARC: some rows have numbers for letters.
    columns = {'question': 'q', 'options': 'c.text', 'letters': 'c.label', 'answer': 'g'}
    rows = [
        {'q': 'q1', 'c': {'text': ['x', 'y'], 'label': ['1', '2']}, 'g': '2'},
        {'q': 'q2', 'c': {'text': ['x', 'y', 'z'], 'label': ['A', 'B', 'C']}, 'g': 'C'},
    ]
    assert answers(tmp_path, rows, {'columns': columns, 'answer': 'letter'}) == ['y', 'z']


@pytest.mark.parametrize('flags', [[True, True], [False, False], [True], [True, 'perhaps']])
def test_flags_must_name_one_option(flags, tmp_path):
    with pytest.raises(UserError, match='flagged as right|not one true or false for each'):
        read(tmp_path, [{'q': 'q', 'o': ['a', 'b'], 'g': flags}], LETTER | {'answer': 'flags'})


def test_numbers_stay_as_they_are_written(tmp_path):
    line = '{"q": "How much?", "o": [1.10, 0.00001, 1E2, -3, 1.1e0], "g": "1.10"}\n'
    (record,), _ = read(tmp_path, line, LETTER | {'answer': 'text'})
    assert record.options == ('1.10', '0.00001', '1E2', '-3', '1.1e0') and record.answer == 0


@pytest.mark.parametrize('answer', ['Aspirin', 'aspirin.', 'ASPIRIN', ' Aspirin. '])
def test_an_answer_by_text_ignores_what_makes_no_other_option(answer, tmp_path):
    row = {'q': 'q', 'o': ['Heparin', 'Aspirin.'], 'g': answer}
    assert answers(tmp_path, [row], LETTER | {'answer': 'text'}) == ['Aspirin.']
    row = {'q': 'q', 'o': ['aspirin', 'Aspirin b', 'ASPIRIN'], 'g': 'ASPIRIN'}
    assert answers(tmp_path, [row], LETTER | {'answer': 'text'}) == ['ASPIRIN']


# Prompts.


def test_instruction_input_and_output_with_a_constant_system(tmp_path):
    given = {
        'columns': {'prompt': ['instruction', 'input'], 'completion': 'output'},
        'constants': {'system': 'Be brief.'},
    }
    rows = [
        {'instruction': 'Add.', 'input': '1 2', 'output': '3'},
        {'instruction': 'Greet.', 'input': '', 'output': 'Hello.'},
    ]
    array = json.dumps(rows, indent=2)
    for text, name in ((array, 'prompt'), (json.dumps(rows), 'question')):
        columns = {name if k == 'prompt' else k: v for k, v in given['columns'].items()}
        made, _ = read(tmp_path, text, given | {'columns': columns})
        turns = [[(m.role, m.content) for m in record.messages] for record in made]
        assert turns[0] == [('system', 'Be brief.'), ('user', 'Add.\n\n1 2'), ('assistant', '3')]
        assert turns[1][1:] == [('user', 'Greet.'), ('assistant', 'Hello.')]
    lines = [array[: array.index('{', i)].count('\n') + 1 for i in (0, array.index('}'))]
    made, _ = read(tmp_path, array, given)
    assert [record.origin for record in made] == [
        f'{tmp_path}/x.jsonl:{line} (entry {n})' for n, line in enumerate(lines, 1)
    ]


def test_a_speaker_and_a_system_beside_a_prompt(tmp_path):
    given = {'columns': {'prompt': 'p', 'speaker': 'who', 'system': 's'}}
    (record,), _ = read(tmp_path, [{'p': 'Well?', 'who': 'Dr. Ito', 's': 'Be brief.'}], given)
    assert [(m.role, m.name) for m in record.messages] == [('system', ''), ('user', 'Dr. Ito')]
    chat = [{'role': 'user', 'content': 'q'}]
    with pytest.raises(UserError, match="'speaker': the messages of 'prompt' name theirs"):
        read(tmp_path, [{'p': chat, 'who': 'Dr. Ito', 's': None}], given)
    chat = [{'role': 'system', 'content': 'a'}, *chat]
    with pytest.raises(UserError, match="'system': the messages have a system turn"):
        read(tmp_path, [{'p': chat, 'who': None, 's': 'Be brief.'}], given)


# Rows and files.

ROWS = [
    {'q': f'q{i}', 'o': ['a', 'a' if i == 5 else 'b'], 'g': g, 'k': 'multi' if i == 4 else 'single'}
    for i, g in enumerate(['A', -1, None, 'B', 'A', 'A', 'B', ''])
]


def test_rows_are_left_out_with_their_number(tmp_path):
    given = LETTER | {'leave_out': {'g': [-1, None], 'k': ['multi']}, 'max_unfit': 1}
    made, notes = read(tmp_path, ROWS, given)
    assert [record.messages[0].content for record in made] == ['q0', 'q3', 'q6']
    counts = {entry['reason']: entry['rows'] for entry in notes['left_out']}
    assert counts == {'g is -1': 1, 'g is empty': 2, 'k is multi': 1, 'does not fit': 1}
    (error,) = notes['left_out'][-1]['errors']
    assert error.startswith(f'{tmp_path}/x.jsonl:6: ') and 'A and B are both' in error


def test_more_unfit_rows_than_the_map_allows_are_an_error_that_says_so(tmp_path):
    given = LETTER | {'leave_out': {'g': [-1]}, 'max_unfit': 2}
    with pytest.raises(UserError, match=r'"max_unfit": 3 \(3 of 8 rows do not fit\)'):
        read(tmp_path, ROWS, given)
    with pytest.raises(UserError, match="no row has the column 'gone'"):
        read(tmp_path, ROWS, LETTER | {'leave_out': {'gone': [1]}, 'max_unfit': 9})
    with pytest.raises(UserError, match='no records in it'):
        read(tmp_path, ROWS[1:3], LETTER | {'leave_out': {'g': [-1, None]}})


def test_what_is_left_out_is_in_the_card(tmp_path):
    (tmp_path / 'map.json').write_text(json.dumps(LETTER | {'leave_out': {'g': [-1, None]}}))
    (tmp_path / 'x.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in ROWS[:5]))
    column_map = read_column_map(tmp_path / 'map.json')
    card = prepare.prepare([f'jsonl:{tmp_path}/x.jsonl'], tmp_path / 'set', 0, column_map)
    assert prepare.format_left_out(card) == [
        f'left out of jsonl:{tmp_path}/x.jsonl: 1 (g is -1), 1 (g is empty)'
    ]
    assert card['sources'][0]['notes']['left_out'][0] == {'reason': 'g is -1', 'rows': 1}
