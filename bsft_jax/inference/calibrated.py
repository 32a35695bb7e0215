"""Finds the calibration of a run or an export: the dial that the policy `calibrated` stands for.

`python -m bsft_jax.calibrate` writes it to a run as `calibration.json`; an export has it in its
`bsft` entry. It holds for one model, tokenizer, chat template and prompt style. Nothing here needs
a device.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.evaluation.calibration import LogOdds

NAME = 'calibration.json'
POLICY = 'calibrated'
SCHEMA = 1
# Where an adapter and a whole checkpoint say what behaviors they have.
_ADAPTER, _CHECKPOINT = 'bsft.json', 'config.json'
# Digests in `run.json` of what a calibration depends on besides the weights.
_DIGESTS = ('tokenizer', 'chat_template')


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Holds a calibration as it is stored.

    Attributes:
      where: the file that holds it.
      content: what `calibration.json` says.
      template_sha256: digest of the chat template of the export that holds it; empty for a run.
    """

    where: str
    content: Mapping[str, Any]
    template_sha256: str = ''

    @property
    def dial(self) -> float:
        """Returns what is added to the log-odds of stepping in."""
        return self.content['dial']

    @property
    def pooled_policy(self) -> str:
        """Returns the policy for records whose category is not known."""
        return f'dial:{self.dial!r}'

    @property
    def policy(self) -> str:
        """Returns the policy that `calibrated` stands for where records are scored."""
        dials = {name: entry['dial'] for name, entry in self.content['categories'].items()}
        return ','.join([self.pooled_policy, *(f'{name}={dial!r}' for name, dial in dials.items())])

    @property
    def log_odds(self) -> LogOdds:
        """Returns the calibrated log-odds."""
        stored = self.content['log_odds']
        return LogOdds(stored['slope'], tuple(stored['offsets']))

    def check_settings(self, levels: Mapping[str, float], prompt: str) -> None:
        """Raises UserError unless behaviors and prompt style are those of the calibration."""
        if levels != self.content['behaviors']:
            raise UserError('is of other behaviors', where=self.where, fix='calibrate again')
        if (own := self.content['evaluation']['prompt']) != prompt:
            raise UserError(
                f'is of another prompt style than {prompt!r}',
                where=self.where,
                fix=f'use --prompt={own}, or calibrate an evaluation with --prompt={prompt}',
            )

    def check_run(self, workdir: pathlib.Path, step: int | None) -> None:
        """Raises UserError unless it is of this step of the run in `workdir`."""
        stored = self.content['model']
        if stored['step'] != step:
            raise UserError(
                f'is of step {stored["step"]}, the model is of step {step}',
                where=self.where,
                fix=f'calibrate with --step={step}, or use --step={stored["step"]}',
            )
        own = identity(workdir, step)
        for name in ('weights', *_DIGESTS):
            # The checkpoint of stored predictions may be gone.
            if own[name] is not None and own[name] != stored[name]:
                raise UserError(
                    f'is of another model: its {name.replace("_", " ")} differs',
                    where=self.where,
                    fix='calibrate again',
                )

    def check_template(self, template: str) -> None:
        """Raises UserError unless this is the chat template of the export."""
        if hashlib.sha256(template.encode()).hexdigest() != self.template_sha256:
            raise UserError(
                'its calibration is of another chat template',
                where=self.where,
                fix='leave --chat_template and --tokenizer out',
            )


def identity(workdir: pathlib.Path, step: int | None) -> dict[str, Any]:
    """Returns what tells the model of a run at a step from others: the step and digests.

    A digest is None where there is nothing to take it of: no checkpoint of that step any more, or a
    run of an earlier version without `run.json`.
    """
    marks = workdir / 'checkpoints' / str(step) / 'fingerprints' / 'metadata'
    record = files.read_json(path) if (path := workdir / 'run.json').is_file() else {}
    weights = None
    if marks.is_file():
        stored = files.read_json(marks)
        text = json.dumps([stored['saved'], stored['frozen']], sort_keys=True)
        weights = hashlib.sha256(text.encode()).hexdigest()
    return {'step': step, 'weights': weights, **{name: record.get(name) for name in _DIGESTS}}


def read_run(workdir: pathlib.Path) -> Calibration:
    """Reads the calibration of a run; raises UserError where it has none."""
    path = workdir / NAME
    if not path.is_file():
        raise _missing(f'the run {workdir}', str(workdir))
    return _checked(Calibration(str(path), files.read_json(path)))


def read_export(folder: pathlib.Path) -> Calibration:
    """Reads the calibration of an export; raises UserError where it has none."""
    entry, path = None, folder / _ADAPTER
    if path.is_file():
        entry = files.read_json(path)
    elif (path := folder / _CHECKPOINT).is_file():
        config = files.read_json(path)
        entry = config.get('bsft') if isinstance(config, dict) else None
    if not isinstance(entry, dict) or not entry.get('calibration'):
        raise _missing(f'the model {folder}', 'RUN, and export RUN again')
    return _checked(
        Calibration(str(path), entry['calibration'], str(entry.get('template_sha256', '')))
    )


def _missing(what: str, workdir: str) -> UserError:
    return UserError(
        f'{what} has no calibration',
        where=f'--policy={POLICY}',
        fix=f'run python -m bsft_jax.calibrate --workdir={workdir}',
    )


def _checked(found: Calibration) -> Calibration:
    """Returns a calibration; raises UserError where it is damaged or of another version."""
    content = found.content
    try:
        numbers = [content['dial'], content['log_odds']['slope'], *content['log_odds']['offsets']]
        numbers += [entry['dial'] for entry in content['categories'].values()]
        prompt = content['evaluation']['prompt']
        known = {'step', 'weights', *_DIGESTS} <= content['model'].keys()
        good = known and isinstance(prompt, str) and content['schema'] == SCHEMA
        good = good and all(type(x) in (int, float) and math.isfinite(x) for x in numbers)
        good = good and len(numbers) > 2 and isinstance(content['behaviors'], dict)
    except (KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise UserError(
            'is no calibration of this version', where=found.where, fix='calibrate again'
        )
    return found
