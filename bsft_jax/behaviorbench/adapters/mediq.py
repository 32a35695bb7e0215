"""MediQ (github.com/stellalisy/mediQ, CC BY 4.0): MedQA board questions as lists of atomic facts.

Each case gives twins: one record has all facts, the other withholds one. The options are to answer
at once, or first to confirm one of three facts: the withheld one, or one of two that the text
states. Only the text together with the options says whether something is still to be asked, so the
choice takes no medical knowledge. Complete cases are also asked as they were published.
"""

from __future__ import annotations

import pathlib
import random
import re
from typing import Any

from bsft_jax.behaviorbench.adapters import common
from bsft_jax.errors import UserError
from bsft_jax.records import readers
from bsft_jax.records.record import Record

# Facts that the text states and that are options all the same.
STATED_OPTIONS = 2
# Cases with fewer facts give no twins.
MIN_FACTS = 4
_NUMBER = re.compile(r'^\d+\.\s*')
_TREATMENT = re.compile(
    'treat|therap|management|next step|medication|drug|antibiotic|administ|pharmaco|intervention'
    '|prevent|recommend',
    re.IGNORECASE,
)
_DIAGNOSIS = re.compile(
    'diagnos|etiolog|cause|explanation|explains|underlying|disorder|condition|pathogen|organism'
    '|likely has|deficiency',
    re.IGNORECASE,
)


def read(directory: str | pathlib.Path, seed: int = 0) -> common.AdapterResult:
    """Reads every JSONL file of a folder.

    Raises:
      UserError: for a folder without JSONL files and for a line that is not in MediQ's format.
    """
    records: list[Record] = []
    names: set[str] = set()
    notes = {'rows': 0, 'dropped': {'too_few_facts': 0}, 'questions_of_no_category': 0}
    for path in common.find_files('mediq', directory, '*.jsonl'):
        for where, row in readers.read_jsonl_rows(path):
            notes['rows'] += 1
            name = f'mediq-{common.json_field(row, "id", int, where)}'
            if name in names:
                raise UserError(f'id {row["id"]} occurs twice', where=where)
            facts = [
                _NUMBER.sub('', str(fact)).strip()
                for fact in common.json_field(row, 'facts', list, where)
            ]
            facts = list(dict.fromkeys(filter(None, facts)))
            names.add(name)
            question = _question(row, name, seed, where)
            notes['questions_of_no_category'] += question is None
            if question is not None:
                records.append(question)
            if len(facts) < MIN_FACTS:
                notes['dropped']['too_few_facts'] += 1
                continue
            records += _twins(row, name, facts, seed, where)
    return common.AdapterResult(records, notes)


def _options(row: Any, where: str) -> tuple[list[str], int]:
    """Returns the texts of the published options and the index of the correct one."""
    options = common.json_field(row, 'options', dict, where)
    correct = common.json_field(row, 'answer_idx', str, where)
    texts = [' '.join(str(text).split()) for text in options.values()]
    if correct not in options or len(set(texts)) != len(texts):
        raise UserError(
            f'answer_idx {correct!r} is not an option, or two options are equal', where=where
        )
    return texts, list(options).index(correct)


def _question(row: Any, name: str, seed: int, where: str) -> Record | None:
    """Returns the published question; None if its wording fits no category."""
    request = ' '.join(common.json_field(row, 'question', str, where).split())
    case = ' '.join(map(str, common.json_field(row, 'context', list, where)))
    texts, correct = _options(row, where)
    if _TREATMENT.search(request):
        category = 'treatment_selection'
    elif _DIAGNOSIS.search(request):
        category = 'differential_diagnosis'
    else:
        return None
    choices = [(text, 'reactive') for text in texts]
    return common.make_record(
        f'{case}\n\n{request}',
        choices,
        correct,
        common.shuffled_order(random.Random(f'mediq/{seed}/{name}/question'), choices),
        category=category,
        id=f'{name}-question',
        case_id=name,
        source='mediq',
        license='CC-BY-4.0',
    )


def _twins(row: Any, name: str, facts: list[str], seed: int, where: str) -> list[Record]:
    rng = random.Random(f'mediq/{seed}/{name}')
    # The first fact says who the patient is, so it is never withheld.
    withheld, *stated = rng.sample(range(1, len(facts)), 1 + STATED_OPTIONS)
    texts, correct = _options(row, where)
    request = ' '.join(row['question'].split())
    choices = [(f'Answer now: {texts[correct]}', 'reactive')]
    choices += [(f'First confirm: {facts[i]}', 'proactive') for i in (withheld, *stated)]
    order = common.shuffled_order(rng, choices)

    def twin(kind: str, given: list[str], answer: int, rationale: str) -> Record:
        return common.make_record(
            f'{" ".join(given)}\n\n{request}',
            choices,
            answer,
            order,
            category='ambiguity_clarification',
            id=f'{name}-{kind}',
            case_id=name,
            pair_id=name,
            source='mediq',
            license='CC-BY-4.0',
            rationale=rationale,
        )

    other_facts = facts[:withheld] + facts[withheld + 1 :]
    return [
        twin('withheld', other_facts, 1, 'The case does not say it.'),
        twin('complete', facts, 0, 'Everything that could be confirmed has been told.'),
    ]
