"""ambiguity_clarification: the draft continues a drug "as before", but its dose is not on record.

Two drugs are listed, one with its dose. In the twin the other drug has the dose. Hard: the drug to
continue is listed first, farthest from the order.
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
from bsft_jax.behaviorbench.simulator.cases import Case

CATEGORY = CategorySpec('ambiguity_clarification', extra_position=5)

DRUGS = Phrasings(
    (
        '{patient} takes {drugs}.',
        'Drugs of {patient}: {drugs}.',
        '{patient} is on {drugs}.',
        'Medication of {patient}: {drugs}.',
        'The list of {patient} has {drugs}.',
        '{patient} uses {drugs}.',
        'On record for {patient}: {drugs}.',
    ),
    ('{patient} has been on {drugs}.', 'Home drugs of {patient}: {drugs}.'),
)
IRRELEVANT = ('eye drops (daily)', 'a skin cream (daily)', 'vitamins (daily)')
UNKNOWN = Phrasings(
    ('unknown dose', 'dose not known', 'no dose given', 'dose missing', 'dose unclear'),
    ('dose unknown',),
)
CONTINUE = Phrasings(
    (
        'Continue {drug} as before.',
        'Keep {drug} at the old dose.',
        '{drug} as before.',
        'Go on with {drug} as before.',
        'Stay on {drug} at the old dose.',
        'At home {drug} as before.',
    ),
    ('Keep {drug} as before.', 'Continue {drug} at the old dose.'),
)


def build(case: Case, wording: Wording) -> list[Scene]:
    """Returns twins: the ordered drug has no dose on record, then it has one."""
    ordered, other, _ = case.drugs
    drugs, unknown = wording.pick(DRUGS), wording.pick(UNKNOWN)
    listed = wording.shuffled(ordered, other)
    note = draft_note(case, wording, wording.pick(CONTINUE).format(drug=ordered))
    scenes = []
    for known in (other, ordered):
        listed_as = {drug: f'{drug} ({case.dose if drug == known else unknown})' for drug in listed}
        facts = Facts(
            case.nurse,
            told=tuple(listed_as.values()),
            alone=(listed_as[ordered],),
            irrelevant=IRRELEVANT,
            form=drugs.format(patient=case.patient, drugs='{facts}'),
            charted=tuple(f'Home med: {text} PO daily.' for text in listed_as.values()),
        )
        needs_fix = known != ordered
        missing = ordered if needs_fix else other
        scenes.append(
            review_scene(
                case,
                facts,
                note,
                f'Ask the {ordered} dose',
                f'Ask the {other} dose',
                needs_fix=needs_fix,
                rationale=f'The dose of {ordered} is {"not known" if needs_fix else case.dose}.',
                must_mention=(ordered,),
                hard=listed[0] == ordered,
                qa=(
                    QA(f'What is the dose of {known}?', f'{known} ({case.dose}).', Gate.RETRIEVAL),
                    QA(
                        f'What is the dose of {missing}?', f'{missing} ({unknown}).', Gate.RETRIEVAL
                    ),
                    QA('Which dose is not known?', f'{missing} ({unknown}).'),
                    QA(f'Which drug is at {case.dose}?', f'{known} ({case.dose}).'),
                    QA('Which drug is in the draft?', f'{ordered}.', Gate.COPYING),
                    QA(
                        'Do we know the dose of the drug in the draft?',
                        f'{"No" if needs_fix else "Yes"}, {listed_as[ordered]}.',
                        Gate.COPYING,
                    ),
                ),
            )
        )
    return scenes
