"""Fits L(N, D) = E + A / N^alpha + B / D^beta, by Huber's loss of log L or by least squares of L.

The form and the first way are approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556), with the sum
of the losses, as Besiroglu et al. 2024 (arXiv 2404.10102) recommend: the mean is so small that
default tolerances end the search where it starts. The second way is called VPNLS: variable
projection (Golub and Pereyra 1973) with non-negative least squares (Lawson and Hanson 1974).

Array letters are those of `scaling.points`; K are the five parameters.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from bsft_jax.scaling import solver
from bsft_jax.scaling.points import Points

NAMES = ('E', 'A', 'B', 'alpha', 'beta')
# An exponent at or beyond them is not identified.
EXPONENT_BOUNDS = (0.01, 2.0)
DEFAULT_DELTA = 1e-3
# No loss is taken as known to a smaller share of its value.
_LEAST_NOISE = 1e-4
# Below this share of the lowest loss E is at its bound, 0.
_LEAST_SHARE = 1e-6
# 95 % quantile of chi-squared with one degree of freedom.
_CHI2_95 = 3.841458820694124
_GRID = np.geomspace(0.05, 1.5, 12)
_STARTS = 8
_PROFILE_FACTORS = (0.5, 2.0)


@dataclasses.dataclass(frozen=True)
class Surface:
    """Holds the five parameters of a fit and what it has minimised."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    objective: float

    def predict(self, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Returns the loss of models of a size and number of training tokens."""
        return self.E + self.A * params**-self.alpha + self.B * tokens**-self.beta

    @property
    def params_exponent(self) -> float:
        """Returns a of N_opt ∝ C^a: beta / (alpha + beta), from dL = 0 on C = 6 N D."""
        return self.beta / (self.alpha + self.beta)


class Criterion:
    """Measures how far surfaces are from points, for parameters (log E, log A', log B', α, β).

    A' and B' are those of N and D over their geometric means, which separates scale from exponent.
    """

    def __init__(self, points: Points, delta: float):
        """Takes the points and the bend of Huber's loss of log L; infinite: squares of L."""
        self.points, self.delta = points, delta
        log_params_P, log_tokens_P = np.log(points.params_P), np.log(points.tokens_P)
        self.centre = log_params_P.mean(), log_tokens_P.mean()
        self._n_P, self._d_P = log_params_P - self.centre[0], log_tokens_P - self.centre[1]
        self._log_loss_P = np.log(points.loss_P)

    @property
    def is_square(self) -> bool:
        """Returns whether it is least squares of L itself."""
        return bool(np.isinf(self.delta))

    def residuals(self, theta_EK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns residuals float[E, P] and their derivatives float[K, E, P]."""
        e, a, b, alpha, beta = theta_EK.T[:, :, None]
        logs = np.stack([a - alpha * self._n_P, b - beta * self._d_P])
        top = np.maximum(logs.max(0), e)
        # Of log-sum-exp: no overflow, and each term's share is its derivative.
        small, large = np.exp(e - top), np.exp(logs - top)
        total = small + large[0] + large[1]
        share_e, share_a, share_b = small / total, large[0] / total, large[1] / total
        residual = top + np.log(total) - self._log_loss_P
        jacobian = np.stack([share_e, share_a, share_b, -share_a * self._n_P, -share_b * self._d_P])
        if self.is_square:
            predicted = np.exp(np.minimum(residual + self._log_loss_P, 300.0))
            residual, jacobian = predicted - self.points.loss_P, jacobian * predicted
        return residual, jacobian

    def __call__(
        self, theta_EK: np.ndarray, weight_EP: np.ndarray | float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the weighted sums of losses float[E] and their gradients float[E, K]."""
        residual, jacobian = self.residuals(theta_EK)
        bent = np.clip(residual, -self.delta, self.delta)
        # Huber's loss: r² / 2 within delta, delta (|r| - delta / 2) outside.
        losses = bent * (residual - bent / 2)
        weighted = weight_EP * bent
        return (weight_EP * losses).sum(1), np.einsum('kep,ep->ek', jacobian, weighted)

    def metric(self, theta_K: np.ndarray, fixed: int | None = None) -> np.ndarray:
        """Returns the inverse of the Gauss-Newton matrix, float[K, K], 0 for a fixed parameter."""
        residual, jacobian = self.residuals(theta_K[None])
        weight = np.minimum(1, self.delta / np.maximum(np.abs(residual[0]), 1e-300))
        matrix = np.einsum('kp,p,lp->kl', jacobian[:, 0], weight, jacobian[:, 0])
        # A ridge: on poor grids some direction changes nothing.
        matrix += 1e-9 * np.trace(matrix) * np.eye(5)
        free = np.flatnonzero(np.arange(5) != fixed)
        inverse = np.zeros((5, 5))
        inverse[np.ix_(free, free)] = np.linalg.inv(matrix[np.ix_(free, free)])
        return inverse

    def noise(self, theta_K: np.ndarray) -> float:
        """Returns the scale by which a rise of the sum, doubled, is a chi-squared value.

        It is E psi² / E psi' (Huber and Ronchetti 2009, section 7.2); for squares, the variance of
        the residuals with n - 5 in place of n.
        """
        residual = self.residuals(theta_K[None])[0][0]
        bent = np.clip(residual, -self.delta, self.delta)
        inside = max((np.abs(residual) < self.delta).sum(), 1)
        n = len(residual)
        least = _LEAST_NOISE * (self.points.loss_P.mean() if self.is_square else 1.0)
        return float(max((bent**2).sum() / inside * n / max(n - 5, 1), least**2))

    def is_zero(self, log_scales: np.ndarray) -> np.ndarray:
        """Returns whether E, A' or B' is at its bound, bool[3]."""
        return np.exp(log_scales) <= _LEAST_SHARE * self.points.loss_P.min()

    def surface(self, theta_K: np.ndarray) -> Surface:
        """Returns the surface of one vector of parameters."""
        e, a, b, alpha, beta = (float(x) for x in theta_K)
        logs = np.array([e, a + alpha * self.centre[0], b + beta * self.centre[1]])
        # The exponent of a term that is 0 may be any number, and its scale overflow.
        scales = np.exp(np.where(self.is_zero(theta_K[:3]), -np.inf, logs))
        value = float(self(theta_K[None])[0][0])
        return Surface(*map(float, scales), alpha, beta, value)


def project(points: Points, alpha: float, beta: float) -> tuple[np.ndarray, float]:
    """Returns the best E, A', B' ≥ 0 for two exponents, and half the sum of squares of L."""
    from scipy import optimize

    relative = [x / np.exp(np.log(x).mean()) for x in (points.params_P, points.tokens_P)]
    columns = [np.ones(len(points)), relative[0] ** -alpha, relative[1] ** -beta]
    scales, norm = optimize.nnls(np.stack(columns, 1), points.loss_P)
    return scales, norm**2 / 2


def search_starts(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Projects on a grid of exponents.

    Returns:
      theta float[G, K], with zeros raised to where a search can leave them, and half the sums of
      squares float[G].
    """
    thetas, sums = [], []
    for alpha, beta in itertools.product(_GRID, _GRID):
        scales, value = project(points, alpha, beta)
        least = 1e-3 * points.loss_P.min()
        thetas.append([*np.log(np.maximum(scales, least)), alpha, beta])
        sums.append(value)
    return np.array(thetas), np.array(sums)


def fit_huber(points: Points, delta: float = DEFAULT_DELTA) -> np.ndarray:
    """Fits by Huber's loss of log L, by BFGS from several starts; returns theta float[K]."""
    from scipy import optimize

    criterion = Criterion(points, delta)
    thetas, _ = search_starts(points)
    starts = thetas[np.argsort(criterion(thetas)[0], kind='stable')[:_STARTS]]
    metrics = np.stack([criterion.metric(start) for start in starts])
    found = solver.minimise_all(lambda _, theta_EK: criterion(theta_EK), starts, metrics)
    best = found[criterion(found)[0].argmin()]

    def one(theta_K: np.ndarray) -> tuple[float, np.ndarray]:
        values, gradients = criterion(theta_K[None])
        return float(values[0]), gradients[0]

    # Until rounding ends it.
    again = optimize.minimize(one, best, jac=True, method='BFGS', options={'gtol': 1e-12})
    return again.x if again.fun <= one(best)[0] else best


def fit_squares(points: Points) -> np.ndarray:
    """Fits by least squares of L, only the exponents being searched; returns theta float[K].

    Scales that are 0 are tiny in the result.
    """
    from scipy import optimize

    thetas, sums = search_starts(points)
    low, high = EXPONENT_BOUNDS
    results = []
    for start in thetas[np.argsort(sums, kind='stable')[:2], 3:]:
        results.append(
            optimize.minimize(
                lambda x: project(points, *x)[1],
                start,
                method='Nelder-Mead',
                bounds=[(low, high)] * 2,
                options={'xatol': 1e-10, 'fatol': 1e-18, 'maxfev': 2000},
            )
        )
    alpha, beta = min(results, key=lambda result: result.fun).x
    scales, _ = project(points, alpha, beta)
    least = 1e-9 * points.loss_P.min()
    return np.array([*np.log(np.maximum(scales, least)), alpha, beta])


def refit(criterion: Criterion, theta_K: np.ndarray, weight_EP: np.ndarray) -> np.ndarray:
    """Fits again under E weightings of the points, from the fit to all; returns float[E, K]."""

    def objective(index: np.ndarray, theta_EK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return criterion(theta_EK, weight_EP[index])

    starts = np.repeat(theta_K[None], len(weight_EP), 0)
    metrics = np.repeat(criterion.metric(theta_K)[None], len(weight_EP), 0)
    return solver.minimise_all(objective, starts, metrics)


def unidentified(criterion: Criterion, theta_K: np.ndarray) -> dict[str, str]:
    """Returns the reason for each parameter that the points do not determine.

    A scale at 0 or an exponent at its bound is none. Neither is an exponent that may be halved or
    doubled, the others being fitted again, without a rise of the objective that noise explains in
    fewer than 5 of 100 cases; its scale goes with it.
    """
    reasons = {}
    low, high = EXPONENT_BOUNDS
    is_zero = criterion.is_zero(theta_K[:3])
    for k, name in enumerate(NAMES[:3]):
        if is_zero[k]:
            reasons[name] = f'not identified: {name} is at its bound, 0'
    for k, name, scale in ((3, 'alpha', 'A'), (4, 'beta', 'B')):
        reason = ''
        if scale in reasons:
            reason = f'not identified: {scale} is at its bound, 0'
        elif not low * 1.001 < theta_K[k] < high / 1.001:
            bound = low if theta_K[k] < 1 else high
            reason = f'not identified: {name} is at its bound, {bound:g}'
        else:
            values, rises = rise(criterion, theta_K, k)
            if rises.min() < _CHI2_95:
                reason = (
                    f'not identified: {name} = {values[rises.argmin()]:.3g} fits as well as '
                    f'{theta_K[k]:.3g}; the grid has too little spread for its noise'
                )
        if reason:
            reasons[name] = reasons[scale] = reason
    return reasons


def rise(criterion: Criterion, theta_K: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns values of parameter k, and twice the rise of the objective over its noise at each.

    Args:
      criterion: what was minimised.
      theta_K: the fit.
      k: 3 for alpha, 4 for beta; half and twice its value are tried, the others fitted again.
    """
    starts = np.repeat(theta_K[None], len(_PROFILE_FACTORS), 0)
    starts[:, k] *= _PROFILE_FACTORS
    metrics = np.stack([criterion.metric(start, fixed=k) for start in starts])
    found = solver.minimise_all(lambda _, theta_EK: criterion(theta_EK), starts, metrics)
    least = criterion(theta_K[None])[0]
    return starts[:, k], 2 * (criterion(found)[0] - least) / criterion.noise(theta_K)
