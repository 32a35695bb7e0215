"""Checks of records before they are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, NEUTRAL, Behavior
from bsft_jax.data.rendering import Renderer
from bsft_jax.data.tokenizer import token_pattern
from bsft_jax.errors import UserError, misspelt
from bsft_jax.records.record import Record, behavior_of, describe_record, earlier_answers


def named_behaviors(record: Record) -> list[str]:
    """Returns the behaviors that a record, its turns and its options name."""
    turns = (message.behavior for message in record.messages)
    return [name for name in (record.behavior, *turns, *record.option_behaviors) if name]


def check_behaviors(records: Iterable[Record], behaviors: Iterable[Behavior]) -> None:
    """Raises UserError for a record whose answers or options name an unknown behavior."""
    names = sorted(behavior.name for behavior in behaviors)
    for record in records:
        for name in named_behaviors(record):
            if name not in names:
                meant = misspelt(name, names)
                hint = f'did you mean {meant!r}?' if meant else 'a --config names others'
                raise UserError(
                    f'{describe_record(record)}: unknown behavior {name!r}',
                    fix=f'known: {", ".join(names)}; {hint}',
                )


def check_behavior_names(records: Iterable[Record]) -> None:
    """Checks the spelling of behaviors where no config says which there are.

    Raises:
      UserError: for a name that no behavior can have, and for one that misspells a default one.
    """
    defaults = [behavior.name for behavior in DEFAULT_BEHAVIORS]
    for record in records:
        for name in named_behaviors(record):
            is_possible = name.isidentifier() and name == name.lower() and name != 'none'
            meant = misspelt(name, defaults)
            if is_possible and not meant:
                continue
            hint = f'did you mean {meant!r}? ' if meant else ''
            rule = 'A behavior is a lower-case identifier, and --config=FILE says which there are'
            raise UserError(
                f'{describe_record(record)}: unknown behavior {name!r}', fix=f'{hint}{rule}'
            )


def check_answers(records: Iterable[Record], *, all_turns: bool = False) -> None:
    """Checks that records have something to answer, and an answer to train on.

    Args:
      records: the records.
      all_turns: every turn of the assistant is trained on, not the last one alone.

    Raises:
      UserError: for the first record that has not.
    """
    for record in records:
        if record.text:
            continue
        last = record.messages[-1]
        answers = [record.messages[i] for i in earlier_answers(record)] if all_turns else []
        if not record.options and last.role == 'assistant':
            answers.append(last)
        fault = ''
        if record.options and not any(message.role == 'user' for message in record.messages):
            fault = 'has options but no user turn'
        elif record.options and record.answer is None:
            fault = 'has options but no answer to train on'
        elif not record.options and last.role != 'assistant':
            fault = 'has no answer to train on'
        elif len(record.messages) == 1 and not record.options:
            fault = 'has nothing to answer'
        elif not all(message.content.strip() for message in answers):
            fault = 'has an empty answer, of which the end alone would be trained'
        if fault:
            raise UserError(
                f'{describe_record(record)} {fault}',
                fix='complete it or leave it out; records that are only asked belong to the split '
                'test',
            )


def check_records(
    records: Sequence[Record],
    renderer: Renderer,
    behaviors: tuple[Behavior, ...],
    unlabeled: str = 'plain',
) -> None:
    """Checks that records may be trained on.

    Args:
      records: the records.
      renderer: renders them.
      behaviors: the known behaviors.
      unlabeled: `refuse` also refuses a record with an answer to train on that has no behavior.

    Raises UserError for a record with an unknown behavior or without an answer to train on, and
    for one whose messages, options or rationale spell a behavior token or a control token of the
    tokenizer: a note must not steer the model. If answers have prefixes, at least one record must
    have a behavior.
    """
    check_behaviors(records, behaviors)
    check_answers(records, all_turns=renderer.trains_on_turns)
    control_pattern = token_pattern(
        renderer.encoder.control_tokens | {behavior.token for behavior in (*behaviors, NEUTRAL)}
    )
    labelled = False
    for record in records:
        earlier = [record.messages[i].behavior for i in earlier_answers(record)]
        trained = [behavior_of(record), *(earlier if renderer.trains_on_turns else [])]
        if unlabeled == 'refuse' and not all(trained):
            raise UserError(
                f'{describe_record(record)} has an answer without a behavior',
                where='--config.data.unlabeled=refuse',
                fix='label it, or use --config.data.unlabeled=plain to train it without a prefix',
            )
        labelled = labelled or any([*trained, *earlier])
        texts = [*(m.content for m in record.messages), *(m.name for m in record.messages)]
        for text in (*texts, *record.options, record.rationale, record.text):
            if match := control_pattern.search(text):
                raise UserError(
                    f'{describe_record(record)}: the token {match[0]} inside a message',
                    fix='remove it; only the renderer writes behavior and control tokens',
                )
    if renderer.behaviors.prefixes and not labelled:
        raise UserError(
            'no trainable token: no record has a behavior',
            where='--config.data.source',
            fix='label the records or use --config.arm=general_sft',
        )
