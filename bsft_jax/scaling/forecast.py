"""Forecasts the loss of a model that has not been trained, or a score, from models that have.

Array letters are those of `scaling.points`; E are the resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.scaling import intervals, losses, saturating, surface
from bsft_jax.scaling.points import Points

# The methods that forecast a loss, each with the bend of its Huber loss of log L.
LOSS_METHODS = {'approach3': surface.DEFAULT_DELTA, 'vpnls': math.inf}


def forecast_loss(
    points: Points, params: float, tokens: float, *, resamples: int = 2000, seed: int = 0
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Forecasts the loss of one model of `params` parameters after `tokens` tokens.

    The interval is that of log L for a single run (`intervals.prediction_interval`).

    Returns:
      By method `loss`, that of the fit, and `interval`, its 95 % prediction interval, or None where
      there are not enough points for one; and by method the reason why there is no forecast: an
      exponent that the points do not determine.
    """
    weight_EP = intervals.draw_weights(points.cluster_P, resamples, seed)
    found, refused = {}, {}
    for method, delta in LOSS_METHODS.items():
        criterion = surface.Criterion(points, delta)
        square = criterion.is_square
        theta_K = surface.fit_squares(points) if square else surface.fit_huber(points, delta)
        unknown = surface.unidentified(criterion, theta_K)
        if reasons := [unknown[name] for name in ('alpha', 'beta') if name in unknown]:
            refused[method] = reasons[0]
            continue
        fitted = criterion.surface(theta_K)
        loss = float(fitted.predict(np.float64(params), np.float64(tokens)))
        drawn = losses.refit_all(criterion, theta_K, weight_EP)
        of_size_E = drawn['A'] * params ** -drawn['alpha']
        of_data_E = drawn['B'] * tokens ** -drawn['beta']
        residual = np.log(fitted.predict(points.params_P, points.tokens_P) / points.loss_P)
        ends = intervals.prediction_interval(
            math.log(loss),
            np.log(drawn['E'] + of_size_E + of_data_E),
            float(np.sqrt((residual**2).mean())),
            clusters=points.clusters,
            points=len(points),
            parameters=losses.OF_SURFACE,
        )
        found[method] = {'loss': loss, 'interval': ends and [math.exp(end) for end in ends]}
    return found, refused


def forecast_score(
    rows: Sequence[Mapping[str, Any]],
    score: str,
    scale: str,
    at: float,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Forecasts the score of one run by its saturating power law of a scale.

    Args:
      rows: those of one arm, as `points.read_rows` returns them.
      score: `macro_f1` or `gain`.
      scale: `params`, `tokens` or `flops`.
      at: the run's value of the scale.
      resamples: number of draws of the interval.
      seed: of the draws.

    Returns:
      What `forecast_loss` does, of the one method `saturating` and with the score for the loss.
    """
    curve = saturating.draw_curve(rows, score, scale, resamples=resamples, seed=seed)
    if curve.refused:
        return {}, {'saturating': curve.refused}
    predicted_E = curve.predict(at)
    ends = intervals.prediction_interval(
        float(predicted_E[0]),
        predicted_E[1:],
        curve.rmse,
        clusters=int(curve.cluster_P.max()) + 1,
        points=len(rows),
        parameters=saturating.PARAMETERS,
    )
    return {'saturating': {score: float(predicted_E[0]), 'interval': ends}}, {}
