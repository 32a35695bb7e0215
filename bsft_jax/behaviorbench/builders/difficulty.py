"""Difficulty levels: the records that a scene becomes, from its deciding facts alone to a note.

The levels of a case share draft, request, options and answer. The story before them differs:

  1: what decides, alone.
  2: what decides, and something that changes nothing.
  3: all facts, of which an exchange with another person, value or time decides.
  4: the facts of level 3 inside a clinical note.
"""

from __future__ import annotations

import dataclasses
import random

from bsft_jax.behaviorbench.builders import notes
from bsft_jax.behaviorbench.builders.scene import REVIEW, Builder, Scene, Wording, with_aside
from bsft_jax.behaviorbench.simulator.cases import Case
from bsft_jax.records.record import Message, Record
from bsft_jax.records.taxonomy import group_of

DIFFICULTIES = (1, 2, 3, 4)
# The test split has only these.
TESTED_DIFFICULTIES = (3, 4)
DEFAULT_DIFFICULTY = 3


def build_records(
    category: str,
    build: Builder,
    case: Case,
    *,
    held_out: bool,
    difficulty: int = DEFAULT_DIFFICULTY,
) -> list[Record]:
    """Returns the records of a case in one category.

    Of twins the proactive one comes first. They share request, wording, options and their order.

    Args:
      category: name of the category.
      build: its builder.
      case: the case.
      held_out: whether to use the phrasings of the test split.
      difficulty: one of `DIFFICULTIES`.
    """
    # The same draws at every level, so that the levels of a case differ in the story alone.
    rng = random.Random(f'{category}/{case.case_id}')
    wording = Wording(rng, held_out)
    scenes = build(case, wording)
    request = wording.pick(REVIEW)
    # Drawn once per option text, so that twins list the same options in the same order.
    sort_key = {
        text: rng.random() for text, _ in (scenes[0].right_option, *scenes[0].wrong_options)
    }
    story_seed = rng.random()
    name = f'{case.case_id}-{category}'
    if difficulty != DEFAULT_DIFFICULTY:
        name += f'-d{difficulty}'
    records = []
    for letter, scene in zip('ab', scenes, strict=False):
        options = sorted(
            (scene.right_option, *scene.wrong_options), key=lambda option: sort_key[option[0]]
        )
        story_rng = random.Random(story_seed)
        *before, last = _tell_story(case, scene, difficulty, story_rng, held_out=held_out)
        # A question does not belong to the last section of a note.
        space = '\n\n' if difficulty == 4 and scene.draft is None else ' '
        last = dataclasses.replace(last, content=last.content + space + (scene.question or request))
        is_simple = difficulty < DEFAULT_DIFFICULTY
        records.append(
            Record(
                id=f'{name}-{letter}' if len(scenes) > 1 else name,
                case_id=case.case_id,
                pair_id=name if len(scenes) > 1 else '',
                source='synthetic',
                license='CC0-1.0',
                category=category,
                group=group_of(category),
                behavior=scene.right_option[1],
                hard=scene.hard and not is_simple,
                difficulty=difficulty,
                messages=(*before, last),
                options=tuple(text for text, _ in options),
                option_behaviors=tuple(behavior for _, behavior in options),
                answer=options.index(scene.right_option),
                rationale=(is_simple and scene.rationale_alone) or scene.rationale,
                must_mention=(scene.must_mention,) if scene.must_mention else (),
            )
        )
    return records


def _tell_story(
    case: Case, scene: Scene, difficulty: int, rng: random.Random, *, held_out: bool
) -> tuple[Message, ...]:
    """Returns the turns of a scene at a difficulty level, without a request."""
    facts = scene.facts
    if difficulty == 1:
        return scene.with_draft(facts.tell(facts.alone))
    if difficulty == 4:
        text = notes.write_note(case, facts, rng, held_out=held_out)
        return scene.with_draft(Message('user', text, facts.speaker))
    story = scene.story
    if difficulty == 2:
        irrelevant, is_last = rng.choice(facts.irrelevant), rng.random() < 0.5
        statements = (*facts.alone, irrelevant) if is_last else (irrelevant, *facts.alone)
        story = scene.with_draft(facts.tell(statements, facts.people))
    return with_aside(case, rng, story)
