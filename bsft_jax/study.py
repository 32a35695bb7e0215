"""Runs a study: `python -m bsft_jax.study --config=configs/studies/quickstart.py --workdir=DIR`.

Trains every arm with every seed, evaluates and compares them, prints a table and writes
`results.jsonl`, `summary.json` and `report.html`. Started again with the same --workdir it does
what is missing.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install(restart=True)

import ast
import dataclasses
import pathlib
import shlex
import sys

from absl import flags

from bsft_jax import cli
from bsft_jax.errors import UserError, printable

_CONFIG = flags.DEFINE_string(
    'config',
    None,
    'FILE.py[:ARG], whose get_config(ARG) returns a Study or a ScalingStudy.',
    required=True,
)
_WORKDIR = cli.define_place(
    'workdir', None, 'Folder of the study; created if it does not exist.', required=True
)
_LAUNCHER = flags.DEFINE_enum(
    'launcher',
    'local',
    ['local', 'slurm', 'print'],
    'Run here, submit every command as a Slurm job and wait, or print the commands.',
)
_SBATCH = flags.DEFINE_string(
    'sbatch', '', "Options of sbatch for --launcher=slurm, as '--partition=gpu --nodes=2'."
)
_STATUS = flags.DEFINE_bool('status', False, 'Print how far the runs are, and run nothing.')
_JOBS = flags.DEFINE_integer(
    'jobs',
    1,
    'Number of runs at a time, each on its share of CPU cores and NVIDIA GPUs, or of Slurm jobs '
    'in the queue. TPUs are not divided: use 1.',
    lower_bound=1,
)
_OVERRIDE = flags.DEFINE_multi_string(
    'override', [], 'PATH=VALUE, a config field of every run; repeatable.', short_name='o'
)


def _overrides() -> dict[str, object]:
    """Returns the --override flags as `{path: value}`; values are Python literals or else text."""
    overrides = {}
    for item in _OVERRIDE.value:
        path, equals, text = item.partition('=')
        if not equals:
            raise UserError(f'{item!r} is not PATH=VALUE', where='--override')
        try:
            overrides[path] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            overrides[path] = text
    return overrides


def _make_launcher(directory: pathlib.Path):
    """Returns the launcher that the flags name; raises UserError as its constructor does."""
    from bsft_jax.studies import launchers, slurm

    if _SBATCH.value and _LAUNCHER.value != 'slurm':
        raise UserError('is for --launcher=slurm', where='--sbatch')
    if _LAUNCHER.value == 'slurm':
        return slurm.SlurmLauncher(directory, _JOBS.value, shlex.split(_SBATCH.value))
    if _LAUNCHER.value == 'print':
        return launchers.DryRun()
    return launchers.LocalLauncher(directory, _JOBS.value)


def main(argv) -> None:
    del argv
    from bsft_jax.studies import (
        launching,
        reporting,
        results,
        scaling_report,
        status,
    )
    from bsft_jax.studies.scaling_run import run_scaling_study
    from bsft_jax.studies.scaling_study import ScalingStudy
    from bsft_jax.studies.study import Study, load_config

    study = load_config(_CONFIG.value, Study, ScalingStudy)
    study = dataclasses.replace(study, overrides={**study.overrides, **_overrides()})
    directory, scaling = pathlib.Path(_WORKDIR.value), isinstance(study, ScalingStudy)
    if _STATUS.value:
        print(printable(status.format_status(status.study_status(study, directory))))
        return
    launcher = _make_launcher(directory)
    run = run_scaling_study if scaling else launching.run_study
    points = run(study, directory, launcher)
    if launcher.dry_run:
        return
    rows = [] if scaling else results.write_results(study, points, directory)
    for name, reason in launcher.failed.items():
        print(printable(f'failed: {name}: {reason}'), file=sys.stderr)
    try:
        if scaling:
            print(printable(scaling_report.write_report(study, directory)))
        elif rows:
            print(printable(reporting.write_report(study, points, rows, directory)))
    except UserError as error:
        # Without the failed points a comparison may be impossible; they are the error to report.
        if not launcher.failed:
            raise
        print(f'no comparison: {error}', file=sys.stderr)
    if launcher.failed:
        sys.exit(1)


if __name__ == '__main__':
    cli.run(main)
