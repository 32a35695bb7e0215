"""Minimises many small objectives at once, as resampling needs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Rows → their values float[E] and gradients float[E, K] at float[E, K]; the first argument says
# which of the problems are asked for.
Objective = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_MAX_STEPS = 200
_MAX_HALVINGS = 30
# Share of the decrease that the slope promises (Nocedal and Wright 2006, Armijo's condition).
_SUFFICIENT = 1e-4
_LONGEST = 3.0


def minimise_all(
    objective: Objective, start_EK: np.ndarray, metric_EKK: np.ndarray, *, tolerance: float = 1e-9
) -> np.ndarray:
    """Minimises E objectives of K variables by BFGS, all in step.

    Args:
      objective: values and gradients of those problems whose numbers it is given.
      start_EK: where each problem starts.
      metric_EKK: first approximation of each inverse Hessian. A variable whose row and column are
        0 stays where it is.
      tolerance: a problem ends when a step lowers it by less than this share twice in a row.

    Returns:
      float[E, K], the lowest point found by each.
    """
    x_EK = np.array(start_EK, float)
    inverse_EKK = metric_EKK.copy()
    value_E, slope_EK = objective(np.arange(len(x_EK)), x_EK)
    quiet_E = np.zeros(len(x_EK), int)
    for _ in range(_MAX_STEPS):
        live = np.flatnonzero(quiet_E < 2)
        if not len(live):
            break
        step = -np.einsum('eij,ej->ei', inverse_EKK[live], slope_EK[live])
        step *= np.minimum(1, _LONGEST / np.maximum(np.abs(step).max(1), 1e-300))[:, None]
        slope = np.einsum('ei,ei->e', step, slope_EK[live])
        # Rounding can turn a direction upwards; the first metric does not.
        up = slope >= 0
        inverse_EKK[live[up]] = metric_EKK[live[up]]
        step[up] = -np.einsum('eij,ej->ei', metric_EKK[live[up]], slope_EK[live[up]])
        slope[up] = np.einsum('ei,ei->e', step[up], slope_EK[live[up]])
        moved, values, slopes = x_EK[live], value_E[live], slope_EK[live]
        _search(objective, live, (moved, values, slopes), step, slope)
        change_x, change_g = moved - x_EK[live], slopes - slope_EK[live]
        still = value_E[live] - values <= tolerance * np.abs(value_E[live])
        quiet_E[live] = np.where(still, quiet_E[live] + 1, 0)
        # A step that found nothing lower starts again from the first metric.
        inverse_EKK[live[still]] = metric_EKK[live[still]]
        _update(inverse_EKK, live[~still], change_x[~still], change_g[~still])
        x_EK[live], value_E[live], slope_EK[live] = moved, values, slopes
    return x_EK


def _search(
    objective: Objective,
    live: np.ndarray,
    best: tuple[np.ndarray, np.ndarray, np.ndarray],
    step: np.ndarray,
    slope: np.ndarray,
) -> None:
    """Halves each step until it lowers its objective enough.

    Args:
      objective: as in `minimise_all`.
      live: numbers of the problems.
      best: points, values and gradients, changed in place where a step is taken.
      step: float[E, K].
      slope: derivative along each step, float[E].
    """
    start_x, start = best[0].copy(), best[1].copy()
    length, open_ = np.ones(len(live)), np.arange(len(live))
    for _ in range(_MAX_HALVINGS):
        tried = start_x[open_] + length[open_, None] * step[open_]
        values, gradients = objective(live[open_], tried)
        good = values <= start[open_] + _SUFFICIENT * length[open_] * slope[open_]
        for array, found in zip(best, (tried, values, gradients), strict=True):
            array[open_[good]] = found[good]
        open_ = open_[~good]
        if not len(open_):
            break
        length[open_] /= 2


def _update(
    inverse_EKK: np.ndarray, rows: np.ndarray, change_x: np.ndarray, change_g: np.ndarray
) -> None:
    """Updates inverse Hessians by BFGS where the curvature along the step is positive."""
    curvature = np.einsum('ei,ei->e', change_x, change_g)
    positive = curvature > 1e-300
    rows, s, y, rho = rows[positive], change_x[positive], change_g[positive], curvature[positive]
    if not len(rows):
        return
    keep = np.eye(s.shape[1]) - s[:, :, None] * y[:, None, :] / rho[:, None, None]
    inverse_EKK[rows] = keep @ inverse_EKK[rows] @ keep.transpose(0, 2, 1)
    inverse_EKK[rows] += s[:, :, None] * s[:, None, :] / rho[:, None, None]
