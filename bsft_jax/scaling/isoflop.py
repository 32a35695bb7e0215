"""Fits approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556): parabolas at equal compute.

Within a budget the loss is a parabola of log N. Over the budgets, log N_opt and log D_opt at its
minimum are straight lines of log C.

Array letters are those of `scaling.points`; B are the budgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bsft_jax.scaling.points import Points

FEWEST_SIZES = 4
FEWEST_BUDGETS = 2
# Points of one budget whose compute differs by more than this factor are none.
WIDEST_BUDGET = 1.1


@dataclasses.dataclass(frozen=True)
class Budgets:
    """Holds the budgets that a parabola fits.

    Attributes:
      names: of the budgets.
      members: the points of each, int.
      flops_B: geometric mean of the compute of each.
      ratio_B: geometric mean of C / (N D), which gives D_opt from N_opt.
    """

    names: tuple[str, ...]
    members: tuple[np.ndarray, ...]
    flops_B: np.ndarray
    ratio_B: np.ndarray


def find_budgets(points: Points) -> tuple[Budgets, list[dict[str, Any]], dict[str, str]]:
    """Fits the parabola of each budget.

    Returns:
      The budgets that have one, a description of each of these, and by name the reason why another
      has none: too few sizes, points of unequal compute, no minimum, or one outside of the sizes.
    """
    kept, described, refused = [], [], {}
    for name, member_P in points.budgets.items():
        index = np.flatnonzero(member_P)
        params, flops = points.params_P[index], points.flops_P[index]
        sizes = len(np.unique(params))
        width = flops.max() / flops.min()
        if sizes < FEWEST_SIZES:
            refused[name] = f'{sizes} sizes; a parabola needs {FEWEST_SIZES}'
            continue
        if width > WIDEST_BUDGET:
            refused[name] = f'the compute of its points differs by a factor of {width:.2f}'
            continue
        constant, slope, curve = _parabolas(points, index, np.ones((1, len(points))))[0]
        optimum, low, high = -slope / (2 * curve), np.log(params.min()), np.log(params.max())
        # Rounding leaves a curvature where the losses lie on a line.
        bend = curve * (high - low) ** 2
        if bend <= 1e-9 * points.loss_P[index].mean():
            refused[name] = 'wrong curvature: the parabola has no minimum'
            continue
        optimum += np.log(params).mean()
        if not low <= optimum <= high:
            refused[name] = (
                f'its minimum, {np.exp(optimum):.3g} parameters, is outside of the sizes tried, '
                f'{params.min():.3g} to {params.max():.3g}'
            )
            continue
        compute = float(np.exp(np.log(flops).mean()))
        ratio = float(np.exp(np.log(flops / (params * points.tokens_P[index])).mean()))
        kept.append((name, index, compute, ratio))
        described.append(
            {
                'budget': name,
                'flops': compute,
                'points': len(index),
                'sizes': sizes,
                'params_optimum': float(np.exp(optimum)),
                'tokens_optimum': compute / ratio / float(np.exp(optimum)),
                'loss_optimum': float(constant - slope**2 / (4 * curve)),
                'curvature': float(curve),
            }
        )
    names, members, compute, ratio = zip(*kept, strict=True) if kept else ((), (), (), ())
    return Budgets(names, members, np.array(compute), np.array(ratio)), described, refused


def _parabolas(points: Points, index: np.ndarray, weight_EP: np.ndarray) -> np.ndarray:
    """Returns constant, slope and curvature of loss in centred log N, float[E, 3]."""
    x = np.log(points.params_P[index])
    x = x - x.mean()
    scale = max(np.abs(x).max(), 1e-300)
    powers = np.stack([np.ones_like(x), x / scale, (x / scale) ** 2], 1)
    weight = weight_EP[:, index]
    left = np.einsum('ep,pi,pj->eij', weight, powers, powers, optimize=True)
    right = np.einsum('ep,pi->ei', weight * points.loss_P[index], powers)
    # A weighting may leave fewer than three sizes, or none.
    left += (1e-12 * np.trace(left, axis1=1, axis2=2)[:, None, None] + 1e-30) * np.eye(3)
    return np.linalg.solve(left, right[:, :, None])[:, :, 0] / scale ** np.arange(3)


def exponents(points: Points, budgets: Budgets, weight_EP: np.ndarray) -> Mapping[str, np.ndarray]:
    """Fits the exponents of N_opt and D_opt in C under E weightings of the points.

    Returns:
      `params_exponent` and `tokens_exponent`, float[E]; NaN where fewer than two budgets keep a
      minimum within their sizes.
    """
    optimum_EB = np.full((len(weight_EP), len(budgets.names)), np.nan)
    for b, index in enumerate(budgets.members):
        x = np.log(points.params_P[index])
        _, slope_E, curve_E = _parabolas(points, index, weight_EP).T
        with np.errstate(divide='ignore', invalid='ignore'):
            at_E = x.mean() - slope_E / (2 * curve_E)
        found_E = (curve_E > 0) & (at_E >= x.min()) & (at_E <= x.max())
        # Weights of 0 leave a budget out.
        found_E &= weight_EP[:, index].sum(1) > 0
        optimum_EB[found_E, b] = at_E[found_E]
    log_flops_B = np.log(budgets.flops_B)
    tokens_EB = log_flops_B - np.log(budgets.ratio_B) - optimum_EB
    return {
        'params_exponent': _slopes(log_flops_B, optimum_EB),
        'tokens_exponent': _slopes(log_flops_B, tokens_EB),
    }


def _slopes(x_B: np.ndarray, y_EB: np.ndarray) -> np.ndarray:
    """Returns the slope of each row of y in x, over its entries that are not NaN, float[E]."""
    known = ~np.isnan(y_EB)
    counts = known.sum(1, keepdims=True)
    with np.errstate(divide='ignore', invalid='ignore'):
        x = np.where(known, x_B - (known * x_B).sum(1, keepdims=True) / counts, 0.0)
        slopes = (x * np.where(known, y_EB, 0.0)).sum(1) / (x**2).sum(1)
    return np.where(counts[:, 0] >= FEWEST_BUDGETS, slopes, np.nan)


def line(budgets: Budgets, described: list[dict[str, Any]], name: str) -> list[float]:
    """Returns [exponent, log of the coefficient] of `params_optimum` or `tokens_optimum` in C."""
    y = np.log([budget[name] for budget in described])
    exponent, constant = np.polyfit(np.log(budgets.flops_B), y, 1)
    return [float(exponent), float(constant)]
