"""Calibrates the log-odds of stepping in, and chooses a dial, from scores of a validation split.

Array letters are those of `bsft_jax.ops`; L counts the levels above the lowest, E the settings of
the dial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.evaluation import probabilities, risk_control
from bsft_jax.evaluation.operating import Choices, OperatingCurve, dials_between

_MAX_NEWTON_STEPS = 100
# Keeps a Newton step finite where all log-odds are equal.
_RIDGE = 1e-9
# Costs closer than this are equal.
_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True)
class LogOdds:
    """Holds calibrated log-odds: slope · log-odds + offset, for each level above the lowest.

    The log-odds of a level are those of a behavior of that level or a higher one. One slope that is
    not negative, and offsets that do not rise, keep the calibrated ones falling with the level.

    Attributes:
      slope: the slope.
      offsets: the offset of each level above the lowest, ascending by level.
    """

    slope: float
    offsets: tuple[float, ...]

    def probabilities(self, log_odds_RL: np.ndarray) -> np.ndarray:
        """Returns the calibrated probabilities [R, L]."""
        return _sigmoid(self.slope * log_odds_RL + np.array(self.offsets))


def log_odds_by_level(choices: Choices) -> np.ndarray:
    """Returns the log-odds [R, L] of each level above the lowest, as the model has them."""
    levels, logprob_Rn = np.unique(choices.level_n), choices.logprob_Rn
    columns = []
    with np.errstate(divide='ignore'):
        for level in levels[1:]:
            is_in_n = choices.level_n >= level
            columns.append(
                np.logaddexp.reduce(logprob_Rn[:, is_in_n], axis=1)
                - np.logaddexp.reduce(logprob_Rn[:, ~is_in_n], axis=1)
            )
    return np.stack(columns, axis=1)


def fit_log_odds(log_odds_RL: np.ndarray, reached_RL: np.ndarray) -> LogOdds:
    """Fits calibrated log-odds to records whose labels are known.

    With one level above the lowest it is Platt's method (1999) with his targets: (N + 1) / (N + 2)
    for the N records that reach the level, 1 / (M + 2) for the M that do not. With more levels the
    losses add up; neighbours whose offsets would rise share one.

    Args:
      log_odds_RL: log-odds of each level above the lowest.
      reached_RL: whether the label is of that level or a higher one.
    """
    reached_L = reached_RL.sum(0)
    high_L, low_L = (reached_L + 1) / (reached_L + 2), 1 / (len(reached_RL) - reached_L + 2)
    target_RL = np.where(reached_RL, high_L, low_L)
    group_L = np.arange(len(reached_L))
    while True:
        slope, offset_G = _fit(log_odds_RL, target_RL, group_L)
        rising = np.flatnonzero(np.diff(offset_G) > 0)
        if not len(rising):
            return LogOdds(slope, tuple(offset_G[group_L].tolist()))
        # Pool adjacent violators.
        group_L = np.where(group_L > rising[0], group_L - 1, group_L)


def _fit(
    log_odds_RL: np.ndarray, target_RL: np.ndarray, group_L: np.ndarray
) -> tuple[float, np.ndarray]:
    """Returns the slope and the offset of each group of levels that minimise the cross-entropy."""
    R, groups = len(log_odds_RL), int(group_L[-1]) + 1
    is_in_LG = (group_L[:, None] == np.arange(groups)).astype(np.float64)
    mean_G = target_RL.mean(0) @ is_in_LG / is_in_LG.sum(0)
    flat_G = np.log(mean_G / (1 - mean_G))
    design = np.concatenate([log_odds_RL.reshape(-1, 1), np.tile(is_in_LG, (R, 1))], axis=1)
    target, weights = target_RL.reshape(-1), np.concatenate([[0.0], flat_G])
    loss = _cross_entropy(design @ weights, target)
    for _ in range(_MAX_NEWTON_STEPS):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - target)
        curvature = (design * (p * (1 - p))[:, None]).T @ design
        step = np.linalg.solve(curvature + _RIDGE * np.eye(len(weights)), gradient)
        size = 1.0
        while _cross_entropy(design @ (weights - size * step), target) > loss and size > 1e-9:
            size /= 2
        weights = weights - size * step
        before, loss = loss, _cross_entropy(design @ weights, target)
        if before - loss <= _TOLERANCE * max(1.0, abs(before)):
            break
    if weights[0] < 0:
        # The best slope that is not negative: the model's log-odds say nothing.
        return 0.0, flat_G
    return float(weights[0]), weights[1:]


def _cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    return float((np.logaddexp(0.0, logits) - target * logits).sum())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # Two exponents, neither of which overflows.
    return np.exp(-np.logaddexp(0.0, -x))


def calibrate_log_odds(choices: Choices) -> LogOdds:
    """Returns the calibrated log-odds, fitted to the labelled records that leave a choice.

    There must be such a record.
    """
    scored_R = choices.open_R & ~np.isnan(choices.label_R)
    levels = np.unique(choices.level_n)[1:]
    return fit_log_odds(
        log_odds_by_level(choices)[scored_R], choices.label_R[scored_R][:, None] >= levels
    )


def calibration_metrics(choices: Choices, log_odds: LogOdds) -> dict[str, Any]:
    """Returns Brier score and ECE of stepping in, by the model's log-odds and by calibrated ones.

    They are of the records of the section `stepping_in`; None without one.
    """
    scored_R = choices.open_R & ~np.isnan(choices.label_R)
    log_odds_RL = log_odds_by_level(choices)[scored_R]
    due_R = choices.label_R[scored_R] > choices.level_n[0]
    result: dict[str, Any] = {'n': int(scored_R.sum())}
    for suffix, of in (('_before', LogOdds(1.0, (0.0,) * len(log_odds.offsets))), ('', log_odds)):
        p_R = of.probabilities(log_odds_RL)[:, 0]
        result[f'brier{suffix}'] = probabilities.brier_score(due_R, p_R) if len(p_R) else None
        result[f'ece{suffix}'] = (
            probabilities.expected_calibration_error(due_R, p_R) if len(p_R) else None
        )
    return result


def dial_for_target(
    curve: OperatingCurve, case_names: Sequence[str], target: float, confidence: float
) -> float | None:
    """Returns the boldest dial whose over-intervention on fresh cases is at most a target.

    The confidence is the probability, over the validation cases, that this is true. None where no
    dial is safe.
    """
    case_R = risk_control.case_numbers(case_names)
    safe = risk_control.last_safe_setting(curve, case_R, target, 1 - confidence)
    if safe is None:
        return None
    dial_E = dials_between(curve.path.dial_E)[: safe + 1]
    return float(dial_E[~np.isnan(dial_E)][-1])


def dial_for_costs(curve: OperatingCurve, cost_miss: float, cost_false_alarm: float) -> float:
    """Returns the dial of the least total cost, of equals the most restrained."""
    dial_E = dials_between(curve.path.dial_E)
    cost_E = cost_miss * curve.missed_S[1:] * curve.can_be_missed_R.sum()
    cost_E = cost_E + cost_false_alarm * curve.over_S[1:] * curve.can_be_over_R.sum()
    cost_E = np.where(np.isnan(dial_E), np.inf, cost_E)
    return float(dial_E[np.flatnonzero(cost_E <= cost_E.min() * (1 + _TOLERANCE))[0]])


def rates_at(curve: OperatingCurve, dial: float) -> Mapping[str, float]:
    """Returns the rates of over- and of missed intervention at a dial."""
    setting = int(np.searchsorted(curve.path.dial_E, dial, side='right'))
    return {
        'over_intervention_rate': float(curve.over_S[setting]),
        'missed_intervention_rate': float(curve.missed_S[setting]),
    }
