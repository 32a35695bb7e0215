"""Tests scores of probabilities against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from bsft_jax.evaluation import probabilities


def test_auroc_counts_ties_one_half():
    rng = np.random.default_rng(3)
    positive_R, scores_R = rng.random(200) < 0.4, rng.integers(5, size=200) / 5
    assert probabilities.auroc(positive_R, scores_R) == pytest.approx(
        sk.roc_auc_score(positive_R, scores_R), abs=1e-12
    )
    assert probabilities.auroc(np.ones(3, bool), np.arange(3.0)) is None


def test_ece_by_hand():
    probs_R = np.array([0.01, 0.05, 0.95, 1.0, 0.5])
    positive_R = np.array([False, True, True, True, False])
    expected = (abs(0.06 - 1) + abs(1.95 - 2) + 0.5) / 5
    assert probabilities.expected_calibration_error(positive_R, probs_R) == pytest.approx(
        expected, abs=1e-12
    )
    assert probabilities.expected_calibration_error(np.array([True]), np.array([1.0])) == 0.0


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('values', [3, 7, 10_000])
def test_average_precision_equals_sklearn_with_and_without_ties(seed, values):
    rng = np.random.default_rng(seed)
    positive_R = rng.random(150) < rng.random()
    positive_R[seed % 150] = True
    scores_R = rng.integers(values, size=150) / values + 0.3 * positive_R
    expected = sk.average_precision_score(positive_R, scores_R)
    assert probabilities.average_precision(positive_R, scores_R) == pytest.approx(
        expected, abs=1e-12
    )


def test_infinite_scores_are_ranks_like_others():
    positive_R = np.array([True, False, True, False, False])
    scores_R = np.array([np.inf, -np.inf, 0.5, -np.inf, 2.0])
    ranks_R = np.array([3, 0, 1, 0, 2])
    for score in (probabilities.auroc, probabilities.average_precision):
        assert score(positive_R, scores_R) == score(positive_R, ranks_R)
    assert probabilities.average_precision(np.zeros(2, bool), np.zeros(2)) is None


def test_the_brier_score_equals_sklearn():
    rng = np.random.default_rng(0)
    positive_R, probs_R = rng.random(90) < 0.3, rng.random(90)
    assert probabilities.brier_score(positive_R, probs_R) == pytest.approx(
        sk.brier_score_loss(positive_R, probs_R), abs=1e-12
    )
