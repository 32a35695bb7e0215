"""The stored calibration of the model that a command works with."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bsft_jax.errors import UserError
from bsft_jax.evaluation import calibration as calibration_lib
from bsft_jax.evaluation.operating import find_choices
from bsft_jax.inference import calibrated
from bsft_jax.inference.calibrated import Calibration
from bsft_jax.parallel import processes

if TYPE_CHECKING:
    # `evaluate --rescore` needs no JAX.
    from bsft_jax.hub.pretrained import Model
    from bsft_jax.inference.open_model import ModelSource

# The section of metrics.json that an evaluation under `--policy=calibrated` has besides.
SECTION = 'calibration'


def find(source: ModelSource, policy: str) -> Calibration | None:
    """Reads the calibration of a model before it is opened; None under another policy.

    Raises UserError where the model has none.
    """
    if policy != calibrated.POLICY:
        return None
    folder, *_ = source.folders
    return calibrated.read_export(folder) if source.model else calibrated.read_run(folder)


def check_model(calibration: Calibration | None, model: Model, prompt: str, workdir: str) -> None:
    """Checks that a calibration is one of a model that has been opened, if there is one.

    Args:
      calibration: what `find` returned.
      model: the model.
      prompt: name of the prompt style.
      workdir: the run, if the calibration is one's.

    Raises UserError for a calibration of another model.
    """
    if calibration is None:
        return
    calibration.check_settings(model.behaviors.levels, prompt)
    if calibration.template_sha256:
        # Deferred: loads transformers, which has been loaded with the model.
        from bsft_jax.data.tokenizer import template_texts

        calibration.check_template(template_texts(model.tokenizer)[0])
    else:
        calibration.check_run(pathlib.Path(workdir), model.step)


def find_stored(
    directory: pathlib.Path, metrics: Mapping[str, Any], policy: str
) -> Calibration | None:
    """Reads the calibration of the model that an evaluation has scored; None under another policy.

    Args:
      directory: folder of the evaluation, WORKDIR/eval/NAME.
      metrics: content of its `metrics.json`.
      policy: the policy that the user named.

    Raises UserError where the model has none, or one of another model.
    """
    if policy != calibrated.POLICY:
        return None
    if model := metrics.get('model'):
        found = calibrated.read_export(pathlib.Path(model))
        for flag in ('chat_template', 'tokenizer'):
            if metrics.get(flag):
                raise UserError(
                    f'is of another template: these are scores with --{flag}', where=found.where
                )
    else:
        workdir = directory.parent.parent
        found = calibrated.read_run(workdir)
        found.check_run(workdir, metrics.get('step'))
    found.check_settings(metrics['behaviors'], metrics['prompt'])
    return found


def metrics_of(
    calibration: Calibration | None, rows: Sequence[Mapping[str, Any]], levels: Mapping[str, float]
) -> dict[str, Any]:
    """Returns what metrics.json says of a calibration, under `SECTION`; nothing without one."""
    if calibration is None:
        return {}
    choices = find_choices(rows, levels)
    if choices is None:
        return {SECTION: None}
    return {SECTION: calibration_lib.calibration_metrics(choices, calibration.log_odds)}


def to_export(workdir: str, model: Model) -> Mapping[str, Any] | None:
    """Returns the calibration that goes with an export of a run; None where the run has none.

    One of another step or model is left out, and that is said.
    """
    folder = pathlib.Path(workdir)
    if not (folder / calibrated.NAME).is_file():
        return None
    found = calibrated.read_run(folder)
    try:
        found.check_run(folder, model.step)
    except UserError as error:
        processes.log_first(f'exported without a calibration: {error}')
        return None
    return found.content
