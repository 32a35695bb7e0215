"""Tests the coefficients of agreement against published examples and from their definitions."""

import itertools

import numpy as np
import pytest

from bsft_jax.evaluation import agreement

# Krippendorff's example of 4 raters and 12 units, which Gwet uses too; 0 is no rating.
EXAMPLE = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3),
    (0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0),
)
RATINGS = [
    {rater: value - 1 for rater, value in enumerate(unit) if value}
    for unit in zip(*EXAMPLE, strict=True)
]


def measured(ratings, *, ordinal, values=5, **options):
    count_IQ = agreement.count_values(ratings, values)
    return agreement.measure_agreement(
        count_IQ, np.arange(len(count_IQ)), ordinal=ordinal, **options
    )


def test_published_examples():
    nominal, ordinal = (measured(RATINGS, ordinal=ordinal) for ordinal in (False, True))
    # Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, D.
    assert round(nominal['alpha'], 3) == 0.743
    assert round(ordinal['alpha'], 3) == 0.815
    # Gwet (2014); the package irrCAC 0.4 gives the same, and AC2 with ordinal weights.
    assert round(nominal['ac'], 5) == 0.77544
    assert round(ordinal['ac'], 5) == 0.89894
    assert round(nominal['agreement'], 5) == ordinal['agreement'].__round__(5) == 0.81818
    assert nominal['units'] == 11
    assert sum(nominal['prevalence']) == pytest.approx(1)


def test_ordinal_weights():
    np.testing.assert_allclose(
        agreement.ordinal_weights(3), [[1, 2 / 3, 0], [2 / 3, 1, 2 / 3], [0, 2 / 3, 1]]
    )


def test_alpha_counts_disagreements_by_its_definition():
    """Compares with the mean distance within units over that of all pairs, counted one by one."""
    rng = np.random.default_rng(0)
    ratings = [
        {rater: int(rng.integers(4)) for rater in range(rng.integers(2, 5))} for _ in range(9)
    ]
    values = [value for unit in ratings for value in unit.values()]
    within = sum(
        (a != b) / (len(unit) - 1)
        for unit in ratings
        for a, b in itertools.permutations(unit.values(), 2)
    ) / len(values)
    chance = sum(a != b for a, b in itertools.permutations(values, 2))
    chance /= len(values) * (len(values) - 1)
    found = measured(ratings, ordinal=False, values=4)
    assert found['alpha'] == pytest.approx(1 - within / chance)


def test_high_prevalence_lowers_alpha_and_not_gwets_coefficient():
    ratings = [{0: 0, 1: 0}] * 38 + [{0: 0, 1: 1}, {0: 1, 1: 0}]
    found = measured(ratings, ordinal=False, values=2)
    assert found['agreement'] == 0.95
    assert found['alpha'] < 0 < 0.9 < found['ac']


def test_what_has_no_value():
    assert measured([{0: 1}, {1: 2}, {}], ordinal=True) is None
    same = measured([{0: 1, 1: 1}] * 3, ordinal=True)
    assert same['alpha'] is None and same['alpha_interval'] is None and same['ac'] == 1
    one_case = agreement.measure_agreement(
        agreement.count_values([{0: 1, 1: 1}, {0: 1, 1: 0}], 2), np.zeros(2, int), ordinal=False
    )
    assert one_case['ac_interval'] is None and one_case['ac'] is not None


def test_intervals_draw_whole_cases():
    """Repeats each unit five times: as one case it says no more than once."""
    units = [{0: i % 3, 1: (i % 3 if i % 4 else 1)} for i in range(24)]
    once = measured(units, ordinal=False, values=3)
    case_I = np.tile(np.arange(24), 5)
    many = agreement.measure_agreement(agreement.count_values(units * 5, 3), case_I, ordinal=False)
    assert many['ac_interval'] == pytest.approx(once['ac_interval'])
    low, high = once['ac_interval']
    assert low < once['ac'] < high
