"""Rendering: records → token ids with loss weights, and the pieces that scoring needs.

The chat template renders the messages; options follow the last user turn as `A. …` lines; the
answer is `head + "Answer: " + X + ". " + rationale + end of turn`, the head a behavior token or words
(`BehaviorSet`); an earlier turn of the assistant that has a behavior begins with its head, too. Prompt,
head and answer are encoded apart and joined, so that no token spans a boundary.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import string
from collections.abc import Iterator, Sequence

import numpy as np

from bsft_jax.behaviorbench.records import (
    Message,
    Record,
    behavior_of,
    earlier_answers,
    label_of,
    option_words,
)
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.data import truncation
from bsft_jax.data.examples import Example, ExampleStore
from bsft_jax.data.tokenizer import any_of, control_tokens, undated
from bsft_jax.errors import UserError

STEM = 'Answer:'
_PROBE = 'x9q7'  # stands for a message while a template is examined
_CHUNK = 4096
_FLAG_LONG = 'raise --config.data.sequence_length, or --config.data.drop_long to leave them out'


def list_options(content: str, options: Sequence[str]) -> str:
    """A user turn with its options below it."""
    lines = (f'{a}. {b}' for a, b in zip(string.ascii_uppercase, options, strict=False))
    return '\n'.join([content, *lines])


class Renderer:
    """Writes records for one tokenizer, one set of behaviors and one answer format.

    Args:
      tokenizer: a Hugging Face tokenizer, extended by the tokens of `behaviors`.
      behaviors: with the heads of answers.
      answer_format: `letter`, or `text` for the option's own words.
      behavior_weight: loss weight of a head, spread over its tokens; every other answer token has weight 1.
      loss_on: `answer`, or `turns` for the same weights on the assistant's earlier turns and their ends.

    Attributes:
      control_tokens: what counts in a rendered prompt and is ordinary text in a message.
      stop_id: the template's end of turn.
      stem_ids: ids of `Answer:` as it begins an answer.
      on_turns: whether earlier turns count.

    Raises UserError for a tokenizer without template, a template whose prompt is not the beginning
    of the whole conversation, and one that does not end a turn with a token of its own.
    """

    def __init__(
        self,
        tokenizer,
        behaviors: BehaviorSet,
        *,
        answer_format: str = 'letter',
        behavior_weight: float = 1.0,
        loss_on: str = 'answer',
    ):
        self.tokenizer, self.behaviors = tokenizer, behaviors
        self._letters, self._behavior_weight = answer_format == 'letter', behavior_weight
        self.on_turns = loss_on == 'turns'
        if not tokenizer.chat_template:
            raise UserError(
                'the tokenizer has no chat template', fix='give one with --config.data.chat_template=FILE'
            )
        self.control_tokens = control_tokens(tokenizer)
        self._control = any_of(self.control_tokens)
        self._examine_template()
        self._stem = self._lead + STEM
        self.stem_ids = self._encode([self._stem])[0]

    def _template(self, messages: list[dict[str, str]], *, prompt: bool, of: Record | None = None) -> str:
        try:
            how = {'chat_template': undated(self.tokenizer.get_chat_template()), 'tokenize': False}
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, **how)
        except Exception as error:  # a template may raise whatever it likes
            where = f'chat template: {label_of(of)}' if of else 'chat template'
            raise UserError(f'the chat template fails ({error})', where=where) from error

    def _examine_template(self) -> None:
        user = {'role': 'user', 'content': 'q'}
        named = self._template([user | {'name': _PROBE}], prompt=True)
        self._template_names_speakers = _PROBE in named
        prompt, answer = self._template([user], prompt=True), {'role': 'assistant', 'content': f' {_PROBE} '}
        whole = self._template([user, answer], prompt=False)
        self._trims = f' {_PROBE} ' not in whole
        if not self._trims:
            whole = whole.replace(f' {_PROBE} ', _PROBE)
        if not whole.startswith(prompt):
            raise UserError('its prompt does not begin the whole conversation', where='chat template')
        before, written, rest = whole.rpartition(_PROBE)
        after = self._control.match(rest)
        if not written or after is None:
            raise UserError('it does not end a turn with a token of its own', where='chat template')
        self.stop_id = self.tokenizer.convert_tokens_to_ids(after[0])
        self._lead = self._space_before_answers(prompt, before[len(prompt) :])

    def _space_before_answers(self, prompt: str, lead: str) -> str:
        """The space that a template (Mistral) puts before an answer, unless the tokenizer does so itself."""
        if not lead.isspace():
            return ''
        first, second, whole = self._encode([prompt, STEM, prompt + lead + STEM])
        return '' if first + second == whole else lead

    def _spoken(self, content: str) -> str:
        """An answer as the template writes it."""
        return content.strip() if self._trims else content

    @functools.cached_property
    def _needs_alternation(self) -> bool:
        """Whether the template refuses two turns of users in a row (Gemma, Mistral)."""
        try:
            self._template([{'role': 'user', 'content': 'q'}] * 2, prompt=True)
        except UserError:
            return True
        return False

    def _alternating(self, record: Record) -> Record:
        """The record with turns of users in a row as one, each part said by its speaker."""
        messages: list[Message] = []
        for role, group in itertools.groupby(record.messages, key=lambda message: message.role):
            turns = list(group)
            if role == 'user' and len(turns) > 1:
                said = (f'{m.name}: {m.content}' if m.name else m.content for m in turns)
                turns = [Message('user', '\n\n'.join(said))]
            messages += turns
        return dataclasses.replace(record, messages=tuple(messages))

    @functools.cached_property
    def writes_system_turns(self) -> bool:
        """Whether a system turn reaches the prompt; some templates drop or refuse it."""
        turns = [{'role': 'system', 'content': _PROBE}, {'role': 'user', 'content': 'q'}]
        try:
            return _PROBE in self._template(turns, prompt=True)
        except UserError:
            return False

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of rendered text, whose control tokens count."""
        batch = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    @functools.cached_property
    def _plain(self):
        """The tokenizer without any added token: control tokens are ordinary text to it."""
        from tokenizers import Tokenizer

        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        return Tokenizer.from_str(json.dumps(state | {'added_tokens': [], 'post_processor': None}))

    def _encode_content(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts from a record, in which a control token is ordinary text."""
        return [
            self._plain.encode(text, add_special_tokens=False).ids if self._control.search(text) else ids
            for text, ids in zip(texts, self._encode(texts), strict=True)
        ]

    def _turns(self, record: Record) -> tuple[list[dict[str, str]], dict[str, str]]:
        """The turns of the prompt; private-use characters in them stand for control tokens in the content."""
        messages = [*record.messages]
        if messages and not record.options and messages[-1].role == 'assistant':
            messages.pop()
        if not messages:
            raise UserError(f'{label_of(record)} has nothing to answer')
        if any(message.role == 'system' for message in messages) and not self.writes_system_turns:
            raise UserError(
                f'{label_of(record)} has a system turn, which the chat template drops or refuses',
                where='chat template',
                fix='move it into the first user turn, or give another template',
            )
        contents = [self._content(message) for message in messages]
        if record.options:
            last = max((i for i, m in enumerate(messages) if m.role == 'user'), default=None)
            if last is None:
                raise UserError(f'{label_of(record)} has options but no user turn')
            contents[last] = list_options(contents[last], record.options)
        names = [message.name for message in messages]
        everything = '\0'.join(contents + names)
        hostile = sorted(set(self._control.findall(everything)))
        unused = (c for c in map(chr, range(0xE000, 0xF900)) if c not in everything)
        marks = dict(zip(hostile, unused, strict=False))
        if marks:
            contents = [self._control.sub(lambda m: marks[m[0]], content) for content in contents]
            names = [self._control.sub(lambda m: marks[m[0]], name) for name in names]
        turns = [
            {'role': message.role, 'content': content, **({'name': name} if name else {})}
            for message, content, name in zip(messages, contents, names, strict=True)
        ]
        return turns, {mark: token for token, mark in marks.items()}

    def _content(self, message: Message) -> str:
        if message.name and not self._template_names_speakers:
            return f'{message.name}: {message.content}'
        return message.content

    def _marked_ids(self, text: str, tokens: dict[str, str]) -> list[int]:
        """Ids of a prompt whose messages hold control tokens: the template's count, theirs are text."""
        ids, end, unmark = [], 0, str.maketrans(tokens)
        for match in [*self._control.finditer(text), None]:
            part = text[end : match.start() if match else len(text)].translate(unmark)
            if part:
                ids += self._plain.encode(part, add_special_tokens=False).ids
            if match:
                ids.append(self.tokenizer.convert_tokens_to_ids(match[0]))
                end = match.end()
        return ids

    def prompt_ids_of(self, records: Sequence[Record]) -> list[list[int]]:
        """Ids of each record's prompt, up to where the answer begins.

        Content of messages is ordinary text even where it spells a control token.
        """
        return [prompt.ids.tolist() for prompt in self._prompts(records)]

    def prompt_ids(self, record: Record) -> list[int]:
        """`prompt_ids_of` for one record."""
        return self.prompt_ids_of([record])[0]

    def _prompts(self, records: Sequence[Record]) -> Iterator[Example]:
        """Each prompt with its loss weights, which earlier answers have under `loss_on='turns'`.

        Those, and those that have a behavior, are encoded apart, as the last answer is, so that no
        token spans their boundaries.
        """
        prompts = [self._pieces(record) for record in records]
        encoded = iter(self._encode([text for pieces, _ in prompts for text, _, _ in pieces]))
        for pieces, tokens in prompts:
            parts = []
            for text, behavior, weight in pieces:
                ids = next(encoded)
                ids = self._marked_ids(text, tokens) if tokens else ids
                parts.append(self._headed(behavior, ids, weight))
            yield Example(
                np.concatenate([part.ids for part in parts]),
                np.concatenate([part.weights for part in parts]),
                sum(part.reserved for part in parts),
            )

    def _headed(self, behavior: str, ids: list[int], weight: float = 1.0) -> Example:
        """Ids behind the head of their behavior; `weight` 0 is without loss, 1 with it."""
        head = self.behaviors.head(behavior) if behavior else ()
        share = np.float32(self._behavior_weight / len(head)) if head else 0
        weights = np.repeat(np.float32([share * weight, weight]), [len(head), len(ids)])
        reserved = self.behaviors.longest - len(head) if behavior else 0
        return Example(np.asarray([*head, *ids], np.int32), weights, reserved)

    def _pieces(self, record: Record) -> tuple[list[tuple[str, str, float]], dict[str, str]]:
        """The rendered prompt cut at the bounds of the assistant's turns: text, behavior and weight of each.

        The control tokens that private-use characters stand for come with it, as from `_turns`.
        """
        if self._needs_alternation:
            record = self._alternating(record)
        turns, tokens = self._turns(record)
        whole, pieces, at = self._template(turns, prompt=True, of=record), [], 0
        for number in earlier_answers(record):
            behavior = record.messages[number].behavior
            if not (self.on_turns or behavior):
                continue
            stop = self.tokenizer.convert_ids_to_tokens(self.stop_id)
            answer = self._lead + self._spoken(turns[number]['content']) + stop
            before = whole.partition(answer)[0]  # as no template renders an empty conversation
            before = self._template(turns[:number], prompt=True, of=record) if number else before
            if not (whole.startswith(before) and whole.startswith(answer, len(before))):
                raise UserError(
                    f'{label_of(record)}: it changes an earlier turn of the assistant',
                    where='chat template',
                    fix='use --config.data.loss_on=answer and no behavior on earlier turns',
                )
            pieces += [(whole[at : len(before)], '', 0.0), (answer, behavior, float(self.on_turns))]
            at = len(before) + len(answer)
        return [*pieces, (whole[at:], '', 0.0)], tokens

    def _option_text(self, record: Record, option: int) -> str:
        """` X.` as it stands behind the stem."""
        if self._letters:
            return f' {string.ascii_uppercase[option]}.'
        return f' {option_words(record.options[option])}.'

    def _apart(self, first: list[int], joint: list[int], rest: str) -> list[int]:
        """Ids of `rest` behind `first`: from the joint encoding, or encoded apart where tokens merge."""
        if joint[: len(first)] == first:
            return joint[len(first) :]
        return self._encode_content([rest])[0]

    def option_ids(self, record: Record) -> list[list[int]]:
        """Ids of each option behind `stem_ids`, up to and including the `.`; what training sees there."""
        rests = [self._option_text(record, option) for option in range(len(record.options))]
        joints = self._encode_content([self._stem + rest for rest in rests])
        return [self._apart(self.stem_ids, joint, rest) for joint, rest in zip(joints, rests, strict=True)]

    def examples(self, records: Sequence[Record]) -> list[Example]:
        """Documents to train on, one per record; raises UserError for a record without an answer."""
        prompts = self._prompts([r for r in records if not r.text])
        tails = [self._tail(record) for record in records]
        rests = [self._option_text(r, r.answer) if r.options else '' for r in records]
        heads = self._encode_content([self._stem + rest for rest in rests])
        begins = [
            self._stem + a if a else '' if r.text else self._lead for a, r in zip(rests, records, strict=True)
        ]
        wholes = self._encode_content([a + b for a, b in zip(begins, tails, strict=True)])
        result = []
        for record, rest, tail, head, whole in zip(records, rests, tails, heads, wholes, strict=True):
            if record.text:
                result.append(self._text_example(whole))
                continue
            answer = whole
            if rest:
                answer = self.stem_ids + self._apart(self.stem_ids, head, rest)
                answer = answer + (self._apart(answer, whole, tail) if tail else [])
            result.append(_joined(next(prompts), self._headed(behavior_of(record), [*answer, self.stop_id])))
        return result

    def example(self, record: Record) -> Example:
        """`examples` for one record."""
        return self.examples([record])[0]

    def answer_text(self, record: Record) -> str:
        """The answer in words, without behavior token; raises UserError for a record without one."""
        tail = self._tail(record)
        return STEM + self._option_text(record, record.answer) + tail if record.options else tail

    def _tail(self, record: Record) -> str:
        """What follows the `.` of the option; for other records the whole text or answer."""
        if record.text:
            return record.text
        if record.options:
            if record.answer is None:
                raise UserError(f'{label_of(record)} has options but no answer to train on')
            return f' {record.rationale}' if record.rationale else ''
        if record.messages[-1].role != 'assistant':
            raise UserError(f'{label_of(record)} has no answer to train on')
        return self._spoken(record.messages[-1].content)

    def _text_example(self, ids: list[int]) -> Example:
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        ids = [*start, *ids, self.stop_id]
        return Example(np.asarray(ids, np.int32), np.ones(len(ids), np.float32))


def _joined(prompt: Example, answer: Example) -> Example:
    return Example(
        np.concatenate([prompt.ids, answer.ids]),
        np.concatenate([prompt.weights, answer.weights]),
        prompt.reserved + answer.reserved,
    )


def render_examples(
    renderer: Renderer,
    records: Sequence[Record],
    sequence_length: int,
    drop_long: float,
    truncate: bool = False,
) -> tuple[ExampleStore, str]:
    """Examples of at most `sequence_length` tokens, and one line about what was left out.

    A longer record is left out whole; with `truncate` it first loses its oldest turns, as
    `truncation.shortened` says.

    Raises UserError when more than the share `drop_long` is longer, or nothing is left to train on.
    """
    kept, longest, cut, turns = [], 0, 0, 0
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        for record, example in zip(chunk, renderer.examples(chunk), strict=True):
            longest = max(longest, example.length)
            if example.length <= sequence_length:
                kept.append(example)
            elif truncate and (found := truncation.shortened(record, renderer.example, sequence_length)):
                kept.append(found[0])
                cut, turns = cut + 1, turns + found[1]
    dropped = len(records) - len(kept)
    report = (
        f'{dropped} of {len(records)} records are longer than {sequence_length} tokens, '
        f'the longest has {longest}'
    )
    if truncate:
        report += f'; {cut} more lost {turns} of their oldest turns to fit'
    if dropped > drop_long * len(records):
        raise UserError(report, where=f'--config.data.drop_long={drop_long}', fix=_FLAG_LONG)
    if not any(example.weights[1:].any() for example in kept):
        raise UserError('no trainable token: no answer is left to train on', where='--config.data.source')
    return ExampleStore.from_examples(kept), report
