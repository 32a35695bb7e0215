"""Pretraining conversations about simulated cases: free questions and their answers.

They teach what the tasks take for granted (copying, retrieval, whose fact it is, order in time, low
or high against a printed range, which hazard forbids a drug, whether something is wrong when one
*asks* for it) in another format than the tasks': no options, no request from the shared pool, no
behavior, and cases from a seed domain of their own.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

from bsft_jax.behaviorbench.builders import BUILDERS, SPECS
from bsft_jax.behaviorbench.builders.scene import QA, Scene, Wording, with_aside
from bsft_jax.behaviorbench.pretraining import drills, fact_sheets
from bsft_jax.behaviorbench.simulator.cases import Case, simulate
from bsft_jax.records.record import Message, Record

# Seed domain of the cases; no case of the tasks is in it.
DOMAIN = 'pre'
# Questions in a conversation about a whole scene.
SCENE_QUESTIONS = 3
# Conversations about fact sheets and drills in a round, beside those about scenes.
SHEETS_PER_ROUND, DRILLS_PER_ROUND = 7, 12
# Times that a round repeats the categories with an `extra_position`.
EXTRA_ROUNDS = 2
# Share of drills in `sheet_records`.
DRILL_SHARE = 0.6
# Share of conversations about the bare first turn of a scene, and the questions in them.
FOCUSED_SHARE = 0.4
FOCUSED_QUESTIONS = 4
# Share of conversations that first repeat a turn of the story word for word.
READ_BACK_SHARE = 0.1
READ_BACK_REQUESTS = ('Read it back.', 'Say it again.', 'Repeat the first note.')
# Share of open questions for a defect that yes or no answers.
YES_NO_SHARE = 0.6
YES_NO_QUESTIONS = (
    'Is anything wrong?',
    'Is there a problem?',
    'Did we miss something?',
    'Does something need to change?',
    'Do you see a mistake?',
    'Is there something to fix first?',
    'Any concern about this?',
    'Is something not right here?',
)
FIX_QUESTIONS = (
    'What would you change?',
    'What is missing or wrong?',
    'What needs to be done first?',
)
# Beginnings of answers that can open a turn as they are.
OPENINGS = ('Yes', 'No.', 'No,', 'No:', 'First:', 'Nothing:', 'The ', 'With ', 'It is ')


def _defect_question(case: Case, scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Returns an open question for the defect of a scene, and its answer."""
    sign = f'Sign {case.complaint} note'
    if rng.random() < YES_NO_SHARE:
        question = rng.choice(YES_NO_QUESTIONS)
        return question, f'Yes: {scene.fix}.' if scene.fix else f'No: {sign}.'
    question = rng.choice(FIX_QUESTIONS)
    return question, f'First: {scene.fix}.' if scene.fix else f'Nothing: {sign}.'


def _as_turn(answer: str) -> str:
    """Returns the answer with opening words, if it has none.

    Behind opening words the answer's own words have the same tokens as in the text above.
    """
    if answer.startswith(OPENINGS):
        return answer
    is_phrase = not answer[0].isupper() or ' ' not in answer
    return f'It is {answer}' if is_phrase else f'Noted: {answer}'


def _with_question(story: Sequence[Message], question: str) -> list[Message]:
    """Returns the story with the question at the end of its last turn."""
    *before, last = story
    return [*before, dataclasses.replace(last, content=f'{last.content} {question}')]


def _draw_scene(case: Case, category: str) -> tuple[Scene, tuple[Message, ...], random.Random]:
    """Returns a scene of the case, its story, and the generator for further choices."""
    rng = random.Random(f'text/{case.case_id}')
    scene = rng.choice(BUILDERS[category](case, Wording(rng, held_out=False)))
    return scene, with_aside(case, rng, scene.story), rng


def _scene_conversation(case: Case, category: str) -> tuple[Message, ...]:
    """Returns a conversation about one of the scenes of a case."""
    scene, story, rng = _draw_scene(case, category)
    qa = [
        (question, _as_turn(answer)) for question, answer, _ in rng.sample(scene.qa, len(scene.qa))
    ]
    if rng.random() < FOCUSED_SHARE:
        # The draft is not in the first turn, so nothing is asked about it.
        story = scene.story[:1]
        qa = [(question, answer) for question, answer in qa if 'draft' not in question]
        qa = qa[:FOCUSED_QUESTIONS]
    else:
        # Only scenes that end in a draft have a defect to ask for.
        if not scene.question:
            qa.insert(rng.randrange(SCENE_QUESTIONS), _defect_question(case, scene, rng))
        read_back = rng.random() < READ_BACK_SHARE
        qa = qa[: 1 if read_back else SCENE_QUESTIONS]
        if read_back:
            qa.insert(0, (rng.choice(READ_BACK_REQUESTS), _as_turn(story[0].content)))
    return _dialogue(story, qa)


def _drill_conversation(
    build: Callable[[random.Random], tuple[Message, list[QA]]], name: str
) -> tuple[Message, ...]:
    """Returns a conversation about a drill or a fact sheet; the name is the seed."""
    turn, qa = build(random.Random(f'pairs/{name}'))
    return _dialogue((turn,), [(question, _as_turn(answer)) for question, answer, _ in qa])


def _dialogue(story: Sequence[Message], qa: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Returns the story with the questions and answers; the first question ends its last turn."""
    turns = _with_question(story, qa[0][0])
    for i, (question, answer) in enumerate(qa):
        if i > 0:
            turns.append(Message('user', question))
        turns.append(Message('assistant', answer))
    return tuple(turns)


def _record(case_id: str, messages: tuple[Message, ...], source: str) -> Record:
    return Record(messages, id=f'{case_id}-text', case_id=case_id, source=source)


def _round() -> list[str]:
    """Returns the subjects of a round of conversations: categories, `sheet` and `drill`."""
    extra = sorted(
        (spec.extra_position, spec.name) for spec in SPECS if spec.extra_position is not None
    )
    return [
        *BUILDERS,
        *[name for _, name in extra] * EXTRA_ROUNDS,
        *['sheet'] * SHEETS_PER_ROUND,
        *['drill'] * DRILLS_PER_ROUND,
    ]


def conversation_records(cases: int, seed: int) -> list[Record]:
    """Returns one conversation per case, about the subjects of a round in turn.

    The same arguments always give the same records.
    """
    subjects = _round()
    records = []
    for index in range(cases):
        case, subject = simulate(seed, index, DOMAIN), subjects[index % len(subjects)]
        if subject in BUILDERS:
            messages = _scene_conversation(case, subject)
        else:
            build = fact_sheets.fact_sheet if subject == 'sheet' else drills.random_drill
            messages = _drill_conversation(build, case.case_id)
        records.append(_record(case.case_id, messages, 'synthetic_text'))
    return records


def list_records(count: int, seed: int) -> list[Record]:
    """Returns conversations about pair drills alone, with which pretraining begins.

    The same arguments always give the same records.
    """
    names = [f'list-{seed}-{index:07d}' for index in range(count)]
    return [
        _record(name, _drill_conversation(drills.pair_drill, name), 'synthetic_lists')
        for name in names
    ]


def sheet_records(count: int, seed: int) -> list[Record]:
    """Returns conversations about drills of every kind and about fact sheets, the second phase.

    The same arguments always give the same records.
    """
    records = []
    for index in range(count):
        name = f'sheet-{seed}-{index:07d}'
        is_drill = random.Random(f'kind/{name}').random() < DRILL_SHARE
        build = drills.random_drill if is_drill else fact_sheets.fact_sheet
        records.append(_record(name, _drill_conversation(build, name), 'synthetic_sheets'))
    return records


@dataclasses.dataclass(frozen=True)
class GateQuestion:
    """Holds a question about a scene that no pretraining saw.

    Attributes:
      gate: the skill that the question tests.
      record: the story and the question.
      answer: its only right answer.
    """

    gate: str
    record: Record
    answer: str


def gate_questions(cases: int, seed: int) -> list[GateQuestion]:
    """Returns the questions that test a gate, about one scene of each case and category.

    Of scenes with a draft, one question for a defect is added; its gate is `defect: CATEGORY`.

    Args:
      cases: number of simulated cases.
      seed: their seed, which must differ from that of pretraining.
    """
    questions = []
    for index in range(cases):
        case = simulate(seed, index, DOMAIN)
        for category in BUILDERS:
            scene, story, rng = _draw_scene(case, category)
            qa = list(scene.qa)
            if not scene.question:
                qa.append(QA(*_defect_question(case, scene, rng), gate=f'defect: {category}'))
            for number, (question, answer, gate) in enumerate(qa):
                if gate:
                    record = Record(
                        tuple(_with_question(story, question)),
                        id=f'{case.case_id}-{category}-{number}',
                    )
                    questions.append(GateQuestion(gate, record, _as_turn(answer)))
    return questions
