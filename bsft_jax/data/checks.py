"""Checks of records before they are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bsft_jax.behaviors import NEUTRAL, Behavior
from bsft_jax.data.rendering import Renderer
from bsft_jax.data.tokenizer import token_pattern
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record, behavior_of, describe_record, earlier_answers


def check_behaviors(records: Iterable[Record], behaviors: Iterable[Behavior]) -> None:
    """Raises UserError for a record whose answers or options name an unknown behavior."""
    names = {behavior.name for behavior in behaviors}
    for record in records:
        for name in (
            record.behavior,
            *(m.behavior for m in record.messages),
            *record.option_behaviors,
        ):
            if name and name not in names:
                raise UserError(
                    f'{describe_record(record)}: unknown behavior {name!r}',
                    fix=f'known: {", ".join(sorted(names))}',
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

    Raises UserError for a record with an unknown behavior, and for one whose messages, options or
    rationale spell a behavior token or a control token of the tokenizer: a note must not steer the
    model. If answers have prefixes, at least one record must have a behavior.
    """
    check_behaviors(records, behaviors)
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
