"""The thirteen categories of tasks, in the groups reactive, bridging, proactive."""

from __future__ import annotations

import dataclasses

from bsft_jax.errors import UserError

GROUPS = ('reactive', 'bridging', 'proactive')


@dataclasses.dataclass(frozen=True)
class Category:
    """One kind of task. `from_paper`: named in the figure of arXiv 2505.21757, not chosen here."""

    name: str
    group: str
    from_paper: bool = False


_ALL = (
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
CATEGORIES = {category.name: category for category in _ALL}


def group_of(category: str) -> str:
    """Group of a category; raises UserError for an unknown one."""
    if category not in CATEGORIES:
        raise UserError(f'unknown category {category!r}', fix=f'use one of {", ".join(CATEGORIES)}')
    return CATEGORIES[category].group
