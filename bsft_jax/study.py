"""Runs a study: `python -m bsft_jax.study --config=configs/studies/quickstart.py --workdir=DIR`.

Trains every arm with every seed, evaluates, compares, prints a table and writes `results.jsonl`,
`summary.json` and `report.html`. Started again with the same --workdir it does what is missing.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import sys

from absl import flags

from bsft_jax import cli
from bsft_jax.errors import UserError

_CONFIG = flags.DEFINE_string(
    'config', None, 'FILE.py[:ARG], whose get_config(ARG) returns a Study.', required=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the study; made if absent.', required=True)
_LAUNCHER = flags.DEFINE_enum('launcher', 'local', ['local', 'print'], 'Run here, or print the commands.')
_JOBS = flags.DEFINE_integer(
    'jobs',
    1,
    'Runs at a time, each on its share of the processor cores and NVIDIA cards. TPUs are not shared out: leave it at 1.',
    lower_bound=1,
)
_OVERRIDE = flags.DEFINE_multi_string(
    'override', [], 'PATH=VALUE, a config field of every run; repeatable.', short_name='o'
)


def _overrides() -> dict[str, object]:
    changed = {}
    for item in _OVERRIDE.value:
        path, equals, text = item.partition('=')
        if not equals:
            raise UserError(f'{item!r} is not PATH=VALUE', where='--override')
        try:
            changed[path] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            changed[path] = text
    return changed


def main(argv) -> None:
    del argv
    from bsft_jax.studies import launching, outcome
    from bsft_jax.studies import study as study_lib

    study = study_lib.load(_CONFIG.value, study_lib.Study)
    study = dataclasses.replace(study, overrides={**study.overrides, **_overrides()})
    directory = pathlib.Path(_WORKDIR.value)
    if _LAUNCHER.value == 'print':
        launching.run(study, directory, launching.Printer())
        return
    launcher = launching.Local(directory, _JOBS.value)
    points = launching.run(study, directory, launcher)
    rows = launching.write_results(study, points, directory)
    for name, why in launcher.failed.items():
        print(f'failed: {name}: {why}', file=sys.stderr)
    try:
        if rows:
            print(outcome.write(study, points, rows, directory))
    except UserError as error:
        if not launcher.failed:
            raise
        print(f'no comparison: {error}', file=sys.stderr)
    if launcher.failed:
        sys.exit(1)


if __name__ == '__main__':
    cli.run(main)
