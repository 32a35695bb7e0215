"""Bounds fits by drawing weights for whole clusters: all points of one size and seed.

Array letters are those of `scaling.points`.
"""

from __future__ import annotations

import numpy as np

from bsft_jax.evaluation import resampling, statistics


def draw_weights(cluster_P: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Returns random weights of the points, float[E, P], equal within a cluster, about 1.

    They are exponential variables over their mean (Rubin 1981), with the variance of the counts
    that drawing clusters with replacement gives. No cluster is ever missing, so that a resample
    never has too few sizes for a fit (Xu, Gotwalt, Hong, King and Meeker 2020).
    """
    rng = np.random.default_rng(seed)
    drawn_EU = rng.exponential(size=(resamples, int(cluster_P.max()) + 1))
    return (drawn_EU / drawn_EU.mean(1, keepdims=True))[:, cluster_P]


def interval(
    values_E: np.ndarray,
    *,
    clusters: int,
    points: int,
    parameters: int,
    freedom: float | None = None,
) -> list[float] | None:
    """Returns the 95 % interval of a parameter from its values in the resamples.

    Percentiles are too narrow by about sqrt((n - k) / n) after k fitted parameters, and a normal
    quantile is too small for few clusters. Percentiles further out put both right, by Student's t
    (Hesterberg 2015, the expanded percentile interval).

    Args:
      values_E: NaN where a resample has no value.
      clusters: number of them.
      points: number of points.
      parameters: number that is fitted to them.
      freedom: degrees of freedom; None for clusters - parameters.

    Returns:
      [low, high]; None where no degree of freedom is left, or most resamples have no value.
    """
    from scipy import special

    freedom = clusters - parameters if freedom is None else freedom
    if freedom < 1 or points <= parameters:
        return None
    wider = _wider(clusters, points, parameters)
    tail = (1 - statistics.LEVEL) / 2
    distance = float(np.sqrt(wider) * statistics.student_quantile(1 - tail, freedom))
    level = 1 - 2 * float(special.ndtr(-distance))
    return resampling.percentile_interval(values_E, clusters, level)


def prediction_interval(
    value: float,
    values_E: np.ndarray,
    scatter: float,
    *,
    clusters: int,
    points: int,
    parameters: int,
) -> list[float] | None:
    """Returns the 95 % interval of one further measurement.

    Its half-width is Student's t times sqrt(s² + scatter²), with s the deviation of the fit, which
    is half of the middle 68 % of the resamples.

    Args:
      value: what the fit predicts.
      values_E: what the resamples predict.
      scatter: root mean square of the residuals, over the points.
      clusters: number of them.
      points: number of points.
      parameters: number that is fitted to them.

    Returns:
      [low, high]; None where no degree of freedom is left, or a resample predicts no number.
    """
    freedom = clusters - parameters
    if freedom < 1 or points <= parameters or not np.isfinite(values_E).all():
        return None
    low, high = np.quantile(values_E, [0.1587, 0.8413])
    of_fit = (high - low) ** 2 / 4 * _wider(clusters, points, parameters)
    of_run = scatter**2 * points / (points - parameters)
    quantile = statistics.student_quantile((1 + statistics.LEVEL) / 2, freedom)
    half = float(quantile * np.sqrt(of_fit + of_run))
    return [value - half, value + half]


def _wider(clusters: int, points: int, parameters: int) -> float:
    """Returns the factor by which the variance of resamples is too small."""
    return clusters / (clusters - 1) * (points - 1) / (points - parameters)
