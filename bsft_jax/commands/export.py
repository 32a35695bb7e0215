"""Exports the model of a run."""

from __future__ import annotations

import pathlib

from bsft_jax import places
from bsft_jax.commands import calibrations
from bsft_jax.errors import UserError
from bsft_jax.hub import export as export_lib
from bsft_jax.hub import peft
from bsft_jax.inference import scoring
from bsft_jax.inference.open_model import ModelSource, open_model
from bsft_jax.parallel import processes


def export(
    workdir: str,
    output: str,
    step: int | None = None,
    format: str = 'merged',
    dtype: str | None = None,
) -> pathlib.Path:
    """Writes a run's model as a plain Hugging Face checkpoint, or as a PEFT adapter.

    A calibration of the run goes with it, unless it is of another step; then that is said.

    Args:
      workdir: folder of the run.
      output: a new folder.
      step: checkpoint of the run; None for the newest.
      format: `merged` or `peft`.
      dtype: dtype of an adapter, `float32` or `bfloat16`; default float32. A merged checkpoint has
        its base's.

    Returns the folder. Raises UserError for a place that is not free or cannot be written, before
    the model is read, and for a model that the format cannot hold.
    """
    places.check_new_folder(output, 'output')
    if dtype and format != 'peft':
        raise UserError(
            'belongs to --format=peft; a merged checkpoint has the dtypes of its base',
            where=f'--dtype={dtype}',
        )
    model = open_model(ModelSource(workdir=workdir, step=step))
    stop_id = scoring.renderer_of(model).stop_id
    folder = export_lib.write_export(
        model,
        output,
        stop_id=stop_id,
        format=format,
        dtype=dtype or 'float32',
        calibration=calibrations.to_export(workdir, model),
    )
    if format == 'peft' and (rows := peft.needed_rows(model)):
        processes.log_first(f'peft loads it after base.resize_token_embeddings({rows})')
    return folder
