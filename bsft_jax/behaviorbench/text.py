"""Pretraining: conversations about simulated cases, with questions in free form and their answers.

They teach what the tasks take for granted (copying, retrieval, whose fact it is, order in time, low
or high against a printed range, which hazard forbids a drug, whether something is wrong when one
*asks* for it) in another format than theirs: no options, no request out of the shared pool, no
behavior, and cases from a seed domain of their own.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable

from bsft_jax.behaviorbench import lists, sheets
from bsft_jax.behaviorbench.builders import BUILDERS
from bsft_jax.behaviorbench.builders.scene import Scene, Words, dress
from bsft_jax.behaviorbench.cases import Case, simulate
from bsft_jax.behaviorbench.records import Message, Record

DOMAIN = 'pre'
QUESTIONS = 3  # in a conversation about a whole scene
SHEETS, LISTS = 7, 12  # conversations about sheets and lists, beside 29 about scenes
DRILLS = 0.6  # share of lists among conversations about sheets and lists alone
FOCUSED = 0.4  # share of conversations about the bare first turn of a scene, with more questions
FOCUSED_QUESTIONS = 4
READ_BACK = 0.1  # share of conversations in which a turn of the story is first said again, word for word
READ = ('Read it back.', 'Say it again.', 'Repeat the first note.')
BINDING = (  # who has what, what was when: learned late, so asked about three times as often
    'omission_detection', 'error_correction', 'medication_safety', 'consistency_check',
    'ambiguity_clarification', 'temporal_ordering', 'treatment_selection', 'image_reasoning',
)  # fmt: skip
WRONG = (
    'Is anything wrong?', 'Is there a problem?', 'Did we miss something?', 'Does something need to change?',
    'Do you see a mistake?', 'Is there something to fix first?', 'Any concern about this?',
    'Is something not right here?',
)  # fmt: skip
OPENINGS = ('Yes', 'No.', 'No,', 'No:', 'First:', 'Nothing:', 'The ', 'With ', 'It is ')
GATES = {
    'copying': r'in the draft\?$|does the draft (put first|wait for)',
    'who is it about': r'^Who |^Is it the patient|of the patient\?|does the patient take',
    'low or high': r'low, normal or high|its limit\?|urgent\?|need a scan|value is abnormal',
    'before or after': r'came (first|last|right)|was earlier|^In order',
    'drug to hazard': r'^When is|safe for|^Can ',
    'findings to diagnosis': r'suggest\?|mean\?|^What is it|^Is it ',
    'retrieval': r'take\?$|^What is the |^When was|^How large|^What was on|^What does \w+ have',
}
CHANGE = ('What would you change?', 'What is missing or wrong?', 'What needs to be done first?')


def _defect(case: Case, scene: Scene, rng: random.Random) -> tuple[str, str]:
    """An open question for the defect, and its answer."""
    if rng.random() < 0.6:
        return rng.choice(WRONG), f'Yes: {scene.fix}.' if scene.fix else f'No: Sign {case.complaint} note.'
    return rng.choice(
        CHANGE
    ), f'First: {scene.fix}.' if scene.fix else f'Nothing: Sign {case.complaint} note.'


def _spoken(answer: str) -> str:
    """Words that open the turn, if the answer has none: what was said then has the tokens it has in the text."""
    if answer.startswith(OPENINGS):
        return answer
    bare = not answer[0].isupper() or ' ' not in answer
    return f'It is {answer}' if bare else f'Noted: {answer}'


def _opened(story: tuple[Message, ...], question: str) -> list[Message]:
    *before, last = story
    return [*before, dataclasses.replace(last, content=f'{last.content} {question}')]


def _scene(case: Case, category: str) -> tuple[Scene, tuple[Message, ...], random.Random]:
    """One of the scenes of a case, its story, and what further choices are drawn from."""
    rng = random.Random(f'text/{case.case_id}')
    scene = rng.choice(BUILDERS[category](case, Words(rng, held_out=False)))
    return scene, dress(case, rng, scene.story), rng


def _conversation(case: Case, category: str) -> tuple[Message, ...]:
    scene, story, rng = _scene(case, category)
    asks = [(question, _spoken(answer)) for question, answer in rng.sample(scene.asks, len(scene.asks))]
    if rng.random() < FOCUSED:
        story = scene.story[:1]
        asks = [ask for ask in asks if 'draft' not in ask[0]][:FOCUSED_QUESTIONS]
    else:
        if not scene.question:
            asks.insert(rng.randrange(QUESTIONS), _defect(case, scene, rng))
        read_back = rng.random() < READ_BACK
        asks = asks[: 1 if read_back else QUESTIONS]
        if read_back:
            asks.insert(0, (rng.choice(READ), _spoken(story[0].content)))
    return _dialogue(story, asks)


def _dialogue(story: tuple[Message, ...], asks: list[tuple[str, str]]) -> tuple[Message, ...]:
    turns = _opened(story, asks[0][0])
    for i, (question, answer) in enumerate(asks):
        turns += [Message('user', question)] * (i > 0) + [Message('assistant', answer)]
    return tuple(turns)


def _record(case_id: str, messages: tuple[Message, ...], source: str) -> Record:
    return Record(messages, id=f'{case_id}-text', case_id=case_id, source=source)


def conversation_records(cases: int, seed: int) -> list[Record]:
    """One conversation per case, about a category in turn or a sheet or a list; deterministic."""
    kinds = [*BUILDERS, *BINDING, *BINDING, *['sheet'] * SHEETS, *['list'] * LISTS]
    records = []
    for index in range(cases):
        case, kind = simulate(seed, index, DOMAIN), kinds[index % len(kinds)]
        if kind in BUILDERS:
            messages = _conversation(case, kind)
        else:
            messages = _about_pairs(sheets.sheet if kind == 'sheet' else lists.drill, case.case_id)
        records.append(_record(case.case_id, messages, 'synthetic_text'))
    return records


def _about_pairs(make: Callable, name: str) -> tuple[Message, ...]:
    turn, asks = make(random.Random(f'pairs/{name}'))
    return _dialogue((turn,), [(question, _spoken(answer)) for question, answer in asks])


def list_records(count: int, seed: int) -> list[Record]:
    """Conversations about lists alone, with which pretraining begins; deterministic."""
    names = [f'list-{seed}-{index:07d}' for index in range(count)]
    return [_record(name, _about_pairs(lists.pairs, name), 'synthetic_lists') for name in names]


def sheet_records(count: int, seed: int) -> list[Record]:
    """Conversations about lists of every kind and about sheets: what follows; deterministic."""
    names = [f'sheet-{seed}-{index:07d}' for index in range(count)]
    drilled = [random.Random(f'kind/{name}').random() < DRILLS for name in names]
    return [
        _record(name, _about_pairs(lists.drill if drill else sheets.sheet, name), 'synthetic_sheets')
        for name, drill in zip(names, drilled, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class GateQuestion:
    """A question about a scene that no pretraining saw: which skill it is about, and its one answer."""

    gate: str
    record: Record
    answer: str


def _gate(question: str) -> str:
    return next((gate for gate, pattern in GATES.items() if re.search(pattern, question)), '')


def gate_questions(cases: int, seed: int) -> list[GateQuestion]:
    """Every question about a detail that a gate names, and one for a defect, of each case's scenes.

    `seed` must be another one than pretraining's.
    """
    made = []
    for index in range(cases):
        case = simulate(seed, index, DOMAIN)
        for category in BUILDERS:
            scene, story, rng = _scene(case, category)
            asked = [(_gate(question), question, answer) for question, answer in scene.asks]
            if not scene.question:
                asked.append((f'defect: {category}', *_defect(case, scene, rng)))
            for number, (gate, question, answer) in enumerate(asked):
                if gate:
                    record = Record(tuple(_opened(story, question)), id=f'{case.case_id}-{category}-{number}')
                    made.append(GateQuestion(gate, record, _spoken(answer)))
    return made
