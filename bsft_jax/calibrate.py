"""Calibrates a run: `python -m bsft_jax.calibrate --workdir=DIR --target_over_intervention=0.05`.

Fits the log-odds of stepping in and chooses the dial by the validation split, and writes
DIR/calibration.json, which `--policy=calibrated` and `export` use.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

from absl import flags

from bsft_jax import cli
from bsft_jax.errors import printable

_WORKDIR = cli.define_place('workdir', None, 'Folder of the run.', required=True)
_EVAL_DIR = cli.define_place(
    'eval_dir',
    '',
    "Folder of an evaluation of the run's validation split, WORKDIR/eval/NAME; default: the split "
    'is evaluated.',
)
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint to evaluate; default the newest.')
_TARGET = flags.DEFINE_float(
    'target_over_intervention',
    None,
    'Largest rate of over-intervention on fresh cases, as a share.',
)
_CONFIDENCE = flags.DEFINE_float(
    'confidence', None, 'Confidence of --target_over_intervention; default 0.9.'
)
_DIAL = flags.DEFINE_float('dial', None, 'The dial itself, instead of a target.')
_MISS = flags.DEFINE_float('cost_miss', None, 'Cost of a missed intervention, instead of a target.')
_FALSE_ALARM = flags.DEFINE_float('cost_false_alarm', None, 'Cost of an over-intervention.')
_BY_CATEGORY = flags.DEFINE_bool(
    'by_category',
    False,
    'Choose a dial also for each category that has enough validation cases.',
)


def main(argv) -> None:
    del argv
    from bsft_jax.commands.calibrate import CalibrateOptions, calibrate, describe

    options = CalibrateOptions(
        workdir=_WORKDIR.value,
        eval_dir=_EVAL_DIR.value,
        step=_STEP.value,
        target=_TARGET.value,
        confidence=_CONFIDENCE.value,
        dial=_DIAL.value,
        cost_miss=_MISS.value,
        cost_false_alarm=_FALSE_ALARM.value,
        by_category=_BY_CATEGORY.value,
    )
    if (calibration := calibrate(options)) is not None:
        print(printable(describe(calibration)))


if __name__ == '__main__':
    cli.run(main)
