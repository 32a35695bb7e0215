"""One builder per category: a case in, its scenes out; `records_of` makes the records of all of them."""

from __future__ import annotations

from bsft_jax.behaviorbench.builders import (
    ambiguity_clarification,
    consistency_check,
    critical_value_alert,
    deterioration_check,
    differential_diagnosis,
    error_correction,
    follow_up_planning,
    image_reasoning,
    laboratory_interpretation,
    medication_safety,
    omission_detection,
    temporal_ordering,
    treatment_selection,
)
from bsft_jax.behaviorbench.builders.scene import Builder, records
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Record

BUILDERS: dict[str, Builder] = {
    module.__name__.rpartition('.')[2]: module.build
    for module in (
        differential_diagnosis,
        image_reasoning,
        temporal_ordering,
        laboratory_interpretation,
        treatment_selection,
        medication_safety,
        follow_up_planning,
        deterioration_check,
        omission_detection,
        error_correction,
        consistency_check,
        critical_value_alert,
        ambiguity_clarification,
    )
}


def records_of(case: Case, *, held_out: bool) -> list[Record]:
    """Every record of a case; `held_out` words them as only the test split does."""
    return [
        record
        for category, build in BUILDERS.items()
        for record in records(category, build, case, held_out=held_out)
    ]
