"""Holds an evaluation as pages show it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax.records.record import Record


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Holds an evaluation.

    Attributes:
      name: what pages call it.
      directory: its folder, `WORKDIR/eval/NAME`.
      predictions: the rows of predictions.jsonl.
      metrics: the content of metrics.json.
      records: the records by id, as far as their words are to be shown.
    """

    name: str
    directory: pathlib.Path
    predictions: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    records: Mapping[str, Record] = dataclasses.field(default_factory=dict)

    @property
    def scored(self) -> list[Mapping[str, Any]]:
        """Returns the rows that metrics count: those with an answer and a prediction."""
        return [
            row
            for row in self.predictions
            if row.get('answer') is not None and row.get('prediction') is not None
        ]

    @property
    def levels(self) -> dict[str, float]:
        """Returns the level of each behavior."""
        return dict(self.metrics.get('behaviors') or {})

    @property
    def workdir(self) -> pathlib.Path | None:
        """Returns the folder of the run that was evaluated; None for another model."""
        workdir = self.directory.resolve().parents[1]
        is_run = not self.metrics.get('model') and (workdir / 'config.json').is_file()
        return workdir if is_run else None
