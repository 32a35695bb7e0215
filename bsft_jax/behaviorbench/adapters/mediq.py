"""MediQ (github.com/stellalisy/mediQ, CC BY 4.0): board questions (MedQA) whose cases are lists of atomic facts.

A case gives twins: all facts, or one withheld. The options name one withheld fact and two that are told, to be
confirmed before an answer, or answer at once. Only what is told and what the options name, together, say whether
something is still to be asked, so it takes no medical knowledge. Complete cases are also asked as they were published.
"""

from __future__ import annotations

import pathlib
import random
import re
from typing import Any

from bsft_jax.behaviorbench import rows
from bsft_jax.behaviorbench.adapters import common
from bsft_jax.behaviorbench.records import Record
from bsft_jax.errors import UserError

CONFIRMED = 2  # facts that are told and yet among the options
FEWEST = 4  # facts of a case
_NUMBER = re.compile(r'^\d+\.\s*')
_TREATMENT = re.compile(
    'treat|therap|management|next step|medication|drug|antibiotic|administ|pharmaco|intervention|prevent|recommend',
    re.IGNORECASE,
)
_DIAGNOSIS = re.compile(
    'diagnos|etiolog|cause|explanation|explains|underlying|disorder|condition|pathogen|organism|likely has|deficiency',
    re.IGNORECASE,
)


def read(directory: str | pathlib.Path, seed: int = 0) -> common.Loaded:
    """Records from every JSONL file of a folder.

    Raises UserError for a folder without one and for a line that is not what MediQ publishes.
    """
    records: list[Record] = []
    seen: set[str] = set()
    notes = {'rows': 0, 'dropped': {'too_few_facts': 0}, 'questions_of_no_category': 0}
    for path in common.files('mediq', directory, '*.jsonl'):
        for where, row in rows.jsonl(path):
            notes['rows'] += 1
            name = f'mediq-{common.field(row, "id", int, where)}'
            if name in seen:
                raise UserError(f'id {row["id"]} is there twice', where=where)
            facts = [_NUMBER.sub('', str(fact)).strip() for fact in common.field(row, 'facts', list, where)]
            facts = list(dict.fromkeys(filter(None, facts)))
            seen.add(name)
            made = _question(row, name, seed, where)
            notes['questions_of_no_category'] += not made
            records += made
            if len(facts) < FEWEST:
                notes['dropped']['too_few_facts'] += 1
                continue
            records += _twins(row, name, facts, seed, where)
    return common.Loaded(records, notes)


def _options(row: Any, where: str) -> tuple[list[str], int]:
    """Texts of the published options and which is right."""
    options = common.field(row, 'options', dict, where)
    right = common.field(row, 'answer_idx', str, where)
    texts = [' '.join(str(text).split()) for text in options.values()]
    if right not in options or len(set(texts)) != len(texts):
        raise UserError(f'answer_idx {right!r} is no option, or two options are equal', where=where)
    return texts, list(options).index(right)


def _question(row: Any, name: str, seed: int, where: str) -> list[Record]:
    """The published question; nothing where its wording fits no category."""
    asked = ' '.join(common.field(row, 'question', str, where).split())
    case = ' '.join(map(str, common.field(row, 'context', list, where)))
    texts, right = _options(row, where)
    if _TREATMENT.search(asked):
        category = 'treatment_selection'
    elif _DIAGNOSIS.search(asked):
        category = 'differential_diagnosis'
    else:
        return []
    choices = [(text, 'reactive') for text in texts]
    order = common.shuffled(random.Random(f'mediq/{seed}/{name}/question'), choices)
    made = common.record(
        f'{case}\n\n{asked}', choices, right, order, category=category,
        id=f'{name}-question', case_id=name, source='mediq', license='CC-BY-4.0',
    )  # fmt: skip
    return [made]


def _twins(row: Any, name: str, facts: list[str], seed: int, where: str) -> list[Record]:
    rng = random.Random(f'mediq/{seed}/{name}')
    withheld, *told = rng.sample(range(1, len(facts)), 1 + CONFIRMED)  # the first says who the patient is
    texts, right = _options(row, where)
    asked = ' '.join(row['question'].split())
    choices = [(f'Answer now: {texts[right]}', 'reactive')]
    choices += [(f'First confirm: {facts[i]}', 'proactive') for i in (withheld, *told)]
    order = common.shuffled(rng, choices)

    def twin(kind: str, given: list[str], answer: int, rationale: str) -> Record:
        return common.record(
            f'{" ".join(given)}\n\n{asked}', choices, answer, order, category='ambiguity_clarification',
            id=f'{name}-{kind}', case_id=name, pair_id=name, source='mediq', license='CC-BY-4.0', rationale=rationale,
        )  # fmt: skip

    rest = facts[:withheld] + facts[withheld + 1 :]
    return [
        twin('withheld', rest, 1, 'The case does not say it.'),
        twin('complete', facts, 0, 'Everything that could be confirmed has been told.'),
    ]
