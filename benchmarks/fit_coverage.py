"""Simulates scaling studies: how often the 95 % intervals of their exponents hold the truth.

    python -m benchmarks.fit_coverage

Losses lie on E + A / N^alpha + B / D^beta with the parameters of Besiroglu et al. 2024 (arXiv
2404.10102), times log-normal noise. Sizes are a ladder of steps of sqrt(2), of which each of five
budgets has those within `--spread` of its optimum. In the design `one seed` all errors are
independent. In `three seeds` half of the variance is shared by the points of one size and seed.
The script prints the coverage and writes `benchmarks/results/fit_coverage.json`.
"""

from __future__ import annotations

from absl import flags

from benchmarks import output
from bsft_jax import cli

_STUDIES = flags.DEFINE_integer('studies', 200, 'Simulated studies of each design.', lower_bound=2)
_RESAMPLES = flags.DEFINE_integer('resamples', 1000, 'Draws of the intervals.', lower_bound=100)
_NOISE = flags.DEFINE_float('noise', 0.003, 'Standard deviation of log L.', lower_bound=0)
_SPREAD = flags.DEFINE_float(
    'spread', 4.0, 'Largest factor between a size and the optimum of its budget.', lower_bound=2
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the simulation.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/fit_coverage.json', 'File to write.')
TRUTH = {'E': 1.81724, 'A': 477.8, 'B': 2143.9, 'alpha': 0.34731, 'beta': 0.36718}
LOWEST, HIGHEST, BUDGETS = 1e18, 1e21, 5
# Of the ladder of sizes.
STEP = 2**0.5
SEEDS = {'one seed': 1, 'three seeds': 3}


def simulate(design: str, rng):
    """Returns the points of a study."""
    import numpy as np

    from bsft_jax.scaling.points import Points

    alpha, beta = TRUTH['alpha'], TRUTH['beta']
    # The minimum at equal compute: alpha A N^-alpha = beta B D^-beta, D = C / 6 N.
    scale = (alpha * TRUTH['A'] / (beta * TRUTH['B'])) ** (1 / (alpha + beta))
    seeds = SEEDS[design]
    names, rows = [], []
    for flops in np.geomspace(LOWEST, HIGHEST, BUDGETS):
        optimum = scale * (flops / 6) ** (beta / (alpha + beta))
        ends = np.log([optimum / _SPREAD.value, optimum * _SPREAD.value]) / np.log(STEP)
        for step in range(int(np.ceil(ends[0])), int(np.floor(ends[1])) + 1):
            for seed in range(seeds):
                rows.append((STEP**step, flops / (6 * STEP**step), flops, step * seeds + seed))
                names.append(f'{flops:.4g}')
    params, tokens, flops, number = (np.array(column) for column in zip(*rows, strict=True))
    share, cluster = 0.5, np.unique(number, return_inverse=True)[1]
    if seeds == 1:
        share, cluster = 0.0, np.arange(len(rows))
    shared, own = rng.normal(size=int(cluster.max()) + 1)[cluster], rng.normal(size=len(rows))
    error = _NOISE.value * (share**0.5 * shared + (1 - share) ** 0.5 * own)
    loss = TRUTH['E'] + TRUTH['A'] * params**-alpha + TRUTH['B'] * tokens**-beta
    lines = tuple(f'study:{i + 2}' for i in range(len(rows)))
    return Points(params, tokens, flops, loss * np.exp(error), cluster, tuple(names), lines)


def measure(design: str) -> list[dict]:
    """Returns coverage, mean width and bias of each method's exponents."""
    import numpy as np

    from bsft_jax.scaling import losses

    truth = TRUTH | {'params_exponent': TRUTH['beta'] / (TRUTH['alpha'] + TRUTH['beta'])}
    asked = [('approach2', 'params_exponent')]
    asked += [
        (method, name)
        for method in ('approach3', 'vpnls')
        for name in ('alpha', 'beta', 'params_exponent')
    ]
    found = {key: [] for key in asked}
    for study in range(_STUDIES.value):
        points = simulate(design, np.random.default_rng((_SEED.value, study)))
        fit = losses.fit_losses(points, losses.FitOptions(resamples=_RESAMPLES.value, seed=study))
        for method, name in asked:
            content = fit.content[method] or {}
            if ends := content.get(f'{name}_interval'):
                found[method, name].append([content[name], *ends])
    rows = []
    for (method, name), values in found.items():
        value, low, high = np.array(values).T
        held = (low <= truth[name]) & (truth[name] <= high)
        rows.append(
            {
                'design': design,
                'method': method,
                'exponent': name,
                'truth': truth[name],
                'studies': len(value),
                'coverage': float(held.mean()),
                'mean': float(value.mean()),
                'mean_width': float((high - low).mean()),
            }
        )
    return rows


def main(argv) -> None:
    """Simulates, prints the table and writes the result."""
    del argv
    print('| design | method | exponent | truth | mean estimate | coverage | mean width |')
    print('|---|---|---|---|---|---|---|')
    rows = []
    for design in SEEDS:
        for row in measure(design):
            rows.append(row)
            print(
                f'| {design} | {row["method"]} | {row["exponent"]} | {row["truth"]:.4f} | '
                f'{row["mean"]:.4f} | {row["coverage"]:.1%} | {row["mean_width"]:.4f} |',
                flush=True,
            )
    command = output.command(
        'benchmarks.fit_coverage', (_STUDIES, _RESAMPLES, _NOISE, _SPREAD, _SEED)
    )
    output.write(_OUTPUT.value, command, ('numpy', 'scipy'), rows=rows)


if __name__ == '__main__':
    cli.run(main)
