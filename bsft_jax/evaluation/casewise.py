"""Splits macro-F1, and the difference of two, by case, for the intervals of `statistics`.

Array letters are those of `bsft_jax.ops`; V are the cases of one category, P pairs of seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class CategoryCounts:
    """Holds the counts of one category by case, seed and label.

    Attributes:
      case_V: numbers of the cases that have records of the category.
      weight_V: their shares of its records.
      hits_VJK: right predictions of each label.
      support_VJK: answers plus predictions of each label.
    """

    case_V: np.ndarray
    weight_V: np.ndarray
    hits_VJK: np.ndarray
    support_VJK: np.ndarray


@dataclasses.dataclass(frozen=True)
class MeanMacroF1:
    """Holds a mean macro-F1 over categories and seeds with what `unit_interval` asks of it.

    Attributes:
      values_J: the mean over the categories for each seed.
      bias: smallest and largest downward bias that `value` may have, in size.
      influence_U: by case, independent errors that add up to the error of `value`.
      weight_U: by case, its share of `value`.
    """

    values_J: np.ndarray
    bias: tuple[float, float]
    influence_U: np.ndarray
    weight_U: np.ndarray

    @property
    def value(self) -> float:
        """Returns the mean over the seeds."""
        return float(self.values_J.mean())


def macro_f1(hits_K: np.ndarray, support_K: np.ndarray) -> np.ndarray:
    """Returns macro-F1 over the labels that have support, NaN where none has.

    Args:
      hits_K: right predictions of each label; leading axes are kept.
      support_K: answers plus predictions of each label.
    """
    f1_K = 2 * hits_K / np.maximum(support_K, 1)
    present = (support_K > 0).sum(-1)
    return np.where(present > 0, f1_K.sum(-1) / np.maximum(present, 1), np.nan)


def count_by_case(
    case_R: np.ndarray,
    category_R: np.ndarray,
    answer_R: np.ndarray,
    predictions_JR: np.ndarray,
    *,
    categories: int,
) -> list[CategoryCounts]:
    """Counts the predictions of each seed in each category; each has a record."""
    options = int(max(answer_R.max(), predictions_JR.max())) + 1
    counts = []
    for c in range(categories):
        record_R = np.flatnonzero(category_R == c)
        answer, predictions_J = answer_R[record_R], predictions_JR[:, record_R]
        case_V, position, records_V = np.unique(
            case_R[record_R], return_inverse=True, return_counts=True
        )
        shape = (len(case_V), len(predictions_J), options)
        hits_VJK, support_VJK = np.zeros(shape), np.zeros(shape)
        for j, prediction in enumerate(predictions_J):
            right = prediction == answer
            np.add.at(hits_VJK, (position[right], j, answer[right]), 1)
            np.add.at(support_VJK, (position, j, answer), 1)
            np.add.at(support_VJK, (position, j, prediction), 1)
        counts.append(CategoryCounts(case_V, records_V / len(record_R), hits_VJK, support_VJK))
    return counts


def mean_macro_f1(categories: Sequence[CategoryCounts], cases: int) -> MeanMacroF1:
    """Returns the unweighted mean macro-F1 of categories, split by case.

    Influences are those of the jackknife (Miller 1974) that leaves one case out of a category.
    Categories that rest on one case have no such; they are compared with one another, as strata of
    one unit are (Cochran 1977, 5A.12). The bias is the jackknife's, or `_ratio_bias` where that is
    larger: the jackknife misses what happens to labels that few records have.

    Args:
      categories: their counts.
      cases: number of cases, U.
    """
    values_JC = np.stack(
        [macro_f1(c.hits_VJK.sum(0), c.support_VJK.sum(0)) for c in categories], axis=-1
    )
    value_C, bias_2 = values_JC.mean(0), np.zeros(2)
    influence_U, weight_U = np.zeros(cases), np.zeros(cases)
    for value, counts in zip(value_C, categories, strict=True):
        hits_JK, support_JK = counts.hits_VJK.sum(0), counts.support_VJK.sum(0)
        jackknife_bias = 0.0
        if (number := len(counts.case_V)) > 1:
            without_V = macro_f1(hits_JK - counts.hits_VJK, support_JK - counts.support_VJK).mean(1)
            mean = without_V.mean()
            jackknife_bias = (number - 1) * (value - mean)
            influence_U[counts.case_V] += (mean - without_V) * (1 - 1 / number) ** 0.5
        else:
            influence_U[counts.case_V] += value - value_C.mean()
        bias_2 += np.maximum(_ratio_bias(hits_JK, support_JK), jackknife_bias)
        weight_U[counts.case_V] += counts.weight_V
    number = len(categories)
    smallest, largest = (bias_2 / number).tolist()
    return MeanMacroF1(
        values_JC.mean(-1), (smallest, largest), influence_U / number, weight_U / number
    )


def difference_by_case(
    first: Sequence[CategoryCounts],
    second: Sequence[CategoryCounts],
    cases: int,
    *,
    paired: bool,
) -> np.ndarray:
    """Returns shares float64[U] that add up to the difference of two mean macro-F1s.

    A case in which both sides predict alike has a share of 0. Exchanging the two sides of a case
    changes the sign of its share, up to the change of the labels' totals.

    Args:
      first: counts of one side by category.
      second: counts of the other side, on the same records.
      cases: number of cases, U.
      paired: whether both sides have the same seeds. Otherwise each seed meets each.
    """
    share_U = np.zeros(cases)
    for one, other in zip(first, second, strict=True):
        seeds = one.hits_VJK.shape[1], other.hits_VJK.shape[1]
        if paired:
            of_first_P = of_second_P = np.arange(seeds[0])
        else:
            of_first_P, of_second_P = np.indices(seeds).reshape(2, -1)
        share_VP = _shares_of_category(
            *_to_options(one, other, of_first_P), *_to_options(other, one, of_second_P)
        )
        share_U[one.case_V] += share_VP.mean(1)
    return share_U / len(first)


def _ratio_bias(hits_JK: np.ndarray, support_JK: np.ndarray) -> np.ndarray:
    """Returns how far macro-F1 lies too low because F1 is a ratio: least and most, float64[2].

    F1 = 2 q / (1 + q) with q the share of hits among the n records that have the label as an answer
    or a prediction. To second order it lies 2 q (1 - q) / (n (1 + q)³) too low (Cochran 1977, 6.8).
    q is taken as (hits + 1/2) / (n + 1), since it is 0 or 1 for a label of one record.

    A label without a hit may owe that to chance, or have none anywhere: as do the answers that a
    constant prediction misses. The least counts such labels as unbiased.
    """
    number_JK = support_JK - hits_JK
    share_JK = (hits_JK + 0.5) / (number_JK + 1)
    bias_JK = 2 * share_JK * (1 - share_JK) / (np.maximum(number_JK, 1) * (1 + share_JK) ** 3)
    labels_J = (number_JK > 0).sum(-1)
    return np.stack(
        [
            (np.where(counted_JK, bias_JK, 0.0).sum(-1) / labels_J).mean()
            for counted_JK in (hits_JK > 0, number_JK > 0)
        ]
    )


def _to_options(
    counts: CategoryCounts, other: CategoryCounts, seed_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns hits and support [V, P, K] with the labels of both counts."""
    options = max(counts.hits_VJK.shape[2], other.hits_VJK.shape[2])
    missing = ((0, 0), (0, 0), (0, options - counts.hits_VJK.shape[2]))
    return tuple(np.pad(x[:, seed_P], missing) for x in (counts.hits_VJK, counts.support_VJK))


def _shares_of_category(
    hits_VPK: np.ndarray,
    support_VPK: np.ndarray,
    other_hits_VPK: np.ndarray,
    other_support_VPK: np.ndarray,
) -> np.ndarray:
    """Returns shares [V, P] that add up to the difference of two macro-F1s of a category.

    For hits h and support s of a label, h/s - h'/s' = ((h - h')(s + s') - (h + h')(s - s')) / 2ss',
    and both h - h' and s - s' are sums over cases. Labels that only one side predicts change the
    number of labels, by which the sum of the F1s is divided; that change falls to the cases
    that have them.
    """
    hits_PK, support_PK = hits_VPK.sum(0), support_VPK.sum(0)
    other_hits_PK, other_support_PK = other_hits_VPK.sum(0), other_support_VPK.sum(0)
    f1_VPK = (
        (hits_VPK - other_hits_VPK) * (support_PK + other_support_PK)
        - (hits_PK + other_hits_PK) * (support_VPK - other_support_VPK)
    ) / np.maximum(support_PK * other_support_PK, 1)
    labels_P, other_labels_P = (support_PK > 0).sum(-1), (other_support_PK > 0).sum(-1)
    share_VP = f1_VPK.sum(-1) * (1 / labels_P + 1 / other_labels_P) / 2
    added_VPK = np.where(other_support_PK == 0, support_VPK / np.maximum(support_PK, 1), 0.0)
    removed_VPK = np.where(support_PK == 0, other_support_VPK / np.maximum(other_support_PK, 1), 0)
    sum_P = (macro_f1(hits_PK, support_PK) * labels_P) / 2 + (
        macro_f1(other_hits_PK, other_support_PK) * other_labels_P
    ) / 2
    change_VP = (added_VPK - removed_VPK).sum(-1)
    return share_VP - sum_P * change_VP / (labels_P * other_labels_P)
