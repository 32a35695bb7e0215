"""Tests intervals, the paired test and Holm's method."""

import itertools
import time

import numpy as np
import pytest
from scipy import stats

from bsft_jax.evaluation import metrics, statistics


def test_cluster_ids_keep_nameless_records_apart():
    assert list(statistics.cluster_ids(['a', '', 'b', 'a', ''])) == [0, 1, 2, 0, 3]


def share_of_right(right_U, **options):
    """Returns the interval of a share over cases of one record each."""
    errors_U = (right_U - right_U.mean()) / len(right_U)
    weight_U = np.full(len(right_U), 1 / len(right_U))
    return statistics.unit_interval(right_U.mean(), (0.0, 0.0), errors_U, weight_U, **options)


@pytest.mark.parametrize(('right', 'number'), [(40, 60), (97, 100), (1, 12)])
def test_the_interval_of_a_share_is_wilsons_with_students_quantile(right, number):
    t = stats.t.ppf(0.975, number - 1)
    share = right / number
    middle = (share + t**2 / (2 * number)) / (1 + t**2 / number)
    half = t * np.sqrt(share * (1 - share) / number + (t / (2 * number)) ** 2) / (1 + t**2 / number)
    found = share_of_right((np.arange(number) < right).astype(float))
    assert found == pytest.approx([middle - half, middle + half], abs=1e-12)


@pytest.mark.parametrize('number', [2, 5, 40])
def test_cases_that_all_agree_have_the_exact_interval(number):
    exact = stats.binomtest(number, number).proportion_ci(method='exact')
    assert share_of_right(np.ones(number)) == pytest.approx([exact.low, 1.0], abs=1e-12)
    assert share_of_right(np.zeros(number)) == pytest.approx([0.0, 1 - exact.low], abs=1e-12)
    low, high = statistics.unit_interval(0.5, (0.0, 0.0), np.zeros(number), np.ones(number))
    assert low == pytest.approx(0.5 * exact.low) and high == pytest.approx(1 - 0.5 * exact.low)


def test_one_case_has_no_interval():
    assert share_of_right(np.ones(1)) is None
    without = statistics.unit_interval(0.6, (0.0, 0.1), np.array([0.2, 0]), np.array([1.0, 0]))
    assert without is None


def test_one_dominant_case_is_worth_hardly_more_than_one():
    weight_U = np.append(np.full(40, 0.001), 0.96)
    assert statistics.effective_number(np.full(41, 1 / 41)) == pytest.approx(41)
    assert statistics.effective_number(weight_U) == pytest.approx(1, abs=1e-3)
    low, high = statistics.unit_interval(0.7, (0.0, 0.0), 0.01 * weight_U, weight_U)
    assert (low, high) == pytest.approx((0, 1), abs=1e-3)


def test_an_interval_allows_for_bias_and_reaches_to_the_estimate():
    errors_U, weight_U = np.tile([0.001, -0.001], 50), np.full(100, 0.01)
    plain = statistics.unit_interval(0.6, (0.0, 0.0), errors_U, weight_U)
    small = statistics.unit_interval(0.6, (0.0, 0.01), errors_U, weight_U)
    assert small[0] == plain[0] and small[1] == pytest.approx(plain[1] + 0.01, abs=1e-3)
    large = statistics.unit_interval(0.6, (0.1, 0.1), errors_U, weight_U)
    assert large[0] == 0.6 and large[1] == pytest.approx(plain[1] + 0.1, abs=2e-3)
    beyond = statistics.unit_interval(0.95, (0.1, 0.2), errors_U, weight_U)
    assert beyond[0] == 0.95 and beyond[1] == 1.0


def test_trainings_enlarge_an_interval_by_students_t():
    right_U = (np.arange(400) < 240).astype(float)
    trainings = statistics.Trainings.of_seeds(np.array([0.5, 0.6, 0.7]))
    assert [(part.error, part.freedom) for part in trainings] == [(pytest.approx(0.1 / 3**0.5), 2)]
    plain = share_of_right(right_U)
    found = share_of_right(right_U, trainings=trainings)
    moved = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    for side in (0, 1):
        assert abs(found[side] - 0.6) == pytest.approx(np.hypot(plain[side] - 0.6, moved))
    assert statistics.Trainings.of_seeds(np.array([0.5])) == []


def brute_force_p(share_U, weight_U, difference):
    """Returns the share of all exchanges that are at least as extreme as the data."""
    left_U = share_U - difference * weight_U
    sums = [
        abs((np.array(s) * left_U).sum()) for s in itertools.product((1, -1), repeat=len(left_U))
    ]
    return np.mean(np.array(sums) >= abs(left_U.sum()) - 1e-12)


@pytest.mark.parametrize('cases', range(2, 11))
def test_p_and_interval_are_those_of_all_exchanges(cases):
    rng = np.random.default_rng(cases)
    weight_U = rng.random(cases) + 0.2
    weight_U /= weight_U.sum()
    share_U = weight_U * (0.25 + 0.3 * rng.standard_normal(cases))
    share_U[0] = 0.0
    found = statistics.paired_difference(share_U, weight_U)
    assert found.p == pytest.approx(brute_force_p(share_U, weight_U, 0.0))
    assert found.p >= 2 / 2**cases
    low, high = found.interval
    assert low <= found.value <= high
    for end, outside in ((low, -1e-6), (high, 1e-6)):
        if abs(end) < 1:
            assert brute_force_p(share_U, weight_U, end - outside) > 0.05
            assert brute_force_p(share_U, weight_U, end + outside) <= 0.05
    if cases < statistics.fewest_cases():
        assert found.interval == [-1, 1]


def test_six_cases_are_the_fewest_that_can_exclude_zero():
    assert statistics.fewest_cases() == 6
    for cases in range(2, 8):
        share_U = np.linspace(1, 2, cases) / cases / 10
        found = statistics.paired_difference(share_U, np.full(cases, 1 / cases))
        assert found.p == 2 / 2**cases
        assert (found.interval[0] > 0) == (cases >= 6) == (found.p < 0.05)


def test_cases_in_which_the_sides_agree_count_for_nothing():
    share_U = np.zeros(400)
    share_U[:5] = 1 / 400
    found = statistics.paired_difference(share_U, np.full(400, 1 / 400))
    assert found.p == pytest.approx(2 / 2**5, abs=0.02) and found.interval[0] == 0


def test_one_case_and_sides_that_do_not_differ_have_no_interval():
    one = statistics.paired_difference(np.array([0.4, 0.0]), np.array([1.0, 0.0]))
    assert (one.value, one.interval, one.p, one.reason) == (0.4, None, 1, 'one case: no interval')
    weight_U = np.full(30, 1 / 30)
    alike = statistics.paired_difference(np.zeros(30), weight_U)
    assert (alike.value, alike.interval, alike.p) == (0.0, None, 1.0)
    assert alike.reason == 'the arms answer alike'
    constant = statistics.paired_difference(0.25 * weight_U, weight_U)
    assert (constant.value, constant.interval, constant.p) == (pytest.approx(0.25), None, 1 / 2000)
    assert constant.reason == 'every case shows the same difference'
    few = statistics.paired_difference(np.full(3, 0.1), np.full(3, 1 / 3))
    assert few.p == 0.25 and few.interval is None


def test_random_exchanges_agree_with_all_of_them(monkeypatch):
    rng = np.random.default_rng(0)
    share_U, weight_U = (0.2 + 0.5 * rng.standard_normal(16)) / 16, np.full(16, 1 / 16)
    every = statistics.paired_difference(share_U, weight_U, resamples=1 << 15)
    some = statistics.paired_difference(share_U, weight_U, resamples=5000)
    assert some.p == pytest.approx(every.p, abs=0.01)
    assert some.interval == pytest.approx(every.interval, abs=0.02)
    assert some != statistics.paired_difference(share_U, weight_U, resamples=5000, seed=1)
    monkeypatch.setattr(statistics, '_MAX_DRAWS_PER_CHUNK', 160)
    assert some == statistics.paired_difference(share_U, weight_U, resamples=5000)


def test_a_paired_difference_of_many_cases_has_students_interval_and_p():
    rng = np.random.default_rng(0)
    values_U = 0.1 + rng.standard_normal(300)
    reference = stats.ttest_1samp(values_U, 0)
    found = statistics.paired_difference(values_U / 300, np.full(300, 1 / 300), resamples=20000)
    assert found.p == pytest.approx(reference.pvalue, abs=0.01)
    assert found.interval == pytest.approx(list(reference.confidence_interval()), abs=0.01)


def test_trainings_raise_p_until_the_interval_reaches_zero():
    rng = np.random.default_rng(0)
    share_U, weight_U = (0.2 + 0.2 * rng.standard_normal(40)) / 40, np.full(40, 1 / 40)
    value, plain = share_U.sum(), statistics.paired_difference(share_U, weight_U)
    for error in (0.01, 0.02, 0.04):
        part = statistics.Trainings(error, 1)
        found = statistics.paired_difference(share_U, weight_U, trainings=[part])
        moved = error * stats.t.ppf(0.975, 1)
        assert found.interval[0] == pytest.approx(
            value - np.hypot(value - plain.interval[0], moved)
        )
        assert (found.interval[0] > 0) == (found.p < 0.05)
        assert found.p > 2 * stats.t.sf(value / error, 1)
    # Each side's trainings add up.
    both = statistics.paired_difference(share_U, weight_U, trainings=[part, part])
    assert both.interval[1] - value == pytest.approx(
        np.hypot(found.interval[1] - value, moved), rel=1e-6
    )
    # Cases that agree leave the trainings' variation.
    alike = statistics.paired_difference(np.zeros(40), weight_U, trainings=[part])
    assert alike.interval == pytest.approx([-moved, moved]) and alike.p == 1


def test_metrics_of_two_thousand_records_take_well_under_a_second():
    rng = np.random.default_rng(0)
    rows = [
        {
            'case_id': f'case-{n // 2}',
            'category': 'omission_detection' if n % 2 else 'temporal_ordering',
            'answer': int(rng.integers(4)),
            'prediction': int(rng.integers(4)),
        }
        for n in range(2000)
    ]
    start = time.process_time()
    result = metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')
    assert time.process_time() - start < 1.5
    assert result['overall']['cases'] == 1000
    low, high = result['overall']['macro_f1_interval']
    assert low < result['overall']['macro_f1'] < high and high - low < 0.1
    assert result == metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')


def test_holm_against_hand_computed_values():
    assert statistics.holm_adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert statistics.holm_adjust([0.6, 0.5]) == [1.0, 1.0]
    assert statistics.holm_adjust([]) == []


@pytest.mark.parametrize('pair', [(0, 0), (1, 0), (3, 9), (9, 3), (7, 7), (40, 90), (1000, 1100)])
def test_mcnemar_is_the_binomial_test_of_scipy(pair):
    expected = stats.binomtest(pair[0], sum(pair)).pvalue if sum(pair) else 1.0
    assert statistics.mcnemar_p(*pair) == pytest.approx(expected, rel=1e-9)
