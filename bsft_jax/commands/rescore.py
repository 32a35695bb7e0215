"""Evaluates stored predictions again under another policy, without a model or a device."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import Any

from bsft_jax import files
from bsft_jax.commands import calibrations, eval_folder
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.inference import policies


@dataclasses.dataclass(frozen=True)
class RescoreOptions:
    """Describes a second evaluation of stored predictions.

    Attributes:
      source: folder of the evaluation, `WORKDIR/eval/NAME`.
      policy: how the behavior is chosen.
      name: folder of the results beside `source`; empty for the name that the evaluation would
        have under this policy.
    """

    source: str
    policy: str
    name: str = ''


def rescore(options: RescoreOptions) -> tuple[pathlib.Path, dict[str, Any]]:
    """Writes the predictions and metrics of an evaluation under another policy.

    `metrics.json` has all settings of the evaluation that is read, whose folder's name it adds as
    `rescored`.

    Returns:
      The new folder, beside that of the evaluation, and the metrics.

    Raises:
      UserError: there is no evaluation, the model cannot follow the policy, or the results cannot
        be written or would replace what is read.
    """
    if options.name:
        files.check_name(options.name, '--name')
    where = f'--rescore={options.source}'
    source = pathlib.Path(options.source).resolve()
    rows, old = eval_folder.read(source, where)
    behaviors = policies.stored_behaviors(rows, old['behaviors'])
    calibration = calibrations.find_stored(source, old, options.policy)
    policy = policies.parse_policy(
        options.policy if calibration is None else calibration.policy, behaviors
    )
    directory = source.parent / (options.name or _name(source.name, old, options.policy))
    if directory == source:
        raise UserError('would be replaced by what is made of it', where=where, fix='give a --name')
    # What was generated was generated under the old policy.
    rows = [{k: v for k, v in row.items() if k != eval_folder.GENERATED} for row in rows]
    new_rows = policies.apply_policy(rows, policy)
    metrics = metrics_lib.metrics_from_predictions(
        new_rows,
        policy=options.policy,
        prompt=old['prompt'],
        dial=policy.dial,
        positive=max(old['behaviors'], key=old['behaviors'].get),
        levels=old['behaviors'],
    )
    metrics |= calibrations.metrics_of(calibration, new_rows, old['behaviors'])
    dropped = calibrations.SECTION, eval_folder.GENERATED
    # What it says of these belongs to the policy that is left.
    kept = {k: v for k, v in old.items() if k not in dropped}
    metrics = {**kept, **metrics, 'rescored': old.get('rescored', source.name)}
    with contextlib.ExitStack() as stack:
        with files.writing(directory):
            eval_folder.claim(directory, stack)
        eval_folder.write(directory, new_rows, metrics)
    return directory, metrics


def _name(name: str, metrics: dict[str, Any], policy: str) -> str:
    """Returns the name of an evaluation with another policy, which the default name contains."""
    parts = [metrics['split'], metrics['policy']]
    old = '-'.join(map(eval_folder.name_part, parts))
    rest = name.removeprefix(old)
    if rest == name or rest[:1] not in ('', '-'):
        return files.shorten_name(f'{name}-{eval_folder.name_part(policy)}')
    return files.shorten_name('-'.join(map(eval_folder.name_part, [parts[0], policy])) + rest)
