"""Rendering: records → token ids with loss weights, and the pieces that scoring needs.

The chat template renders the whole conversation. Options follow the last user turn as lines `A. …`.
The answer is `"Answer: " + X + ". " + rationale + end of turn`. The text is encoded at once, so its
ids are those of `apply_chat_template`, and then split where the assistant's turns begin and end.
There the prefix is put in: a behavior token or words (`BehaviorSet`). A conversation in which a
token spans such a place is refused.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.data.chat_template import ChatTemplate
from bsft_jax.data.examples import Example, ExampleStore, concatenate_examples
from bsft_jax.data.tokenizer import TextEncoder
from bsft_jax.errors import UserError
from bsft_jax.records.record import (
    Message,
    Record,
    behavior_of,
    describe_record,
    earlier_answers,
    option_words,
)

STEM = 'Answer:'
# Records that are rendered at a time.
_CHUNK = 4096


def list_options(content: str, options: Sequence[str]) -> str:
    """Returns the content of a user turn with its options below it, one lettered line each."""
    lines = (f'{a}. {b}' for a, b in zip(string.ascii_uppercase, options, strict=False))
    return '\n'.join([content, *lines])


def prompt_messages(record: Record) -> list[Message]:
    """Returns the messages of a record's prompt: without the answer, with the options.

    Raises UserError for a record that has nothing to answer, or options without a user turn.
    """
    messages = [*record.messages]
    if messages and not record.options and messages[-1].role == 'assistant':
        messages.pop()
    if not messages:
        raise UserError(f'{describe_record(record)} has nothing to answer')
    if record.options:
        last = max((i for i, m in enumerate(messages) if m.role == 'user'), default=None)
        if last is None:
            raise UserError(f'{describe_record(record)} has options but no user turn')
        content = list_options(messages[last].content, record.options)
        messages[last] = dataclasses.replace(messages[last], content=content)
    return messages


def option_text(record: Record, option: int, answer_format: str = 'letter') -> str:
    """Returns what follows the stem: ` X.`, or the words of the option and a period."""
    words = string.ascii_uppercase[option]
    if answer_format != 'letter':
        words = option_words(record.options[option])
    return f' {words}.'


def answer_text(record: Record, answer_format: str = 'letter') -> str:
    """Returns the answer as text, without its prefix.

    Raises UserError for a record without an answer.
    """
    if record.options:
        if record.answer is None:
            raise UserError(f'{describe_record(record)} has options but no answer to train on')
        rationale = f' {record.rationale}' if record.rationale else ''
        return STEM + option_text(record, record.answer, answer_format) + rationale
    if record.messages[-1].role != 'assistant':
        raise UserError(f'{describe_record(record)} has no answer to train on')
    return record.messages[-1].content


class Renderer:
    """Renders records for one tokenizer, one set of behaviors and one answer format.

    Args:
      tokenizer: a Hugging Face tokenizer, extended by the tokens of `behaviors`.
      behaviors: the behaviors with their answer prefixes.
      answer_format: `letter`, or `text` for the option's own words.
      behavior_weight: loss weight of a prefix, divided evenly among its tokens. Every other token
        of an answer has weight 1.
      train_on: `answer`, or `turns` to give the earlier turns of the assistant the same weights.

    Attributes:
      chat_template: the tokenizer's template.
      encoder: encodes rendered text and the text of records.
      stop_id: the id that ends a turn.
      stem_ids: the ids of `Answer:` at the beginning of an answer.
      trains_on_turns: whether the earlier turns of the assistant have weight.

    Raises UserError for a chat template that `ChatTemplate` refuses.
    """

    def __init__(
        self,
        tokenizer: Any,
        behaviors: BehaviorSet,
        *,
        answer_format: str = 'letter',
        behavior_weight: float = 1.0,
        train_on: str = 'answer',
    ):
        self.tokenizer, self.behaviors = tokenizer, behaviors
        self._answer_format, self._behavior_weight = answer_format, behavior_weight
        self.trains_on_turns = train_on == 'turns'
        self.encoder = TextEncoder(tokenizer)
        self.chat_template = ChatTemplate(tokenizer, self.encoder, sample_answer=STEM)
        self.stop_id = self.chat_template.stop_id
        # What precedes an answer from the last control token on: enough for the ids after it.
        starts = self.encoder.control_pattern.finditer(self.chat_template.sample_prompt)
        start = max((match.start() for match in starts), default=0)
        self._context = self.chat_template.sample_prompt[start:]
        self._stem = self.chat_template.answer_separator + STEM
        self.stem_ids = self._encode_answers([self._stem])[0]
        self._letter_ids: dict[str, list[int]] = {}

    def prompt_ids_of(self, records: Sequence[Record]) -> list[list[int]]:
        """Returns the ids of each record's prompt, up to where the answer begins.

        The content of messages is ordinary text even where it spells a control token.
        """
        return [prompt.ids.tolist() for prompt in self._conversations(records, answered=False)]

    def prompt_ids(self, record: Record) -> list[int]:
        """Returns `prompt_ids_of` for one record."""
        return self.prompt_ids_of([record])[0]

    def option_ids(self, record: Record) -> list[list[int]]:
        """Returns the ids of each option after `stem_ids`, through the `.`, as they are trained.

        Raises UserError for an option that the tokenizer joins with the stem.
        """
        texts = [
            option_text(record, option, self._answer_format)
            for option in range(len(record.options))
        ]
        if self._answer_format != 'letter':
            return self._encode_options(texts, record)
        if new := [text for text in texts if text not in self._letter_ids]:
            self._letter_ids |= zip(new, self._encode_options(new, record), strict=True)
        return [self._letter_ids[text] for text in texts]

    def examples(self, records: Sequence[Record]) -> list[Example]:
        """Returns one training example per record.

        Raises UserError for a record without an answer, and for one whose ids would not be those of
        the template.
        """
        spoken = [record for record in records if not record.text]
        conversations = iter(self._conversations(spoken, answered=True))
        texts = iter(self.encoder.encode_content([r.text for r in records if r.text]))
        return [
            self._text_example(next(texts)) if record.text else next(conversations)
            for record in records
        ]

    def example(self, record: Record) -> Example:
        """Returns `examples` for one record."""
        return self.examples([record])[0]

    @property
    def writes_system_turns(self) -> bool:
        """Returns whether the template writes system turns."""
        return self.chat_template.writes_system_turns

    def answer_text(self, record: Record) -> str:
        """Returns `answer_text` of a record in the answer format of this renderer."""
        return answer_text(record, self._answer_format)

    def _conversations(self, records: Sequence[Record], *, answered: bool) -> Iterator[Example]:
        """Yields conversations, or prompts, with their loss weights.

        These are 0 except on answers and on trained earlier turns.
        """
        spoken = [self.chat_template.merge_user_turns(record) for record in records]
        turns = [self._prefixed_turns(record) for record in spoken]
        written = [
            self.chat_template.write(
                [*self._messages(record), *([self._answer(record)] if answered else [])],
                indices,
                answered=answered,
                record=record,
            )
            for record, indices in zip(spoken, turns, strict=True)
        ]
        refused = []
        # One batch for all records, which the tokenizer encodes in parallel.
        batch = self.encoder.encode([conversation.text for conversation in written])
        for record, indices, (text, marks, spans), ids in zip(
            spoken, turns, written, batch, strict=True
        ):
            ids = self.encoder.encode_marked(text, marks) if marks else ids
            cuts = [cut for span in spans for cut in span]
            parts = self.encoder.split(text, ids, cuts, marks)
            if parts is None:
                refused.append(record)
                continue
            behaviors = [record.messages[index].behavior for index in indices]
            weights = [float(self.trains_on_turns)] * len(indices)
            if answered:
                self._check_option(record, parts[2 * len(indices) + 1])
                behaviors, weights = [*behaviors, behavior_of(record)], [*weights, 1.0]
            examples = [self._with_prefix('', parts[0], 0.0)]
            for turn, (behavior, weight) in enumerate(zip(behaviors, weights, strict=True)):
                said, following = parts[2 * turn + 1 : 2 * turn + 3]
                examples.append(self._with_prefix(behavior, said, weight))
                if following:
                    examples.append(self._with_prefix('', following, 0.0))
            yield concatenate_examples(examples)
        if refused:
            raise _spanning_token(refused, self.chat_template)

    def _prefixed_turns(self, record: Record) -> list[int]:
        """Returns the earlier turns of the assistant that are trained on or have a behavior."""
        return [
            index
            for index in earlier_answers(record)
            if self.trains_on_turns or record.messages[index].behavior
        ]

    def _answer(self, record: Record) -> Message:
        """Returns the assistant's last turn, without its prefix."""
        return Message('assistant', self.answer_text(record))

    def _check_option(self, record: Record, answer_ids: list[int]) -> None:
        """Raises UserError unless an answer begins with the ids of its option that are scored."""
        if not record.options:
            return
        scored = [*self.stem_ids, *self.option_ids(record)[record.answer]]
        if answer_ids[: len(scored)] != scored:
            raise UserError(
                f'{describe_record(record)}: the tokenizer joins the option with the rationale',
                fix='begin the rationale with a letter',
            )

    def _messages(self, record: Record) -> list[Message]:
        """Returns `prompt_messages`; raises UserError for a system turn that is not written."""
        messages = prompt_messages(record)
        has_system_turn = any(message.role == 'system' for message in messages)
        if has_system_turn and not self.writes_system_turns:
            raise UserError(
                f'{describe_record(record)} has a system turn, which the chat template drops or '
                'refuses',
                where='chat template',
                fix='move it into the first user turn, or give another template',
            )
        return messages

    def _with_prefix(self, behavior: str, ids: list[int], weight: float = 1.0) -> Example:
        """Returns ids after the prefix of their behavior; `weight` is 1 with loss and 0 without."""
        prefix_ids = self.behaviors.prefix_ids(behavior) if behavior else ()
        share = np.float32(self._behavior_weight / len(prefix_ids)) if prefix_ids else 0
        weights = np.repeat(np.float32([share * weight, weight]), [len(prefix_ids), len(ids)])
        reserved = self.behaviors.max_prefix_length - len(prefix_ids) if behavior else 0
        return Example(np.asarray([*prefix_ids, *ids], np.int32), weights, reserved)

    def _text_example(self, ids: list[int]) -> Example:
        """Returns the example of a pretraining text, every token of which has weight 1."""
        bos_id = self.tokenizer.bos_token_id
        ids = [*([] if bos_id is None else [bos_id]), *ids, self.stop_id]
        return Example(np.asarray(ids, np.int32), np.ones(len(ids), np.float32))

    def _encode_options(self, texts: Sequence[str], record: Record) -> list[list[int]]:
        """Returns the ids of texts that follow the stem."""
        encoded = self._encode_answers([self._stem + text for text in texts])
        size = len(self.stem_ids)
        if any(ids[:size] != self.stem_ids for ids in encoded):
            raise UserError(
                f'{describe_record(record)}: the tokenizer joins {STEM!r} with an option',
                fix='begin the option with a letter',
            )
        return [ids[size:] for ids in encoded]

    def _encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Returns the ids of texts with which an answer may begin."""
        texts, marks = self.encoder.mark(answers)
        texts = [self._context + text for text in texts]
        cut = len(self._context)
        batch = (
            [self.encoder.encode_marked(text, marks) for text in texts]
            if marks
            else self.encoder.encode(texts)
        )
        split = (
            self.encoder.split(text, ids, [cut], marks)
            for text, ids in zip(texts, batch, strict=True)
        )
        # Where a token spans the end of the prompt, the answer is scored after it, never trained.
        return [
            parts[1] if parts else self.encoder.encode_content([answer])[0]
            for parts, answer in zip(split, answers, strict=True)
        ]


def _spanning_token(records: Sequence[Record], template: ChatTemplate) -> UserError:
    """Returns the error for conversations that no prefix can be put into."""
    others = f' (and {len(records) - 1} more)' if len(records) > 1 else ''
    return UserError(
        f'{describe_record(records[0])}{others}: the tokenizer joins the beginning of an answer '
        'with what the chat template writes before it',
        fix='give a template whose prompt ends before the white space, with '
        '--config.data.chat_template=FILE'
        if template.joins_answers
        else 'remove the white space at the beginning of its answers',
    )


def render_examples(
    renderer: Renderer,
    records: Sequence[Record],
    sequence_length: int,
    max_dropped_fraction: float,
    truncate: bool = False,
) -> tuple[ExampleStore, str]:
    """Renders records as examples of at most `sequence_length` tokens.

    Args:
      renderer: renders the records.
      records: the records.
      sequence_length: a longer record is left out.
      max_dropped_fraction: the largest fraction of records that may be left out.
      truncate: a longer record first loses its oldest rounds, and is left out only if its last
        round is still too long.

    Returns:
      The examples, and one line about what was left out.

    Raises UserError when more records are longer, or nothing is left to train on.
    """
    examples, kept, longest, num_truncated, num_lost_turns = [], [], 0, 0, 0
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        for record, example in zip(chunk, renderer.examples(chunk), strict=True):
            longest = max(longest, example.length)
            if example.length > sequence_length:
                truncated = _truncate(renderer, record, sequence_length) if truncate else None
                if truncated is None:
                    continue
                example, lost_turns = truncated
                num_truncated, num_lost_turns = num_truncated + 1, num_lost_turns + lost_turns
            examples.append(example)
            kept.append(record)
    dropped = len(records) - len(examples)
    report = (
        f'{dropped} of {len(records)} records are longer than {sequence_length} tokens, '
        f'the longest has {longest}'
    )
    if truncate:
        report += f'; {num_truncated} more lost {num_lost_turns} of their oldest turns to fit'
    if dropped > max_dropped_fraction * len(records):
        raise UserError(
            report,
            where=f'--config.data.max_dropped_fraction={max_dropped_fraction}',
            fix='raise --config.data.sequence_length, or --config.data.max_dropped_fraction to '
            'leave them out',
        )
    if not any(example.weights[1:].any() for example in examples):
        raise UserError(
            'no trainable token: no answer is left to train on', where='--config.data.source'
        )
    return ExampleStore.from_examples(examples, kept), report


def _truncate(renderer: Renderer, record: Record, limit: int) -> tuple[Example, int] | None:
    """Renders a record without its oldest rounds, as few of them as make it fit `limit` tokens.

    A round begins with a user turn that does not directly follow another one. System turns at the
    beginning stay, and so does the last round, which holds the question and the answer.

    Returns the example and the number of turns that it lost, or None if the last round is too long.
    """
    roles = [message.role for message in record.messages]
    first = next((i for i, role in enumerate(roles) if role != 'system'), len(roles))
    round_starts = [
        i for i in range(first + 1, len(roles)) if roles[i] == 'user' and roles[i - 1] != 'user'
    ]
    low, high, best = 0, len(round_starts), None
    while low < high:
        middle = (low + high) // 2
        messages = record.messages[:first] + record.messages[round_starts[middle] :]
        example = renderer.example(dataclasses.replace(record, messages=messages))
        if example.length <= limit:
            high, best = middle, (example, round_starts[middle] - first)
        else:
            low = middle + 1
    return best
