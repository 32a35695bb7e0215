"""Scores of probabilities and of other scores against what came true.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

import numpy as np

ECE_BINS = 15


def auroc(positive_R: np.ndarray, scores_R: np.ndarray) -> float | None:
    """Returns the area under the ROC curve; None when only one class is present.

    By ranks (Mann-Whitney U); a tie counts one half.
    """
    positives = int(positive_R.sum())
    negatives = len(positive_R) - positives
    if not positives or not negatives:
        return None
    _, inverse_R, number = np.unique(scores_R, return_inverse=True, return_counts=True)
    rank_R = (np.cumsum(number) - (number - 1) / 2)[inverse_R]
    above = rank_R[positive_R].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def average_precision(positive_R: np.ndarray, scores_R: np.ndarray) -> float | None:
    """Returns the mean of the precision at each positive record; None without one.

    It is the sum over the thresholds of precision times gained recall, not interpolated, as
    `sklearn.metrics.average_precision_score` has it. Records of equal scores are one threshold.
    """
    positives = int(positive_R.sum())
    if not positives:
        return None
    # Highest score first.
    _, inverse_R = np.unique(-np.asarray(scores_R), return_inverse=True)
    gained = np.bincount(inverse_R, positive_R)
    precision = np.cumsum(gained) / np.cumsum(np.bincount(inverse_R))
    return float((gained * precision).sum() / positives)


def brier_score(positive_R: np.ndarray, probs_R: np.ndarray) -> float:
    """Returns the mean squared error of probabilities (Brier 1950)."""
    return float(np.mean((probs_R - positive_R) ** 2))


def expected_calibration_error(
    positive_R: np.ndarray, probs_R: np.ndarray, bins: int = ECE_BINS
) -> float:
    """Returns the mean of |mean probability - share of positives| over equal-width bins.

    Bins are weighted by the number of records in them (Naeini, Cooper and Hauskrecht 2015).
    """
    bin_R = np.minimum((probs_R * bins).astype(int), bins - 1)
    return float(
        np.abs(np.bincount(bin_R, probs_R - positive_R, minlength=bins)).sum() / len(probs_R)
    )
