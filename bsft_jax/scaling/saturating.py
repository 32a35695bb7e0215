"""Fits a saturating power law, y = limit - scale / x^exponent, to macro-F1 or to a gain in it.

x is the number of parameters, of training tokens, or the compute. The exponent is searched on a
grid; limit and scale are least squares for each. A gain may fall towards its limit (scale < 0).

Array letters are those of `scaling.points`; G is the grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.scaling import intervals
from bsft_jax.scaling import points as points_lib

FEWEST_VALUES = 5
PARAMETERS = 3
_GRID_G = np.geomspace(0.02, 3.0, 241)
# No macro-F1 is taken as known to less.
_LEAST_NOISE = 1e-4
_CHI2_95 = 3.841458820694124


def pair_gains(rows: Sequence[Mapping[str, Any]], gain: str, where: str) -> list[dict[str, Any]]:
    """Returns a row with `gain` for each pair of rows of two arms, alike but for the arm.

    Args:
      rows: as `points.read_rows` returns them.
      gain: `FIRST-SECOND`, two arms; the gain is macro-F1 of the first minus that of the second.
      where: what an error names.

    Raises:
      UserError: a column or an arm is missing, an arm has two rows of one size, data and seed, or
        nothing pairs.
    """
    for name in ('arm', 'macro_f1'):
        if name not in rows[0]:
            raise UserError(f'has no column {name}', where=where, fix=f'--gain needs {name}')
    arms = list(dict.fromkeys(row['arm'] for row in rows))
    # An arm may have a hyphen in its name.
    sides = [(a, b) for a in arms for b in arms if a != b and f'{a}-{b}' == gain]
    if not sides:
        raise UserError(
            'is not ARM-ARM', where=f'--gain={gain}', fix=f'arms of {where}: {", ".join(arms)}'
        )
    by_arm: dict[str, dict] = {arm: {} for arm in sides[0]}
    for row in rows:
        if row['arm'] not in by_arm:
            continue
        key = tuple(row.get(name) for name in (*points_lib.SCALES, 'seed'))
        if key in by_arm[row['arm']]:
            raise UserError(
                f'{row["arm"]} has another row of this size, data and seed', where=row['where']
            )
        by_arm[row['arm']][key] = row
    first, second = (by_arm[arm] for arm in sides[0])
    paired = [
        {**row, 'arm': gain, 'gain': row['macro_f1'] - second[key]['macro_f1']}
        for key, row in first.items()
        if key in second
    ]
    if not paired:
        raise UserError('no rows of the two arms pair', where=f'--gain={gain}')
    return paired


@dataclasses.dataclass(frozen=True)
class Curve:
    """Holds the fit of a score against a scale, and those under random weights of the points.

    Attributes:
      limit_E: limit of each; the first is that of the points as they are, the others are resamples.
      scale_E: scale of each.
      exponent_E: exponent of each.
      cluster_P: cluster of each point.
      rmse: root mean square of the residuals of the first.
      refused: why the curve is none; '' where it is one.
    """

    limit_E: np.ndarray
    scale_E: np.ndarray
    exponent_E: np.ndarray
    cluster_P: np.ndarray
    rmse: float
    refused: str

    def predict(self, x: float) -> np.ndarray:
        """Returns the score at x by each fit, float[E]."""
        return self.limit_E - self.scale_E * x**-self.exponent_E

    def interval(self, name: str) -> list[float] | None:
        """Returns the 95 % interval of `limit` or `exponent`, as `intervals.interval` does."""
        return intervals.interval(
            getattr(self, f'{name}_E')[1:],
            clusters=int(self.cluster_P.max()) + 1,
            points=len(self.cluster_P),
            parameters=PARAMETERS,
        )


def draw_curve(
    rows: Sequence[Mapping[str, Any]], score: str, scale: str, *, resamples: int, seed: int
) -> Curve:
    """Fits a score of one arm against `scale`, once to the rows and once to each resample."""
    x_P, y_P = (np.array([row[name] for row in rows]) for name in (scale, score))
    cluster_P = points_lib.clusters(rows)
    if (values := len(np.unique(x_P))) < FEWEST_VALUES:
        none = np.zeros(0)
        reason = f'{values} values of {scale}; a fit needs {FEWEST_VALUES}'
        return Curve(none, none, none, cluster_P, 0.0, reason)
    weight_EP = intervals.draw_weights(cluster_P, resamples, seed)
    found = _fit(x_P, y_P, np.concatenate([np.ones((1, len(y_P))), weight_EP]))
    return Curve(
        *(found[name] for name in ('limit', 'scale', 'exponent')),
        cluster_P=cluster_P,
        rmse=float(np.sqrt(found['squares_EG'][0].min() / len(y_P))),
        refused=_unidentified(found, len(y_P), score, scale),
    )


def fit_scores(
    rows: Sequence[Mapping[str, Any]], score: str, *, resamples: int, seed: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Fits the scores of one arm against each of params, tokens and flops that the rows have.

    Returns:
      By scale `limit`, `scale`, `exponent`, the 95 % intervals `limit_interval` and
      `exponent_interval`, `rmse`, and `points`, the number of rows; and by scale the reason where
      there is no fit.
    """
    fits, refused = {}, {}
    for scale in points_lib.SCALES:
        if scale not in rows[0]:
            continue
        curve = draw_curve(rows, score, scale, resamples=resamples, seed=seed)
        if curve.refused:
            refused[scale] = curve.refused
            continue
        values = ('limit', 'scale', 'exponent')
        fit: dict[str, Any] = {name: float(getattr(curve, f'{name}_E')[0]) for name in values}
        fit |= {f'{name}_interval': curve.interval(name) for name in ('limit', 'exponent')}
        ends = fit['exponent_interval']
        if ends and (ends[0] <= _GRID_G[0] * 1.001 or ends[1] >= _GRID_G[-1] / 1.001):
            fit['exponent_interval'] = fit['limit_interval'] = None
            refused[f'{scale}.exponent_interval'] = (
                f'the interval of the exponent reaches its bounds, {_GRID_G[0]:g} to '
                f'{_GRID_G[-1]:g}'
            )
        fits[scale] = {**fit, 'rmse': curve.rmse, 'points': len(rows)}
    return fits, refused


def _fit(x_P: np.ndarray, y_P: np.ndarray, weight_EP: np.ndarray) -> dict[str, np.ndarray]:
    """Fits under E weightings; `squares_EG` are the weighted sums of squares on the grid."""
    log_x_P = np.log(x_P)
    centre = log_x_P.mean()
    basis_GP = np.exp(-_GRID_G[:, None] * (log_x_P - centre))
    # So that neither the widest range of x nor the largest exponent overflows a square.
    basis_GP /= basis_GP.max(1, keepdims=True)
    total_E = weight_EP.sum(1)[:, None]
    mean_EG = weight_EP @ basis_GP.T / total_E
    mean_E = (weight_EP @ y_P)[:, None] / total_E
    spread_EG = np.maximum(weight_EP @ (basis_GP**2).T - total_E * mean_EG**2, 1e-300)
    shared_EG = weight_EP @ (basis_GP * y_P).T - total_E * mean_EG * mean_E
    all_E = weight_EP @ y_P**2 - total_E[:, 0] * mean_E[:, 0] ** 2
    squares_EG = np.maximum(all_E[:, None] - shared_EG**2 / spread_EG, 0.0)
    best_E = squares_EG.argmin(1)
    exponent_E = _between(squares_EG, best_E)
    # Limit and scale at the exponent between two of the grid.
    basis_EP = np.exp(-exponent_E[:, None] * (log_x_P - centre))
    top_E = basis_EP.max(1, keepdims=True)
    basis_EP /= top_E
    mean_of_basis = (weight_EP * basis_EP).sum(1) / total_E[:, 0]
    centred = basis_EP - mean_of_basis[:, None]
    slope_E = (weight_EP * centred * y_P).sum(1) / (weight_EP * centred**2).sum(1)
    return {
        'limit': mean_E[:, 0] - slope_E * mean_of_basis,
        'scale': -slope_E / top_E[:, 0] * np.exp(exponent_E * centre),
        'exponent': exponent_E,
        'squares_EG': squares_EG,
        'squares_of_mean': all_E,
    }


def _between(squares_EG: np.ndarray, best_E: np.ndarray) -> np.ndarray:
    """Returns the minimum of the parabola through the best exponent and its neighbours, in log."""
    rows, inner = np.arange(len(best_E)), np.clip(best_E, 1, len(_GRID_G) - 2)
    before, here, after = (squares_EG[rows, inner + d] for d in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = np.where(bend > 0, (before - after) / np.where(bend > 0, 2 * bend, 1.0), 0.0)
    step = np.log(_GRID_G[1] / _GRID_G[0])
    between = _GRID_G[inner] * np.exp(step * np.clip(shift, -0.5, 0.5))
    at_end = best_E != inner
    return np.where(at_end, _GRID_G[best_E], between)


def _unidentified(found: Mapping[str, np.ndarray], points: int, score: str, scale: str) -> str:
    """Returns why a fit is none; '' where it is one."""
    squares_G = found['squares_EG'][0]
    least = squares_G.min()
    variance = max(least / max(points - PARAMETERS, 1), _LEAST_NOISE**2)
    if found['squares_of_mean'][0] - least < _CHI2_95 * variance:
        return f'{score} does not change with {scale} beyond its noise'
    for end, word in ((0, 'no sign of saturation'), (-1, 'no rise below the limit')):
        if squares_G[end] - least < _CHI2_95 * variance:
            return (
                f'not identified: {word}; an exponent of {_GRID_G[end]:g}, its bound, fits as '
                'well as any'
            )
    limit = found['limit'][0]
    if score == 'macro_f1' and not 0 <= limit <= 1:
        return f'not identified: the limit {limit:.3g} is not a macro-F1, between 0 and 1'
    return ''
