"""Pretraining: conversations about simulated cases, with questions in free form and their answers.

They teach what the tasks take for granted (copying, retrieval, whose fact it is, order in time, low
or high against a printed range, which hazard forbids a drug, whether something is wrong when one
*asks* for it) in another format than theirs: no options, no request out of the shared pool, no
behavior, and cases from a seed domain of their own.
"""

from __future__ import annotations

import dataclasses
import random

from bsft_jax.behaviorbench.builders import BUILDERS
from bsft_jax.behaviorbench.builders.scene import Scene, Words, dress
from bsft_jax.behaviorbench.cases import Case, simulate
from bsft_jax.behaviorbench.records import Message, Record

DOMAIN = 'pre'
QUESTIONS = 3  # about details, beside the one about a defect
WRONG = (
    'Is anything wrong?', 'Is there a problem?', 'Did we miss something?', 'Does something need to change?',
    'Do you see a mistake?', 'Is there something to fix first?', 'Any concern about this?',
    'Is something not right here?',
)  # fmt: skip
CHANGE = ('What would you change?', 'What is missing or wrong?', 'What needs to be done first?')


def _defect(case: Case, scene: Scene, rng: random.Random) -> tuple[str, str]:
    """An open question for the defect, and its answer."""
    if rng.random() < 0.6:
        return rng.choice(WRONG), f'Yes: {scene.fix}.' if scene.fix else f'No: Sign {case.complaint} note.'
    return rng.choice(
        CHANGE
    ), f'Change: {scene.fix}.' if scene.fix else f'Nothing: Sign {case.complaint} note.'


def _spoken(answer: str) -> str:
    """A bare word or number as a sentence, so that it has the token form it has inside a text."""
    bare = not answer[0].isupper() or ' ' not in answer
    return f'It is {answer}' if bare and not answer.startswith(('Yes', 'No')) else answer


def _conversation(case: Case, category: str) -> tuple[Message, ...]:
    rng = random.Random(f'text/{case.case_id}')
    scene = rng.choice(BUILDERS[category](case, Words(rng, held_out=False)))
    asks = rng.sample(scene.asks, min(QUESTIONS, len(scene.asks)))
    if not scene.question:
        asks = [*asks[: QUESTIONS - 1], _defect(case, scene, rng)]
        rng.shuffle(asks)
    *before, last = dress(case, rng, scene.story)
    (question, answer), *more = asks
    turns = [*before, dataclasses.replace(last, content=f'{last.content} {question}')]
    turns.append(Message('assistant', _spoken(answer)))
    for question, answer in more:
        turns += [Message('user', question), Message('assistant', _spoken(answer))]
    return tuple(turns)


def conversation_records(cases: int, seed: int) -> list[Record]:
    """One conversation per case, about a category in turn; deterministic."""
    categories = list(BUILDERS)
    records = []
    for index in range(cases):
        case = simulate(seed, index, DOMAIN)
        messages = _conversation(case, categories[index % len(categories)])
        records.append(
            Record(messages, id=f'{case.case_id}-text', case_id=case.case_id, source='synthetic_text')
        )
    return records
