"""The curriculum of a run: the shares of difficulty levels from which step on, read from text."""

from __future__ import annotations

import re

from bsft_jax.config.types import shown
from bsft_jax.errors import UserError

FLAG = '--config.data.curriculum'
_NUMBER = r'[0-9]{1,9}(?:\.[0-9]{0,9})?'
_STAGE = re.compile(rf'(?:({_NUMBER}):)?([^:]*)')
_SHARE = re.compile(rf'([1-9])=({_NUMBER})')

# First step of a stage → level → weight.
Stages = dict[int, dict[int, float]]


def parse_stages(text: str, schedule_steps: int) -> Stages:
    """Reads `LEVEL=WEIGHT,…`, or several such stages `LEVEL=WEIGHT,…/START:LEVEL=WEIGHT,…`.

    Neither separator means anything to a shell. Blanks around them are allowed.

    Args:
      text: the stages; empty for no curriculum.
      schedule_steps: steps of the schedule, of which each START is a fraction.

    Returns the weights of the levels by the first step of each stage, ascending from 0.

    Raises UserError for text that cannot be read, and for stages that do not begin one after the
    other within the schedule.
    """
    stages: Stages = {}
    for number, part in enumerate(text.split('/') if text else (), 1):
        match = _STAGE.fullmatch(part.strip())
        if not match:
            raise _unreadable(part)
        weights, start = _parse_weights(match[2]), match[1] or '0'
        begins = f'stage {number} begins at {start}'
        if bool(stages) != bool(float(start)):
            raise UserError(
                f'{begins}; the first one begins at 0, the others later',
                where=FLAG,
                fix='write 1=3,2=1/0.5:1=1,2=1 for a second stage in the middle of the schedule',
            )
        step = round(float(start) * schedule_steps)
        if stages and step <= max(stages):
            raise UserError(
                f'{begins}, at step {step}, which is not after the stage before (step '
                f'{max(stages)})',
                where=FLAG,
                fix='put the stages in order, or raise --config.optimizer.schedule_steps',
            )
        if step >= schedule_steps:
            raise UserError(
                f'{begins}, at step {step} of {schedule_steps}',
                where=FLAG,
                fix='give START as a fraction of the schedule, below 1',
            )
        stages[step] = weights
    return stages


def _parse_weights(text: str) -> dict[int, float]:
    weights: dict[int, float] = {}
    for part in text.split(','):
        match = _SHARE.fullmatch(part.strip())
        if not match or not float(match[2]) or int(match[1]) in weights:
            raise _unreadable(part)
        weights[int(match[1])] = float(match[2])
    return weights


def _unreadable(part: str) -> UserError:
    return UserError(
        f'cannot read {shown(part.strip())}',
        where=FLAG,
        fix='write each level once, from 1 to 9, with a weight above 0, as 1=3,2=1 or '
        '1=3,2=1/0.5:1=1,2=1',
    )
