"""Tests metrics against scikit-learn and by hand."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics
from bsft_jax.records import taxonomy

NAMES = sorted(taxonomy.CATEGORIES)


def sk_f1(answers, predictions):
    return sk.f1_score(answers, predictions, average='macro', zero_division=0)


def rows_of(answers, predictions, categories, **columns):
    rows = [
        {
            'id': str(n),
            'answer': int(a),
            'prediction': int(p),
            'category': c,
            'group': taxonomy.group_of(c),
        }
        for n, (a, p, c) in enumerate(zip(answers, predictions, categories, strict=True))
    ]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def metrics_of(rows, **kwargs):
    return metrics.metrics_from_predictions(rows, policy='auto', prompt='plain', **kwargs)


@pytest.mark.parametrize('seed', range(20))
def test_confusion_macro_f1_equals_sklearn(seed):
    rng = np.random.default_rng(seed)
    options = int(rng.integers(2, 7))
    answers = rng.integers(rng.integers(1, options + 1), size=rng.integers(1, 30))
    predictions = rng.integers(options, size=len(answers))
    counts = metrics.confusion_counts(
        answers, predictions, np.zeros_like(answers), categories=1, options=options + 2
    )
    assert abs(metrics.confusion_macro_f1(counts[0]) - sk_f1(answers, predictions)) < 1e-12


def test_a_single_class_and_no_count_at_all():
    assert metrics.confusion_macro_f1(np.diag([0, 5, 0])) == 1.0
    assert metrics.confusion_macro_f1(np.array([[0, 3], [0, 0]])) == 0.0
    assert np.isnan(metrics.confusion_macro_f1(np.zeros((3, 3))))


@pytest.mark.parametrize('seed', range(5))
def test_metrics_equal_sklearn_and_the_confusion_counts(seed):
    rng = np.random.default_rng(seed)
    names = list(rng.permutation(NAMES)[: rng.integers(1, 14)])
    n = 257
    categories = rng.choice(names, n)
    answers = rng.integers(4, size=n)
    predictions = np.where(rng.random(n) < 0.5, answers, rng.integers(4, size=n))
    result = metrics_of(rows_of(answers, predictions, categories))

    by_category = {
        c: sk_f1(answers[categories == c], predictions[categories == c]) for c in set(categories)
    }
    by_group = {}
    for c, value in by_category.items():
        by_group.setdefault(taxonomy.group_of(c), []).append(value)
    found = {c: e['macro_f1'] for c, e in result['categories'].items()}
    assert found == pytest.approx(by_category, abs=1e-12)
    means = {g: np.mean(v) for g, v in by_group.items()}
    assert {g: e['macro_f1'] for g, e in result['groups'].items()} == pytest.approx(
        means, abs=1e-12
    )
    assert result['overall']['macro_f1'] == pytest.approx(
        np.mean(list(by_category.values())), abs=1e-12
    )
    assert result['overall']['macro_f1_pooled'] == pytest.approx(
        sk_f1(answers, predictions), abs=1e-12
    )
    assert result['overall']['accuracy'] == pytest.approx(
        sk.accuracy_score(answers, predictions), abs=1e-12
    )
    assert result['overall']['n'] == n

    numbers = np.array([NAMES.index(c) for c in categories])
    counts = metrics.confusion_counts(
        answers, predictions, numbers, categories=len(NAMES), options=6
    )
    from_counts = metrics.metrics_from_confusion(counts, NAMES)
    assert from_counts['categories'] == pytest.approx(by_category, abs=1e-12)
    assert from_counts['groups'] == pytest.approx(means, abs=1e-12)
    assert from_counts['overall'] == pytest.approx(result['overall']['macro_f1'], abs=1e-12)
    assert from_counts['macro_f1_pooled'] == pytest.approx(
        result['overall']['macro_f1_pooled'], abs=1e-12
    )


def test_each_difficulty_has_the_metrics_of_its_rows():
    rng = np.random.default_rng(3)
    n = 120
    rows = rows_of(
        rng.integers(4, size=n),
        rng.integers(4, size=n),
        rng.choice(NAMES[:3], n),
        difficulty=rng.choice([None, 1, 4], n),
        behavior=rng.choice(['reactive', 'proactive'], n),
        case_id=[f'c{i // 3}' for i in range(n)],
        pair_id=[f'p{i // 2}' for i in range(n)],
        option_behaviors=[['reactive', 'reactive', 'proactive', 'proactive']] * n,
        behavior_logprobs=[
            dict(zip(('reactive', 'proactive'), pair, strict=True))
            for pair in np.log(rng.dirichlet((1, 1), n))
        ],
    )
    found = metrics_of(rows)['difficulties']
    assert list(found) == ['1', '4']
    for level, sections in found.items():
        own = metrics_of([row for row in rows if row['difficulty'] == int(level)])
        assert list(sections) == ['overall', 'groups', 'categories', 'selection', 'intervention']
        assert sections == {section: own[section] for section in sections}
        assert own['difficulties'] == {level: sections}
    assert found['1']['selection']['n'] != found['4']['selection']['n']
    assert found['1']['overall']['macro_f1'] != found['4']['overall']['macro_f1']
    assert metrics_of([{**row, 'difficulty': None} for row in rows])['difficulties'] == {}


def test_empty_counts_have_no_metrics():
    empty = metrics.metrics_from_confusion(np.zeros((2, 3, 3), int), NAMES[:2])
    assert empty == {'categories': {}, 'groups': {}, 'overall': None, 'macro_f1_pooled': None}


def test_metrics_are_json_and_name_their_schema():
    rows = rows_of([0, 1], [0, 0], [NAMES[0]] * 2)
    result = metrics.metrics_from_predictions(
        rows, policy='forced:reactive', prompt='few_shot:2', dial=0.5
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    expected = {'schema': 1, 'policy': 'forced:reactive', 'prompt': 'few_shot:2', 'dial': 0.5}
    assert {name: result[name] for name in expected} == expected
    assert result['selection'] is None
    assert set(result['intervention'].values()) == {None, 0}


def test_rows_without_an_answer_are_left_out():
    rows = rows_of([0, 1], [0, 0], [NAMES[0]] * 2)
    text = {'id': 'x', 'answer': None, 'prediction': None, 'category': NAMES[1]}
    assert metrics_of([*rows, text]) == metrics_of(rows)
    with pytest.raises(UserError, match='no record has options'):
        metrics_of([text])


def test_twins_without_a_case_are_resampled_together():
    rows = rows_of([0, 1] * 10, [0, 0] * 10, [NAMES[0]] * 20)
    for i, row in enumerate(rows):
        row |= {'id': f'r{i}', 'case_id': '', 'pair_id': f'p{i // 2}'}
    assert metrics_of(rows)['overall']['cases'] == 10


def test_groups_stand_in_the_order_of_the_taxonomy():
    result = metrics_of(rows_of([0] * len(NAMES), [0] * len(NAMES), NAMES))
    assert list(result['groups']) == list(taxonomy.GROUPS)


def choice_rows(seed=0, n=400, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.choice(['reactive', 'proactive'], n)
    p = rng.random(n)
    if ties:
        p = np.round(p, 1).clip(0.1, 0.9)
    scale = rng.random(n) * 0.5
    logprobs = [
        {'reactive': float(np.log((1 - q) * s)), 'proactive': float(np.log(q * s))}
        for q, s in zip(p, scale, strict=True)
    ]
    rows = rows_of([0] * n, [0] * n, [NAMES[0]] * n, behavior=labels, behavior_logprobs=logprobs)
    return rows, labels, p


@pytest.mark.parametrize('ties', [False, True])
def test_selection_equals_sklearn_on_renormalised_probabilities(ties):
    rows, labels, p = choice_rows(ties=ties)
    positive_R = labels == 'proactive'
    result = metrics.selection_metrics(rows)
    chosen = np.where(p > 0.5, 'proactive', 'reactive')
    if not ties:
        assert result['macro_f1'] == pytest.approx(sk_f1(labels, chosen), abs=1e-12)
    assert result['auroc'] == pytest.approx(
        sk.roc_auc_score(positive_R, p), abs=1e-9 if not ties else 0.02
    )
    assert result['brier'] == pytest.approx(sk.brier_score_loss(positive_R, p), abs=1e-12)
    assert result['n'] == len(rows)


def test_selection_of_other_behaviors():
    logprobs = [
        {'quiet': -1.0, 'fair': -2.0, 'bold': -3.0},
        {'quiet': -3.0, 'fair': -2.0, 'bold': -1.0},
    ]
    rows = rows_of(
        [0, 0], [0, 0], [NAMES[0]] * 2, behavior=['quiet', 'bold'], behavior_logprobs=logprobs
    )
    assert metrics.selection_metrics(rows, positive='bold')['auroc'] == 1.0
    assert metrics.selection_metrics(rows)['auroc'] is None
    assert metrics.selection_metrics(rows)['macro_f1'] == 1.0
    rows[0]['behavior'] = None
    assert metrics.selection_metrics(rows)['n'] == 1
    assert metrics.selection_metrics([rows[0]]) is None


def test_intervention_by_hand():
    options = ['reactive', 'proactive', 'proactive']
    rows = rows_of(
        [0, 0, 0, 1, 2, 2],
        [0, 1, 2, 2, 0, 2],
        [NAMES[0]] * 6,
        behavior=['reactive'] * 3 + ['proactive'] * 3,
        option_behaviors=[options] * 6,
        behavior_prediction=[
            'reactive',
            'reactive',
            'proactive',
            'proactive',
            'proactive',
            'reactive',
        ],
        pair_id=['a', 'b', '', 'a', 'c', 'c'],
        option_logprobs=[
            {'none': [0, -1, -1], 'reactive': [0, -1, -1], 'proactive': [-1, 0, -1]},
            {'none': [0, -1, -1], 'reactive': [0, -1, -1], 'proactive': [0, -1, -2]},
            {'none': [0, -1, -1]},
            {'none': [0, -1, -1], 'reactive': [-1, 0, -1]},
            {'reactive': [-1, 0, -1], 'proactive': [-1, 0, -1]},
            {'reactive': [-1, 0, -1], 'proactive': [-1, 0, -1]},
        ],
    )
    assert metrics.intervention_metrics(rows) == {
        'over_intervention_rate': pytest.approx(2 / 3),
        'missed_intervention_rate': pytest.approx(1 / 3),
        'overshoot': pytest.approx(2 / 3),
        'undershoot': pytest.approx(1 / 3),
        'token_over_intervention_rate': pytest.approx(1 / 3),
        'token_missed_intervention_rate': pytest.approx(1 / 3),
        'twin_score': 0.0,
        'pairs': 2,
        'flip_rate': pytest.approx(1 / 4),
    }
    rows[4]['prediction'] = 2
    assert metrics.intervention_metrics(rows)['twin_score'] == 0.5


def test_intervention_compares_the_levels_of_more_than_two_behaviors():
    levels = {'silent': 0.0, 'brief': 0.25, 'balanced': 0.5, 'leading': 1.0}
    names = list(levels)
    labels = ['silent', 'brief', 'balanced', 'leading', 'leading', 'brief']
    chosen = ['brief', 'brief', 'silent', 'balanced', 'leading', 'leading']
    rows = rows_of(
        [names.index(name) for name in labels],
        [names.index(name) for name in chosen],
        [NAMES[0]] * 6,
        behavior=labels,
        option_behaviors=[names] * 6,
        behavior_prediction=chosen[::-1],
        pair_id=[''] * 6,
        option_logprobs=[None] * 6,
    )
    result = metrics.intervention_metrics(rows, positive='leading', levels=levels)
    # Too high: 1, 6 of the four labels below leading; too low: 3, 4 of the five above silent.
    assert result['over_intervention_rate'] == 2 / 4
    assert result['missed_intervention_rate'] == 2 / 5
    assert result['overshoot'] == (0.25 + 0.75) / 4
    assert result['undershoot'] == (0.5 + 0.5) / 5
    assert result['token_over_intervention_rate'] == 2 / 4
    assert result['token_missed_intervention_rate'] == 2 / 5
    # Two behaviors: the highest against the other, at whatever levels.
    two = rows_of(
        [0, 0, 1, 1],
        [0, 1, 1, 0],
        [NAMES[0]] * 4,
        behavior=['a', 'a', 'b', 'b'],
        option_behaviors=[['a', 'b']] * 4,
    )
    for low, high in ((0.0, 1.0), (0.4, 0.6)):
        result = metrics.intervention_metrics(two, positive='b', levels={'a': low, 'b': high})
        shot = {name: pytest.approx((high - low) / 2) for name in ('overshoot', 'undershoot')}
        assert result == metrics.intervention_metrics(two, positive='b') | shot
        assert result['over_intervention_rate'] == result['missed_intervention_rate'] == 0.5


def test_intervention_is_null_where_no_record_counts():
    rows = rows_of(
        [0], [0], [NAMES[0]], behavior=['reactive'], option_behaviors=[['reactive', 'proactive']]
    )
    result = metrics.intervention_metrics(rows)
    assert result['over_intervention_rate'] == 0.0
    assert [k for k, v in result.items() if v is None] == [
        'missed_intervention_rate',
        'undershoot',
        'token_over_intervention_rate',
        'token_missed_intervention_rate',
        'twin_score',
        'flip_rate',
    ]


def test_rows_without_a_category_count_by_their_group_and_as_the_counts_do():
    groups = ['reactive', 'proactive', 'reactive', 'proactive', 'reactive', '']
    answers, predictions = [0, 1, 1, 0, 1, 0], [0, 1, 0, 1, 1, 1]
    rows = rows_of(answers, predictions, ['omission_detection'] * 6)
    for row, group in zip(rows[:5], groups, strict=False):
        row |= {'category': '', 'group': group}
    result = metrics_of(rows)
    assert {group: entry['n'] for group, entry in result['groups'].items()} == {
        'reactive': 3,
        'proactive': 3,
    }

    names = [metrics.category_of(row) for row in rows]
    assert names == [
        'reactive',
        'proactive',
        'reactive',
        'proactive',
        'reactive',
        'omission_detection',
    ]
    kinds = sorted(set(names))
    numbers = np.array([kinds.index(name) for name in names])
    shape = {'categories': len(kinds), 'options': 2}
    counts = metrics.confusion_counts(np.array(answers), np.array(predictions), numbers, **shape)
    counted = metrics.metrics_from_confusion(counts, kinds)
    for part in ('categories', 'groups'):
        assert counted[part] == pytest.approx({k: e['macro_f1'] for k, e in result[part].items()})
    assert counted['overall'] == pytest.approx(result['overall']['macro_f1'])
