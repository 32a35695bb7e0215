"""critical_value_alert: a value lies beyond the limit at which the laboratory calls.

A quantity without a limit stands beside it. In the twin the two values are exchanged, and both are
harmless. Hard: the critical value is within a twentieth of the limit.
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

CATEGORY = CategorySpec('critical_value_alert')

LABS = Phrasings(
    (
        'Labs of {patient}: {labs}.',
        'Back for {patient}: {labs}.',
        '{patient}: {labs}.',
        'Results of {patient}: {labs}.',
        'From the lab, for {patient}: {labs}.',
        'In {patient} we measured this: {labs}.',
        'The blood of {patient}: {labs}.',
    ),
    ('New labs for {patient}: {labs}.', 'The labs of {patient} are back: {labs}.'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins: the quantity with a call limit has the critical value, then its companion."""
    lab, (critical, safe) = case.critical_lab, case.critical_values
    labs, note = wording.pick(LABS), draft_note(case, wording)
    companion_first = wording.rng.random() < 0.5
    limit = lab.format(lab.limit)
    other_names = sorted({other.name for other in medicine.CALL_LIMITS} - {lab.name})
    other_name = wording.rng.choice(other_names)
    smallest, largest = lab.safe_range
    harmless = [lab.format(value) for value in range(smallest, largest + 1) if value != safe]
    scenes = []
    for value, companion_value in ((critical, safe), (safe, critical)):
        shown, companion_shown = lab.format(value), lab.format(companion_value)
        told = [
            f'{lab.name} (call {lab.side} {limit}) is {shown}',
            f'{lab.companion} (no call) is {companion_shown}',
        ]
        charted = [
            medicine.chart_value(lab.name, shown, f'call {lab.side} {limit}'),
            medicine.chart_value(lab.companion, companion_shown, 'no call'),
        ]
        facts = Facts(
            case.nurse,
            told=tuple(reversed(told) if companion_first else told),
            alone=(told[0],),
            irrelevant=tuple(f'{lab.companion} (no call) is {number}' for number in harmless),
            form=labs.format(patient=case.patient, labs='{facts}'),
            charted=tuple(reversed(charted) if companion_first else charted),
            section='findings',
            clashes=('labs',),
        )
        needs_fix = value == critical
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                f'Call about {lab.name}',
                f'Call about {other_name}',
                needs_fix=needs_fix,
                rationale=f'{lab.name} {shown} is {"" if needs_fix else "not "}{lab.side} {limit}.',
                must_mention=(lab.name,),
                hard=20 * abs(critical - lab.limit) <= lab.limit,
                qa=(
                    QA(f'What is the {lab.name}?', f'{shown}.', Gate.RETRIEVAL),
                    QA(f'What is the {lab.companion}?', f'{companion_shown}.', Gate.RETRIEVAL),
                    QA(
                        f'What is the limit for {lab.name}?',
                        f'{lab.side} {limit}.',
                        Gate.RETRIEVAL,
                    ),
                    QA(
                        f'Is {lab.name} {lab.side} its limit?',
                        f'{"Yes" if needs_fix else "No"}, {shown}.',
                        Gate.LOW_OR_HIGH,
                    ),
                    QA(f'Which value is {shown}?', f'{lab.name}.'),
                ),
            )
        )
    return scenes
