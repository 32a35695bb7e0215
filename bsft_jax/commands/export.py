"""Exports the model of a run."""

from __future__ import annotations

import pathlib

from bsft_jax import places
from bsft_jax.hub import export as export_lib
from bsft_jax.inference import scoring
from bsft_jax.inference.open_model import ModelSource, open_model


def export(
    workdir: str, output: str, step: int | None = None, format: str = 'merged'
) -> pathlib.Path:
    """Writes a run's model as a plain Hugging Face checkpoint, or as a PEFT adapter.

    Args:
      workdir: folder of the run.
      output: a new folder.
      step: checkpoint of the run; None for the newest.
      format: `merged` or `peft`.

    Returns the folder. Raises UserError for a place that is not free or cannot be written, before
    the model is read, and for a model that the format cannot hold.
    """
    places.check_new_folder(output, 'output')
    model = open_model(ModelSource(workdir=workdir, step=step))
    stop_id = scoring.renderer_of(model).stop_id
    return export_lib.write_export(model, output, stop_id=stop_id, format=format)
