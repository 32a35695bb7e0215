"""Makes a page of evaluations: `python -m bsft_jax.report DIR... --output=FILE`.

A DIR is the folder of an evaluation (WORKDIR/eval/NAME), of a run or of a study.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import sys

from absl import flags

from bsft_jax import cli

_OUTPUT = cli.define_place('output', None, 'The file, such as report.html.', required=True)
_WORDS = flags.DEFINE_boolean(
    'words', True, 'Whether the page holds the words of the records, for its reader of cases.'
)


def main(argv) -> None:
    from bsft_jax.studies.pages import ReportOptions, report_folders

    report_folders(ReportOptions(argv[1:], _OUTPUT.value, _WORDS.value))
    print(f'written: {_OUTPUT.value}', file=sys.stderr)


if __name__ == '__main__':
    cli.run(main, words=True)
