"""Simulates how often intervals of missed interventions at equal over-intervention hold the truth.

Two models see the same cases on scales of their own: latent scores are normal, due records lie
higher, and records of a case agree. The truth is then known. The fast tests run a few designs
briefly, the slow ones all of them; `pytest -s` prints the rates.
"""

import numpy as np
import pytest
from scipy import stats

from bsft_jax.evaluation import statistics
from bsft_jax.evaluation.operating import OperatingCurve
from tests.evaluation.test_operating import by_log_odds

# (cases, records of each kind in a case, distance of due records for each model, share of the
# variance between cases, between the models, rate of over-intervention)
DESIGNS = {
    '12 cases of 20': (12, 10, (1.5, 1.5), 0.2, 0.5, 0.05),
    '30 cases of 6': (30, 3, (1.5, 1.5), 0.2, 0.5, 0.05),
    '30 cases of 6, at 10 %': (30, 3, (1.5, 1.5), 0.2, 0.5, 0.1),
    '30 cases of 20': (30, 10, (1.5, 1.5), 0.2, 0.5, 0.05),
    '30 cases of 20 that agree': (30, 10, (1.5, 1.5), 0.6, 0.5, 0.05),
    '30 cases of 20, alike models': (30, 10, (1.5, 1.5), 0.2, 0.9, 0.05),
    '100 cases of 2': (100, 1, (1.5, 1.5), 0.2, 0.5, 0.05),
    '100 cases of 10': (100, 5, (1.5, 1.5), 0.2, 0.5, 0.05),
    '300 cases of 8': (300, 4, (1.5, 1.5), 0.2, 0.5, 0.1),
    'one better, 30 cases of 6': (30, 3, (1.5, 0.8), 0.2, 0.5, 0.05),
    'one better, 30 cases of 20': (30, 10, (1.5, 0.8), 0.2, 0.5, 0.05),
    'one better, 100 cases of 10': (100, 5, (2.0, 1.2), 0.4, 0.3, 0.05),
    'one much better, 100 cases of 10': (100, 5, (3.0, 0.5), 0.2, 0.5, 0.05),
}


def truth(distances, over):
    first, second = (stats.norm.cdf(stats.norm.isf(over) - x) for x in distances)
    return first - second


def draw(rng, case_R, label_R, distances, within, between):
    """Returns the curves of two models on the same records, each on a scale of its own."""
    case_U3, record_R3 = rng.normal(size=(case_R.max() + 1, 3)), rng.normal(size=(len(case_R), 3))

    def latent(model):
        of_case, of_record = (
            between**0.5 * x[:, 0] + (1 - between) ** 0.5 * x[:, model]
            for x in (case_U3, record_R3)
        )
        return within**0.5 * of_case[case_R] + (1 - within) ** 0.5 * of_record

    scores = [latent(n + 1) + distance * label_R for n, distance in enumerate(distances)]
    # The scores of the second are 4 lower and 3 times as wide.
    return [OperatingCurve.of(by_log_odds(x, label_R)) for x in (scores[0], 3 * scores[1] - 4)]


def rates(design, trials, seed=0, resamples=1000):
    """Returns how often p < 0.05 and how often the interval holds the truth."""
    cases, records, distances, within, between, over = design
    rng, rejected, inside = np.random.default_rng(seed), 0, 0
    case_R = np.repeat(np.arange(cases), 2 * records)
    label_R = np.tile([0, 1], cases * records)
    for _ in range(trials):
        curves = draw(rng, case_R, label_R, distances, within, between)
        parts = [curve.missed_by_case(over, case_R, cases) for curve in curves]
        found = statistics.paired_difference(
            parts[0] - parts[1], curves[0].weight_by_case(case_R, cases), resamples=resamples
        )
        missed = [curve.at_rate(over).missed for curve in curves]
        assert found.value == pytest.approx(missed[0] - missed[1], abs=1e-9)
        rejected += found.p < 0.05
        inside += found.interval[0] <= truth(distances, over) <= found.interval[1]
    return rejected / trials, inside / trials


def check(name, trials, seed=0, resamples=1000):
    rejected, inside = rates(DESIGNS[name], trials, seed, resamples)
    print(f'{name}: p < 0.05 in {rejected:.3f}, interval holds the truth in {inside:.3f}')
    margin = 3 * (0.05 * 0.95 / trials) ** 0.5
    assert 0.95 - margin <= inside <= 0.995
    if truth(*DESIGNS[name][2::3]) == 0:
        assert rejected <= 0.05 + margin
    return rejected


@pytest.mark.parametrize('name', ['30 cases of 6', '30 cases of 20', 'one better, 30 cases of 20'])
def test_intervals_hold_the_truth_and_tests_their_level(name):
    check(name, 150, resamples=400)


@pytest.mark.slow
@pytest.mark.parametrize('name', DESIGNS)
def test_intervals_of_every_design_hold_the_truth(name):
    check(name, 1000, seed=1)


@pytest.mark.slow
def test_a_difference_is_found():
    assert rates(DESIGNS['one better, 100 cases of 10'], 200)[0] > 0.95


@pytest.mark.slow
def test_without_the_slope_of_the_curve_intervals_are_too_narrow():
    """Missed interventions alone, as if the setting of the dial were known, claim too much."""
    cases, records, distances, within, between, over = DESIGNS['100 cases of 10']
    rng, inside = np.random.default_rng(2), 0
    case_R = np.repeat(np.arange(cases), 2 * records)
    label_R = np.tile([0, 1], cases * records)
    for _ in range(300):
        curves = draw(rng, case_R, label_R, distances, within, between)
        parts = []
        for curve in curves:
            setting = curve.at_rate(over).settings[0]
            missed_R = curve._values(setting)[1]
            parts.append(np.bincount(case_R, missed_R, cases) / (label_R == 1).sum())
        found = statistics.paired_difference(
            parts[0] - parts[1], curves[0].weight_by_case(case_R, cases), resamples=400
        )
        inside += found.interval[0] <= 0 <= found.interval[1]
    print(f'without the slope: {inside / 300:.3f}')
    assert inside / 300 < 0.9


@pytest.mark.slow
@pytest.mark.parametrize(('cases', 'seeds', 'spread'), [(30, 3, 0.2), (30, 5, 0.4), (100, 2, 0.2)])
def test_trainings_are_a_random_factor(cases, seeds, spread):
    rng, trials, rejected = np.random.default_rng(3), 300, 0
    case_R, label_R = np.repeat(np.arange(cases), 10), np.tile([0, 1], 5 * cases)
    for _ in range(trials):
        sides = [[], []]
        for _ in range(seeds):
            distances = 1.5 + rng.normal(0, spread, size=2)
            curves = draw(rng, case_R, label_R, distances, 0.2, 0.5)
            for side, curve in zip(sides, curves, strict=True):
                side.append(curve.missed_by_case(0.05, case_R, cases))
        share_JU = np.array(sides[0]) - np.array(sides[1])
        found = statistics.paired_difference(
            share_JU.mean(0),
            curves[0].weight_by_case(case_R, cases),
            trainings=statistics.Trainings.of_seeds(share_JU.sum(1)),
            resamples=400,
        )
        rejected += found.p < 0.05
    print(f'{cases} cases, {seeds} seeds: {rejected / trials:.3f}')
    assert rejected / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5
