"""Prompt styles: what a model is shown before the question, as messages put before a record's own.

`plain` adds nothing; `instructed` explains the behaviors in the system turn; `few_shot:K` puts K
solved records before the question, as turns of user and assistant.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from bsft_jax.behaviorbench.records import Message, Record, behavior_of, label_of
from bsft_jax.behaviors import Behavior
from bsft_jax.data import rendering
from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError

_SEED = 0  # of the order in which examples are considered
_INTRODUCTION = 'You assist a clinician. There are these ways to answer:'
_GUIDANCE = (
    'When something that matters was overlooked, raise it, although nobody asked. '
    'When nothing was overlooked, just answer what was asked.'
)


@dataclasses.dataclass(frozen=True)
class Style:
    """A parsed prompt style; `shots` is the number of solved records that it shows."""

    name: str
    shots: int = 0


def parse(style: str) -> Style:
    """Reads `plain`, `instructed` or `few_shot:K`; raises UserError for anything else."""
    kind, _, number = style.partition(':')
    if style in ('plain', 'instructed'):
        return Style(style)
    if kind == 'few_shot' and number.isdecimal() and int(number) >= 1:
        return Style(f'few_shot:{int(number)}', int(number))
    raise UserError(
        f'unknown prompt style {style!r}',
        where='--prompt',
        fix='use plain, instructed or few_shot:K with K at least 1',
    )


def instructions(behaviors: Sequence[Behavior]) -> str:
    """The behaviors in words, without their tokens."""
    lines = [f'- {behavior.name}: {behavior.description}' for behavior in behaviors]
    return '\n'.join([_INTRODUCTION, *lines, _GUIDANCE])


def _is_solved(record: Record) -> bool:
    if all(message.role != 'user' for message in record.messages):
        return False
    return record.answer is not None if record.options else record.messages[-1].role == 'assistant'


def _origin(record: Record) -> set:
    """What a record shares with those that would give its answer away."""
    return {record.messages, ('case', record.case_id), ('pair', record.pair_id)} - {
        ('case', ''),
        ('pair', ''),
    }


def choose_exemplars(
    pool: Sequence[Record], shots: int, *, behaviors: Sequence[Behavior], answered: Sequence[Record] = ()
) -> list[Record]:
    """The solved records that `few_shot:shots` shows, always the same for the same arguments.

    Behaviors take turns in the order of `behaviors`; each takes the category shown least so far,
    of two such the one with fewer behaviors. No two are twins, and none is of a case that is to be
    answered. Where there are records with options, only those are shown.

    Raises UserError when `pool` does not hold that many.
    """
    known = set().union(*map(_origin, answered))
    solved = [record for record in pool if _is_solved(record) and not _origin(record) & known]
    solved = [record for record in solved if record.options] or solved
    solved = [solved[i] for i in np.random.default_rng(_SEED).permutation(len(solved))]
    kinds = {(record.category, behavior_of(record)) for record in solved}
    breadth = collections.Counter(category for category, _ in kinds)
    order = [behavior.name for behavior in behaviors]
    order += sorted({behavior for _, behavior in kinds} - set(order))
    chosen: list[Record] = []

    def rank(record: Record) -> tuple[int, ...]:
        category, behavior = record.category, behavior_of(record)
        shown = [(other.category, behavior_of(other)) for other in chosen]
        return (
            sum(other == behavior for _, other in shown),
            order.index(behavior),
            sum(other == category for other, _ in shown),
            shown.count((category, behavior)),
            breadth[category],
        )

    while len(chosen) < shots:
        used = set().union(*({id(record), record.pair_id} for record in chosen)) - {''}
        free = [record for record in solved if not {id(record), record.pair_id} & used]
        if not free:
            raise UserError(
                f'only {len(chosen)} solved records to show that are not twins or among those to answer',
                where=f'--prompt=few_shot:{shots}',
                fix='name a source with a larger train split by --examples',
            )
        chosen.append(min(free, key=rank))
    return chosen


def _solved_turns(record: Record, renderer: Renderer) -> list[Message]:
    """A solved record as it is asked and answered, without its system turn and behavior token."""
    messages = [message for message in record.messages if message.role != 'system']
    if record.options:
        last = max(i for i, message in enumerate(messages) if message.role == 'user')
        content = rendering.list_options(messages[last].content, record.options)
        messages[last] = dataclasses.replace(messages[last], content=content)
    else:
        messages.pop()
    return [*messages, Message('assistant', renderer.answer_text(record))]


def apply(
    style: Style,
    records: Sequence[Record],
    renderer: Renderer,
    *,
    behaviors: Sequence[Behavior],
    pool: Sequence[Record] = (),
) -> list[Record]:
    """Records whose messages begin as `style` says; everything else of them stays.

    Instructions follow what a record's own system turn says; examples stand behind that turn.

    Args:
      renderer: of the model that is asked; examples are answered in its format.
      behaviors: explained by `instructed`, taking turns in `few_shot`.
      pool: records that the examples of `few_shot` are chosen from.

    Raises UserError for a record without a user turn, a template without a system turn where one
    is needed, and a pool that is too small.
    """
    if style.name == 'plain':
        return list(records)
    for record in records:
        if all(message.role != 'user' for message in record.messages):
            raise UserError(f'{label_of(record)} has no user turn', where=f'--prompt={style.name}')
    if not style.shots:
        if not renderer.writes_system_turns:
            raise UserError(
                'the chat template writes no system turn',
                where='--prompt=instructed',
                fix='use --prompt=few_shot:K or a template with one',
            )
        text = instructions(behaviors)
        return [_with_system(record, text) for record in records]
    chosen = choose_exemplars(pool, style.shots, behaviors=behaviors, answered=records)
    shown = [turn for exemplar in chosen for turn in _solved_turns(exemplar, renderer)]
    return [_with_turns(record, shown) for record in records]


def _with_system(record: Record, text: str) -> Record:
    messages = list(record.messages)
    place = next((i for i, message in enumerate(messages) if message.role == 'system'), None)
    if place is None:
        messages.insert(0, Message('system', text))
    else:
        content = f'{messages[place].content}\n\n{text}'
        messages[place] = dataclasses.replace(messages[place], content=content)
    return dataclasses.replace(record, messages=tuple(messages))


def _with_turns(record: Record, shown: Sequence[Message]) -> Record:
    start = next(i for i, message in enumerate(record.messages) if message.role != 'system')
    return dataclasses.replace(record, messages=(*record.messages[:start], *shown, *record.messages[start:]))
