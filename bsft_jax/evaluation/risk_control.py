"""Bounds the rate of over-intervention on fresh cases: p-values by case, and tests along a dial.

Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv 2110.01052): a setting of
the dial is safe with confidence 1 - alpha if the hypothesis that its rate exceeds the target is
rejected at alpha. Settings are tested from the most restrained one on, up to the first that is not
rejected. Rates are constant between the settings at which a choice changes, so this tests every
real number in turn, an order that no record decides; alpha is spent once.

Records of a case depend on each other, so whole cases are the units. They are drawn independently,
and none has more records that count than the largest here.

Array letters are those of `bsft_jax.ops`; U counts cases.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from bsft_jax.evaluation.operating import OperatingCurve

# Targets are searched in these steps.
_TARGET_STEPS = 1000


def case_numbers(names: Sequence[str]) -> np.ndarray:
    """Returns the number int[R] of each record's case, in the order of a hash of the names.

    So the order of the bets below depends neither on the file's order nor on what was scored.
    """
    order = sorted(
        set(names), key=lambda name: hashlib.blake2b(name.encode('utf-8', 'replace')).digest()
    )
    numbers = {name: u for u, name in enumerate(order)}
    return np.array([numbers[name] for name in names], np.int64)


def p_value(over_U: np.ndarray, counted_U: np.ndarray, target: float, alpha: float) -> float:
    """Returns a p-value of the hypothesis that the rate of over-intervention is above a target.

    The rate is the expected number of over-interventions in a case over the expected number of
    records that count, so the hypothesis is that over - target * counted has a mean above zero.

    Where every case has one record that counts, the test is the exact binomial one. Otherwise it is
    a bet against the hypothesis, case after case, whose capital grows beyond 1 / p with a
    probability of p at most if the hypothesis holds (Ville 1939; Waudby-Smith and Ramdas 2024).

    Args:
      over_U: over-interventions of each case.
      counted_U: records of each case that count.
      target: the rate, between 0 and 1.
      alpha: the level that bets are made for; p is valid at every level.
    """
    some_U = counted_U > 0
    over_U, counted_U = over_U[some_U], counted_U[some_U]
    if counted_U.max() == 1:
        # Deferred: takes 0.4 s, and most commands make no test.
        from scipy import special

        return float(special.bdtr(int(over_U.sum()), len(over_U), target))
    # In [0, 1] for every case, with a mean above `target` under the hypothesis.
    loss_U = target + (over_U - target * counted_U) / counted_U.max()
    number_U = np.arange(1, len(loss_U) + 1)
    spread = target * (1 - target)
    mean_U = (target + np.cumsum(loss_U)) / (number_U + 1)
    variance_U = (spread + np.cumsum((loss_U - mean_U) ** 2)) / (number_U + 1)
    # A bet knows only the cases before it.
    before_U = np.concatenate([[spread], variance_U[:-1]])
    bet_U = np.sqrt(-2 * np.log(alpha) / (len(loss_U) * before_U))
    # A larger one could lose everything, and no later case would count.
    bet_U = np.minimum(bet_U, (1 - 1e-6) / (1 - target))
    capital_U = np.cumsum(np.log1p(bet_U * (target - loss_U)))
    return float(np.exp(-max(0.0, capital_U.max())))


def over_by_case(curve: OperatingCurve, case_R: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the over-interventions float64[U] of the cases at each of `path.dial_E`, ascending."""
    path = curve.path
    over_Rn = curve.choices.over_Rn & curve.can_be_over_R[:, None]
    over_RN = np.take_along_axis(over_Rn, path.choice_RN, 1).astype(np.float64)
    finite_RM = path.dial_RM < np.inf
    setting = np.searchsorted(path.dial_E, path.dial_RM[finite_RM])
    order = np.argsort(setting, kind='stable')
    change = np.diff(over_RN, axis=1)[finite_RM][order]
    case = np.broadcast_to(case_R[:, None], finite_RM.shape)[finite_RM][order]
    ends = np.searchsorted(setting[order], np.arange(len(path.dial_E) + 1))
    over_U = np.bincount(case_R, over_RN[:, 0])
    for start, end in itertools.pairwise(ends):
        np.add.at(over_U, case[start:end], change[start:end])
        yield over_U.copy()


def counted_by_case(curve: OperatingCurve, case_R: np.ndarray) -> np.ndarray:
    """Returns the number int[U] of records of each case that can be over-interventions."""
    return np.bincount(case_R, curve.can_be_over_R).astype(np.int64)


def last_safe_setting(
    curve: OperatingCurve, case_R: np.ndarray, target: float, alpha: float
) -> int | None:
    """Returns the index in `path.dial_E` of the boldest setting that is safe; None if none is."""
    counted_U, safe = counted_by_case(curve, case_R), None
    for setting, over_U in enumerate(over_by_case(curve, case_R)):
        if p_value(over_U, counted_U, target, alpha) > alpha:
            break
        safe = setting
    return safe


def lowest_target(curve: OperatingCurve, case_R: np.ndarray, alpha: float) -> float | None:
    """Returns the lowest target, in thousandths, for which a setting is safe; None if none is."""
    over_U, counted_U = next(over_by_case(curve, case_R)), counted_by_case(curve, case_R)
    targets = (step / _TARGET_STEPS for step in range(1, _TARGET_STEPS))
    return next((x for x in targets if p_value(over_U, counted_U, x, alpha) <= alpha), None)
