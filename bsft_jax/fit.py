"""Fits scaling laws to the points of a study: `python -m bsft_jax.fit --points=CSV --output=DIR`.

A row of the CSV file is a trained model: params, tokens or flops, and loss or macro_f1.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

from absl import flags

from bsft_jax import cli
from bsft_jax.errors import printable

_POINTS = cli.define_place('points', None, 'CSV file with a row per trained model.', required=True)
_OUTPUT = cli.define_place(
    'output', None, 'Folder that gets fit.json, fit.html and fit_points.csv.', required=True
)
_ARM = flags.DEFINE_string('arm', '', 'Fits the losses of this arm alone (column arm).')
_GAIN = flags.DEFINE_string(
    'gain', '', 'ARM-ARM: fits macro-F1 of the first minus that of the second, paired.'
)
_DROP_HIGHEST = flags.DEFINE_integer(
    'drop_highest', 0, 'Leaves out that many of the highest losses.', lower_bound=0
)
_HUBER_DELTA = flags.DEFINE_float(
    'huber_delta', 1e-3, "Residual of log L where Huber's loss turns from square to absolute."
)
_RESAMPLES = flags.DEFINE_integer('resamples', 2000, 'Draws of the intervals.', lower_bound=100)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the draws.', lower_bound=0)


def main(argv) -> None:
    del argv
    from bsft_jax.commands import fit

    options = fit.FitCommand(
        points=_POINTS.value,
        output=_OUTPUT.value,
        arm=_ARM.value,
        gain=_GAIN.value,
        drop_highest=_DROP_HIGHEST.value,
        huber_delta=_HUBER_DELTA.value,
        resamples=_RESAMPLES.value,
        seed=_SEED.value,
    )
    print(printable(fit.format_fits(fit.fit_points(options))))


if __name__ == '__main__':
    cli.run(main)
