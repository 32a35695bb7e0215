"""Checks that shortcuts fail on the synthetic tasks and detect planted leaks."""

import dataclasses
import json
import tracemalloc

import pytest
from sklearn.feature_extraction.text import CountVectorizer

from bsft_jax.behaviorbench import shortcuts
from bsft_jax.behaviorbench.builders import BUILDERS, records_of
from bsft_jax.behaviorbench.simulator.cases import simulate
from bsft_jax.commands import prepare
from bsft_jax.records.record import Message, Record
from bsft_jax.records.taxonomy import group_of

CHOSEN = [category for category in BUILDERS if group_of(category) != 'reactive']


def cases(first, last, held_out=False, only=None, difficulty=3):
    """Returns the records of simulated cases, of all categories or of one."""
    records = [
        r
        for i in range(first, last)
        for r in records_of(simulate(11, i), held_out=held_out, difficulty=difficulty)
    ]
    return [r for r in records if only in (None, r.category)]


@pytest.fixture(scope='module')
def measured():
    return shortcuts.shortcut_baselines(cases(0, 400), cases(400, 700, held_out=True))


def check_behavior_is_hidden(measured):
    for category in CHOSEN:
        behavior = measured['categories'][category]['behavior']
        assert behavior['chance'] == {'held_out': 0.5, 'cross_validated': 0.5}
        assert max(a for view in shortcuts.VIEWS for a in behavior[view].values()) <= 0.60, category
    assert shortcuts.leak_warnings(measured) == []


def test_synthetic_tasks_do_not_give_the_behavior_away(measured):
    assert set(measured['categories']) == set(BUILDERS) and not measured['skipped']
    check_behavior_is_hidden(measured)


@pytest.mark.slow
def test_clinical_notes_do_not_give_the_behavior_away():
    train, test = (
        [r for r in cases(*ends, held_out, difficulty=4) if r.category in CHOSEN]
        for *ends, held_out in ((0, 400, False), (400, 700, True))
    )
    check_behavior_is_hidden(shortcuts.shortcut_baselines(train, test))


def test_difficulty_levels_are_measured_apart():
    def of(first, last, *levels, held_out=False):
        only = 'omission_detection'
        return [r for d in levels for r in cases(first, last, held_out, only, difficulty=d)]

    train, test = of(0, 60, 1, 3), of(60, 100, 3, held_out=True)
    measured = shortcuts.shortcut_baselines(train, test)
    assert measured == {
        'difficulties': {
            '1': shortcuts.shortcut_baselines(of(0, 60, 1), []),
            '3': shortcuts.shortcut_baselines(of(0, 60, 3), test),
        }
    }
    # Level 1 gives the behavior away, which is no fault as nothing is tested on it.
    simple = measured['difficulties']['1']
    row = simple['categories']['omission_detection']['behavior']
    assert row['bag_of_words']['held_out'] is None and row['bag_of_words']['cross_validated'] > 0.9
    assert len(shortcuts.leak_warnings(simple)) == 1 and shortcuts.leak_warnings(measured) == []
    lines = shortcuts.format_baselines(measured).splitlines()
    assert [line for line in lines if line.startswith('difficulty')] == [
        'difficulty 1',
        'difficulty 3',
    ]
    assert sum(line.startswith('omission_detection  behavior') for line in lines) == 2

    leaky = [leak_in_message(r) if r.behavior == 'proactive' else r for r in of(0, 60, 3)]
    measured = shortcuts.shortcut_baselines([*of(0, 60, 1), *leaky], test)
    (warning,) = shortcuts.leak_warnings(measured)
    assert warning.startswith('warning: difficulty 3, omission_detection: bag_of_words tells')
    assert shortcuts.format_baselines(measured).endswith(f'\n{warning}')

    unlevelled = [dataclasses.replace(r, difficulty=None) for r in of(0, 60, 3)]
    measured = shortcuts.shortcut_baselines([*unlevelled, *train], [])
    assert list(measured['difficulties']) == ['1', '3', 'none']
    measured = shortcuts.shortcut_baselines([*unlevelled, *of(0, 60, 3)], [])
    assert measured['categories']['omission_detection']['train'] == 240


def test_answers_are_scored_over_the_options(measured):
    rows = measured['categories']
    assert all(set(row['answer']['chance'].values()) == {0.25} for row in rows.values())
    assert all(rows[c]['behavior'] is None for c in BUILDERS if c not in CHOSEN)
    # The words of the findings name the diagnosis; the options alone do not.
    assert rows['differential_diagnosis']['answer']['bag_of_words']['held_out'] > 0.8
    assert rows['differential_diagnosis']['answer']['options_only']['held_out'] < 0.4


def test_overall_is_over_records(measured):
    rows = [measured['categories'][category] for category in CHOSEN]
    for measure, split in (('held_out', 'test'), ('cross_validated', 'train')):
        right = sum(row['behavior']['bag_of_words'][measure] * row[split] for row in rows)
        overall = measured['overall']['behavior']['bag_of_words'][measure]
        assert overall == pytest.approx(right / sum(row[split] for row in rows), abs=2e-4)


def leak_in_message(record, word='Well.'):
    first, *rest = record.messages
    first = dataclasses.replace(first, content=f'{word} {first.content}')
    return dataclasses.replace(record, messages=(first, *rest))


def leak_in_options(record):
    return dataclasses.replace(record, options=(record.options[0] + ' now', *record.options[1:]))


def leak_in_request(record):
    *before, last = record.messages
    last = dataclasses.replace(last, content=f'{last.content[:-1]} soon{last.content[-1]}')
    return dataclasses.replace(record, messages=(*before, last))


@pytest.mark.parametrize(
    'leak, seen_by',
    [
        (leak_in_message, {'bag_of_words'}),
        (leak_in_options, {'bag_of_words', 'options_only'}),
        (leak_in_request, {'bag_of_words', 'request_only'}),
    ],
)
def test_a_planted_leak_is_detected_by_the_views_that_contain_it(leak, seen_by):
    train, test = (
        [leak(r) if r.behavior == 'proactive' else r for r in rows]
        for rows in (
            cases(0, 60, only='omission_detection'),
            cases(60, 100, held_out=True, only='omission_detection'),
        )
    )
    measured = shortcuts.shortcut_baselines(train, test)
    behavior = measured['categories']['omission_detection']['behavior']
    for view in shortcuts.VIEWS:
        assert all((accuracy > 0.9) == (view in seen_by) for accuracy in behavior[view].values()), (
            view
        )
    lines = shortcuts.leak_warnings(measured)
    assert {line.split(': ')[2].split()[0] for line in lines} == seen_by
    assert shortcuts.format_baselines(measured).splitlines()[-len(lines) :] == lines


def test_other_words_in_the_test_split_do_not_hide_a_leak():
    train = cases(0, 60, only='error_correction')
    leaky = [leak_in_message(r) if r.behavior == 'proactive' else r for r in train]
    measured = shortcuts.shortcut_baselines(leaky, cases(60, 100, only='error_correction'))
    accuracy = measured['categories']['error_correction']['behavior']['bag_of_words']
    assert accuracy['held_out'] < 0.7 and accuracy['cross_validated'] > 0.9
    assert ['cross validated' in line for line in shortcuts.leak_warnings(measured)] == [True]


def test_the_ranking_detects_a_leak_in_the_correct_option():
    def leak(record):
        options = [f'{o} too' if i == record.answer else o for i, o in enumerate(record.options)]
        return dataclasses.replace(record, options=tuple(options))

    train, test = (
        [leak(r) for r in cases(first, last, only='omission_detection')]
        for first, last in ((0, 40), (40, 70))
    )
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


def test_a_large_category_is_cut_to_the_same_cases_in_any_order(monkeypatch):
    monkeypatch.setattr(shortcuts, 'MAX_RECORDS', 60)
    records = cases(0, 60, only='omission_detection')
    chosen = {r.id for r in shortcuts._by_category(records)['omission_detection']}
    assert len(chosen) == 60 and len({name[:-2] for name in chosen}) == 30
    assert chosen == {r.id for r in shortcuts._by_category(records[::-1])['omission_detection']}
    assert chosen != {r.id for r in records[:60]}


def baselines(accuracy, chance, records):
    views = {view: dict.fromkeys(shortcuts.MEASURES, chance) for view in shortcuts.VIEWS}
    views['chance'] = dict.fromkeys(shortcuts.MEASURES, chance)
    views['bag_of_words'] = {'held_out': accuracy, 'cross_validated': None}
    row = {'train': 0, 'test': records, 'behavior': views, 'answer': None}
    return {'categories': {'error_correction': row}, 'overall': row, 'skipped': {}}


def test_warnings_need_an_accuracy_above_the_limit_that_is_no_accident():
    assert shortcuts.leak_warnings(baselines(0.61, 0.5, 1000)) == [
        'warning: error_correction: bag_of_words tells the behavior: '
        'held out 0.61 of 1000 records, limit 0.60'
    ]
    assert not shortcuts.leak_warnings(baselines(0.60, 0.5, 1000))
    assert not shortcuts.leak_warnings(baselines(0.61, 0.5, 60)), (
        'a few records reach this by accident'
    )
    assert not shortcuts.leak_warnings(baselines(0.75, 0.7, 1000)), (
        'predicting the more frequent behavior reaches this'
    )
    assert shortcuts.leak_warnings(baselines(0.85, 0.7, 1000))


def test_categories_that_cannot_be_measured_are_listed_with_the_reason():
    few = cases(0, 10, only='error_correction')
    chat = [
        Record(messages=(Message('user', 'Hi.'),), case_id=str(i), category='image_reasoning')
        for i in range(60)
    ]
    one_case = [
        dataclasses.replace(r, case_id='one') for r in cases(0, 30, only='omission_detection')
    ]
    measured = shortcuts.shortcut_baselines(
        [*few, *chat, *one_case, Record(text='Some words.')], few
    )
    assert measured['categories'] == {}
    assert measured['skipped'] == {
        'error_correction': 'under 50 training records',
        'image_reasoning': 'nothing to choose',
        'omission_detection': 'under 5 training cases',
    }
    assert shortcuts.format_baselines(measured).splitlines() == [
        'shortcuts: nothing measured',
        'not measured, under 50 training records: error_correction',
        'not measured, nothing to choose: image_reasoning',
        'not measured, under 5 training cases: omission_detection',
    ]
    measured = shortcuts.shortcut_baselines(
        [dataclasses.replace(record, category='') for record in few], few
    )
    assert shortcuts.format_baselines(measured).endswith(
        'under 50 training records: records without a category'
    )


def test_the_card_has_the_baselines(tmp_path):
    card = prepare.prepare(['synthetic:70:2'], tmp_path / 'set')
    assert (
        json.loads((tmp_path / 'set' / 'card.json').read_text())['shortcuts'] == card['shortcuts']
    )
    row = card['shortcuts']['categories']['omission_detection']
    assert (row['train'], row['test']) == (112, 14)
    assert row['behavior']['bag_of_words']['held_out'] is None
    header, first, *_ = shortcuts.format_baselines(card['shortcuts']).splitlines()
    assert header.split() == ['shortcuts', 'choice', 'chance', *shortcuts.VIEWS]
    assert first.split()[:3] == ['ambiguity_clarification', 'behavior', '-/0.50']


def test_features_are_counted_as_by_name_without_storing_names():
    rows = [[f'w{(i * k) % 997} & x{i % 7}' for k in range(400)] for i in range(200)]
    vectorizer = CountVectorizer(analyzer=lambda row: ['', *row], min_df=2).fit(rows[:150])
    named = vectorizer.transform(rows).toarray()
    tracemalloc.start()
    counted = shortcuts._count_features(([f'{name}' for name in row] for row in rows), 150)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(map(tuple, counted.toarray().T)) == sorted(map(tuple, named.T))
    assert peak < 60 * 200 * 401, (
        'each name in a row takes its hash, its column and its count, and no text'
    )
