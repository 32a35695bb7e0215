"""Rendering: records → token ids with loss weights, and the pieces that scoring needs.

The chat template renders the messages. Options follow the last user turn as lines `A. …`. The
answer is `prefix + "Answer: " + X + ". " + rationale + end of turn`; its prefix is a behavior token
or words (`BehaviorSet`). An earlier turn of the assistant that has a behavior begins with its
prefix, too. Prompt, prefix and answer are encoded separately and joined, so that no token spans a
boundary.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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


class _Span(NamedTuple):
    """Holds a part of a rendered prompt.

    Attributes:
      text: the part.
      behavior: name of the behavior whose prefix is written before it; '' for none.
      weight: loss weight of its tokens.
    """

    text: str
    behavior: str = ''
    weight: float = 0.0


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
        self._letters, self._behavior_weight = answer_format == 'letter', behavior_weight
        self.trains_on_turns = train_on == 'turns'
        self.encoder = TextEncoder(tokenizer)
        self.chat_template = ChatTemplate(tokenizer, self.encoder, sample_answer=STEM)
        self.stop_id = self.chat_template.stop_id
        self._stem = self.chat_template.answer_separator + STEM
        self.stem_ids = self.encoder.encode([self._stem])[0]

    def prompt_ids_of(self, records: Sequence[Record]) -> list[list[int]]:
        """Returns the ids of each record's prompt, up to where the answer begins.

        The content of messages is ordinary text even where it spells a control token.
        """
        return [prompt.ids.tolist() for prompt in self._prompts(records)]

    def prompt_ids(self, record: Record) -> list[int]:
        """Returns `prompt_ids_of` for one record."""
        return self.prompt_ids_of([record])[0]

    def option_ids(self, record: Record) -> list[list[int]]:
        """Returns the ids of each option after `stem_ids`, through the `.`, as they are trained."""
        options = [self._option_text(record, option) for option in range(len(record.options))]
        joint = self.encoder.encode_content([self._stem + option for option in options])
        return [
            self._encode_continuation(self.stem_ids, joint_ids, option)
            for joint_ids, option in zip(joint, options, strict=True)
        ]

    def examples(self, records: Sequence[Record]) -> list[Example]:
        """Returns one training example per record.

        Raises UserError for a record without an answer.
        """
        prompts = self._prompts([record for record in records if not record.text])
        suffixes = [self._answer_suffix(record) for record in records]
        options = [self._option_text(r, r.answer) if r.options else '' for r in records]
        stems = [self._stem + option for option in options]
        beginnings = [
            stem if option else '' if record.text else self.chat_template.answer_separator
            for stem, option, record in zip(stems, options, records, strict=True)
        ]
        # One batch for all records, which the tokenizer encodes in parallel.
        stem_batch = self.encoder.encode_content(stems)
        joint_batch = self.encoder.encode_content(
            [beginning + suffix for beginning, suffix in zip(beginnings, suffixes, strict=True)]
        )

        examples = []
        for record, option, suffix, stem_ids, joint_ids in zip(
            records, options, suffixes, stem_batch, joint_batch, strict=True
        ):
            if record.text:
                examples.append(self._text_example(joint_ids))
                continue
            answer_ids = joint_ids
            if option:
                answer_ids = self.stem_ids + self._encode_continuation(
                    self.stem_ids, stem_ids, option
                )
                if suffix:
                    answer_ids = answer_ids + self._encode_continuation(
                        answer_ids, joint_ids, suffix
                    )
            answer = self._with_prefix(behavior_of(record), [*answer_ids, self.stop_id])
            examples.append(concatenate_examples([next(prompts), answer]))
        return examples

    def example(self, record: Record) -> Example:
        """Returns `examples` for one record."""
        return self.examples([record])[0]

    def answer_text(self, record: Record) -> str:
        """Returns the answer as text, without its prefix.

        Raises UserError for a record without an answer.
        """
        suffix = self._answer_suffix(record)
        if not record.options:
            return suffix
        return STEM + self._option_text(record, record.answer) + suffix

    def _prompts(self, records: Sequence[Record]) -> Iterator[Example]:
        """Yields each prompt with its loss weights, which are 0 except on trained earlier turns.

        Earlier turns that are trained on, or have a behavior, are encoded separately, as the last
        answer is, so that no token spans their boundaries.
        """
        prompts = [self._loss_spans(record) for record in records]
        encoded = iter(self.encoder.encode([span.text for spans, _ in prompts for span in spans]))
        for spans, tokens in prompts:
            examples = []
            for span in spans:
                ids = next(encoded)
                if tokens:
                    ids = self.encoder.encode_marked(span.text, tokens)
                examples.append(self._with_prefix(span.behavior, ids, span.weight))
            yield concatenate_examples(examples)

    def _messages(self, record: Record) -> list[Message]:
        """Returns the messages of a record's prompt: without the answer, with the options.

        Raises UserError for a record that has nothing to answer, options without a user turn, or a
        system turn that the template does not write.
        """
        messages = [*record.messages]
        if messages and not record.options and messages[-1].role == 'assistant':
            messages.pop()
        if not messages:
            raise UserError(f'{describe_record(record)} has nothing to answer')
        has_system_turn = any(message.role == 'system' for message in messages)
        if has_system_turn and not self.chat_template.writes_system_turns:
            raise UserError(
                f'{describe_record(record)} has a system turn, which the chat template drops or '
                'refuses',
                where='chat template',
                fix='move it into the first user turn, or give another template',
            )
        if record.options:
            last = max((i for i, m in enumerate(messages) if m.role == 'user'), default=None)
            if last is None:
                raise UserError(f'{describe_record(record)} has options but no user turn')
            content = list_options(messages[last].content, record.options)
            messages[last] = dataclasses.replace(messages[last], content=content)
        return messages

    def _loss_spans(self, record: Record) -> tuple[list[_Span], dict[str, str]]:
        """Returns the rendered prompt, cut at the boundaries of the assistant's turns.

        The second value is that of `ChatTemplate.turns_of`: the control tokens for which
        private-use characters stand.
        """
        template = self.chat_template
        record = template.merge_user_turns(record)
        turns, tokens = template.turns_of(self._messages(record))
        prompt, spans, start = template.render(turns, prompt=True, record=record), [], 0
        for index in earlier_answers(record):
            behavior = record.messages[index].behavior
            if not (self.trains_on_turns or behavior):
                continue
            answer = template.complete_answer(turns[index]['content'])
            # No template renders an empty conversation, so the first turn has to be searched for.
            before = (
                template.render(turns[:index], prompt=True, record=record)
                if index
                else prompt.partition(answer)[0]
            )
            if not (prompt.startswith(before) and prompt.startswith(answer, len(before))):
                raise UserError(
                    f'{describe_record(record)}: it changes an earlier turn of the assistant',
                    where='chat template',
                    fix='use --config.data.train_on=answer and no behavior on earlier turns',
                )
            spans.append(_Span(prompt[start : len(before)]))
            spans.append(_Span(answer, behavior, float(self.trains_on_turns)))
            start = len(before) + len(answer)
        return [*spans, _Span(prompt[start:])], tokens

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

    def _option_text(self, record: Record, option: int) -> str:
        """Returns ` X.`, the text of an option after the stem."""
        if self._letters:
            return f' {string.ascii_uppercase[option]}.'
        return f' {option_words(record.options[option])}.'

    def _answer_suffix(self, record: Record) -> str:
        """Returns what follows the `.` of the option; of other records the whole text or answer."""
        if record.text:
            return record.text
        if record.options:
            if record.answer is None:
                raise UserError(f'{describe_record(record)} has options but no answer to train on')
            return f' {record.rationale}' if record.rationale else ''
        if record.messages[-1].role != 'assistant':
            raise UserError(f'{describe_record(record)} has no answer to train on')
        return self.chat_template.strip_answer(record.messages[-1].content)

    def _encode_continuation(
        self, first_ids: list[int], joint_ids: list[int], text: str
    ) -> list[int]:
        """Returns the ids of `text` after `first_ids`.

        They come from the joint encoding of both. Where a token of it spans the boundary, `text`
        is encoded separately.
        """
        if joint_ids[: len(first_ids)] == first_ids:
            return joint_ids[len(first_ids) :]
        return self.encoder.encode_content([text])[0]


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
    examples, longest, num_truncated, num_lost_turns = [], 0, 0, 0
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        for record, example in zip(chunk, renderer.examples(chunk), strict=True):
            longest = max(longest, example.length)
            if example.length <= sequence_length:
                examples.append(example)
            elif truncate and (truncated := _truncate(renderer, record, sequence_length)):
                shorter, lost_turns = truncated
                examples.append(shorter)
                num_truncated, num_lost_turns = num_truncated + 1, num_lost_turns + lost_turns
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
    return ExampleStore.from_examples(examples), report


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
