"""Tests risk and coverage, and confusions of behaviors, against naive loops and scikit-learn."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from bsft_jax.evaluation import metrics, selective
from bsft_jax.inference import policies
from tests.evaluation.test_stepping_in import CATEGORIES, FIVE, LEVELS, metrics_of, random_rows


def naive_aurc(wrong_R, confidence_R):
    """Returns the mean share of wrong answers among the k most confident, over all k."""
    order = sorted(range(len(wrong_R)), key=lambda r: -confidence_R[r])
    risks = [np.mean([wrong_R[r] for r in order[:k]]) for k in range(1, len(order) + 1)]
    return float(np.mean(risks))


@pytest.mark.parametrize('seed', range(10))
def test_aurc_is_the_mean_risk(seed):
    rng = np.random.default_rng(seed)
    confidence_R = rng.random(rng.integers(1, 80))
    wrong_R = rng.random(len(confidence_R)) > confidence_R
    found = selective.area_under_risk_coverage(wrong_R, confidence_R)
    assert found == pytest.approx(naive_aurc(wrong_R, confidence_R), abs=1e-12)


def test_equal_confidences_stand_in_all_orders():
    rng = np.random.default_rng(0)
    confidence_R, wrong_R = rng.integers(4, size=40) / 4, rng.random(40) < 0.4
    orders = [naive_aurc(wrong_R, confidence_R + 1e-6 * rng.permutation(40)) for _ in range(3000)]
    error = np.std(orders) / 3000**0.5
    found = selective.area_under_risk_coverage(wrong_R, confidence_R)
    assert found == pytest.approx(np.mean(orders), abs=4 * error)


@pytest.mark.parametrize('policy', ['auto', 'none', 'mixture', 'dial:1'])
def test_the_most_confident_answers_are_scored(policy):
    rows, behaviors = random_rows(0)
    rows = policies.apply_policy(rows, policies.parse_policy(policy, behaviors))
    found = metrics_of(rows, policy=policy)['selective']
    by_confidence = sorted(rows, key=lambda row: -row['confidence'])
    for percent, kept in ((80, 72), (90, 81), (95, 86)):
        f1 = [
            sk.f1_score(
                [r['answer'] for r in by_confidence[:kept] if r['category'] == name],
                [r['prediction'] for r in by_confidence[:kept] if r['category'] == name],
                average='macro',
                zero_division=0,
            )
            for name in CATEGORIES
        ]
        assert found[f'macro_f1_at_{percent}_percent'] == pytest.approx(np.mean(f1), abs=1e-12)
    wrong_R = np.array([row['answer'] != row['prediction'] for row in rows])
    confidence_R = np.array([row['confidence'] for row in rows])
    assert found['aurc'] == pytest.approx(naive_aurc(wrong_R, confidence_R), abs=1e-12)


def test_confidence_is_the_probability_of_the_chosen_option():
    rows, behaviors = random_rows(1)
    for policy in ('auto', 'none', 'forced:proactive', 'mixture'):
        for row in policies.apply_policy(rows, policies.parse_policy(policy, behaviors)):
            taken = row['behavior_prediction'] or 'none'
            p_K = np.exp(row['option_logprobs'][taken])
            p_K = p_K / p_K.sum()
            if policy == 'mixture':
                weights = np.exp(list(row['behavior_logprobs'].values()))
                p_nK = np.exp([row['option_logprobs'][n] for n in row['behavior_logprobs']])
                p_K = weights / weights.sum() @ (p_nK / p_nK.sum(1, keepdims=True))
            assert row['confidence'] == pytest.approx(p_K[row['prediction']], abs=1e-12)
            assert row['confidence'] == pytest.approx(p_K.max(), abs=1e-12)


def test_records_as_confident_as_the_last_are_kept_and_a_category_may_be_missing():
    rows = [
        {'answer': 0, 'prediction': int(i >= 8), 'category': c, 'confidence': x}
        for i, (c, x) in enumerate([('a', 0.9)] * 8 + [('b', 0.5)] + [('a', 0.5)])
    ]
    found = metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')
    assert found['selective']['macro_f1_at_80_percent'] == 1.0
    full = found['overall']['macro_f1']
    assert found['selective']['macro_f1_at_90_percent'] == full < 1
    assert found['selective']['aurc'] == pytest.approx((1 / 9 + 2 / 10) / 10)
    rows[0]['confidence'] = None
    assert (
        metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')['selective'] is None
    )


@pytest.mark.parametrize('levels', [LEVELS, FIVE])
def test_confusions_are_those_of_scikit_learn(levels):
    rows, _ = random_rows(2, levels)
    rows = [{**row, 'group': 'ab'[row['category'] == CATEGORIES[0]]} for row in rows]
    rows[1]['option_behaviors'] = []
    found = metrics_of(rows, levels)['confusion']
    names = sorted(levels, key=levels.get)
    assert found['behaviors'] == names

    def expected(rows, taken):
        pairs = [(row['behavior'], taken(row)) for row in rows if row['behavior'] and taken(row)]
        return sk.confusion_matrix(*zip(*pairs, strict=True), labels=names).tolist()

    def answered(row):
        return row['option_behaviors'] and row['option_behaviors'][row['prediction']]

    assert found['answers'] == expected(rows, answered)
    assert found['tokens'] == expected(rows, lambda row: row['behavior_prediction'])
    for group in 'ab':
        own = [row for row in rows if row['group'] == group]
        assert found['groups'][group] == expected(own, answered)
    assert json.loads(json.dumps(found)) == found
    # Without options that stand for behaviors, groups are counted by tokens.
    bare = [{**row, 'option_behaviors': []} for row in rows]
    found = metrics_of(bare, levels)['confusion']
    assert found['answers'] is None
    assert np.sum(list(found['groups'].values()), axis=0).tolist() == found['tokens']
    assert metrics_of([{**row, 'behavior': None} for row in rows], levels)['confusion'] is None


def test_levels_are_overshot_and_undershot_by_how_much():
    rows, _ = random_rows(3, FIVE)
    found = metrics_of(rows, FIVE)['intervention']
    pairs = [
        (FIVE[row['option_behaviors'][row['prediction']]], FIVE[row['behavior']])
        for row in rows
        if row['behavior']
    ]
    over = [max(0.0, chosen - label) for chosen, label in pairs if label < 1]
    under = [max(0.0, label - chosen) for chosen, label in pairs if label > 0]
    assert found['overshoot'] == pytest.approx(np.mean(over), abs=1e-12) and np.mean(over) > 0
    assert found['undershoot'] == pytest.approx(np.mean(under), abs=1e-12) and np.mean(under) > 0
    rows, _ = random_rows(3)
    found = metrics_of(rows)['intervention']
    assert found['overshoot'] == found['over_intervention_rate']
    assert found['undershoot'] == found['missed_intervention_rate']


def test_mcnemar_equals_statsmodels():
    tables = pytest.importorskip(
        'statsmodels.stats.contingency_tables', reason='pip install statsmodels'
    )
    from bsft_jax.evaluation import statistics

    for only_a, only_b in ((0, 0), (1, 5), (12, 3), (40, 41)):
        expected = tables.mcnemar([[9, only_a], [only_b, 9]], exact=True).pvalue
        assert statistics.mcnemar_p(only_a, only_b) == pytest.approx(expected, abs=1e-12)
