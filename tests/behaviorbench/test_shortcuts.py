"""What shortcuts know of the synthetic tasks, and that they notice what is planted."""

import dataclasses
import json
import tracemalloc

import pytest
from sklearn.feature_extraction.text import CountVectorizer

from bsft_jax import prepare as app
from bsft_jax.behaviorbench import shortcuts
from bsft_jax.behaviorbench.builders import BUILDERS, records_of
from bsft_jax.behaviorbench.cases import simulate
from bsft_jax.behaviorbench.records import Message, Record
from bsft_jax.behaviorbench.taxonomy import group_of

CHOSEN = [category for category in BUILDERS if group_of(category) != 'reactive']


def cases(first, last, held_out=False, only=None):
    """All records of simulated cases, or those of one category."""
    made = [r for i in range(first, last) for r in records_of(simulate(11, i), held_out=held_out)]
    return [r for r in made if only in (None, r.category)]


@pytest.fixture(scope='module')
def measured():
    return shortcuts.shortcut_baselines(cases(0, 400), cases(400, 700, held_out=True))


def test_synthetic_tasks_do_not_give_the_behavior_away(measured):
    assert set(measured['categories']) == set(BUILDERS) and not measured['skipped']
    for category in CHOSEN:
        behavior = measured['categories'][category]['behavior']
        assert behavior['chance'] == {'held_out': 0.5, 'cross_validated': 0.5}
        assert max(a for view in shortcuts.VIEWS for a in behavior[view].values()) <= 0.60, category
    assert shortcuts.over_limit(measured) == []


def test_answers_are_scored_over_the_options(measured):
    rows = measured['categories']
    assert all(set(row['answer']['chance'].values()) == {0.25} for row in rows.values())
    assert all(rows[c]['behavior'] is None for c in BUILDERS if c not in CHOSEN)
    # The words of the findings name the diagnosis; an option that is out of place here does not.
    assert rows['differential_diagnosis']['answer']['bag_of_words']['held_out'] > 0.8
    assert rows['differential_diagnosis']['answer']['options_only']['held_out'] < 0.4


def test_overall_is_over_records(measured):
    rows = [measured['categories'][category] for category in CHOSEN]
    for measure, split in (('held_out', 'test'), ('cross_validated', 'train')):
        right = sum(row['behavior']['bag_of_words'][measure] * row[split] for row in rows)
        overall = measured['overall']['behavior']['bag_of_words'][measure]
        assert overall == pytest.approx(right / sum(row[split] for row in rows), abs=2e-4)


def in_message(record, word='Well.'):
    first, *rest = record.messages
    first = dataclasses.replace(first, content=f'{word} {first.content}')
    return dataclasses.replace(record, messages=(first, *rest))


def in_options(record):
    return dataclasses.replace(record, options=(record.options[0] + ' now', *record.options[1:]))


def in_request(record):
    *before, last = record.messages
    last = dataclasses.replace(last, content=f'{last.content[:-1]} soon{last.content[-1]}')
    return dataclasses.replace(record, messages=(*before, last))


@pytest.mark.parametrize('leak, seen_by', [
    (in_message, {'bag_of_words'}),
    (in_options, {'bag_of_words', 'options_only'}),
    (in_request, {'bag_of_words', 'request_only'}),
])  # fmt: skip
def test_a_planted_leak_is_seen_where_it_is(leak, seen_by):
    train, test = (
        [leak(r) if r.behavior == 'proactive' else r for r in rows]
        for rows in (
            cases(0, 60, only='omission_detection'),
            cases(60, 100, held_out=True, only='omission_detection'),
        )
    )
    found = shortcuts.shortcut_baselines(train, test)
    behavior = found['categories']['omission_detection']['behavior']
    for view in shortcuts.VIEWS:
        assert all((accuracy > 0.9) == (view in seen_by) for accuracy in behavior[view].values()), view
    lines = shortcuts.over_limit(found)
    assert {line.split(': ')[2].split()[0] for line in lines} == seen_by
    assert shortcuts.table(found).splitlines()[-len(lines) :] == lines


def test_other_words_in_the_test_split_do_not_hide_a_leak():
    train = cases(0, 60, only='error_correction')
    leaky = [in_message(r) if r.behavior == 'proactive' else r for r in train]
    found = shortcuts.shortcut_baselines(leaky, cases(60, 100, only='error_correction'))
    accuracy = found['categories']['error_correction']['behavior']['bag_of_words']
    assert accuracy['held_out'] < 0.7 and accuracy['cross_validated'] > 0.9
    assert ['cross validated' in line for line in shortcuts.over_limit(found)] == [True]


def test_a_leak_in_the_right_option_is_seen_by_the_ranking():
    def leak(record):
        options = [f'{o} too' if i == record.answer else o for i, o in enumerate(record.options)]
        return dataclasses.replace(record, options=tuple(options))

    train, test = ([leak(r) for r in cases(*of, only='omission_detection')] for of in ((0, 40), (40, 70)))
    answer = shortcuts.shortcut_baselines(train, test)['categories']['omission_detection']['answer']
    assert all(accuracy == 1.0 for view in shortcuts.VIEWS for accuracy in answer[view].values())


def test_folds_keep_a_case_together():
    names = [f'{"abcdefghij"[i // 10]}{"klmnopqrst"[i % 10]}' for i in range(100)]
    records = [
        Record(
            messages=(Message('user', f'{name} {name}{name}.'),),
            case_id=name,
            category='omission_detection',
            behavior=('proactive', 'reactive')[hash_of % 2],
        )
        for hash_of, name in ((i * i // 7, name) for i, name in enumerate(names))
        for _ in range(3)
    ]
    row = shortcuts.shortcut_baselines(records, [])['categories']['omission_detection']
    assert row['behavior']['bag_of_words']['cross_validated'] <= 0.65 and row['answer'] is None
    assert row['behavior']['bag_of_words']['held_out'] is None


def test_the_most_that_count_are_the_same_cases_in_any_order(monkeypatch):
    monkeypatch.setattr(shortcuts, 'MOST', 60)
    records = cases(0, 60, only='omission_detection')
    kept = {r.id for r in shortcuts._by_category(records)['omission_detection']}
    assert len(kept) == 60 and len({name[:-2] for name in kept}) == 30
    assert kept == {r.id for r in shortcuts._by_category(records[::-1])['omission_detection']}
    assert kept != {r.id for r in records[:60]}


def baselines(accuracy, chance, records):
    views = {view: dict.fromkeys(shortcuts.MEASURES, chance) for view in shortcuts.VIEWS}
    views['chance'] = dict.fromkeys(shortcuts.MEASURES, chance)
    views['bag_of_words'] = {'held_out': accuracy, 'cross_validated': None}
    row = {'train': 0, 'test': records, 'behavior': views, 'answer': None}
    return {'categories': {'error_correction': row}, 'overall': row, 'skipped': {}}


def test_the_limit():
    assert shortcuts.over_limit(baselines(0.61, 0.5, 1000)) == [
        'warning: error_correction: bag_of_words tells the behavior: held out 0.61 of 1000 records, limit 0.60'
    ]
    assert not shortcuts.over_limit(baselines(0.60, 0.5, 1000))
    assert not shortcuts.over_limit(baselines(0.61, 0.5, 60)), 'no more than few records do by accident'
    assert not shortcuts.over_limit(baselines(0.75, 0.7, 1000)), 'always the more frequent one is right'
    assert shortcuts.over_limit(baselines(0.85, 0.7, 1000))


def test_what_cannot_be_measured_is_said():
    few = cases(0, 10, only='error_correction')
    chat = [
        Record(messages=(Message('user', 'Hi.'),), case_id=str(i), category='image_reasoning')
        for i in range(60)
    ]
    one_case = [dataclasses.replace(r, case_id='one') for r in cases(0, 30, only='omission_detection')]
    found = shortcuts.shortcut_baselines([*few, *chat, *one_case, Record(text='Some words.')], few)
    assert found['categories'] == {}
    assert found['skipped'] == {
        'error_correction': 'under 50 training records',
        'image_reasoning': 'nothing to choose',
        'omission_detection': 'under 5 training cases',
    }
    assert shortcuts.table(found).splitlines() == [
        'shortcuts: nothing measured',
        'not measured, under 50 training records: error_correction',
        'not measured, nothing to choose: image_reasoning',
        'not measured, under 5 training cases: omission_detection',
    ]
    found = shortcuts.shortcut_baselines([dataclasses.replace(record, category='') for record in few], few)
    assert shortcuts.table(found).endswith('under 50 training records: records without a category')


def test_the_card_has_them(tmp_path):
    card = app.prepare(['synthetic:70:2'], tmp_path / 'set')
    assert json.loads((tmp_path / 'set' / 'card.json').read_text())['shortcuts'] == card['shortcuts']
    row = card['shortcuts']['categories']['omission_detection']
    assert (row['train'], row['test']) == (112, 14)
    assert row['behavior']['bag_of_words']['held_out'] is None
    head, first, *_ = shortcuts.table(card['shortcuts']).splitlines()
    assert head.split() == ['shortcuts', 'choice', 'chance', *shortcuts.VIEWS]
    assert first.split()[:3] == ['ambiguity_clarification', 'behavior', '-/0.50']


def test_features_are_counted_as_by_name_in_little_memory():
    rows = [[f'w{(i * k) % 997} & x{i % 7}' for k in range(400)] for i in range(200)]
    vectorizer = CountVectorizer(analyzer=lambda row: ['', *row], min_df=2).fit(rows[:150])
    named = vectorizer.transform(rows).toarray()
    tracemalloc.start()
    counted = shortcuts._counts(([f'{name}' for name in row] for row in rows), 150)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(map(tuple, counted.toarray().T)) == sorted(map(tuple, named.T))
    assert peak < 60 * 200 * 401, 'bytes for a name in a row: its hash, its place and its count, no text'
