"""Checks of records before they are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bsft_jax.behaviorbench.records import Record, behavior_of, earlier_answers, label_of
from bsft_jax.behaviors import NEUTRAL, Behavior
from bsft_jax.data.rendering import Renderer
from bsft_jax.data.tokenizer import any_of
from bsft_jax.errors import UserError


def check_behaviors(records: Iterable[Record], behaviors: Iterable[Behavior]) -> None:
    """Raises UserError for a record of which a label, of an answer or of an option, is no known behavior."""
    names = {behavior.name for behavior in behaviors}
    for record in records:
        for name in (record.behavior, *(m.behavior for m in record.messages), *record.option_behaviors):
            if name and name not in names:
                raise UserError(
                    f'{label_of(record)}: unknown behavior {name!r}', fix=f'known: {", ".join(sorted(names))}'
                )


def check_records(
    records: Sequence[Record],
    renderer: Renderer,
    behaviors: tuple[Behavior, ...],
    without_behavior: str = 'plain',
) -> None:
    """Raises UserError for a record that must not be trained on.

    That is one whose messages, options or rationale spell a behavior token or a control token of
    the tokenizer (nobody steers a model from inside a note), and one with an unknown behavior;
    under `without_behavior='refuse'` also one with an answer to train on that has no behavior.
    Heads without any record that has a behavior are an error as well.
    """
    check_behaviors(records, behaviors)
    control = any_of(renderer.control_tokens | {behavior.token for behavior in (*behaviors, NEUTRAL)})
    labelled = False
    for record in records:
        earlier = [record.messages[i].behavior for i in earlier_answers(record)]
        trained = [behavior_of(record), *(earlier if renderer.on_turns else [])]
        if without_behavior == 'refuse' and not all(trained):
            raise UserError(
                f'{label_of(record)} has an answer without a behavior',
                where='--config.data.without_behavior=refuse',
                fix='label it, or train it without a token by plain',
            )
        labelled = labelled or any([*trained, *earlier])
        pieces = [*(m.content for m in record.messages), *(m.name for m in record.messages)]
        for piece in (*pieces, *record.options, record.rationale, record.text):
            if found := control.search(piece):
                raise UserError(
                    f'{label_of(record)}: the token {found[0]} inside a message',
                    fix='remove it; behavior and control tokens are written by the renderer alone',
                )
    if renderer.behaviors.heads and not labelled:
        raise UserError(
            'no trainable token: no record has a behavior',
            where='--config.data.source',
            fix='label the records or use --config.arm=general_sft',
        )
