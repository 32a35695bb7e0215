"""Prompt styles: messages that a model is shown before the question.

`plain` adds none; `instructed` explains the behaviors in the system turn; `few_shot:K` puts K
solved records before the question, as turns of user and assistant.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence, Set
from typing import Protocol

import numpy as np

from bsft_jax.behaviorbench.splits import normalized, record_words
from bsft_jax.behaviors import Behavior
from bsft_jax.data.rendering import list_options
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record, behavior_of, describe_record

# Seed of the order in which solved records are considered.
_SEED = 0
_INTRODUCTION = 'You assist a clinician. There are these ways to answer:'
_GUIDANCE = (
    'When something that matters was overlooked, raise it, although nobody asked. '
    'When nothing was overlooked, just answer what was asked.'
)


class Writer(Protocol):
    """Writes the turns of a conversation for one model, as `Renderer` and `ChatWriter` do."""

    @property
    def writes_system_turns(self) -> bool:
        """Returns whether the model can be shown a system turn."""

    def answer_text(self, record: Record) -> str:
        """Returns the answer of a solved record."""


@dataclasses.dataclass(frozen=True)
class PromptStyle:
    """Holds a parsed prompt style.

    Attributes:
      name: `plain`, `instructed` or `few_shot:K`.
      shots: the number K of solved records that it shows.
    """

    name: str
    shots: int = 0


def parse_prompt_style(style: str) -> PromptStyle:
    """Parses `plain`, `instructed` or `few_shot:K`; raises UserError for anything else."""
    kind, _, number = style.partition(':')
    if style in ('plain', 'instructed'):
        return PromptStyle(style)
    if kind == 'few_shot' and number.isdecimal() and int(number) >= 1:
        return PromptStyle(f'few_shot:{int(number)}', int(number))
    raise UserError(
        f'unknown prompt style {style!r}',
        where='--prompt',
        fix='use plain, instructed or few_shot:K with K at least 1',
    )


def instructions(behaviors: Sequence[Behavior]) -> str:
    """Returns the text that explains the behaviors, without their tokens."""
    lines = [f'- {behavior.name}: {behavior.description}' for behavior in behaviors]
    return '\n'.join([_INTRODUCTION, *lines, _GUIDANCE])


def _is_solved(record: Record) -> bool:
    """Returns whether a record has a question and an answer."""
    if all(message.role != 'user' for message in record.messages):
        return False
    return record.answer is not None if record.options else record.messages[-1].role == 'assistant'


def _question(record: Record) -> tuple[str, ...]:
    """Returns the normalized messages of a record."""
    return tuple(normalized(message.content) for message in record.messages)


def _origins(record: Record, forms: Set[tuple[str, ...]]) -> set:
    """Returns keys of a record's question, words, case and pair.

    Records that share one of them would give each other's answers away. A question in `forms` is no
    key: many records ask it, about what their options say.
    """
    names = {'case': record.case_id, 'pair': record.pair_id}
    keys = {(kind, name) for kind, name in names.items() if name}
    question = _question(record)
    keys |= {('words', record_words(record)), ('question', question)}
    return keys - {('question', form) for form in forms}


def _forms(records: Sequence[Record]) -> frozenset[tuple[str, ...]]:
    """Returns the questions that are asked with three sets of options or more."""
    options_of: dict[tuple[str, ...], set[frozenset[str]]] = {}
    for record in records:
        options = frozenset(map(normalized, record.options))
        options_of.setdefault(_question(record), set()).add(options)
    return frozenset(question for question, options in options_of.items() if len(options) > 2)


def choose_exemplars(
    pool: Sequence[Record],
    shots: int,
    *,
    behaviors: Sequence[Behavior],
    answered: Sequence[Record] = (),
) -> list[Record]:
    """Chooses the solved records that `few_shot:shots` shows.

    The result depends on the arguments alone. Behaviors take turns in the order of `behaviors`.
    Each gets the category that has been shown least so far; of two such categories, the one that
    has records of fewer behaviors. No two records are twins, and none shares a case with
    `answered`. If any solved record has options, only those with options are shown.

    Args:
      pool: records to choose from.
      shots: how many are shown.
      behaviors: the order in which behaviors take turns.
      answered: records that are to be answered.

    Raises UserError when `pool` does not hold that many.
    """
    forms = _forms(answered)
    excluded = set().union(*(_origins(record, forms) for record in answered))
    solved = [
        record
        for record in pool
        if _is_solved(record) and excluded.isdisjoint(_origins(record, forms))
    ]
    solved = [record for record in solved if record.options] or solved
    solved = [solved[i] for i in np.random.default_rng(_SEED).permutation(len(solved))]
    kinds = {(record.category, behavior_of(record)) for record in solved}
    num_behaviors = collections.Counter(category for category, _ in kinds)
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
            num_behaviors[category],
        )

    while len(chosen) < shots:
        used = set().union(*({id(record), record.pair_id} for record in chosen)) - {''}
        free = [record for record in solved if not {id(record), record.pair_id} & used]
        if not free:
            raise UserError(
                f'only {len(chosen)} solved records to show that are not twins or among those to '
                'answer',
                where=f'--prompt=few_shot:{shots}',
                fix='name a source with a larger train split by --examples',
            )
        chosen.append(min(free, key=rank))
    return chosen


def _solved_turns(record: Record, writer: Writer) -> list[Message]:
    """Returns question and answer of a solved record, without system turn and behavior token."""
    messages = [message for message in record.messages if message.role != 'system']
    if record.options:
        last = max(i for i, message in enumerate(messages) if message.role == 'user')
        content = list_options(messages[last].content, record.options)
        messages[last] = dataclasses.replace(messages[last], content=content)
    else:
        messages.pop()
    return [*messages, Message('assistant', writer.answer_text(record))]


def apply_prompt_style(
    style: PromptStyle,
    records: Sequence[Record],
    writer: Writer,
    *,
    behaviors: Sequence[Behavior],
    pool: Sequence[Record] = (),
) -> list[Record]:
    """Returns the records with the messages that `style` puts before their own.

    Nothing else of a record changes. Instructions are appended to a record's own system turn;
    solved records follow that turn.

    Args:
      style: the prompt style.
      records: records to be answered.
      writer: writes for the model that answers; solved records are answered in its format.
      behaviors: behaviors that `instructed` explains, and that take turns in `few_shot`.
      pool: records from which `few_shot` chooses.

    Raises UserError for a record without a user turn, a template without a system turn where one
    is needed, and a pool that is too small.
    """
    if style.name == 'plain':
        return list(records)
    for record in records:
        if all(message.role != 'user' for message in record.messages):
            raise UserError(
                f'{describe_record(record)} has no user turn', where=f'--prompt={style.name}'
            )
    if not style.shots:
        if not writer.writes_system_turns:
            raise UserError(
                'the chat template writes no system turn',
                where='--prompt=instructed',
                fix='use --prompt=few_shot:K or a template with one',
            )
        text = instructions(behaviors)
        return [_with_system(record, text) for record in records]
    chosen = choose_exemplars(pool, style.shots, behaviors=behaviors, answered=records)
    shown = [turn for exemplar in chosen for turn in _solved_turns(exemplar, writer)]
    return [_with_turns(record, shown) for record in records]


def _with_system(record: Record, text: str) -> Record:
    """Returns a record with `text` in its system turn, after what that says already."""
    messages = list(record.messages)
    index = next((i for i, message in enumerate(messages) if message.role == 'system'), None)
    if index is None:
        messages.insert(0, Message('system', text))
    else:
        content = f'{messages[index].content}\n\n{text}'
        messages[index] = dataclasses.replace(messages[index], content=content)
    return dataclasses.replace(record, messages=tuple(messages))


def _with_turns(record: Record, shown: Sequence[Message]) -> Record:
    """Returns a record with turns inserted after its system turns."""
    start = next(i for i, message in enumerate(record.messages) if message.role != 'system')
    return dataclasses.replace(
        record, messages=(*record.messages[:start], *shown, *record.messages[start:])
    )
