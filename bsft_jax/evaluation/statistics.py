"""Intervals and tests whose random units are whole cases, and trainings where there are several.

Records of one case are not independent, so nothing here counts records: each function takes one
number per case. `evaluation.casewise` makes those of macro-F1.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
# A sum of squares below it is rounding: all cases agree.
_NO_VARIANCE = 1e-18
# A distance below it is rounding.
_TOLERANCE = 1e-12
# Limits the memory of one chunk of exchanges: 64 MiB of float64.
_MAX_DRAWS_PER_CHUNK = 1 << 23


def cluster_ids(names: Sequence[str]) -> np.ndarray:
    """Returns a cluster number int[R] per name; a record with an empty name is its own cluster."""
    numbers: dict = {}
    keys = (name or ('row', n) for n, name in enumerate(names))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def effective_number(weight_U: np.ndarray) -> float:
    """Returns how many equal units show a variance as well as units of these weights do.

    It is (sum w²)² / sum w⁴: Satterthwaite's degrees of freedom, plus one, of a variance that adds
    up clusters whose errors grow with their weight (Bell and McCaffrey 2002; Carter, Schnepel and
    Steigerwald 2017). Equal weights give the number of units, one dominant weight gives about 1.
    """
    square_U = np.asarray(weight_U, dtype=np.float64) ** 2
    return float(square_U.sum() ** 2 / (square_U**2).sum())


def student_quantile(probability: float | np.ndarray, freedom: float) -> np.ndarray:
    """Returns the quantile of Student's t, which is infinite without a degree of freedom."""
    # Deferred: takes 0.4 s, and most commands compute no interval.
    from scipy import special

    if freedom <= 0:
        return np.full(np.shape(probability), np.inf)
    return special.stdtrit(freedom, probability)


def fewest_cases(level: float = LEVEL) -> int:
    """Returns the fewest cases with which a paired test can reject at 1 - level.

    Exchanging the sides of each of M cases gives 2^M data sets, so that no p is below 2 / 2^M.
    """
    return int(np.ceil(1 - np.log2(1 - level)))


@dataclasses.dataclass(frozen=True)
class Trainings:
    """Holds how much an estimate varies between trainings.

    Attributes:
      error: standard error of the mean over the seeds.
      freedom: its degrees of freedom, one less than the number of seeds.
    """

    error: float
    freedom: int

    @classmethod
    def of_seeds(cls, values_J: np.ndarray) -> list[Trainings]:
        """Returns the variation of values by seed; none for one seed, which cannot show any."""
        number = len(values_J)
        if number < 2:
            return []
        return [cls(float(np.std(values_J, ddof=1)) / number**0.5, number - 1)]


def unit_interval(
    estimate: float,
    bias: tuple[float, float],
    influence_U: np.ndarray,
    weight_U: np.ndarray,
    *,
    trainings: Sequence[Trainings] = (),
    level: float = LEVEL,
) -> list[float] | None:
    """Returns an interval within [0, 1] for an estimate such as a macro-F1.

    It is Wilson's score interval (1927) around the estimate less its bias, for the sample size that
    would give a proportion this variance, and with a quantile of Student's t: the recommendation of
    Korn and Graubard (1998) and Dean and Pagano (2015) for proportions of clustered samples. Where
    all cases agree there is no variance to go by; then a share e of the cases may differ unseen,
    with e the limit of Clopper and Pearson (1934) for none of that many.

    Trainings enlarge both distances: squares of distances add up (Zou and Donner 2008). The
    interval is stretched to the estimate itself where its bias is larger than its error.

    Args:
      estimate: the estimate.
      bias: by how much it lies too low, at least and at most; the lower limit allows for the first
        and the upper limit for the second.
      influence_U: by case, independent errors that add up to the error of the estimate.
      weight_U: by case, its share of the estimate, 0 for a case that has none.
      trainings: the variation between trainings.
      level: confidence level.

    Returns:
      [low, high], or None for fewer than two cases.
    """
    estimate, weight_U = float(estimate), weight_U[weight_U > 0]
    if len(weight_U) < 2:
        return None
    number = effective_number(weight_U)
    variance = _sum_of_squares(influence_U)
    quantile = float(student_quantile((1 + level) / 2, number - 1))
    unseen = 1 - ((1 - level) / 2) ** (1 / number)
    # Squared quantile over the sample size that is as uncertain; bounded to stay finite.
    spread = min(quantile**2 * variance / max(estimate * (1 - estimate), variance, 1e-300), 1e12)
    moved = float(_training_distance(trainings, 1 - level))

    def limit(center: float, side: int) -> float:
        center = min(max(center, 0.0), 1.0)
        if variance < _NO_VARIANCE:
            end = center + unseen * ((side > 0) - center)
        else:
            half = (spread * center * (1 - center) + spread**2 / 4) ** 0.5
            end = (center + spread / 2 + side * half) / (1 + spread)
        return center + side * float(np.hypot(end - center, moved))

    low, high = limit(estimate + bias[0], -1), limit(estimate + bias[1], 1)
    return [max(0.0, min(low, estimate)), min(1.0, max(high, estimate))]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Holds a paired difference and what can be said of it.

    Attributes:
      value: the difference.
      interval: [low, high], or None where `reason` says why there is none.
      p: probability of a difference at least as large if there were none.
      reason: why there is no interval; empty where there is one.
    """

    value: float
    interval: list[float] | None
    p: float
    reason: str = ''


def paired_difference(
    share_U: np.ndarray,
    weight_U: np.ndarray,
    *,
    trainings: Sequence[Trainings] = (),
    resamples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """Tests a difference by exchanging its two sides within cases, and bounds it.

    The test is Fisher's randomization test (1935), which Noreen (1989) and Yeh (2000) use for F1:
    if the sides were alike, each case could as well have had them exchanged. With M cases no p is
    below 2 / 2^M, and cases in which the sides answer alike count for nothing. The interval holds
    the differences that the test does not reject (Hartigan 1969), and so is [-1, 1] for fewer than
    `fewest_cases`.

    Where there are several trainings, they are drawn at random as well. Squares of the distances to
    the limits add up (Zou and Donner 2008), with Student's t for the trainings, and p is the level
    at which the limit reaches zero.

    Args:
      share_U: by case, the shares that add up to the difference.
      weight_U: by case, its weight in the difference, 0 for a case that has none.
      trainings: the variation between trainings.
      resamples: number of exchanges, where the cases are too many to make all. No p is below its
        inverse.
      seed: of the exchanges.
      level: confidence level of the interval.
    """
    value = float(share_U.sum())
    present_U = weight_U > 0
    share_U, weight_U = share_U[present_U], weight_U[present_U]
    if len(share_U) < 2:
        return Difference(value, None, 1.0, 'one case: no interval')
    if _sum_of_squares(share_U) < _NO_VARIANCE and _is_still(trainings):
        return Difference(0.0, None, 1.0, 'the arms answer alike')
    below_E, above_E = _exchange_distances(share_U, weight_U, resamples, seed)
    number = len(below_E)

    def limit(distance_E: np.ndarray, alpha_A: float | np.ndarray) -> np.ndarray:
        left_out_A = np.floor(np.asarray(alpha_A) * number + 1e-9).astype(int)
        return np.hypot(distance_E[left_out_A], _training_distance(trainings, alpha_A))

    alpha_A = np.union1d(np.arange(1, number) / number, np.arange(1, 200) / 200)
    toward_zero_E = below_E if value > 0 else above_E
    excludes_A = limit(toward_zero_E, alpha_A) < abs(value) - _TOLERANCE
    p = float(alpha_A[excludes_A.argmax()]) if excludes_A.any() else 1.0
    if _sum_of_squares(share_U - value * weight_U) < _NO_VARIANCE and _is_still(trainings):
        return Difference(value, None, p, 'every case shows the same difference')
    ends = value - float(limit(below_E, 1 - level)), value + float(limit(above_E, 1 - level))
    # An end that is zero but for rounding excludes nothing.
    low, high = (0.0 if abs(end) < _TOLERANCE else end for end in ends)
    return Difference(value, [max(-1.0, low), min(1.0, high)], p)


def _exchange_distances(
    share_U: np.ndarray, weight_U: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how far below and above the difference each exchange keeps its limits, descending.

    An exchange parts the cases in two. It is at least as extreme as the data against every
    hypothetical difference between the means of the two parts, and against no other. The data
    themselves leave one part empty, which bounds nothing: inf.

    All exchanges are made where there are at most `resamples`. An exchange and its opposite are one
    partition, so that M cases have 2^(M-1) of them.
    """
    units, value = len(share_U), share_U.sum()
    complete = units - 1 <= np.log2(resamples)
    number = 2 ** (units - 1) if complete else resamples
    rng = np.random.default_rng(seed)
    values_U2 = np.stack([share_U, weight_U], axis=1)
    kept_E2 = np.empty((number, 2))
    chunk = max(1, _MAX_DRAWS_PER_CHUNK // units)
    for start in range(0, number, chunk):
        index_E = np.arange(start, min(start + chunk, number))
        if complete:
            kept_EU = (index_E[:, None] >> np.arange(units)) & 1 == 0
        else:
            kept_EU = rng.integers(2, size=(len(index_E), units), dtype=np.int8) == 0
            kept_EU[index_E == 0] = True
        kept_E2[index_E] = kept_EU.astype(np.float64) @ values_U2
    parts_2E2 = np.stack([kept_E2, values_U2.sum(0) - kept_E2])
    empty_E = (parts_2E2[..., 1] < _TOLERANCE).any(0)
    means_2E = parts_2E2[..., 0] / np.where(empty_E, 1.0, parts_2E2[..., 1])
    below_E = np.where(empty_E, np.inf, value - means_2E.min(0))
    above_E = np.where(empty_E, np.inf, means_2E.max(0) - value)
    return np.sort(below_E)[::-1], np.sort(above_E)[::-1]


def _training_distance(trainings: Sequence[Trainings], alpha: float | np.ndarray) -> np.ndarray:
    """Returns the distance that trainings alone give the limits of an interval of 1 - alpha."""
    squares = [
        (part.error * student_quantile(1 - np.asarray(alpha) / 2, part.freedom)) ** 2
        for part in trainings
    ]
    return np.sqrt(sum(squares, np.zeros(np.shape(alpha))))


def _is_still(trainings: Sequence[Trainings]) -> bool:
    return all(part.error**2 < _NO_VARIANCE for part in trainings)


def _sum_of_squares(values_U: np.ndarray) -> float:
    return float((values_U**2).sum())


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Returns the exact p of McNemar's test (1947) that two sides are right equally often.

    Of the pairs in which one side alone is right, each side has half under the null hypothesis: a
    binomial test of two sides. Pairs are taken as independent.
    """
    # Deferred: takes 0.4 s, and most commands make no test.
    from scipy import special

    fewer, number = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(special.bdtr(fewer, number, 0.5)))


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values, in the order given, by Holm's step-down method (1979).

    Rejecting where the result is below a level keeps the family-wise error rate below that level.
    """
    order = np.argsort(p_values, kind='stable')
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.zeros(len(p_values))
    adjusted[order] = np.asarray(p_values, dtype=np.float64)[order] * factors
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(adjusted[order]))
    return adjusted.tolist()
