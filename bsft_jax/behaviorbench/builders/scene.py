"""Scenes: situations in words with the right answer, and the records made from them.

A builder turns a case into scenes: one, or twins that differ in one fact. Each scene becomes a
record (a request, options, the answer). Pretraining asks other questions about the same scenes.
"""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bsft_jax.behaviorbench.simulator.cases import IRRELEVANT_FACTS, Case
from bsft_jax.records.record import Message
from bsft_jax.records.taxonomy import group_of


@dataclasses.dataclass(frozen=True)
class CategorySpec:
    """Describes the category that a builder module builds.

    Attributes:
      name: name of the category in `records.taxonomy`; also the name of the module.
      extra_position: position in the extra rounds of pretraining, for categories that bind facts to
        people, drugs or days. Binding is learned late, so they get three times as many
        conversations. None keeps the category out of the extra rounds.
    """

    name: str
    extra_position: int | None = None

    def __post_init__(self):
        """Raises UserError for a name that the taxonomy lacks."""
        group_of(self.name)


class Gate(enum.StrEnum):
    """Names the skills that the tasks take for granted; `benchmarks/gates.py` measures them."""

    COPYING = 'copying'
    WHO = 'who is it about'
    LOW_OR_HIGH = 'low or high'
    BEFORE_OR_AFTER = 'before or after'
    DRUG_TO_HAZARD = 'drug to hazard'
    FINDINGS_TO_DIAGNOSIS = 'findings to diagnosis'
    RETRIEVAL = 'retrieval'


class QA(NamedTuple):
    """Holds a pretraining question about a detail, its answer and the gate that it tests.

    An empty gate means that the question tests none.
    """

    question: str
    answer: str
    gate: str = ''


@dataclasses.dataclass(frozen=True)
class Phrasings:
    """Holds ways to say one thing: those for training, and those only the test split uses."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...]


class Wording:
    """Chooses phrasings and orders for the records of one case and category."""

    def __init__(self, rng: random.Random, held_out: bool):
        """Stores the generator; `held_out` selects the phrasings of the test split."""
        self.rng, self._held_out = rng, held_out

    def pick(self, phrasings: Phrasings) -> str:
        """Returns a random phrasing."""
        return self.rng.choice(phrasings.held_out if self._held_out else phrasings.seen)

    def shuffled(self, *texts: str) -> list[str]:
        """Returns the texts in a random order."""
        return self.rng.sample(texts, len(texts))


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
        'The patient is {patient}, and {relative} is the {relation}.',
        'The patient today is {patient}; the {relation} is {relative}.',
        '{patient}, the patient, came with {relative}, the {relation}.',
        '{patient}, our patient, is here with {relative}, the {relation}.',
        'With us are {patient}, our patient, and {relative}, the {relation}.',
    ),
    (
        'Our patient is {patient}, and {relative} is the {relation}.',
        '{patient} is our patient today; {relative}, the {relation}, came too.',
    ),
)
DRAFT = Phrasings(
    (
        'Draft: {complaint}, {plan}.',
        'My draft: {complaint}; {plan}.',
        'Note: {complaint}, {plan}.',
        'The note: {complaint}; {plan}.',
        'New note: {complaint}, {plan}.',
        'This is my draft: {complaint}, {plan}.',
        "Today's draft: {complaint}; {plan}.",
    ),
    ('Draft note: {complaint}; {plan}.', 'My note: {complaint}, {plan}.'),
)


# `joiners` of statements that are sentences.
SENTENCES = (' ', ' ')


@dataclasses.dataclass(frozen=True)
class Facts:
    """Holds what a scene tells before its draft or its question, one statement each.

    Attributes:
      speaker: who tells it.
      told: the statements of difficulty level 3.
      alone: those of level 1, from which the answer follows.
      irrelevant: statements that change nothing; level 2 adds one of them to those of level 1.
      form: the text around the statements, which stand in place of `{facts}`.
      joiners: what stands between two statements, and before the last one.
      people: the sentence that says who is who; level 1 leaves it out.
      charted: the statements of level 4, sentences as a note has them, in the order of `told`.
      section: the section of the note they stand in, a key of `notes.SECTIONS`.
      clashes: topics of remarks that may contradict the facts, of `remarks.Topic`.
    """

    speaker: str
    told: tuple[str, ...]
    alone: tuple[str, ...]
    irrelevant: tuple[str, ...]
    form: str = '{facts}'
    joiners: tuple[str, str] = (', ', ' and ')
    people: str = ''
    charted: tuple[str, ...] = ()
    section: str = 'history'
    clashes: tuple[str, ...] = ()

    def tell(self, statements: Sequence[str], people: str = '') -> Message:
        """Returns a turn with the statements, after a sentence about the people."""
        between, before_last = self.joiners
        *first, last = statements
        listed = before_last.join([between.join(first), last] if first else [last])
        text = self.form.format(facts=listed)
        return Message('user', f'{people} {text}'.strip(), self.speaker)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Holds a situation and its right answer.

    Attributes:
      facts: what is told first.
      right_option: the right option and the behavior it stands for.
      wrong_options: the other options, each with its behavior.
      rationale: the reason, in one sentence.
      draft: the turn after the facts; None without one.
      rationale_alone: the reason at levels 1 and 2; '' for `rationale`.
      fix: the answer to an open question for the defect; '' where nothing is wrong.
      question: the question of the task; '' for a request from the shared pool `REVIEW`.
      must_mention: words of which a good proactive answer contains at least one.
      hard: whether the task is hard, as the builder's module defines it.
      qa: questions about details with their answers, for pretraining.
    """

    facts: Facts
    right_option: tuple[str, str]
    wrong_options: tuple[tuple[str, str], ...]
    rationale: str
    draft: Message | None = None
    rationale_alone: str = ''
    fix: str = ''
    question: str = ''
    must_mention: tuple[str, ...] = ()
    hard: bool = False
    qa: tuple[QA, ...] = ()

    @property
    def story(self) -> tuple[Message, ...]:
        """Returns the turns at difficulty level 3, without a request."""
        return self.with_draft(self.facts.tell(self.facts.told, self.facts.people))

    def with_draft(self, told: Message) -> tuple[Message, ...]:
        """Returns the turn that tells the facts, and the draft where there is one."""
        return (told,) if self.draft is None else (told, self.draft)


def with_aside(case: Case, rng: random.Random, story: tuple[Message, ...]) -> tuple[Message, ...]:
    """Returns the story, unchanged or with an irrelevant remark in its first turn or after it."""
    first, *rest = story
    aside = f'{case.patient} {case.other_irrelevant_fact}.'
    position = rng.choice(('', '', 'before', 'after', 'turn'))
    if position == 'turn':
        return (first, Message('user', aside, case.relative), *rest)
    if position:
        texts = (aside, first.content) if position == 'before' else (first.content, aside)
        first = dataclasses.replace(first, content=' '.join(texts))
    return (first, *rest)


def introduce_people(case: Case, wording: Wording) -> str:
    """Returns a sentence that says who is the patient and who is the relative."""
    return wording.pick(PEOPLE).format(
        patient=case.patient, relative=case.relative, relation=case.relation
    )


def irrelevant_remarks(case: Case) -> tuple[str, ...]:
    """Returns sentences about the relative that change nothing and that no other turn has."""
    told = (case.irrelevant_fact, case.other_irrelevant_fact)
    return tuple(f'{case.relative} {fact}.' for fact in IRRELEVANT_FACTS if fact not in told)


def people_qa(case: Case) -> tuple[QA, ...]:
    """Returns questions about who is the patient and who is the relative."""
    return (
        QA('Who is the patient?', f'{case.patient}.', Gate.WHO),
        QA(f'Who is the {case.relation}?', f'{case.relative}.', Gate.WHO),
    )


def draft_note(case: Case, wording: Wording, order: str = '') -> Message:
    """Returns the doctor's draft of the note; `order` is one more sentence at its end."""
    text = wording.pick(DRAFT).format(complaint=case.complaint, plan=case.plan)
    return Message('user', f'{text} {order}'.strip(), case.doctor)


def sign_options(case: Case) -> tuple[tuple[str, str], tuple[str, str]]:
    """Returns the reactive options of a review: to sign the right note, and another one."""
    return (
        (f'Sign {case.complaint} note', 'reactive'),
        (f'Sign {case.other_complaint} note', 'reactive'),
    )


def review_scene(
    case: Case,
    facts: Facts,
    draft: Message,
    fix: str,
    distractor: str,
    *,
    needs_fix: bool,
    **fields: Any,
) -> Scene:
    """Returns a scene that ends in a draft to sign.

    Args:
      case: the case.
      facts: what is told first.
      draft: the doctor's draft.
      fix: the proactive option that is right if the draft needs a fix.
      distractor: the proactive option that is always wrong.
      needs_fix: whether something is wrong; if not, signing the right note is the answer.
      **fields: other fields of the scene.
    """
    fixes = ((fix, 'proactive'), (distractor, 'proactive'))
    right, wrong = fixes[0], (fixes[1], *sign_options(case))
    if not needs_fix:
        right, wrong = sign_options(case)[0], (*fixes, sign_options(case)[1])
        fields['must_mention'] = ()
    fields['fix'] = fix if needs_fix else ''
    return Scene(facts, right, wrong, draft=draft, **fields)


Builder = Callable[[Case, Wording], Sequence[Scene]]
