"""Scene: one situation in words, with what is right in it; and the records made of scenes.

A builder turns a case into scenes: one, or twins that differ in one fact. Each becomes a record
(a request, options, the answer); pretraining asks other questions about the same kind of scenes.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

from bsft_jax.behaviorbench.cases import Case
from bsft_jax.behaviorbench.records import Message, Record
from bsft_jax.behaviorbench.taxonomy import group_of


@dataclasses.dataclass(frozen=True)
class Phrasings:
    """Ways to say one thing: those that training sees, and those that only the test split uses."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...]


class Words:
    """Chooses phrasings for the records of one case and category."""

    def __init__(self, rng: random.Random, held_out: bool):
        self.rng, self._held_out = rng, held_out

    def pick(self, phrasings: Phrasings) -> str:
        return self.rng.choice(phrasings.held_out if self._held_out else phrasings.seen)

    def order(self, *parts: str) -> list[str]:
        """The parts in a random order."""
        return self.rng.sample(parts, len(parts))


REVIEW = Phrasings(
    (
        'Please look this over before I sign.',
        'Is this note ready to sign?',
        'Can I sign this?',
        'Give this a quick check for me.',
        'How does this note look?',
        'Have a look at this, please.',
        'Shall I sign it now?',
    ),
    (
        'Please check this note before I sign it.',
        'Can you look over this for me?',
        'Does this look ready?',
    ),
)
PEOPLE = Phrasings(
    (
        '{patient} is the patient, {relative} is the {relation}.',
        'Seeing {patient} today, with {relative}, the {relation}.',
        '{relative}, the {relation}, came with {patient}, our patient.',
        '{relative} is the {relation}; {patient} is the patient.',
    ),
    (
        'Our patient is {patient}, and {relative} is the {relation}.',
        '{patient} is our patient today; {relative}, the {relation}, came too.',
    ),
)
DRAFT = Phrasings(
    ('Draft: {complaint}, {plan}.', 'My draft: {complaint}; {plan}.', 'Note: {complaint}, {plan}.'),
    ('Draft note: {complaint}; {plan}.', 'My note: {complaint}, {plan}.'),
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A situation and what is right in it.

    Attributes:
      story: the turns, without a request.
      fix: what an assistant who is asked for the defect says; '' where nothing is wrong.
      right, wrong: the right option and the others, each with the behavior it stands for.
      rationale: why, in one sentence.
      question: what is asked; '' for a request out of the shared pool `REVIEW`.
      mention: words of which a good proactive answer has one.
      hard: see the builder.
      asks: questions about details, with their answers, for pretraining.
    """

    story: tuple[Message, ...]
    right: tuple[str, str]
    wrong: tuple[tuple[str, str], ...]
    rationale: str
    fix: str = ''
    question: str = ''
    mention: tuple[str, ...] = ()
    hard: bool = False
    asks: tuple[tuple[str, str], ...] = ()


def dress(case: Case, rng: random.Random, story: tuple[Message, ...]) -> tuple[Message, ...]:
    """The story with something irrelevant in it, or in a turn of its own, or as it is."""
    first, *rest = story
    aside = f'{case.patient} {case.idle_too}.'
    kind = rng.choice(('', '', 'before', 'after', 'turn'))
    if kind == 'turn':
        return (first, Message('user', aside, case.relative), *rest)
    if kind:
        parts = (aside, first.content) if kind == 'before' else (first.content, aside)
        first = dataclasses.replace(first, content=' '.join(parts))
    return (first, *rest)


def people(case: Case, words: Words) -> str:
    """Who is the patient and who is not."""
    return words.pick(PEOPLE).format(patient=case.patient, relative=case.relative, relation=case.relation)


def ask_people(case: Case) -> tuple[tuple[str, str], ...]:
    return (
        ('Who is the patient?', f'{case.patient}.'),
        (f'Who is the {case.relation}?', f'{case.relative}.'),
    )


def draft(case: Case, words: Words, order: str = '') -> Message:
    """The doctor's note, with one more sentence where `order` has one."""
    text = words.pick(DRAFT).format(complaint=case.complaint, plan=case.plan)
    return Message('user', f'{text} {order}'.strip(), case.doctor)


def sign(case: Case) -> tuple[tuple[str, str], tuple[str, str]]:
    """The reactive options of a review: the right note, and another."""
    return ((f'Sign {case.complaint} note', 'reactive'), (f'Sign {case.other_complaint} note', 'reactive'))


def review(
    case: Case, story: tuple[Message, ...], fix: str, distractor: str, *, wrong: bool, **fields
) -> Scene:
    """A scene that ends in a note to sign: `fix` is needed if it is `wrong`."""
    fixes = ((fix, 'proactive'), (distractor, 'proactive'))
    right, others = (fixes[0], (fixes[1], *sign(case)))
    if not wrong:
        right, others = sign(case)[0], (*fixes, sign(case)[1])
        fields['mention'] = ()
    return Scene(story, right, others, fix=fix if wrong else '', **fields)


Builder = Callable[[Case, Words], Sequence[Scene]]


def records(category: str, build: Builder, case: Case, *, held_out: bool) -> list[Record]:
    """The records of a case in one category; twins come proactive first and share wording and options."""
    rng = random.Random(f'{category}/{case.case_id}')
    words = Words(rng, held_out)
    scenes = build(case, words)
    request = words.pick(REVIEW)
    order = {text: rng.random() for text, _ in (scenes[0].right, *scenes[0].wrong)}
    twins, dressing = len(scenes) > 1, rng.random()
    made = []
    for letter, scene in zip('ab', scenes, strict=False):
        options = sorted((scene.right, *scene.wrong), key=lambda option: order[option[0]])
        *before, last = dress(case, random.Random(dressing), scene.story)
        asked = dataclasses.replace(last, content=f'{last.content} {scene.question or request}')
        name = f'{case.case_id}-{category}'
        made.append(
            Record(
                id=f'{name}-{letter}' if twins else name,
                case_id=case.case_id,
                pair_id=name if twins else '',
                source='synthetic',
                license='CC0-1.0',
                category=category,
                group=group_of(category),
                behavior=scene.right[1],
                hard=scene.hard,
                messages=(*before, asked),
                options=tuple(text for text, _ in options),
                option_behaviors=tuple(behavior for _, behavior in options),
                answer=options.index(scene.right),
                rationale=scene.rationale,
                must_mention=(scene.mention,) if scene.mention else (),
            )
        )
    return made
