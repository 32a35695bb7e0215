"""Defines scaling studies: trainings over sizes and data budgets whose losses are fitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bsft_jax.studies.study import Arm


@dataclasses.dataclass(frozen=True)
class ScalingPoint:
    """Describes one model of a scaling study; its size and tokens follow from its config.

    Attributes:
      name: of the point.
      overrides: its changes to the base config, `{dotted.path: value}`.
      budget: name of the compute budget that it belongs to; '' for none.
    """

    name: str
    overrides: Mapping[str, Any]
    budget: str = ''


@dataclasses.dataclass(frozen=True)
class ScalingStudy:
    """Describes a scaling study; `get_config()` of a study config returns one.

    The loss of a run is that of its last step on the validation split (the evaluator `loss`).

    Attributes:
      name: of the study.
      config: `FILE[:ARG]` of the base config, relative to the working directory.
      points: the sizes of model and data. All have a budget or none has.
      arms: ways to train that are compared at every point, by macro-F1 on the test split with the
        model's own choice of behavior. Empty: one way, whose loss alone is measured.
      gain: `ARM-ARM`, the difference in macro-F1 that is fitted as well; '' for none.
      seeds: every point is trained with each of them.
      overrides: changes to the base config that hold for every run.
      held_out: name of the point of the most compute. Its loss, or with arms the gain at its number
        of tokens, is forecast from the others before it starts; '' for no forecast.
      validation_limit: validation records of the loss, whole cases, evenly spaced.
      test_limit: test records of macro-F1, whole cases, evenly spaced; 0 for all.
    """

    name: str
    config: str
    points: tuple[ScalingPoint, ...]
    arms: tuple[Arm, ...] = ()
    gain: str = ''
    seeds: tuple[int, ...] = (0,)
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    held_out: str = ''
    validation_limit: int = 1000
    test_limit: int = 0

    @property
    def gain_arms(self) -> tuple[str, ...]:
        """Returns the two arms of `gain`; none where it is not `ARM-ARM`."""
        arms = [arm.name for arm in self.arms]
        # An arm may have a hyphen in its name.
        sides = [(a, b) for a in arms for b in arms if a != b and f'{a}-{b}' == self.gain]
        return sides[0] if sides else ()
