"""Exports a run: `python -m bsft_jax.export --workdir=DIR --output=HF_DIR`."""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import sys

from absl import flags

from bsft_jax import cli

_WORKDIR = cli.define_place('workdir', None, 'Folder of the run.', required=True)
_OUTPUT = cli.define_place(
    'output', None, 'New folder for the checkpoint or adapter.', required=True
)
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint of the run; default the newest.')
_FORMAT = flags.DEFINE_enum(
    'format',
    'merged',
    ['merged', 'peft'],
    'merged: a checkpoint with rows and adapters in its tensors; peft: rows and adapters alone.',
)
_DTYPE = flags.DEFINE_enum(
    'dtype',
    None,
    ['float32', 'bfloat16'],
    "Dtype of an adapter (--format=peft); default float32. A merged checkpoint has its base's.",
)


def main(argv) -> None:
    del argv
    from bsft_jax.commands.export import export
    from bsft_jax.parallel import processes

    processes.start()
    folder = export(_WORKDIR.value, _OUTPUT.value, _STEP.value, _FORMAT.value, _DTYPE.value)
    processes.log_first(str(folder), file=sys.stdout)


if __name__ == '__main__':
    cli.run(main)
