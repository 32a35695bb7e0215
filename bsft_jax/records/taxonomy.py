"""The 13 task categories in the groups reactive, bridging and proactive."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bsft_jax.errors import UserError

GROUPS = ('reactive', 'bridging', 'proactive')


@dataclasses.dataclass(frozen=True)
class Category:
    """Describes one kind of task.

    Attributes:
      name: name of the category.
      group: one of GROUPS.
      from_paper: whether the figure of arXiv 2505.21757 names it; the others were chosen here.
    """

    name: str
    group: str
    from_paper: bool = False


_CATEGORIES = (
    Category('differential_diagnosis', 'reactive', True),
    Category('image_reasoning', 'reactive', True),
    Category('temporal_ordering', 'reactive', True),
    Category('laboratory_interpretation', 'reactive'),
    Category('treatment_selection', 'reactive'),
    Category('medication_safety', 'bridging'),
    Category('follow_up_planning', 'bridging'),
    Category('deterioration_check', 'bridging'),
    Category('omission_detection', 'proactive', True),
    Category('error_correction', 'proactive', True),
    Category('consistency_check', 'proactive', True),
    Category('critical_value_alert', 'proactive'),
    Category('ambiguity_clarification', 'proactive'),
)
CATEGORIES = {category.name: category for category in _CATEGORIES}


def group_of(category: str) -> str:
    """Returns the group of a category; raises UserError for an unknown one."""
    if category not in CATEGORIES:
        raise UserError(f'unknown category {category!r}', fix=f'use one of {", ".join(CATEGORIES)}')
    return CATEGORIES[category].group


def ordered_groups(names: Iterable[str]) -> list[str]:
    """Returns the distinct names: those in GROUPS in that order, then the others sorted."""
    distinct = set(names)
    return [group for group in GROUPS if group in distinct] + sorted(distinct - set(GROUPS))
