"""Exports a run: `python -m bsft_jax.export --workdir=DIR --output=HF_DIR`."""

from __future__ import annotations

from absl import flags

from bsft_jax import cli

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'New folder for the Hugging Face checkpoint.', required=True)
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint of the run; default the newest.')
flags.DEFINE_enum('format', 'merged', ['merged'], 'merged: behavior rows inside the table.')


def main(argv) -> None:
    del argv
    from bsft_jax import runs

    print(runs.export(workdir=_WORKDIR.value, output=_OUTPUT.value, step=_STEP.value))


if __name__ == '__main__':
    cli.run(main)
