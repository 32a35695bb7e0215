"""Makes and analyses blind reviews of answers by clinicians.

`python -m bsft_jax.review make --evals A B --output=review.html` writes a page for each rater, and
KEY.json. `python -m bsft_jax.review analyse KEY.json RATER.json… --output=DIR` reads what the pages
saved.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import sys
from collections.abc import Sequence

from absl import flags

from bsft_jax import cli
from bsft_jax.errors import UserError, printable

_EVALS = flags.DEFINE_multi_string(
    'evals', [], 'make: folders of evaluations, WORKDIR/eval/NAME, two or more.'
)
_OUTPUT = cli.define_place(
    'output', None, 'make: page to write; analyse: folder of the results.', required=True
)
_DATA = flags.DEFINE_string(
    'data', '', 'make: data source of the records; default that of the first evaluation.'
)
_ITEMS = flags.DEFINE_integer('items', 60, 'make: comparisons in all.', lower_bound=1)
_RATERS = flags.DEFINE_integer('raters', 3, 'make: raters, each with a page.', lower_bound=1)
_OVERLAP = flags.DEFINE_integer(
    'overlap',
    20,
    'make: comparisons that every rater sees; the others are dealt out.',
    lower_bound=0,
)
_REPEATS = flags.DEFINE_integer(
    'repeats', 3, 'make: comparisons that a rater sees twice.', lower_bound=0
)
_CHECKS = flags.DEFINE_integer('checks', 2, 'make: attention items of each rater.', lower_bound=0)
_SEED = flags.DEFINE_integer('seed', 0, 'make: seed of all draws.', lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Makes or analyses a review, as the first word says."""
    action, *words = argv[1:] or ['']
    if action == 'make':
        _make(words)
    elif action == 'analyse':
        _analyse(words)
    else:
        raise UserError(
            f'unknown word {action!r}' if action else 'says neither make nor analyse',
            where='review',
            fix='review make --evals A B …, or review analyse KEY.json RATER.json …',
        )


def _make(words: Sequence[str]) -> None:
    from bsft_jax.places import parse_place
    from bsft_jax.review_kit.make import MakeOptions, describe_key, make
    from bsft_jax.review_kit.sampling import Plan

    plan = Plan(
        items=_ITEMS.value,
        raters=_RATERS.value,
        overlap=_OVERLAP.value,
        repeats=_REPEATS.value,
        checks=_CHECKS.value,
        seed=_SEED.value,
    )
    # `--evals A B C` gives the flag one folder and leaves the others as words.
    try:
        evals = tuple(parse_place(folder) for folder in (*_EVALS.value, *words))
    except ValueError as error:
        raise UserError(str(error), where='--evals') from error
    print(printable(describe_key(make(MakeOptions(evals, _OUTPUT.value, plan, _DATA.value)))))


def _analyse(words: Sequence[str]) -> None:
    from bsft_jax.review_kit.analyse import analyse, format_analysis

    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        if flag.present and flag.name != 'output':
            raise UserError('is a flag of review make', where=f'--{flag.name}', fix='leave it out')
    print(printable(format_analysis(analyse(list(words), _OUTPUT.value))))


if __name__ == '__main__':
    cli.run(main, words=True)
