"""Tests of policies: what they choose, those that a model cannot follow, and stored scores."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS, Behavior, BehaviorSet
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained
from bsft_jax.inference import policies
from bsft_jax.inference.scores import Scores
from bsft_jax.records.record import Message, Record

# Not in the order of their levels, and not from 0 to 1.
FIVE = tuple(
    Behavior(name, level, name)
    for name, level in (('c', 0.5), ('a', 0.2), ('e', 0.8), ('b', 0.3), ('d', 0.7))
)
POLICIES = (
    *('auto', 'none', 'oracle', 'forced:proactive', 'mixture'),
    *('threshold:0.3', 'threshold:0.9', 'dial:0', 'dial:-1.5', 'dial:1e3'),
)


def selectable(behaviors=DEFAULT_BEHAVIORS):
    return BehaviorSet(behaviors, ((),) * len(behaviors), 'tokens')


def chosen(policy, logprob_Rn, behaviors=DEFAULT_BEHAVIORS, xp=np):
    parsed = policies.parse_policy(policy, selectable(behaviors))
    label_R = xp.zeros(len(logprob_Rn), np.int32)
    branch_R = policies.choose_branch(parsed, xp.asarray(logprob_Rn, np.float32), label_R, xp)
    return np.asarray(branch_R) - 1


def random_scores(seed, records=60, options=4, behaviors=DEFAULT_BEHAVIORS):
    """Returns records and scores of float32 log-probabilities, like those of a scorer."""
    rng = np.random.default_rng(seed)
    n = len(behaviors)
    items = [
        Record(
            (Message('user', f'{i}?'),),
            id=f'r{i}',
            options=tuple('abcd'[: 2 + i % 3]),
            answer=i % 2,
            behavior=behaviors[i % n].name,
        )
        for i in range(records)
    ]
    behavior_Rn, option_RWK = (
        rng.normal(-3, 2, size=shape).astype(np.float32)
        for shape in ((records, n), (records, n + 1, options))
    )
    for i, record in enumerate(items):
        option_RWK[i, :, len(record.options) :] = -np.inf
    return items, Scores(selectable(behaviors), behavior_Rn, option_RWK)


def test_policies_that_do_not_fit_are_refused(model, records):
    scores = bsft_jax.score_records(model, records[:2])
    for policy, message in (
        ('best', 'unknown policy'),
        ('forced', 'unknown policy'),
        ('auto:reactive', 'unknown policy'),
        ('mixture:0.5', 'unknown policy'),
        ('dial', 'unknown policy'),
        ('forced:gentle', 'unknown behavior'),
        ('threshold:0', 'not a probability between 0 and 1'),
        ('threshold:1.0', 'not a probability between 0 and 1'),
        ('threshold:half', "'half' in 'threshold:half' is not a probability"),
        ('dial:inf', "'inf' in 'dial:inf' is not a number"),
        ('dial:x', "'x' in 'dial:x' is not a number"),
        ('dial:1,a=x', "'a=x' in 'dial:1,a=x' is not a number"),
        ('dial:1,2', "'dial:1,2' is no dial by category; write dial:B,CATEGORY=B"),
        ('dial:1,a=2,a=3', 'no dial by category'),
        ('calibrated', '--policy=calibrated: is not a dial yet; name the dial of calibration'),
    ):
        with pytest.raises(UserError, match=message):
            bsft_jax.compute_metrics(records[:2], scores, policy)
    with pytest.raises(UserError, match='prompt style'):
        bsft_jax.score_records(model, records, prompt='poem')
    plain = pretrained.load_pretrained(pretrained.read_pretrained(str(model.spec.directory)))
    scores = bsft_jax.score_records(plain, records[:2])
    assert bsft_jax.compute_metrics(records[:2], scores)['selection'] is None
    for policy in ('forced:reactive', 'threshold:0.5', 'mixture', 'dial:1'):
        with pytest.raises(UserError, match=f'{policy!r} needs behaviors to choose from'):
            bsft_jax.compute_metrics(records[:2], scores, policy)
    alike = tuple(dataclasses.replace(b, level=0.5) for b in DEFAULT_BEHAVIORS)
    with pytest.raises(UserError, match='needs behaviors of different levels'):
        policies.parse_policy('dial:1', selectable(alike))


def test_oracle_reads_the_label_of_the_turn_to_answer(model):
    """Tests a label on the last turn of a conversation, where training reads it too."""
    turns = (Message('user', 'K 5.9?'), Message('assistant', 'Stop it.', behavior='proactive'))
    [answer] = bsft_jax.generate_answers(
        model, [Record(turns, id='chat')], 'oracle', max_new_tokens=2
    )
    assert answer['behavior'] == 'proactive'


@pytest.mark.parametrize('levels', [(0.0, 1.0), (0.4, 0.6), (1.0, 0.0)])
def test_a_threshold_is_a_probability_among_the_behaviors(levels):
    rng = np.random.default_rng(0)
    pair = tuple(Behavior(name, level, '') for name, level in zip('ab', levels, strict=True))
    high = int(np.argmax(levels))
    logprob_Rn = rng.normal(-4, 2, size=(500, 2)).astype(np.float32)
    p_R = 1 / (1 + np.exp(logprob_Rn[:, 1 - high].astype(float) - logprob_Rn[:, high]))
    for threshold in (0.01, 0.3, 0.5, 0.77, 0.999):
        found_R = chosen(f'threshold:{threshold}', logprob_Rn, pair) == high
        assert found_R.tolist() == (p_R >= threshold).tolist()
        assert 0 < found_R.sum() < 500


def test_at_a_tie_a_threshold_steps_in_and_auto_takes_the_first():
    tie_R2 = [[-1.5, -1.5]]
    assert chosen('threshold:0.5', tie_R2) == chosen('dial:0', tie_R2) == [1]
    assert chosen('auto', tie_R2) == [0]
    assert chosen('dial:0.5', [[-1.0, -1.5]]) == [1] and chosen('dial:0.4', [[-1.0, -1.5]]) == [0]


@pytest.mark.parametrize('behaviors', [DEFAULT_BEHAVIORS, FIVE])
def test_the_chosen_level_never_falls_as_the_dial_rises(behaviors):
    rng = np.random.default_rng(1)
    logprob_Rn = rng.normal(-4, 3, size=(300, len(behaviors)))
    level_n = np.array([b.level for b in behaviors])
    levels_BR = np.array(
        [level_n[chosen(f'dial:{b}', logprob_Rn, behaviors)] for b in np.arange(-150, 150.5, 0.5)]
    )
    assert (np.diff(levels_BR, axis=0) >= 0).all()
    assert (levels_BR[0] == level_n.min()).all()
    assert (levels_BR[-1] == level_n.max()).all()
    at_zero_R = levels_BR[300]
    assert at_zero_R.tolist() == level_n[logprob_Rn.astype(np.float32).argmax(1)].tolist()


def test_the_ends_alone_meet_at_the_threshold_whatever_lies_between():
    for threshold in (0.2, 0.6):
        for p, taken in ((threshold - 0.01, 'a'), (threshold + 0.01, 'e')):
            log_p = {'a': math.log1p(-p), 'e': math.log(p), 'c': -30.0, 'b': -30.0, 'd': -30.0}
            row = [log_p[b.name] for b in FIVE]
            assert FIVE[chosen(f'threshold:{threshold}', [row], FIVE)[0]].name == taken


@pytest.mark.parametrize('policy', ['auto', 'dial:0.7', 'dial:-3', 'threshold:0.31'])
@pytest.mark.parametrize('behaviors', [DEFAULT_BEHAVIORS, FIVE])
def test_devices_choose_as_the_host_does(policy, behaviors):
    logprob_Rn = np.random.default_rng(2).normal(-4, 2, size=(2000, len(behaviors)))
    # Exact ties, and scores whose sum with the dial is rounded.
    logprob_Rn = np.concatenate([logprob_Rn, np.round(logprob_Rn), 40 * logprob_Rn])
    host_R, device_R = (chosen(policy, logprob_Rn, behaviors, xp) for xp in (np, jnp))
    assert host_R.tolist() == device_R.tolist()


def test_a_category_may_have_a_dial_of_its_own(model, records):
    records = [
        dataclasses.replace(r, category=c, group='')
        for r, c in zip(records, ('medication_safety', '', 'temporal_ordering'), strict=False)
    ]
    policy = 'dial:-1e3,medication_safety=1e3,temporal_ordering=-2e3'
    scores = bsft_jax.score_records(model, records, policy=policy)
    rows = policies.predictions(records, scores, policy)
    assert [row['behavior_prediction'] for row in rows] == ['proactive', 'reactive', 'reactive']
    assert scores.confusion_CKK is None
    assert bsft_jax.compute_metrics(records, scores, policy)['dial'] == -1e3
    with pytest.raises(UserError, match='a dial by category is for records that are scored'):
        bsft_jax.generate_answers(model, records[:1], policy, max_new_tokens=2)


def test_a_mixture_weighs_the_answers_by_the_behaviors():
    records, scores = random_scores(3)
    for i, row in enumerate(policies.predictions(records, scores, 'mixture')):
        K = len(records[i].options)
        weight_n = np.exp(scores.behavior_logprob_Rn[i].astype(float))
        option_nK = np.exp(scores.option_logprob_RWK[i, 1:, :K].astype(float))
        mixed_K = weight_n @ (option_nK / option_nK.sum(1, keepdims=True))
        assert row['prediction'] == int(mixed_K.argmax())
        assert row['behavior_prediction'] is None
    branches = {p: policies.predictions(records, scores, p) for p in ('auto', 'none', 'mixture')}
    predicted = {p: [row['prediction'] for row in rows] for p, rows in branches.items()}
    assert predicted['mixture'] not in (predicted['auto'], predicted['none'])


@pytest.mark.parametrize('policy', POLICIES)
def test_stored_predictions_yield_every_policy(policy):
    records, scores = random_scores(4)
    stored = json.loads(json.dumps(policies.predictions(records, scores, 'none')))
    behaviors = policies.stored_behaviors(stored, {'proactive': 1.0, 'reactive': 0.0})
    found = policies.apply_policy(stored, policies.parse_policy(policy, behaviors))
    assert found == policies.predictions(records, scores, policy)


@pytest.mark.parametrize('kind', ['neutral', 'none'])
def test_stored_predictions_of_a_model_without_a_choice(kind):
    records, scores = random_scores(5)
    n = int(kind == 'neutral')
    alone = BehaviorSet((), ((7,),) * n, kind)
    scores = Scores(alone, scores.behavior_logprob_Rn[:, :n], scores.option_logprob_RWK[:, : n + 1])
    for policy in ('auto', 'none'):
        rows = policies.predictions(records, scores, policy)
        branch = n if policy == 'auto' else 0
        best_R = scores.option_logprob_RWK[:, branch].argmax(1)
        assert [row['prediction'] for row in rows] == best_R.tolist()
        assert {row['behavior_prediction'] for row in rows} == {None}
        stored = policies.stored_behaviors(rows, {})
        assert policies.apply_policy(rows, policies.parse_policy(policy, stored)) == rows
    with pytest.raises(UserError, match='needs behaviors to choose from'):
        policies.parse_policy('dial:1', stored)


def test_a_model_answers_in_words_under_a_dial_but_not_under_a_mixture(model, records):
    for dial, behavior in ((-1e3, 'reactive'), (1e3, 'proactive')):
        answers = bsft_jax.generate_answers(model, records[:2], f'dial:{dial}', max_new_tokens=2)
        assert {answer['behavior'] for answer in answers} == {behavior}
    with pytest.raises(UserError, match='--policy=mixture: chooses no behavior to begin'):
        bsft_jax.generate_answers(model, records[:2], 'mixture', max_new_tokens=2)


def test_metrics_hold_the_dial(model, records):
    scores = bsft_jax.score_records(model, records[:4])
    for policy, dial in (('auto', 0.0), ('dial:-1.5', -1.5), ('threshold:0.2', math.log(4))):
        metrics = bsft_jax.compute_metrics(records[:4], scores, policy)
        assert (metrics['policy'], metrics['dial']) == (policy, pytest.approx(dial))
