"""Tests checks of records: behaviors and groups that are misspelt, answers that are missing."""

import json

import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, Behavior
from bsft_jax.commands import prepare
from bsft_jax.data import checks, eval_records, sources
from bsft_jax.errors import UserError, misspelt
from bsft_jax.records import taxonomy
from bsft_jax.records.record import FIELD_NAMES, Record, read_jsonl, record_to_dict
from tests.records.mapped import read

TASK = {'prompt': 'q', 'options': ['a', 'b'], 'answer': 0}
OWN = tuple(
    Behavior(name, level / 2, name) for level, name in enumerate(('calm', 'keen', 'active'))
)


def write(folder, *rows):
    """Writes rows and returns their source; the last one is wrong in most tests."""
    (folder / 'x.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return f'jsonl:{folder}/x.jsonl'


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('proctive', 'proactive'),
        ('Proactive', 'proactive'),
        ('PROACTIVE ', 'proactive'),
        ('pro-active', 'proactive'),
        ('proacitve', 'proactive'),
        ('reactve', 'reactive'),
        ('brigding', 'bridging'),
        ('proactive', ''),
        ('active', ''),
        ('protective', ''),
        ('proactive2', ''),
        ('retroactive', ''),
        ('Cardiology', ''),
        ('', ''),
    ],
)
def test_a_group_that_misspells_another_is_refused_and_others_are_taken(name, meant, tmp_path):
    assert misspelt(name, taxonomy.GROUPS) == meant
    source = write(tmp_path, TASK | {'group': name})
    if not meant:
        assert sources.load_records(source, 'train')[0].group == name
        return
    for use in (
        lambda: sources.load_records(source, 'train'),
        lambda: prepare.prepare([source], tmp_path / 'set'),
        lambda: read(
            tmp_path,
            [TASK | {'g': name}],
            {'columns': {'prompt': 'prompt', 'group': 'g'}, 'values': {'group': {name: name}}},
        ),
    ):
        with pytest.raises(UserError, match=f"'group': .*did you mean '{meant}'"):
            use()


def test_a_category_of_ones_own_is_pointed_to_the_group(tmp_path):
    source = write(tmp_path, TASK | {'category': 'health'})
    with pytest.raises(UserError, match=r"a category of your own is a 'group' without 'category'"):
        sources.load_records(source, 'train')


WRONG_NAMES = [
    ({'behavior': 'Proactive'}, "did you mean 'proactive'"),
    ({'option_behaviors': ['reactive', 'Proactive']}, "did you mean 'proactive'"),
    ({'behavior': 'reactve'}, "did you mean 'reactive'"),
    ({'behavior': 'none'}, 'A behavior is a lower-case identifier'),
    ({'behavior': 'very calm'}, 'A behavior is a lower-case identifier'),
]


@pytest.mark.parametrize(('change', 'fix'), WRONG_NAMES)
def test_prepare_refuses_behaviors_that_no_training_takes(change, fix, tmp_path):
    source = write(tmp_path, TASK, TASK | {'prompt': 'r'} | change)
    with pytest.raises(UserError, match=rf'x\.jsonl:2\): unknown behavior .*; {fix}'):
        prepare.prepare([source], tmp_path / 'set')
    assert not (tmp_path / 'set').exists()


def test_prepare_checks_turns_too_and_takes_the_behaviors_of_a_config(tmp_path):
    turns = [{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]
    source = write(tmp_path, {'messages': [turns[0], turns[1] | {'behavior': 'Keen'}]})
    with pytest.raises(UserError, match="unknown behavior 'Keen'"):
        prepare.prepare([source], tmp_path / 'set')
    rows = [TASK | {'option_behaviors': ['keen', 'active'], 'prompt': str(i)} for i in range(3)]
    source = write(tmp_path, *rows)
    for behaviors in (None, OWN):
        card = prepare.prepare([source], tmp_path / 'set', behaviors=behaviors)
        assert card['option_behaviors'] == {'keen': 3, 'active': 3}
    with pytest.raises(UserError, match="unknown behavior 'keen'; known: proactive, reactive"):
        prepare.prepare([source], tmp_path / 'set', behaviors=DEFAULT_BEHAVIORS)


def test_prepare_lists_behaviors_and_groups(tmp_path):
    rows = [
        TASK | {'prompt': f'q {i}', 'group': group, 'option_behaviors': ['reactive', 'proactive']}
        for i, group in enumerate(['Cardiology', 'Cardiology', 'reactive', ''])
    ]
    card = prepare.prepare([write(tmp_path, *rows)], tmp_path / 'set')
    assert prepare.format_names(card) == [
        'behaviors: 4 without',
        'behaviors of options: 4 reactive, 4 proactive',
        'groups: 2 Cardiology, 1 reactive',
    ]


ASSISTANT = {'role': 'assistant', 'content': 'a'}
USER = {'role': 'user', 'content': 'q'}


@pytest.mark.parametrize(
    ('row', 'fault'),
    [
        ({'prompt': 'q', 'options': ['a', 'b']}, 'has options but no answer to train on'),
        ({'messages': [USER]}, 'has no answer to train on'),
        ({'messages': [USER, ASSISTANT, USER]}, 'has no answer to train on'),
        ({'messages': [{'role': 'system', 'content': 's'}]}, 'has no answer to train on'),
        ({'prompt': 'q', 'completion': ' \n'}, 'has an empty answer'),
        ({'messages': [USER, ASSISTANT | {'content': ''}]}, 'has an empty answer'),
        ({'messages': [ASSISTANT]}, 'has nothing to answer'),
        (
            {'messages': [{'role': 'system', 'content': 's'}], 'options': ['a', 'b'], 'answer': 0},
            'has options but no user turn',
        ),
    ],
)
def test_prepare_refuses_what_train_refuses(row, fault, tmp_path):
    """Tests records of the train split; those that are only asked belong to another."""
    source = write(tmp_path, TASK, row)
    with pytest.raises(UserError, match=rf'x\.jsonl:2\) {fault}.*; complete it or leave it out'):
        prepare.prepare([source], tmp_path / 'set')
    with pytest.raises(UserError, match=fault):
        checks.check_answers(sources.load_records(source, 'train'))
    source = write(tmp_path, TASK | {'split': 'train'}, row | {'split': 'test'})
    assert prepare.prepare([source], tmp_path / 'set')['files']['test.jsonl']['records'] == 1


def test_an_empty_earlier_answer_matters_where_it_is_trained_on(tmp_path):
    source = write(tmp_path, {'messages': [USER, ASSISTANT | {'content': ''}, USER, ASSISTANT]})
    records = sources.load_records(source, 'train')
    checks.check_answers(records)
    with pytest.raises(UserError, match='has an empty answer'):
        checks.check_answers(records, all_turns=True)


def test_records_say_where_they_were_read(tmp_path):
    """Tests files, tables behind a map, data sets and mixtures; files do not hold the origin."""
    path = write(tmp_path, TASK, TASK | {'prompt': 'r'}).removeprefix('jsonl:')
    first, second = read_jsonl(path)
    assert (first.origin, second.origin) == (f'{path}:1', f'{path}:2')
    assert first == Record(**{n: getattr(first, n) for n in FIELD_NAMES}) and first != second
    assert 'origin' not in record_to_dict(first)
    mixture = sources.load_records(f'0.5*jsonl:{path} + 0.5*synthetic:3', 'train')
    assert [record.origin for record in mixture[:3]] == [f'{path}:1', f'{path}:2', '']
    assert eval_records.scorable(mixture, 'x')[1].origin == f'{path}:2'
    given = {'columns': {'question': 'q', 'behavior': 'b'}}
    for kind, rows, where in (
        ('csv', 'q,b\n"a\nb",keen\nc,keen\n', 'x.csv:4'),
        ('jsonl', [{'q': 'a', 'b': 'keen'}, {'q': 'c', 'b': 'keen'}], 'x.jsonl:2'),
        ('parquet', [{'q': 'a', 'b': 'keen'}, {'q': 'c', 'b': 'keen'}], 'x.parquet: row 1'),
    ):
        made, _ = read(tmp_path, rows, given, kind)
        with pytest.raises(UserError, match=rf"{where}\): unknown behavior 'keen'"):
            checks.check_behaviors(made[1:], DEFAULT_BEHAVIORS)
