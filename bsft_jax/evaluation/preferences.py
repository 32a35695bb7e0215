"""Orders systems by pairwise preferences: the model of Bradley and Terry, with a prior.

Array letters are those of `bsft_jax.ops`; A are systems, each compared with the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bsft_jax.evaluation import resampling

_MAX_STEPS = 2000
_TOLERANCE = 1e-10


def bradley_terry(wins_EAA: np.ndarray, *, prior: float = 1.0) -> np.ndarray:
    """Returns log strengths [E, A] of systems, with mean 0 (Bradley and Terry 1952).

    The probability that system a is preferred to b is 1 / (1 + exp(strength_b - strength_a)). The
    maximum is found by the steps of Hunter (2004). Each pair of systems is given `prior` ties on
    top of what was seen, so that a system that won all its comparisons has a finite strength.

    Args:
      wins_EAA: by data set, how often the system of the row was preferred to that of the column; a
        tie counts half for both.
      prior: number of ties that each pair gets in addition, more than 0.
    """
    systems = wins_EAA.shape[-1]
    wins_EAA = wins_EAA + prior / 2 * (1 - np.eye(systems))
    met_EAA = wins_EAA + wins_EAA.swapaxes(-1, -2)
    won_EA = wins_EAA.sum(-1)
    power_EA = np.ones(won_EA.shape)
    for _ in range(_MAX_STEPS):
        both_EAA = power_EA[..., :, None] + power_EA[..., None, :]
        new_EA = won_EA / (met_EAA / both_EAA).sum(-1)
        new_EA /= np.exp(np.log(new_EA).mean(-1, keepdims=True))
        moved = np.abs(np.log(new_EA) - np.log(power_EA)).max()
        power_EA = new_EA
        if moved < _TOLERANCE:
            break
    return np.log(power_EA)


def order_systems(
    first_I: np.ndarray,
    second_I: np.ndarray,
    score_I: np.ndarray,
    case_I: np.ndarray,
    *,
    systems: int,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Fits the model to items, each a comparison of two systems.

    Args:
      first_I: index of one system of each item.
      second_I: index of the other one.
      score_I: share of the raters that preferred the first, ties as half.
      case_I: number of the case of each item, from 0.
      systems: number of systems.
      resamples: draws of the bootstrap over cases.
      seed: of the draws.

    Returns:
      `strengths`: log strength by system. `intervals`: their 95 % percentiles, None for one case.
      `preferred`: by system, the probability that it is preferred to each other one.
    """
    cases = int(case_I.max()) + 1
    wins_UAA = np.zeros((cases, systems, systems))
    np.add.at(wins_UAA, (case_I, first_I, second_I), score_I)
    np.add.at(wins_UAA, (case_I, second_I, first_I), 1 - score_I)
    strength_A = bradley_terry(wins_UAA.sum(0)[None])[0]
    times_EU = resampling.draw_clusters(cases, resamples, seed)
    drawn_EA = bradley_terry(np.tensordot(times_EU, wins_UAA, axes=1))
    preferred_AA = 1 / (1 + np.exp(strength_A[None, :] - strength_A[:, None]))
    return {
        'strengths': strength_A.tolist(),
        'intervals': [resampling.percentile_interval(drawn_E, cases) for drawn_E in drawn_EA.T],
        'preferred': preferred_AA.tolist(),
    }
