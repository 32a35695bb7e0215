"""Computes the section `selective` of metrics.json: how good answers are where a model is sure.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Shares of the records that are answered, in per cent.
PERCENT_COVERED = (80, 90, 95)


def selective_metrics(
    rows: Sequence[Mapping[str, Any]],
    wrong_R: np.ndarray,
    macro_f1_of: Callable[[np.ndarray], float],
) -> dict[str, Any] | None:
    """Scores the answers of the most confident records.

    Args:
      rows: rows of `predictions.jsonl`.
      wrong_R: whether each answer is wrong.
      macro_f1_of: returns the overall macro-F1 of the records where bool[R] is true.

    Returns:
      `aurc`: as `area_under_risk_coverage`.
      `macro_f1_at_80_percent` and so on: overall macro-F1 of that share of the records, rounded up,
        and of those that are as confident as the last of them.
      None instead of all that where rows have no `confidence`.
    """
    if any(row.get('confidence') is None for row in rows):
        return None
    confidence_R = np.array([row['confidence'] for row in rows], dtype=np.float64)
    result: dict[str, Any] = {'aurc': area_under_risk_coverage(wrong_R, confidence_R)}
    for percent in PERCENT_COVERED:
        kept_R = most_confident(confidence_R, percent)
        result[f'macro_f1_at_{percent}_percent'] = macro_f1_of(kept_R)
    return result


def most_confident(confidence_R: np.ndarray, percent: int) -> np.ndarray:
    """Returns which records, bool[R], belong to the most confident `percent` of them.

    Their number is rounded up, and those as confident as the last of them belong to them too.

    Args:
      confidence_R: confidence of each record.
      percent: from 1 to 100.
    """
    covered = -(-percent * len(confidence_R) // 100)
    return confidence_R >= np.sort(confidence_R)[-covered]


def area_under_risk_coverage(wrong_R: np.ndarray, confidence_R: np.ndarray) -> float:
    """Returns the mean, over k, of the share of wrong answers among the k most confident ones.

    It is the AURC of Geifman, Uziel and El-Yaniv (2019). Records of one confidence stand in all
    orders, on average: each has their mean error.
    """
    _, inverse_R, number = np.unique(-confidence_R, return_inverse=True, return_counts=True)
    error_R = np.repeat(np.bincount(inverse_R, wrong_R) / number, number)
    return float((np.cumsum(error_R) / np.arange(1, len(error_R) + 1)).mean())
