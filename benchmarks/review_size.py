"""Simulates blind reviews: how often their intervals hold the truth, how wide they are, the power.

    python -m benchmarks.review_size

Each comparison has its own probability that the first system is preferred, drawn from a Beta
distribution around the rate, which comparisons of one case share; `--overlap` of the comparisons
have all raters, the others one. A share of judgements are ties, which count half. The script prints
the table of `docs/review.md` and writes `benchmarks/results/review_size.json`.
"""

from __future__ import annotations

from absl import flags

from benchmarks import output
from bsft_jax import cli

_SIZES = (30, 60, 120)
# How often the first system is preferred where there is no tie.
_RATES = (0.5, 0.6, 0.7, 0.8)
# Comparisons of one case.
_PER_CASE = (1, 3)

_REVIEWS = flags.DEFINE_integer('reviews', 2000, 'Simulated reviews of each row.', lower_bound=2)
_RATERS = flags.DEFINE_integer('raters', 3, 'Raters of the shared comparisons.', lower_bound=1)
_OVERLAP = flags.DEFINE_float('overlap', 1 / 3, 'Share of the comparisons that all raters see.')
_TIES = flags.DEFINE_float('ties', 0.2, 'Share of judgements that are ties.')
_SPREAD = flags.DEFINE_float('spread', 4.0, 'Sum of the two parameters of the Beta distribution.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the simulation.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/review_size.json', 'File to write.')


def simulate(items: int, rate: float, per_case: int) -> dict[str, float]:
    """Returns coverage, mean width and power of both intervals for reviews of a size."""
    import numpy as np

    from bsft_jax.evaluation import resampling

    rng = np.random.default_rng((_SEED.value, items, round(1000 * rate), per_case))
    truth = (1 - _TIES.value) * rate + _TIES.value / 2
    case_I = np.arange(items) // per_case
    raters_I = np.where(np.arange(items) < round(_OVERLAP.value * items), _RATERS.value, 1)
    # Shared and other comparisons are spread over the cases.
    raters_I = rng.permutation(raters_I)
    found = {name: np.zeros(3) for name in ('wilson', 'bootstrap')}
    for review in range(_REVIEWS.value):
        of_case = rng.beta(_SPREAD.value * rate, _SPREAD.value * (1 - rate), size=items)
        ties_I = rng.binomial(raters_I, _TIES.value)
        wins_I = rng.binomial(raters_I - ties_I, of_case[case_I])
        score_I = (wins_I + ties_I / 2) / raters_I
        ratio = resampling.average_ratio(
            score_I, np.ones(items), case_I, resamples=500, seed=review
        )
        for name, sums in found.items():
            low, high = ratio[name]
            sums += [low <= truth <= high, high - low, low > 0.5 or high < 0.5]
    means = {name: sums / _REVIEWS.value for name, sums in found.items()}
    return {
        f'{name}_{what}': round(float(value), 3)
        for name, values in means.items()
        for what, value in zip(('coverage', 'width', 'power'), values, strict=True)
    }


def main(argv) -> None:
    """Simulates, prints the table and writes the result."""
    del argv
    header = ('comparisons', 'of a case', 'rate', 'Wilson holds it', 'width', 'shows it')
    print(f'| {" | ".join([*header, "bootstrap holds it", "width"])} |')
    print('|---|---|---|---|---|---|---|---|')
    rows = []
    for per_case in _PER_CASE:
        for items in _SIZES:
            for rate in _RATES:
                row = simulate(items, rate, per_case)
                rows.append({'items': items, 'per_case': per_case, 'rate': rate, **row})
                print(
                    f'| {items} | {per_case} | {rate:.2f} | {row["wilson_coverage"]:.1%} | '
                    f'{row["wilson_width"]:.2f} | {row["wilson_power"]:.0%} | '
                    f'{row["bootstrap_coverage"]:.1%} | {row["bootstrap_width"]:.2f} |',
                    flush=True,
                )
    command = output.command(
        'benchmarks.review_size', (_REVIEWS, _RATERS, _OVERLAP, _TIES, _SPREAD, _SEED)
    )
    output.write(_OUTPUT.value, command, ('numpy', 'scipy'), rows=rows)


if __name__ == '__main__':
    cli.run(main)
