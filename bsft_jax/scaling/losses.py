"""Fits the losses of a study in three ways, with intervals, and says what the fits rest on.

Array letters are those of `scaling.points`; K are the five parameters of a surface.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bsft_jax.scaling import intervals, isoflop, surface
from bsft_jax.scaling.points import Points

FEWEST_SIZES = 5
FEWEST_TOKENS = 3
FEWEST_LEFT_OUT = 3
METHODS = ('approach2', 'approach3', 'vpnls')
# Parameters of a parabola, and of a surface.
OF_PARABOLA, OF_SURFACE = 3, 5
EXPONENTS = ('params_exponent', 'tokens_exponent')
# The fit depends on few points if a fiftieth of them moves an exponent by more than a tenth.
_FEW, _MOVED = 0.02, 0.10
_SHOWN = 10
# Numbers of a chunk of weights: 16 MiB of float64.
_CHUNK = 1 << 21


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Describes a fit.

    Attributes:
      delta: where Huber's loss of log L turns from square to absolute.
      resamples: number of draws of the intervals.
      seed: of the draws.
      progress: is called with the number of fits since the last call.
    """

    delta: float = surface.DEFAULT_DELTA
    resamples: int = 2000
    seed: int = 0
    progress: Callable[[int], Any] = lambda _: None


@dataclasses.dataclass(frozen=True)
class LossFits:
    """Holds the fits of a study.

    Attributes:
      content: what `fit.json` says of them, without `refused`.
      refused: by place in the content, why something is not there.
      surfaces: those of approach 3 and VPNLS, also where a parameter is not identified.
    """

    content: dict[str, Any]
    refused: dict[str, str]
    surfaces: dict[str, surface.Surface]


def fit_losses(points: Points, options: FitOptions | None = None) -> LossFits:
    """Fits losses by approach 2, approach 3 and VPNLS.

    What cannot be fitted is left out with its reason; nothing is raised for that.
    """
    options = options or FitOptions()
    weight_EP = intervals.draw_weights(points.cluster_P, options.resamples, options.seed)
    content: dict[str, Any] = dict.fromkeys(METHODS)
    content |= {'leave_one_budget_out': {}, 'influence': [], 'depends_on_few': None}
    refused, surfaces = {}, {}
    found: dict[str, dict[str, np.ndarray]] = {}
    budgets, described, reasons = isoflop.find_budgets(points)
    if reason := _too_few_budgets(points, budgets):
        refused['approach2'] = reason
    else:
        drawn = isoflop.exponents(points, budgets, weight_EP)
        content['approach2'] = _approach2(points, budgets, described, drawn)
    # A file whose points lie on no budgets would have a reason for each of them.
    if points.named_budgets or 'approach2' not in refused:
        refused |= {f'approach2.budgets.{name}': reason for name, reason in reasons.items()}
    out_BP = np.zeros((0, len(points)))
    if reason := _no_budgets(points, 'approach2' in refused):
        refused['leave_one_budget_out'] = reason
    else:
        out_BP = np.stack([1.0 - member_P for member_P in points.budgets.values()])
    if content['approach2']:
        found['approach2'] = dict(isoflop.exponents(points, budgets, out_BP))
    if reason := too_few(points):
        refused |= {'approach3': reason, 'vpnls': reason}
    else:
        for method, delta in (('approach3', options.delta), ('vpnls', math.inf)):
            criterion = surface.Criterion(points, delta)
            square = criterion.is_square
            theta_K = surface.fit_squares(points) if square else surface.fit_huber(points, delta)
            surfaces[method] = criterion.surface(theta_K)
            unknown = surface.unidentified(criterion, theta_K)
            drawn = refit_all(criterion, theta_K, weight_EP, options.progress)
            content[method], ends = _surface_content(points, surfaces[method], unknown, drawn)
            refused |= {f'{method}.{name}': why for name, why in {**unknown, **ends}.items()}
            found[method] = refit_all(criterion, theta_K, out_BP, options.progress)
            if not square and not {'alpha', 'beta'} & unknown.keys():
                content |= _influence(criterion, theta_K, options.progress)
    for b, name in enumerate(points.budgets if len(out_BP) else ()):
        content['leave_one_budget_out'][name] = {
            method: {
                key: None if content[method].get(key) is None else _number(value_B[b])
                for key, value_B in values.items()
            }
            for method, values in found.items()
        }
    content['disagreements'] = disagreements(content)
    return LossFits(content, refused, surfaces)


def _too_few_budgets(points: Points, budgets: isoflop.Budgets) -> str:
    total, kept = len(points.budgets), len(budgets.names)
    if kept < isoflop.FEWEST_BUDGETS:
        return (
            f'{kept} of {total} budgets have a parabola with a minimum; a line needs '
            f'{isoflop.FEWEST_BUDGETS}'
        )
    used = sum(len(index) for index in budgets.members)
    if not points.named_budgets and 2 * used < len(points):
        return (
            f'only {used} of {len(points)} points are of equal compute with enough others; a '
            'column budget can name the budgets'
        )
    return ''


def _no_budgets(points: Points, no_lines: bool) -> str:
    """Returns why no budget can be left out; `no_lines` says that approach 2 is refused."""
    if not points.named_budgets and no_lines:
        return 'the points lie on no budgets'
    if len(points.budgets) < FEWEST_LEFT_OUT:
        return f'{len(points.budgets)} budgets; it needs {FEWEST_LEFT_OUT}'
    return ''


def too_few(points: Points) -> str:
    """Returns why a surface cannot be fitted to the points; '' where it can."""
    sizes, data = (len(np.unique(x)) for x in (points.params_P, points.tokens_P))
    if sizes < FEWEST_SIZES:
        return f'{sizes} sizes; a surface needs {FEWEST_SIZES}'
    if data < FEWEST_TOKENS:
        return f'{data} numbers of tokens; a surface needs {FEWEST_TOKENS}'
    if points.clusters <= 5:
        return f'{points.clusters} points of their own size and seed for 5 parameters'
    return ''


def _approach2(
    points: Points,
    budgets: isoflop.Budgets,
    described: list[dict[str, Any]],
    drawn: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    lines = {
        name: isoflop.line(budgets, described, f'{name.split("_")[0]}_optimum')
        for name in EXPONENTS
    }
    content: dict[str, Any] = {name: lines[name][0] for name in EXPONENTS}
    used = np.concatenate(budgets.members)
    # Each parabola has its own parameters. What is left in a budget counts once for every budget,
    # less where the budgets share their clusters.
    clusters, count = len(np.unique(points.cluster_P[used])), len(budgets.members)
    of_budget = [len(np.unique(points.cluster_P[index])) for index in budgets.members]
    freedom = sum(max(n - OF_PARABOLA, 0) for n in of_budget) * clusters / sum(of_budget)
    for name in EXPONENTS:
        content[f'{name}_interval'] = intervals.interval(
            drawn[name],
            clusters=clusters,
            points=len(used),
            parameters=OF_PARABOLA * count,
            freedom=freedom,
        )
    content['log_coefficients'] = {name: lines[name][1] for name in EXPONENTS}
    content['budgets'] = described
    return content


def refit_all(
    criterion: surface.Criterion,
    theta_K: np.ndarray,
    weight_EP: np.ndarray,
    progress: Callable[[int], Any] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Returns the parameters and exponents under E weightings, float[E] each."""
    rows = max(_CHUNK // weight_EP.shape[1] // 8, 1)
    chunks = [np.zeros((0, 5))]
    for start in range(0, len(weight_EP), rows):
        chunk = weight_EP[start : start + rows]
        chunks.append(surface.refit(criterion, theta_K, chunk))
        progress(len(chunk))
    e, a, b, alpha, beta = np.concatenate(chunks).T
    low, high = surface.EXPONENT_BOUNDS
    alpha, beta = np.clip(alpha, low, high), np.clip(beta, low, high)
    scales = [np.exp(np.minimum(x, 300.0)) for x in _uncentred(criterion, e, a, b, alpha, beta)]
    share = beta / (alpha + beta)
    return {
        **dict(zip(surface.NAMES, [*scales, alpha, beta], strict=True)),
        'params_exponent': share,
        'tokens_exponent': 1 - share,
    }


def _uncentred(criterion: surface.Criterion, e, a, b, alpha, beta) -> list[np.ndarray]:
    return [e, a + alpha * criterion.centre[0], b + beta * criterion.centre[1]]


def _surface_content(
    points: Points,
    found: surface.Surface,
    unknown: Mapping[str, str],
    drawn: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns what fit.json says of a surface, and why intervals are missing."""
    values = {name: getattr(found, name) for name in surface.NAMES}
    values['params_exponent'] = found.params_exponent
    values['tokens_exponent'] = 1 - found.params_exponent
    hidden = set(unknown)
    if hidden & {'alpha', 'beta'}:
        hidden |= set(EXPONENTS)
    content, refused = {'objective': found.objective}, {}
    low, high = surface.EXPONENT_BOUNDS
    for name, value in values.items():
        content[name] = None if name in hidden else value
        content[f'{name}_interval'] = None
        if name in hidden:
            continue
        ends = intervals.interval(
            drawn[name], clusters=points.clusters, points=len(points), parameters=OF_SURFACE
        )
        if ends and name in ('alpha', 'beta') and not low < ends[0] < ends[1] < high:
            refused[f'{name}_interval'] = f'it reaches the bounds of {name}, {low:g} to {high:g}'
            continue
        content[f'{name}_interval'] = ends
    residual = np.log(found.predict(points.params_P, points.tokens_P) / points.loss_P)
    content['rmse_log_loss'] = float(np.sqrt((residual**2).mean()))
    return content, refused


def _influence(
    criterion: surface.Criterion, theta_K: np.ndarray, progress: Callable[[int], Any]
) -> dict[str, Any]:
    """Fits without each point, and without the fiftieth that moves an exponent most.

    The second is the set of Broderick, Giordano and Meager 2020 (arXiv 2011.14999), chosen by exact
    fits without one point in place of their linear approximation.
    """
    points = criterion.points
    P = len(points)
    chunk, parts = max(_CHUNK // P // 8, 1), []
    for start in range(0, P, chunk):
        index = np.arange(start, min(start + chunk, P))
        parts.append(surface.refit(criterion, theta_K, 1.0 - np.eye(P)[index]))
        progress(len(index))
    change = np.concatenate(parts)[:, 3:] - theta_K[3:]
    order = np.argsort(-np.abs(change / theta_K[3:]).max(1), kind='stable')[:_SHOWN]
    influence = [
        {
            'where': points.where_P[i],
            'params': float(points.params_P[i]),
            'tokens': float(points.tokens_P[i]),
            'loss': float(points.loss_P[i]),
            'alpha_change': float(change[i, 0]),
            'beta_change': float(change[i, 1]),
        }
        for i in order.tolist()
    ]
    few = max(math.ceil(_FEW * P), 1)
    worst: dict[str, Any] = {'points': few, 'relative_change': 0.0, 'depends': False}
    for k, name in enumerate(('alpha', 'beta')):
        for sign in (1, -1):
            chosen = np.argsort(sign * change[:, k], kind='stable')[:few]
            weight_P = np.ones(P)
            weight_P[chosen] = 0.0
            value = float(surface.refit(criterion, theta_K, weight_P[None])[0, 3 + k])
            moved = value / theta_K[3 + k] - 1
            if abs(moved) > abs(worst['relative_change']):
                worst |= {
                    'exponent': name,
                    'value': float(theta_K[3 + k]),
                    'without': value,
                    'relative_change': float(moved),
                    'depends': bool(abs(moved) > _MOVED),
                    'where': [points.where_P[i] for i in chosen.tolist()],
                    'are_highest_losses': set(chosen.tolist())
                    == set(np.argsort(-points.loss_P, kind='stable')[:few].tolist()),
                }
    return {'influence': influence, 'depends_on_few': worst}


def disagreements(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the pairs of methods whose intervals of an exponent do not overlap."""
    pairs = []
    fitted = [method for method in METHODS if content[method]]
    for i, first in enumerate(fitted):
        for second in fitted[i + 1 :]:
            for name in (*EXPONENTS, 'alpha', 'beta'):
                ends = [content[method].get(f'{name}_interval') for method in (first, second)]
                if None in ends:
                    continue
                if max(ends[0][0], ends[1][0]) > min(ends[0][1], ends[1][1]):
                    pairs.append({'exponent': name, 'methods': [first, second], 'intervals': ends})
    return pairs


def _number(value: float) -> float | None:
    """Returns a number for JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None
