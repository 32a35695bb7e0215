"""Tests bounds of over-intervention: p-values exactly, and the promise of a target by simulation.

Latent scores are normal, and records of a case agree. The rate of every dial is then known. The
fast test runs two designs briefly, the slow ones all; `pytest -s` prints the rates beside those of
the naive dial, the boldest one whose rate on validation is at most the target.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from bsft_jax.evaluation import calibration, risk_control
from bsft_jax.evaluation.operating import OperatingCurve, dials_between
from tests.evaluation.test_operating import SCALES, by_log_odds, random_choices

CONFIDENCE = 0.9
# (cases, fewest and most records of each kind in a case, correlation within a case, target, by how
# much the scores of a case rise with each of its records)
DESIGNS = {
    '60 cases of 1': (60, (1, 1), 0.0, 0.05, 0.0),
    '150 cases of 1': (150, (1, 1), 0.0, 0.05, 0.0),
    '60 cases of 10': (60, (10, 10), 0.2, 0.05, 0.0),
    '60 cases of 10, at 10 %': (60, (10, 10), 0.2, 0.1, 0.0),
    '60 cases of 10 that agree': (60, (10, 10), 0.6, 0.1, 0.0),
    '60 cases of 10 alike': (60, (10, 10), 1.0, 0.1, 0.0),
    '150 cases of 3': (150, (3, 3), 0.3, 0.05, 0.0),
    '150 cases of 1 to 10': (150, (1, 10), 0.3, 0.05, 0.0),
    '150 cases of 1 to 10, the larger bolder': (150, (1, 10), 0.3, 0.1, 0.1),
    '400 cases of 5': (400, (5, 5), 0.3, 0.05, 0.0),
}


def draw(rng, design):
    """Returns the curve and the case names of a validation split."""
    cases, (fewest, most), within, _, rise = design
    size_U = rng.integers(fewest, most + 1, size=cases)
    case_R = np.repeat(np.arange(cases), 2 * size_U)
    label_R = np.arange(len(case_R)) % 2
    latent_R = within**0.5 * rng.normal(size=cases)[case_R]
    latent_R = latent_R + (1 - within) ** 0.5 * rng.normal(size=len(case_R))
    score_R = latent_R + 1.5 * label_R + rise * size_U[case_R]
    return OperatingCurve.of(by_log_odds(score_R, label_R)), [f'c{u}' for u in case_R]


def true_rate(dial, design):
    _, (fewest, most), _, _, rise = design
    size = np.arange(fewest, most + 1)
    return float((size * stats.norm.sf(-dial - rise * size)).sum() / size.sum())


def naive_dial(curve, target):
    dial_E = dials_between(curve.path.dial_E)
    return dial_E[(curve.over_S[1:] <= target) & ~np.isnan(dial_E)][-1]


def promise(name, trials, seed=0):
    """Returns how often the rate on all cases exceeds the target, and its mean, for both dials."""
    rng, design = np.random.default_rng(seed), DESIGNS[name]
    target, rates = design[3], []
    for _ in range(trials):
        curve, names = draw(rng, design)
        dial = calibration.dial_for_target(curve, names, target, CONFIDENCE)
        dials = -np.inf if dial is None else dial, naive_dial(curve, target)
        rates.append([true_rate(dial, design) for dial in dials])
    exceeds, means = (np.array(rates) > target).mean(0), np.mean(rates, axis=0)
    print(
        f'{name}, target {target}: exceeded in {exceeds[0]:.3f} (naive {exceeds[1]:.3f}), '
        f'mean rate {means[0]:.4f} (naive {means[1]:.4f})'
    )
    return exceeds, means


def check(name, trials, seed=0):
    (found, naive), _ = promise(name, trials, seed)
    error = (CONFIDENCE * (1 - CONFIDENCE) / trials) ** 0.5
    assert found <= 1 - CONFIDENCE + 3 * error
    assert naive > max(found, 1 - CONFIDENCE + 3 * error)


@pytest.mark.parametrize('name', ['60 cases of 1', '60 cases of 10, at 10 %'])
def test_a_target_is_exceeded_as_rarely_as_promised(name):
    check(name, 60)


@pytest.mark.slow
@pytest.mark.parametrize('name', DESIGNS)
def test_a_target_of_every_design_is_exceeded_as_rarely_as_promised(name):
    check(name, 300, seed=1)


def hoeffding_bentkus(over_U, counted_U, target, alpha):
    """Returns the p-value of Bates et al. 2021 for the mean of losses in [0, 1]."""
    loss_U = target + (over_U - target * counted_U) / counted_U.max()
    mean, cases = min(loss_U.mean(), target), len(loss_U)
    ends = (mean, target), (1 - mean, 1 - target)
    hoeffding = np.exp(-cases * sum(a * np.log(a / b) for a, b in ends if a > 0))
    bentkus = np.e * stats.binom.cdf(np.ceil(cases * mean - 1e-9), cases, target)
    return min(1.0, hoeffding, bentkus)


def student(over_U, counted_U, target, alpha):
    """Returns the p-value of Student's t, which is exact for normal losses alone."""
    loss_U = over_U - target * counted_U
    if loss_U.std() == 0:
        return (1 - target) ** len(loss_U)
    error = loss_U.std(ddof=1) / len(loss_U) ** 0.5
    return stats.t.cdf(loss_U.mean() / error, len(loss_U) - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['60 cases of 10, at 10 %', '150 cases of 3', '150 cases of 1 to 10', '400 cases of 5']
)
def test_bets_are_bolder_than_the_bound_of_hoeffding_and_bentkus(name, monkeypatch):
    _, (bets, _) = promise(name, 100, seed=2)
    monkeypatch.setattr(risk_control, 'p_value', hoeffding_bentkus)
    _, (bounds, _) = promise(name, 100, seed=2)
    assert bets > bounds


@pytest.mark.slow
def test_student_promises_too_much(monkeypatch):
    monkeypatch.setattr(risk_control, 'p_value', student)
    name, trials = '60 cases of 10', 300
    (exceeds, _), _ = promise(name, trials, seed=2)
    assert exceeds > 1 - CONFIDENCE + 2 * (CONFIDENCE * (1 - CONFIDENCE) / trials) ** 0.5


# Probabilities of 0, 1 and 2 over-interventions in a case of two records, whose rate is 0.2.
WORST = [(0.6, 0.4, 0.0), (0.8, 0.0, 0.2), (0.7, 0.2, 0.1)]


@pytest.mark.parametrize('probabilities', WORST)
def test_the_p_value_of_a_bet_is_valid_in_every_sample(probabilities):
    """Adds up the probabilities of all samples of eight cases at the edge of the hypothesis."""
    counted_U, found, weights = np.full(8, 2), [], []
    for over_U in itertools.product(range(3), repeat=8):
        over_U = np.array(over_U, float)
        found.append(risk_control.p_value(over_U, counted_U, 0.2, 0.1))
        weights.append(np.prod([probabilities[int(over)] for over in over_U]))
    found, weights = np.array(found), np.array(weights)
    assert weights.sum() == pytest.approx(1)
    for alpha in (0.01, 0.05, 0.1, 0.2, 0.5, 0.9):
        assert weights[found <= alpha].sum() <= alpha + 1e-12
    assert found.min() < 0.2


def test_the_p_value_of_single_records_is_that_of_the_exact_binomial_test():
    for over in range(12):
        over_U = np.arange(40) < over
        found = risk_control.p_value(over_U.astype(float), np.ones(40, int), 0.15, 0.1)
        exact = stats.binomtest(over, 40, 0.15, alternative='less').pvalue
        assert found == pytest.approx(exact, abs=1e-12)
    # A case without a record that counts is no unit.
    with_empty = np.concatenate([np.zeros(5), np.arange(40) < 3])
    counted = np.concatenate([np.zeros(5, int), np.ones(40, int)])
    assert risk_control.p_value(with_empty, counted, 0.15, 0.1) == pytest.approx(
        stats.binom.cdf(3, 40, 0.15), abs=1e-12
    )


@pytest.mark.parametrize('level_n', SCALES)
@pytest.mark.parametrize('seed', range(3))
def test_over_interventions_are_counted_by_case(seed, level_n):
    curve = OperatingCurve.of(random_choices(seed, level_n))
    case_R = np.random.default_rng(seed).permutation(np.arange(60) // 4)
    settings = list(risk_control.over_by_case(curve, case_R))
    assert len(settings) == len(curve.path.dial_E)
    for dial, over_U in zip(curve.path.dial_E, settings, strict=True):
        choice_R = curve.path.choice_at(dial)
        over_R = curve.choices.over_Rn[np.arange(60), choice_R] & curve.can_be_over_R
        assert over_U.tolist() == np.bincount(case_R, over_R).tolist()


def test_settings_are_tested_up_to_the_first_that_is_not_safe():
    curve, names = draw(np.random.default_rng(0), DESIGNS['150 cases of 3'])
    case_R = risk_control.case_numbers(names)
    counted_U = risk_control.counted_by_case(curve, case_R)
    safe = risk_control.last_safe_setting(curve, case_R, 0.1, 0.1)
    p_E = [
        risk_control.p_value(over_U, counted_U, 0.1, 0.1)
        for over_U in risk_control.over_by_case(curve, case_R)
    ]
    assert max(p_E[: safe + 1]) <= 0.1 < p_E[safe + 1]
    dial = calibration.dial_for_target(curve, names, 0.1, 0.9)
    assert curve.path.dial_E[safe] <= dial < curve.path.dial_E[safe + 1]


def test_a_dial_is_bolder_for_a_higher_target_and_more_restrained_for_more_confidence():
    curve, names = draw(np.random.default_rng(1), DESIGNS['150 cases of 3'])
    dials = [calibration.dial_for_target(curve, names, x, 0.9) for x in (0.05, 0.1, 0.2, 0.5)]
    assert dials == sorted(dials) and dials[0] < dials[-1]
    dials = [calibration.dial_for_target(curve, names, 0.1, x) for x in (0.8, 0.9, 0.99)]
    assert dials == sorted(dials, reverse=True) and dials[-1] < dials[0]


def test_too_few_cases_meet_no_low_target():
    curve, names = draw(np.random.default_rng(2), (20, (3, 3), 0.3, 0.05, 0.0))
    assert calibration.dial_for_target(curve, names, 0.05, 0.9) is None
    case_R = risk_control.case_numbers(names)
    lowest = risk_control.lowest_target(curve, case_R, 0.1)
    # Without any over-intervention the capital grows by 1 / (1 - target) a case.
    assert lowest == pytest.approx(1 - 0.1 ** (1 / 20), abs=2e-3)
    assert calibration.dial_for_target(curve, names, lowest, 0.9) is not None
    assert calibration.dial_for_target(curve, names, lowest - 0.001, 0.9) is None


def test_a_model_that_is_always_over_meets_no_target():
    curve, names = draw(np.random.default_rng(3), DESIGNS['60 cases of 1'])
    always_Rn = np.ones_like(curve.choices.level_Rn)
    curve = OperatingCurve.of(dataclasses.replace(curve.choices, level_Rn=always_Rn))
    assert risk_control.lowest_target(curve, risk_control.case_numbers(names), 0.1) is None


def test_neither_order_nor_names_in_a_file_change_the_order_of_cases():
    names = [f'c{i}' for i in range(30)]
    numbers = dict(zip(names, risk_control.case_numbers(names).tolist(), strict=True))
    shuffled = np.random.default_rng(0).permutation(names * 2).tolist()
    assert risk_control.case_numbers(shuffled).tolist() == [numbers[name] for name in shuffled]
    assert sorted(numbers.values()) == list(range(30)) != list(numbers.values())
