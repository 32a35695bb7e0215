"""deterioration_check: one vital sign alone calls for an urgent review (3 points of NEWS2).

A vital sign that is harmless at both values stands beside it. In the twin the two values are
exchanged. Hard: the urgent value is within 3 of the limit.
"""

from __future__ import annotations

from bsft_jax.behaviorbench.builders.scene import (
    QA,
    CategorySpec,
    Facts,
    Gate,
    Phrasings,
    Scene,
    Wording,
    draft_note,
    review_scene,
)
from bsft_jax.behaviorbench.simulator import medicine
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('deterioration_check')

IRRELEVANT = tuple(f'temperature is 36.{tenths}' for tenths in range(5, 10))
VITALS = Phrasings(
    (
        'Vitals of {patient}: {vitals}.',
        '{patient} now: {vitals}.',
        '{patient}: {vitals}.',
        'Just measured in {patient}: {vitals}.',
        'At the bedside of {patient}: {vitals}.',
        'Observations of {patient}: {vitals}.',
        'In {patient} the {vitals}.',
    ),
    ('New vitals of {patient}: {vitals}.', 'For {patient} now: {vitals}.'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins: the vital sign has the urgent value, then its companion."""
    vital, (urgent, calm) = case.vital_sign, case.vital_values
    vitals, note = wording.pick(VITALS), draft_note(case, wording)
    companion_first = wording.rng.random() < 0.5
    other_name = next(other.name for other in medicine.VITAL_SIGNS if other.name != vital.name)
    scenes = []
    for value, companion_value in ((urgent, calm), (calm, urgent)):
        told = [f'{vital.name} is {value}', f'{vital.companion} is {companion_value}']
        charted = [
            medicine.chart_value(vital.name, value),
            medicine.chart_value(vital.companion, companion_value),
        ]
        facts = Facts(
            case.nurse,
            told=tuple(reversed(told) if companion_first else told),
            alone=(told[0],),
            irrelevant=IRRELEVANT,
            form=vitals.format(patient=case.patient, vitals='{facts}'),
            charted=tuple(reversed(charted) if companion_first else charted),
            section='findings',
            clashes=('vitals',),
        )
        needs_fix = value == urgent
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                f'Call for {vital.name}',
                f'Call for {other_name}',
                needs_fix=needs_fix,
                rationale=f'{vital.name} {value} is {"urgent" if needs_fix else "not urgent"}.',
                must_mention=(vital.name,),
                hard=abs(urgent - vital.limit) <= 3,
                qa=(
                    QA(f'What is the {vital.name}?', f'{value}.', Gate.RETRIEVAL),
                    QA(f'What is the {vital.companion}?', f'{companion_value}.', Gate.RETRIEVAL),
                    QA(f'What is {value}?', f'The {vital.name}.'),
                    QA(
                        f'Is the {vital.name} urgent?',
                        f'{"Yes" if needs_fix else "No"}, {value}.',
                        Gate.LOW_OR_HIGH,
                    ),
                ),
            )
        )
    return scenes
