"""Tests the section `stepping_in` of metrics.json: against scikit-learn, policies and by hand."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from bsft_jax.behaviors import Behavior, BehaviorSet
from bsft_jax.evaluation import metrics, stepping_in
from bsft_jax.inference import policies

NAMES = ('reactive', 'proactive')
LEVELS = {'reactive': 0.0, 'proactive': 1.0}
FIVE = {'silent': 0.0, 'brief': 0.25, 'balanced': 0.5, 'active': 0.75, 'leading': 1.0}
CATEGORIES = ('temporal_ordering', 'medication_safety', 'omission_detection')


def random_rows(seed, levels=LEVELS, *, tokens=True, records=90):
    """Returns rows of predictions.jsonl whose scores are float32 values, as evaluate writes them.

    A fifth of the records leaves no choice, a tenth has no label.
    """
    rng, names = np.random.default_rng(seed), list(levels)
    rows = []
    for i in range(records):
        stands_for = [names[k] for k in rng.permutation(max(4, len(names))) % len(names)]
        if i % 5 == 4:
            stands_for = [names[0]] * 4
        answer = int(rng.integers(len(stands_for)))
        label = stands_for[answer]
        scores = {
            name: (rng.normal(-2, 1, size=len(stands_for)) + 3 * (np.array(stands_for) == name))
            for name in ('none', *names)
        }
        scores['none'][answer] += 1
        chosen = {name: rng.normal(-2, 2) + 2 * (name == label) for name in names}
        rows.append(
            {
                'id': f'r{i}',
                'case_id': f'c{i // 6}',
                'category': CATEGORIES[i % 3],
                'answer': answer,
                'behavior': label if i % 10 else None,
                'option_behaviors': stands_for,
                'option_logprobs': {
                    name: np.float32(x).tolist()
                    for name, x in scores.items()
                    if tokens or name == 'none'
                },
                'behavior_logprobs': {n: float(np.float32(x)) for n, x in chosen.items()}
                if tokens
                else None,
            }
        )
    kind, n = ('tokens', len(names)) if tokens else ('none', 0)
    behaviors = BehaviorSet(tuple(Behavior(n, x, '') for n, x in levels.items()), ((),) * n, kind)
    auto = policies.parse_policy('auto', behaviors)
    return policies.apply_policy(rows, auto), behaviors


def metrics_of(rows, levels=LEVELS, policy='auto'):
    positive = max(levels, key=levels.get)
    return metrics.metrics_from_predictions(
        rows, policy=policy, prompt='plain', positive=positive, levels=levels
    )


@pytest.mark.parametrize('levels', [LEVELS, FIVE])
@pytest.mark.parametrize('seed', range(3))
def test_tokens_are_scored_as_scikit_learn_does(seed, levels):
    rows, _ = random_rows(seed, levels)
    found = metrics_of(rows, levels)['stepping_in']
    kept = [
        r for r in rows if r['behavior'] and len({levels[n] for n in r['option_behaviors']}) > 1
    ]
    lowest = min(levels, key=levels.get)
    due_R = np.array([r['behavior'] != lowest for r in kept])
    logprob_Rn = np.array([list(r['behavior_logprobs'].values()) for r in kept])
    probs_Rn = np.exp(logprob_Rn)
    p_R = 1 - probs_Rn[:, list(levels).index(lowest)] / probs_Rn.sum(1)
    assert (found['source'], found['n'], found['due']) == ('tokens', len(kept), due_R.sum())
    assert found['auroc'] == pytest.approx(sk.roc_auc_score(due_R, p_R), abs=1e-12)
    assert found['average_precision'] == pytest.approx(
        sk.average_precision_score(due_R, p_R), abs=1e-12
    )
    assert found['brier'] == pytest.approx(sk.brier_score_loss(due_R, p_R), abs=1e-12)
    bins = np.minimum((p_R * 15).astype(int), 14)
    gaps = [abs((p_R - due_R)[bins == b].sum()) for b in range(15)]
    assert found['ece'] == pytest.approx(sum(gaps) / len(kept), abs=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_options_are_scored_as_scikit_learn_does(seed):
    rows, _ = random_rows(seed, tokens=False)
    found = metrics_of(rows)['stepping_in']
    kept = [r for r in rows if r['behavior'] and len(set(r['option_behaviors'])) > 1]
    due_R = np.array([r['behavior'] == 'proactive' for r in kept])
    p_R = np.array(
        [
            np.exp(r['option_logprobs']['none'])[
                np.array(r['option_behaviors']) == 'proactive'
            ].sum()
            / np.exp(r['option_logprobs']['none']).sum()
            for r in kept
        ]
    )
    assert (found['source'], found['n'], found['due']) == ('options', len(kept), due_R.sum())
    for name, expected in (
        ('auroc', sk.roc_auc_score(due_R, p_R)),
        ('average_precision', sk.average_precision_score(due_R, p_R)),
        ('brier', sk.brier_score_loss(due_R, p_R)),
    ):
        assert found[name] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('levels', [LEVELS, FIVE])
@pytest.mark.parametrize('seed', range(3))
def test_points_are_what_the_policy_does(seed, levels):
    rows, behaviors = random_rows(seed, levels)
    points = metrics_of(rows, levels)['stepping_in']['points']
    assert [p['dial'] for p in points] == sorted({p['dial'] for p in points})
    assert 30 < len(points) <= stepping_in.MAX_POINTS + 1 and 0.0 in [p['dial'] for p in points]
    lowest = min(levels, key=levels.get)
    for point in points:
        policy = f'dial:{point["dial"]!r}'
        dialled = policies.apply_policy(rows, policies.parse_policy(policy, behaviors))
        found = metrics_of(dialled, levels)
        for name in ('over_intervention_rate', 'missed_intervention_rate'):
            assert point[name] == found['intervention'][name], (policy, name)
        assert point['macro_f1'] == pytest.approx(found['overall']['macro_f1'], abs=1e-12)
        labelled = [r for r in dialled if r['behavior']]
        alerts = [r for r in labelled if r['option_behaviors'][r['prediction']] != lowest]
        cases = len({r['case_id'] for r in labelled})
        assert point['alerts_per_100_cases'] == pytest.approx(100 * len(alerts) / cases)
        right = [r['behavior'] != lowest for r in alerts]
        assert point['ppv'] == (pytest.approx(np.mean(right)) if alerts else None)
    auto = metrics_of(rows, levels)
    (at_zero,) = [p for p in points if p['dial'] == 0]
    assert at_zero['macro_f1'] == pytest.approx(auto['overall']['macro_f1'], abs=1e-12)


def test_points_of_a_model_without_tokens_choose_among_the_options():
    rows, _ = random_rows(0, tokens=False)
    points = metrics_of(rows)['stepping_in']['points']
    for point in points:
        predicted = []
        for row in rows:
            log_p_K = np.array(row['option_logprobs']['none'], float)
            is_in_K = np.array(row['option_behaviors']) == 'proactive'
            log_odds = -np.inf
            if is_in_K.any():
                log_odds = np.log(np.exp(log_p_K[is_in_K]).sum() / np.exp(log_p_K[~is_in_K]).sum())
            taken_K = is_in_K == (log_odds + point['dial'] >= 0)
            predicted.append(
                {**row, 'prediction': int(np.where(taken_K, log_p_K, -np.inf).argmax())}
            )
        found = metrics_of(predicted)
        assert point['over_intervention_rate'] == found['intervention']['over_intervention_rate']
        assert (
            point['missed_intervention_rate'] == found['intervention']['missed_intervention_rate']
        )
        assert point['macro_f1'] == pytest.approx(found['overall']['macro_f1'], abs=1e-12)
    ends = points[0], points[-1]
    assert [p['over_intervention_rate'] for p in ends] == [0.0, pytest.approx(0.6, abs=0.2)]
    assert (ends[0]['ppv'], ends[0]['alerts_per_100_cases']) == (None, 0.0)


def test_the_section_is_the_same_under_every_policy():
    rows, behaviors = random_rows(1)
    auto = metrics_of(rows)['stepping_in']
    for policy in ('none', 'forced:proactive', 'mixture', 'dial:2'):
        parsed = policies.parse_policy(policy, behaviors)
        assert metrics_of(policies.apply_policy(rows, parsed))['stepping_in'] == auto
    assert json.loads(json.dumps(auto, allow_nan=False)) == auto


def test_settings_that_a_policy_cannot_tell_apart_are_no_points():
    dial_E = np.array([-np.inf, -2.0, 0.5, 0.5 + 1e-6, 0.5 + 2e-6, 3.0])
    assert stepping_in._dials(dial_E) == pytest.approx([-3.0, -0.75, 0.0, 1.750001, 4.0])
    assert stepping_in._dials(np.array([-np.inf])) == [0.0]
    many = stepping_in._dials(np.concatenate([[-np.inf], np.arange(1000.0)]))
    assert len(many) == stepping_in.MAX_POINTS + 1 and (many[0], many[-1]) == (-1.0, 1000.0)


def test_what_no_record_tells_is_null():
    rows, _ = random_rows(2)
    silent = [{**row, 'behavior': 'reactive'} for row in rows]
    found = metrics_of(silent)['stepping_in']
    assert (found['auroc'], found['average_precision'], found['due']) == (None, None, 0)
    assert found['brier'] > 0 and found['ece'] > 0
    assert (found['missed_at_5_percent'], found['points']) == (None, [])
    found = metrics_of([{**row, 'behavior': None} for row in rows])['stepping_in']
    assert found['n'] == 0 and {found['brier'], found['ece'], found['auroc']} == {None}
    assert metrics_of([{**row, 'option_logprobs': None} for row in rows])['stepping_in'] is None
    bare, _ = random_rows(2, tokens=False)
    assert metrics_of([{**row, 'option_behaviors': []} for row in bare])['stepping_in'] is None


def test_levels_are_those_of_intervention_where_none_are_given():
    rows, _ = random_rows(3)
    plain = metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')
    assert plain['stepping_in'] == metrics_of(rows)['stepping_in']
