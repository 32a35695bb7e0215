"""Exports the model of a run."""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from bsft_jax import places
from bsft_jax.commands import calibrations
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.hub import export as export_lib
from bsft_jax.hub import peft
from bsft_jax.hub.pretrained import Model
from bsft_jax.inference import scoring
from bsft_jax.inference.open_model import ModelSource, open_model
from bsft_jax.parallel import processes

# The prompts of these test records, no longer than this, compare a quantized base with its export.
PROBE, PROBE_ROWS, PROBE_TOKENS = 'synthetic:40', 8, 256


def export(
    workdir: str,
    output: str,
    step: int | None = None,
    format: str = 'merged',
    dtype: str | None = None,
) -> pathlib.Path:
    """Writes a run's model as a plain Hugging Face checkpoint, or as a PEFT adapter.

    A calibration of the run goes with it, unless it is of another step; then that is said. Both
    formats belong to the base as its files hold it; for a run on a quantized base, a line says how
    much the logits of the merged checkpoint differ from those of the run.

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
    if format == 'merged' and model.network.compute.quantized and jax.process_count() == 1:
        base_dtype, tokens_BT = model.network.compute.base_dtype, _probe(model)
        logits = _logits(model, tokens_BT)
        # Its memory is needed for the exported model.
        del model
        processes.log_first(_difference_line(folder, base_dtype, tokens_BT, logits))
    elif format == 'peft' and (rows := peft.needed_rows(model)):
        processes.log_first(f'peft loads it after base.resize_token_embeddings({rows})')
    return folder


def _probe(model: Model) -> np.ndarray:
    """Returns prompts as token ids [B, T], -1 after the end of one."""
    records = sources.load_records(PROBE, 'test')[:PROBE_ROWS]
    longest = min(PROBE_TOKENS, model.network.arch.max_positions)
    prompts = [ids[:longest] for ids in scoring.renderer_of(model).prompt_ids_of(records)]
    tokens_BT = np.full((len(prompts), max(map(len, prompts))), -1, np.int32)
    for row, ids in zip(tokens_BT, prompts, strict=True):
        row[: len(ids)] = ids
    return tokens_BT


def _logits(model: Model, tokens_BT: np.ndarray) -> np.ndarray:
    """Returns the logits [tokens, V] at the tokens that are there."""
    return np.asarray(model.logits(np.maximum(tokens_BT, 0)))[tokens_BT >= 0]


def _difference_line(
    folder: pathlib.Path, base_dtype: str, tokens_BT: np.ndarray, logits: np.ndarray
) -> str:
    """Returns the line on the difference of the exported model's logits from those of the run."""
    try:
        exported = _logits(open_model(ModelSource(model=str(folder))), tokens_BT)
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        return f'logits are not compared with those on the {base_dtype} base: out of memory'
    found = logit_differences(exported, logits)
    return (
        f'logits on {len(tokens_BT)} prompts differ from those on the {base_dtype} base by '
        f'{found["mean_error"]:.2g} in the mean and {found["largest_error"]:.2g} at most, where '
        f'their standard deviation is {found["deviation_of_logits"]:.2g}; the most probable token '
        f'is the same for {found["same_first_token"]:.1%}'
    )


def logit_differences(logits: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Returns how much logits [tokens, V] differ from others.

    `largest_error` and `mean_error` are of the absolute differences, `deviation_of_logits` is the
    standard deviation of the others, and `same_first_token` the share of tokens with the same most
    probable next one.
    """
    error = np.abs(logits - reference)
    return {
        'largest_error': float(error.max()),
        'mean_error': float(error.mean()),
        'deviation_of_logits': float(reference.std()),
        'same_first_token': float((logits.argmax(-1) == reference.argmax(-1)).mean()),
    }
