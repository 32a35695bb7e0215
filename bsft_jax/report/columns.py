"""Columns of the metrics that reports show beside macro-F1.

The terminal table, the rows of a study's summary.json and a study's page all iterate over
`COLUMNS`. A new metric needs its value in `evaluation.metrics` and one entry here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Column:
    """Describes one metric of metrics.json as a column of every report.

    Attributes:
      key: its name in the rows of a study's summary.json.
      header: its name above the column and in the legend.
      meaning: its explanation in the legend, without a full stop.
      section: the section of metrics.json that holds it; it may be null, and older files may lack
        it.
      metric: its name in that section.
    """

    key: str
    header: str
    meaning: str
    section: str
    metric: str

    def value(self, metrics: Mapping[str, Any]) -> float | None:
        """Returns the metric from the content of metrics.json; None where it does not apply."""
        return (metrics.get(self.section) or {}).get(self.metric)


COLUMNS = (
    Column(
        key='selection',
        header='selection',
        meaning='macro-F1 of the behavior that the model chooses',
        section='selection',
        metric='macro_f1',
    ),
    Column(
        key='over',
        header='over',
        meaning='rate of uninvited interventions',
        section='intervention',
        metric='over_intervention_rate',
    ),
    Column(
        key='missed',
        header='missed',
        meaning='rate of silence when an intervention is due',
        section='intervention',
        metric='missed_intervention_rate',
    ),
    Column(
        key='twins',
        header='twins',
        meaning='share of pairs with both answers right',
        section='intervention',
        metric='twin_score',
    ),
    Column(
        key='auroc',
        header='auroc',
        meaning='area under the ROC curve of stepping in',
        section='stepping_in',
        metric='auroc',
    ),
    Column(
        key='missed_at_5',
        header='missed@5',
        meaning='missed with the dial at 5 % over',
        section='stepping_in',
        metric='missed_at_5_percent',
    ),
)


def headers() -> list[str]:
    """Returns the headers of all columns, in order."""
    return [column.header for column in COLUMNS]


def legend() -> str:
    """Returns one sentence per column: its header and meaning."""
    return ' '.join(f'{column.header}: {column.meaning}.' for column in COLUMNS)
