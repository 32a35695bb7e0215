"""Operating points: what a model does at each setting of the dial, whatever its dial turns.

The dial adds to the log-probability of each choice in proportion to its level. A model with
behavior tokens chooses a behavior. One without chooses by its options: what stands for a behavior
there is the probability of all options that do.

Array letters are those of `bsft_jax.ops`; M counts the changes of a record's choice, E the settings
of the dial that differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A rate this much above another is not: rates are quotients of counts.
_TOLERANCE = 1e-12
# Half width of an interval of 95 %, in standard errors.
_REACH = 1.96
# Settings closer to each other than this are not told apart by the float32 scores of a policy.
_MIN_GAP = 1e-4


@dataclasses.dataclass(frozen=True)
class Choices:
    """Holds what a model may do in each of R records: n choices, their levels ascending.

    Attributes:
      source: `tokens` or `options`, what the dial turns.
      level_n: level of each choice.
      logprob_Rn: log-probability of each choice, -inf for one that a record does not offer.
      prediction_Rn: the most probable option after each choice.
      level_Rn: level of the behavior that this option stands for, or of the choice itself where
        the options stand for none.
      label_R: level of the record's label, NaN without one.
      open_R: whether the record's options leave it to the model to step in.
    """

    source: str
    level_n: np.ndarray
    logprob_Rn: np.ndarray
    prediction_Rn: np.ndarray
    level_Rn: np.ndarray
    label_R: np.ndarray
    open_R: np.ndarray

    @property
    def level_range(self) -> tuple[float, float]:
        """Returns the lowest and the highest level."""
        return float(self.level_n[0]), float(self.level_n[-1])

    @property
    def over_Rn(self) -> np.ndarray:
        """Returns whether each choice steps in further than the label."""
        return self.level_Rn > self.label_R[:, None]

    @property
    def missed_Rn(self) -> np.ndarray:
        """Returns whether each choice falls short of the label."""
        return self.level_Rn < self.label_R[:, None]

    @property
    def log_odds_R(self) -> np.ndarray:
        """Returns the log-odds that the model steps in: of any level above the lowest."""
        is_in_n = self.level_n > self.level_n[0]
        with np.errstate(divide='ignore'):
            return np.logaddexp.reduce(self.logprob_Rn[:, is_in_n], axis=1) - np.logaddexp.reduce(
                self.logprob_Rn[:, ~is_in_n], axis=1
            )


def find_choices(rows: Sequence[Mapping[str, Any]], levels: Mapping[str, float]) -> Choices | None:
    """Returns the choices of the model that made rows of `predictions.jsonl`.

    Records are judged by their options. Where no record says what its options stand for, a model
    with tokens is judged by these, and one without has no choices: None. So have rows without
    scores, and levels that are all alike.

    Args:
      rows: rows of `predictions.jsonl`.
      levels: the level of each behavior; one that the rows name besides has 0.
    """
    levels = _named_levels(rows) | dict(levels)
    low, high = min(levels.values()), max(levels.values())
    has_options = any(row.get('option_behaviors') for row in rows)
    has_tokens = all(row.get('behavior_logprobs') for row in rows)
    if low == high or not (has_options or has_tokens):
        return None
    if not all(row.get('option_logprobs') for row in rows):
        return None
    names = sorted(levels, key=levels.__getitem__)
    level_n = np.array([levels[name] for name in names])
    find = _token_choice if has_tokens else _option_choice
    R, n = len(rows), len(names)
    logprob_Rn, prediction_Rn = np.full((R, n), -np.inf), np.zeros((R, n), np.int64)
    level_Rn, open_R = np.tile(level_n, (R, 1)), np.full(R, not has_options)
    for r, row in enumerate(rows):
        logprob_Rn[r], prediction_Rn[r] = find(row, names)
        if stands_for := row.get('option_behaviors'):
            level_K = np.array([levels[name] for name in stands_for])
            level_Rn[r] = level_K[prediction_Rn[r]]
            open_R[r] = level_K.min() == low < level_K.max()
        elif has_options:
            level_Rn[r] = np.nan
    label_R = np.array([levels.get(row.get('behavior') or '', np.nan) for row in rows])
    return Choices(
        'tokens' if has_tokens else 'options',
        level_n,
        logprob_Rn,
        prediction_Rn,
        level_Rn,
        label_R,
        open_R,
    )


def _named_levels(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns a level of 0 for each behavior that rows of `predictions.jsonl` name."""
    fields = ('behavior_logprobs', 'option_behaviors')
    named = {name for row in rows for field in fields for name in row.get(field) or ()}
    return dict.fromkeys(sorted(named), 0.0)


def _token_choice(row: Mapping[str, Any], names: Sequence[str]) -> tuple[list[float], list[int]]:
    """Returns log-probability and prediction of each behavior token.

    A level without a token is never chosen.
    """
    of_behavior, of_option = row['behavior_logprobs'], row['option_logprobs']
    return (
        [of_behavior.get(name, -np.inf) for name in names],
        [int(np.argmax(of_option[name])) if name in of_behavior else 0 for name in names],
    )


def _option_choice(row: Mapping[str, Any], names: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """Returns log-probability of the options for each behavior, and the best of these options.

    Where no option stands for a behavior its prediction is the best of all, never chosen.
    """
    # Beside `none` there is at most the one constant prefix, which the model writes.
    logprob_K = np.asarray(list(row['option_logprobs'].values())[-1], np.float64)
    best = int(np.argmax(logprob_K))
    stands_for = row.get('option_behaviors') or [names[0]] * len(logprob_K)
    is_of_nK = np.array([[name == other for other in stands_for] for name in names])
    of_name_nK = np.where(is_of_nK, logprob_K, -np.inf)
    prediction_n = [int(np.argmax(x)) if x.max() > -np.inf else best for x in of_name_nK]
    return np.logaddexp.reduce(of_name_nK, axis=1), prediction_n


@dataclasses.dataclass(frozen=True)
class DialPath:
    """Holds the settings of the dial at which the choice of each record changes.

    Attributes:
      dial_RM: the settings, ascending; inf where no more follow.
      choice_RN: the choice below the first one and from each one on, N = M + 1.
    """

    dial_RM: np.ndarray
    choice_RN: np.ndarray

    @classmethod
    def of(cls, choices: Choices) -> DialPath:
        """Returns the path along arg max (log p + dial · position); of equals the higher wins."""
        (low, high), logprob_Rn = choices.level_range, choices.logprob_Rn
        position_n = (choices.level_n - low) / (high - low)
        records = np.arange(len(logprob_Rn))
        offered_Rn = logprob_Rn > -np.inf
        lowest_R1 = np.where(offered_Rn, position_n, np.inf).min(1, keepdims=True)
        at_lowest_Rn = offered_Rn & (position_n == lowest_R1)
        choice_R = np.where(at_lowest_Rn, logprob_Rn, -np.inf).argmax(1)
        dials, taken = [], [choice_R]
        for _ in range(len(position_n) - 1):
            rise_Rn = position_n - position_n[choice_R][:, None]
            gain_Rn = logprob_Rn[records, choice_R][:, None] - logprob_Rn
            possible_Rn = offered_Rn & (rise_Rn > 0)
            dial_Rn = np.where(possible_Rn, gain_Rn / np.where(possible_Rn, rise_Rn, 1), np.inf)
            dial_R = dial_Rn.min(1)
            next_Rn = np.where(dial_Rn == dial_R[:, None], position_n, -1)
            choice_R = np.where(dial_R < np.inf, next_Rn.argmax(1), choice_R)
            dials.append(dial_R)
            taken.append(choice_R)
        return cls(np.stack(dials, 1), np.stack(taken, 1))

    @property
    def dial_E(self) -> np.ndarray:
        """Returns the distinct settings, ascending; -inf, below all, is the first."""
        return np.concatenate([[-np.inf], np.unique(self.dial_RM[self.dial_RM < np.inf])])

    def choice_at(self, dial: float) -> np.ndarray:
        """Returns the choice of each record at a setting."""
        passed_R = (self.dial_RM <= dial).sum(1)
        return np.take_along_axis(self.choice_RN, passed_R[:, None], 1)[:, 0]

    def sums(self, value_Rn: np.ndarray) -> np.ndarray:
        """Returns the sum over the records of a value of their choice, at each of `dial_E`."""
        value_RN = np.take_along_axis(value_Rn, self.choice_RN, 1).astype(np.float64)
        changes_E = np.zeros(len(self.dial_E))
        changes_E[0] = value_RN[:, 0].sum()
        finite_RM = self.dial_RM < np.inf
        index = np.searchsorted(self.dial_E, self.dial_RM[finite_RM])
        np.add.at(changes_E, index, np.diff(value_RN, axis=1)[finite_RM])
        return np.cumsum(changes_E)


def dials_between(dial_E: np.ndarray) -> np.ndarray:
    """Returns a dial from each of `DialPath.dial_E` on and below the next, halfway if it can be.

    NaN where the two are too close for the scores of a policy.
    """
    if len(dial_E) == 1:
        return np.zeros(1)
    low_E, high_E = dial_E, np.concatenate([dial_E[1:], [np.inf]])
    middle_E = np.where(high_E - low_E >= _MIN_GAP, (low_E + high_E) / 2, np.nan)
    middle_E[0], middle_E[-1] = high_E[0] - 1, low_E[-1] + 1
    return middle_E


@dataclasses.dataclass(frozen=True)
class AtRate:
    """Describes how a rate of over-intervention is met: by drawing between two settings.

    Attributes:
      over: the rate that is met.
      missed: the rate of missed interventions there.
      settings: indices of the two settings of an OperatingCurve.
      share: share of the records that get the second one.
    """

    over: float
    missed: float
    settings: tuple[int, int]
    share: float

    @property
    def withheld(self) -> float:
        """Returns the share of the records for which silence is drawn."""
        return sum(
            weight
            for setting, weight in zip(self.settings, (1 - self.share, self.share), strict=True)
            if setting == 0
        )


@dataclasses.dataclass(frozen=True)
class OperatingCurve:
    """Holds the rates of a model at each setting of its dial.

    Of the S settings the first is silence: whatever the model would say beyond the lowest level is
    withheld. The others are those of `DialPath.dial_E`.

    Attributes:
      choices: the choices of the model.
      path: the settings at which they change.
      can_be_over_R: whether a record counts in the rate of over-intervention.
      can_be_missed_R: whether it counts in the rate of missed interventions.
      over_S: rate of over-intervention.
      missed_S: rate of missed interventions.
    """

    choices: Choices
    path: DialPath
    can_be_over_R: np.ndarray
    can_be_missed_R: np.ndarray
    over_S: np.ndarray
    missed_S: np.ndarray

    @classmethod
    def of(cls, choices: Choices) -> OperatingCurve | None:
        """Returns the curve; None where no record counts in one of the two rates."""
        low, high = choices.level_range
        is_judged_R = ~np.isnan(choices.level_Rn).any(1)
        can_be_over_R = is_judged_R & (choices.label_R < high)
        can_be_missed_R = is_judged_R & (choices.label_R > low)
        if not (can_be_over_R.any() and can_be_missed_R.any()):
            return None
        path = DialPath.of(choices)
        over_E = path.sums(choices.over_Rn & can_be_over_R[:, None]) / can_be_over_R.sum()
        missed_E = path.sums(choices.missed_Rn & can_be_missed_R[:, None]) / can_be_missed_R.sum()
        return cls(
            choices,
            path,
            can_be_over_R,
            can_be_missed_R,
            np.concatenate([[0.0], over_E]),
            np.concatenate([[1.0], missed_E]),
        )

    def at_rate(self, over: float) -> AtRate:
        """Returns the fewest missed interventions with at most this rate of over-intervention.

        Between neighbouring settings both rates are interpolated linearly: that is what drawing
        between the two gives (Provost and Fawcett 2001). A curve that is always above the rate is
        joined to silence, one that never reaches it is taken where it misses least.
        """
        over_S, missed_S = self.over_S, self.missed_S
        allowed_S = np.flatnonzero(over_S <= over + _TOLERANCE)
        # Of settings that miss as few, the one nearest to the rate, and rather any than silence.
        order_S = np.lexsort((-allowed_S, -over_S[allowed_S], missed_S[allowed_S]))
        best = int(allowed_S[order_S[0]])
        found = AtRate(float(over_S[best]), float(missed_S[best]), (best, best), 0.0)
        before_S, after_S = over_S[:-1] - over, over_S[1:] - over
        crossing_S = np.flatnonzero(
            (np.minimum(before_S, after_S) < -_TOLERANCE)
            & (np.maximum(before_S, after_S) > _TOLERANCE)
        )
        if not len(crossing_S):
            return found
        share_S = before_S[crossing_S] / (before_S[crossing_S] - after_S[crossing_S])
        missed_S = (1 - share_S) * missed_S[crossing_S] + share_S * missed_S[crossing_S + 1]
        least = int(missed_S.argmin())
        if missed_S[least] > found.missed + _TOLERANCE:
            return found
        s = int(crossing_S[least])
        return AtRate(over, float(missed_S[least]), (s, s + 1), float(share_S[least]))

    def missed_by_case(self, over: float, case_R: np.ndarray, cases: int) -> np.ndarray:
        """Returns parts float64[U] of the missed interventions at a rate, which add up to them.

        A part is the case's own missed interventions, and what its over-interventions do to the
        setting at which the rate is met: more of them lower the dial for all cases. That exchange
        is the slope of the curve between the ends of an interval of the rate (Woodruff 1952;
        Francisco and Fuller 1991). So differences of parts have the variance of the difference of
        two such rates, which the cases' own missed interventions alone have not.

        Args:
          over: the rate of over-intervention.
          case_R: number of each record's case.
          cases: number of cases, U.
        """
        found = self.at_rate(over)
        over_R, missed_R = np.zeros((2, len(case_R)))
        for setting, weight in zip(found.settings, (1 - found.share, found.share), strict=True):
            for total_R, value_R in zip((over_R, missed_R), self._values(setting), strict=True):
                total_R += weight * value_R
        missed_U = np.bincount(case_R, missed_R, cases) / self.can_be_missed_R.sum()
        over_U = np.bincount(case_R, over_R, cases)
        excess_U = (over_U - found.over * np.bincount(case_R, self.can_be_over_R, cases)) / (
            self.can_be_over_R.sum()
        )
        reach = _REACH * float((excess_U**2).sum()) ** 0.5
        ends = max(0.0, over - reach), over + reach
        if ends[0] == ends[1]:
            return missed_U
        fewer, more = (self.at_rate(end).missed for end in ends)
        return missed_U + (fewer - more) / (ends[1] - ends[0]) * excess_U

    def weight_by_case(self, case_R: np.ndarray, cases: int) -> np.ndarray:
        """Returns the weight of each case in the missed interventions at a rate, float64[U].

        It is the mean of its shares of the records that count in each of the two rates.
        """
        shares_2U = [
            np.bincount(case_R, counts_R, cases) / counts_R.sum()
            for counts_R in (self.can_be_over_R, self.can_be_missed_R)
        ]
        return np.mean(shares_2U, axis=0)

    def _values(self, setting: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns which records are over-interventions and missed ones at a setting."""
        if setting == 0:
            return np.zeros(len(self.can_be_over_R)), self.can_be_missed_R.astype(np.float64)
        choice_R1 = self.path.choice_at(self.path.dial_E[setting - 1])[:, None]
        over_R, missed_R = (
            np.take_along_axis(value_Rn, choice_R1, 1)[:, 0]
            for value_Rn in (self.choices.over_Rn, self.choices.missed_Rn)
        )
        return over_R & self.can_be_over_R, missed_R & self.can_be_missed_R
