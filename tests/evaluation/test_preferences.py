"""Tests averages over cases and the model of Bradley and Terry."""

import numpy as np
import pytest

from bsft_jax.evaluation import preferences, resampling, statistics


def test_a_share_of_independent_items_has_wilsons_interval():
    top_I = np.repeat([1.0, 0.0], [42, 18])
    found = resampling.average_ratio(top_I, np.ones(60), np.arange(60))
    assert found['value'] == 0.7 and (found['items'], found['cases']) == (60, 60)
    # Wilson (1927) for 59, the degrees of freedom, of 60 and Student's quantile for 1.96.
    z2 = float(statistics.student_quantile(0.975, 59)) ** 2 / 59
    half = (z2 * 0.7 * 0.3 + z2**2 / 4) ** 0.5
    expected = [(0.7 + z2 / 2 - half) / (1 + z2), (0.7 + z2 / 2 + half) / (1 + z2)]
    assert found['wilson'] == pytest.approx(expected)
    low, high = found['bootstrap']
    assert 0.55 < low < 0.63 and 0.77 < high < 0.85


def test_items_of_one_case_count_as_one():
    top_I, case_I = np.tile(np.repeat([1.0, 0.0], [14, 6]), 3), np.tile(np.arange(20), 3)
    many = resampling.average_ratio(top_I, np.ones(60), case_I)
    once = resampling.average_ratio(top_I[:20], np.ones(20), case_I[:20])
    for name in ('value', 'wilson', 'bootstrap'):
        assert many[name] == pytest.approx(once[name])
    assert (many['items'], many['cases']) == (60, 20)


def test_items_with_nothing_to_count_are_left_out():
    top_I, bottom_I = np.array([1.0, 0.0, 0.0, 0.5]), np.array([1.0, 0.0, 1.0, 0.5])
    found = resampling.average_ratio(top_I, bottom_I, np.array([7, 8, 9, 9]))
    assert found['value'] == 1.5 / 2.5 and (found['items'], found['cases']) == (3, 2)
    none = resampling.average_ratio(np.zeros(2), np.zeros(2), np.arange(2))
    assert none['value'] is none['wilson'] is none['bootstrap'] is None
    one = resampling.average_ratio(np.ones(2), np.ones(2), np.zeros(2, int))
    assert one['value'] == 1 and one['wilson'] is one['bootstrap'] is None


def test_two_systems_have_the_log_odds_of_their_wins():
    wins_1AA = np.array([[[0.0, 30.0], [10.0, 0.0]]])
    strength_A = preferences.bradley_terry(wins_1AA, prior=1e-9)[0]
    assert strength_A[0] - strength_A[1] == pytest.approx(np.log(3))
    assert strength_A.sum() == pytest.approx(0)


def test_strengths_are_where_the_likelihood_has_no_slope():
    wins_AA = np.array([[0.0, 8.0, 9.5], [4.0, 0.0, 7.0], [2.5, 5.0, 0.0]])
    strength_A = preferences.bradley_terry(wins_AA[None], prior=2.0)[0]
    wins_AA = wins_AA + 1 - np.eye(3)
    expected_AA = (wins_AA + wins_AA.T) / (1 + np.exp(strength_A[None] - strength_A[:, None]))
    np.testing.assert_allclose(expected_AA.sum(1), wins_AA.sum(1), rtol=1e-6)


def test_a_clean_sweep_is_finite():
    first_I, second_I = np.array([0, 0, 1] * 10), np.array([1, 2, 2] * 10)
    found = preferences.order_systems(
        first_I, second_I, np.ones(30), np.arange(30), systems=3, resamples=200
    )
    a, b, c = found['strengths']
    assert np.isfinite([a, b, c]).all() and a > b > c
    assert 0.9 < found['preferred'][0][1] < 1
    low, high = found['intervals'][0]
    assert low <= a <= high
