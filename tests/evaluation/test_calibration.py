"""Tests calibrated log-odds against scikit-learn and scipy, and dials by costs against a loop."""

import numpy as np
import pytest
from scipy import optimize
from sklearn import calibration as sk_calibration
from sklearn import metrics as sk

from bsft_jax.evaluation import calibration
from bsft_jax.evaluation.calibration import LogOdds
from bsft_jax.evaluation.operating import OperatingCurve, dials_between
from tests.evaluation.test_operating import by_log_odds, make_choices, random_choices

FIVE = (0.0, 0.25, 0.5, 0.75, 1.0)


def graded_choices(seed, records=400, noise=1.0):
    """Returns choices among five levels that lie near the label."""
    rng = np.random.default_rng(seed)
    label_R = rng.choice(FIVE, size=records)
    seen_R = label_R + rng.normal(0, 0.3, size=records)
    logprob_Rn = -8 * np.abs(seen_R[:, None] - np.array(FIVE)) + rng.normal(
        0, noise, size=(records, 5)
    )
    return make_choices(logprob_Rn, label_R, FIVE)


@pytest.mark.parametrize('seed', range(5))
def test_two_levels_are_calibrated_as_scikit_learn_does(seed):
    rng = np.random.default_rng(seed)
    due_R = rng.random(80) < 0.3
    log_odds_R = rng.normal(4 * due_R - 1, 3)
    found = calibration.calibrate_log_odds(by_log_odds(log_odds_R, due_R))
    slope, offset = sk_calibration._sigmoid_calibration(log_odds_R, due_R.astype(float))
    assert (found.slope, found.offsets[0]) == pytest.approx((-slope, -offset), abs=1e-3)
    p_R = found.probabilities(log_odds_R[:, None])[:, 0]
    # At the minimum the mean probability is that of the smoothed targets.
    high, low = (due_R.sum() + 1) / (due_R.sum() + 2), 1 / ((~due_R).sum() + 2)
    assert p_R.mean() == pytest.approx(np.where(due_R, high, low).mean(), abs=1e-9)


@pytest.mark.parametrize('seed', range(3))
def test_more_levels_minimise_the_summed_loss_and_stay_in_order(seed):
    choices = graded_choices(seed)
    log_odds_RL = calibration.log_odds_by_level(choices)
    reached_RL = choices.label_R[:, None] >= np.array(FIVE[1:])
    found = calibration.calibrate_log_odds(choices)
    reached_L = reached_RL.sum(0)
    target_RL = np.where(reached_RL, (reached_L + 1) / (reached_L + 2), 1 / (402 - reached_L))

    def loss(weights):
        logits = weights[0] * log_odds_RL + weights[1:]
        return (np.logaddexp(0, logits) - target_RL * logits).sum()

    falling = {'type': 'ineq', 'fun': lambda weights: -np.diff(weights[1:])}
    best = optimize.minimize(loss, np.r_[1.0, np.zeros(4)], method='SLSQP', constraints=falling)
    assert loss(np.r_[found.slope, found.offsets]) <= best.fun + 1e-4
    assert found.slope > 0 and (np.diff(found.offsets) <= 0).all()
    p_RL = found.probabilities(log_odds_RL)
    assert (np.diff(p_RL, axis=1) <= 0).all()


def test_neighbours_whose_offsets_would_rise_share_one():
    rng = np.random.default_rng(1)
    log_odds_RL = np.sort(rng.normal(0, 3, size=(200, 2)))[:, ::-1]
    # The model underrates the upper level and overrates the lower one.
    score_R = log_odds_RL.mean(1) + rng.logistic(size=200)
    reached_RL = np.stack([score_R > 1.0, score_R > 1.0], axis=1)
    found = calibration.fit_log_odds(log_odds_RL, reached_RL)
    assert found.offsets[0] == found.offsets[1] and found.slope > 0


@pytest.mark.parametrize('log_odds', [[3.0, 2.0, -1.0, -3.0] * 5, [0.5] * 20])
def test_log_odds_that_say_nothing_become_the_share_of_due_records(log_odds):
    due_R = np.array([False, False, True, True] * 5)
    found = calibration.calibrate_log_odds(by_log_odds(log_odds, due_R))
    p_R = found.probabilities(np.array(log_odds)[:, None])[:, 0]
    assert found.slope >= 0 and p_R == pytest.approx(np.full(20, 0.5), abs=1e-6)


def test_records_that_are_apart_keep_a_finite_slope():
    log_odds_R = np.array([-80.0, -60.0, 70.0, 90.0])
    found = calibration.calibrate_log_odds(by_log_odds(log_odds_R, log_odds_R > 0))
    p_R = found.probabilities(log_odds_R[:, None])[:, 0]
    # Smoothed targets are 1/4 and 3/4.
    assert np.isfinite(found.slope) and p_R == pytest.approx([0.25, 0.25, 0.75, 0.75], abs=0.04)


def test_brier_and_ece_before_and_after():
    rng = np.random.default_rng(2)
    logit_R = rng.normal(-0.5, 2, size=3000)
    due_R = rng.random(3000) < 1 / (1 + np.exp(-logit_R))
    # Three times too sure, and too bold.
    choices = by_log_odds(3 * logit_R + 4, due_R)
    found = calibration.calibration_metrics(choices, calibration.calibrate_log_odds(choices))
    before_R = 1 / (1 + np.exp(-3 * logit_R - 4))
    assert found['n'] == 3000
    assert found['brier_before'] == pytest.approx(sk.brier_score_loss(due_R, before_R), abs=1e-12)
    assert found['ece_before'] > 0.15 and found['ece'] < 0.03
    assert found['brier'] == pytest.approx(
        sk.brier_score_loss(due_R, 1 / (1 + np.exp(-logit_R))), abs=2e-3
    )
    nobody = make_choices(np.zeros((2, 2)), [np.nan, np.nan])
    empty = calibration.calibration_metrics(nobody, LogOdds(1.0, (0.0,)))
    assert empty == {'n': 0, 'brier': None, 'ece': None, 'brier_before': None, 'ece_before': None}


@pytest.mark.parametrize('level_n', [(0.0, 1.0), FIVE])
@pytest.mark.parametrize('costs', [(1.0, 1.0), (5.0, 1.0), (0.3, 2.0)])
def test_costs_choose_the_dial_of_the_least_total(level_n, costs):
    for seed in range(4):
        choices = random_choices(seed, level_n)
        curve = OperatingCurve.of(choices)
        position_n = np.array(level_n)

        def total(dial, choices=choices, position_n=position_n):
            best_R = (choices.logprob_Rn + dial * position_n).argmax(1)
            level_R = choices.level_Rn[np.arange(60), best_R]
            over, missed = (level_R > choices.label_R).sum(), (level_R < choices.label_R).sum()
            return costs[0] * missed + costs[1] * over

        found = calibration.dial_for_costs(curve, *costs)
        tried = [total(dial) for dial in dials_between(curve.path.dial_E) if not np.isnan(dial)]
        assert total(found) == pytest.approx(min(tried), abs=1e-9)
        rates = calibration.rates_at(curve, found)
        missed = rates['missed_intervention_rate'] * curve.can_be_missed_R.sum()
        over = rates['over_intervention_rate'] * curve.can_be_over_R.sum()
        assert costs[0] * missed + costs[1] * over == pytest.approx(total(found), abs=1e-9)


def test_dials_lie_between_the_settings_that_scores_tell_apart():
    dial_E = np.array([-np.inf, -2.0, 0.5, 0.5 + 1e-6, 3.0])
    assert dials_between(dial_E) == pytest.approx(
        [-3.0, -0.75, np.nan, 1.7500005, 4.0], nan_ok=True
    )
    assert dials_between(np.array([-np.inf])).tolist() == [0.0]
