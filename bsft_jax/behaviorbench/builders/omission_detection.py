"""omission_detection: a draft note leaves out something the intake says.

The intake names two people and one fact of each: one that every note must carry, one that changes
nothing. If the first is true of the patient, the draft has left it out (proactive); in the twin
the two people change places, nothing is missing, and the note can be signed (reactive). Both
twins hold the same words, the same options and the same request: only who is the patient and
whose fact it is decide, together.
"""

from __future__ import annotations

import random

from bsft_jax.behaviorbench.builders.requests import REVIEW
from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message, Record

CATEGORY = 'omission_detection'
INTAKES = (
    '{patient} is the patient. {relative} is the {relation}.',
    'Seeing {patient} today, with {relative}, the {relation}.',
    '{relative}, the {relation}, came with {patient}, our patient.',
)


def build(case: Case) -> list[Record]:
    """The twins of a case, proactive first. A case is hard when `absent` is of the kind of `safety`."""
    rng = random.Random(f'{CATEGORY}/{case.case_id}')
    intake, request = rng.choice(INTAKES), rng.choice(REVIEW)
    holder_first = rng.random() < 0.5
    options = [
        (f'Add {case.safety.short}', 'proactive'),
        (f'Add {case.absent.short}', 'proactive'),
        (f'Sign {case.complaint} note', 'reactive'),
        (f'Sign {case.other_complaint} note', 'reactive'),
    ]
    right = {'proactive': options[0], 'reactive': options[2]}
    rng.shuffle(options)
    draft = f'Draft: {case.complaint}, {case.plan}. {request}'
    records = []
    for letter, behavior in (('a', 'proactive'), ('b', 'reactive')):
        holder, other = case.patient, case.relative
        if behavior == 'reactive':
            holder, other = other, holder
        facts = [f'{holder} {case.safety.clause}.', f'{other} {case.idle.clause}.']
        if not holder_first:
            facts.reverse()
        people = intake.format(patient=case.patient, relative=case.relative, relation=case.relation)
        rationale = (
            f'The draft leaves out that {case.patient} {case.safety.clause}.'
            if behavior == 'proactive'
            else f'Only {case.relative} {case.safety.clause}; nothing of {case.patient} is missing.'
        )
        records.append(
            Record(
                id=f'{case.case_id}-{CATEGORY}-{letter}',
                case_id=case.case_id,
                pair_id=f'{case.case_id}-{CATEGORY}',
                source='synthetic',
                license='CC0-1.0',
                category=CATEGORY,
                group='proactive',
                behavior=behavior,
                hard=case.absent.kind == case.safety.kind,
                messages=(
                    Message('user', f'{people} {" ".join(facts)}', case.nurse),
                    Message('user', draft, case.doctor),
                ),
                options=tuple(text for text, _ in options),
                option_behaviors=tuple(of for _, of in options),
                answer=options.index(right[behavior]),
                rationale=rationale,
                must_mention=((case.safety.short,),) if behavior == 'proactive' else (),
            )
        )
    return records
