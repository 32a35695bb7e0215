"""Makes studies whose losses lie on a known surface."""

import numpy as np

from bsft_jax.scaling.points import Points

TRUTH = {'E': 1.8, 'A': 480.0, 'B': 2100.0, 'alpha': 0.34, 'beta': 0.37}
BUDGETS = (1e18, 1e19, 1e20, 1e21)


def loss_of(params, tokens):
    t = TRUTH
    return t['E'] + t['A'] * params ** -t['alpha'] + t['B'] * tokens ** -t['beta']


def optimum_of(flops):
    t = TRUTH
    ratio = t['alpha'] * t['A'] / (t['beta'] * t['B'])
    scale = ratio ** (1 / (t['alpha'] + t['beta']))
    return scale * (flops / 6) ** (t['beta'] / (t['alpha'] + t['beta']))


def make_points(params, tokens, *, noise=0.0, seed=0, budgets=None):
    params, tokens = np.asarray(params, float), np.asarray(tokens, float)
    error = noise * np.random.default_rng(seed).standard_normal(len(params))
    return Points(
        params_P=params,
        tokens_P=tokens,
        flops_P=6 * params * tokens,
        loss_P=loss_of(params, tokens) * np.exp(error),
        cluster_P=np.arange(len(params)),
        budget_P=tuple(budgets or ['one'] * len(params)),
        where_P=tuple(f'x.csv:{i + 2}' for i in range(len(params))),
    )


def iso_flop(*, noise=0.0, seed=0, sizes=7, spread=2.0, shift=1.0, budgets=BUDGETS):
    """Returns a study with sizes from optimum × shift / spread to optimum × shift × spread."""
    around = shift * np.geomspace(1 / spread, spread, sizes)
    params = np.concatenate([optimum_of(c) * around for c in budgets])
    flops = np.repeat(budgets, sizes)
    names = [f'{c:g}' for c in flops]
    return make_points(params, flops / (6 * params), noise=noise, seed=seed, budgets=names)
