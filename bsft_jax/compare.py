"""Compares two evaluations: `python -m bsft_jax.compare --a=DIR/eval/NAME --b=DIR/eval/NAME`.

Both must have scored the same records. Prints differences of macro-F1 with intervals and tests,
and writes them to compare.json with --output.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

from bsft_jax import cli
from bsft_jax.errors import printable

_A = cli.define_place('a', None, 'Folder of an evaluation, WORKDIR/eval/NAME.', required=True)
_B = cli.define_place('b', None, 'Folder of the evaluation to take from it.', required=True)
_OUTPUT = cli.define_place('output', '', 'Folder that gets compare.json.')


def main(argv) -> None:
    del argv
    from bsft_jax.studies.compare import CompareOptions, compare_evaluations, format_comparison

    found = compare_evaluations(CompareOptions(_A.value, _B.value, _OUTPUT.value))
    print(printable(format_comparison(found)))


if __name__ == '__main__':
    cli.run(main)
