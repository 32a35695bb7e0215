"""Chat templates: finds out how a tokenizer's template writes conversations, and renders them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from bsft_jax.data import template_sandbox
from bsft_jax.data.tokenizer import Marks, TextEncoder, freeze_dates, unused_marks
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record, describe_record

# Stands for a message or a name while a template is examined.
_PROBE = 'x9q7'
# Templates that open thoughts in their prompt close them there if this is asked of them.
_PROMPT_VARIABLES = ({}, {'enable_thinking': False})
_OTHER_TEMPLATE = 'give another template with --config.data.chat_template=FILE'
_WHITE_SPACE = re.compile(r'\s*')

Turn = dict[str, str]


class Conversation(NamedTuple):
    """Holds a rendered conversation.

    Attributes:
      text: what the template writes, through the end of the answer if there is one.
      marks: stand for the control tokens that messages spell.
      spans: where each of the assistant's turns that were asked for begins and ends in `text`, in
        order. A turn ends behind its end token, and begins with the space that Mistral writes.
    """

    text: str
    marks: Marks
    spans: list[tuple[int, int]]


class ChatTemplate:
    """Renders conversations as text with the chat template of a tokenizer.

    A prompt is what the template writes before an answer in the whole conversation. That is its
    generation prompt, followed by whatever it puts between the two, such as empty thoughts.

    Args:
      tokenizer: a Hugging Face tokenizer.
      encoder: encodes text with that tokenizer.
      sample_answer: how answers begin; shows whether the tokenizer joins them with the prompt.

    Attributes:
      stop_token: the token with which the template ends a turn.
      stop_id: the id of `stop_token`.
      sample_prompt: a prompt.
      answer_separator: the space that the template writes before an answer (Mistral); usually ''.
      joins_answers: whether the tokenizer joins the end of a prompt, such as a space, with the
        first word of an answer. Such a template can be scored but not trained with.

    Raises UserError for a tokenizer without a template, for a template whose prompt is not the
    beginning of the whole conversation, and for one that does not end a turn with a control token.
    """

    def __init__(self, tokenizer: Any, encoder: TextEncoder, sample_answer: str):
        self.tokenizer, self._encoder = tokenizer, encoder
        if not tokenizer.chat_template:
            raise UserError(
                'the tokenizer has no chat template',
                fix='give one with --config.data.chat_template=FILE',
            )
        self._source = freeze_dates(tokenizer.get_chat_template())
        self._variables = dict(tokenizer.special_tokens_map)
        self._examine(sample_answer)

    def _examine(self, sample_answer: str) -> None:
        """Finds out what the template does with names, answers and the ends of turns."""
        user = {'role': 'user', 'content': 'q'}
        answer = {'role': 'assistant', 'content': _PROBE}
        conversation = self.render([user, answer], prompt=False)
        before, probe, self._after = conversation.rpartition(_PROBE)
        if not probe:
            raise _refusal('it does not write the answer')

        # Where several ways to ask for a prompt fit, the one after which the answer follows.
        fitting = []
        for self._prompt_variables in _PROMPT_VARIABLES:
            prompt = self.render([user], prompt=True)
            if before.startswith(prompt):
                fitting.append((bool(before[len(prompt) :].strip()), self._prompt_variables))
        if not fitting:
            raise _refusal('its prompt does not begin the whole conversation')
        self._prompt_variables = min(fitting, key=lambda way: way[0])[1]
        prompt = self.render([user], prompt=True)

        named = self.render([user | {'name': _PROBE}], prompt=True)
        self._writes_names = _PROBE in named
        self._find_stop()
        separator = self._separator(before, len(prompt), sample_answer)
        self.joins_answers, self.answer_separator = separator is None, separator or ''
        self.sample_prompt = before.removesuffix(self.answer_separator)
        self._lead = self.sample_prompt[len(prompt) :]

    def _find_stop(self) -> None:
        """Finds the token that ends a turn, the last of those that directly follow each other."""
        first = self._encoder.control_pattern.search(self._after)
        if first is None:
            raise _refusal('it does not end a turn with a token of its own')
        stop = first
        while following := self._encoder.control_pattern.match(self._after, stop.end()):
            stop = following
        self.stop_token, self._ending = stop[0], self._after[: stop.end()]
        self.stop_id = self.tokenizer.convert_tokens_to_ids(self.stop_token)

    def _separator(self, before: str, prompt_size: int, sample_answer: str) -> str | None:
        """Returns the spaces before answers, which tokenizers join with their first word.

        Line breaks stay in the prompt, where servers write them. Returns None if a token spans the
        end of the prompt whatever is counted to it.
        """
        text = before + sample_answer
        ids = self._encoder.encode([text])[0]
        for start in range(max(prompt_size, len(before.rstrip(' '))), len(before) + 1):
            if self._encoder.split(text, ids, [start]):
                return before[start:]
        return None

    @functools.cached_property
    def writes_system_turns(self) -> bool:
        """Returns whether a system turn reaches the prompt; some templates drop or refuse it."""
        turns = [{'role': 'system', 'content': _PROBE}, {'role': 'user', 'content': 'q'}]
        try:
            return _PROBE in self.render(turns, prompt=True)
        except UserError:
            return False

    @functools.cached_property
    def needs_alternation(self) -> bool:
        """Returns whether the template refuses consecutive user turns (Gemma, Mistral)."""
        try:
            self.render([{'role': 'user', 'content': 'q'}] * 2, prompt=True)
        except UserError:
            return True
        return False

    def render(self, turns: Sequence[Turn], *, prompt: bool, record: Record | None = None) -> str:
        """Renders turns as text.

        Args:
          turns: dicts with `role`, `content` and, optionally, `name`.
          prompt: whether the text ends where the assistant's next turn begins.
          record: named by the error, if given.

        Raises UserError if the template fails, or does not end.
        """
        variables = self._variables | (self._prompt_variables if prompt else {})
        try:
            return template_sandbox.render(
                self._source, turns, add_generation_prompt=prompt, **variables
            )
        # A template may raise anything.
        except Exception as error:
            where = f'chat template: {describe_record(record)}' if record else 'chat template'
            what = str(error) or type(error).__name__
            raise UserError(
                f'the chat template fails ({what})', where=where, fix=_OTHER_TEMPLATE
            ) from error

    def merge_user_turns(self, record: Record) -> Record:
        """Returns the record with consecutive user turns merged, if the template needs that.

        In a merged turn each part begins with the name of its speaker.
        """
        if not self.needs_alternation:
            return record
        messages: list[Message] = []
        for role, group in itertools.groupby(record.messages, key=lambda message: message.role):
            turns = list(group)
            if role == 'user' and len(turns) > 1:
                contents = (f'{m.name}: {m.content}' if m.name else m.content for m in turns)
                turns = [Message('user', '\n\n'.join(contents))]
            messages += turns
        return dataclasses.replace(record, messages=tuple(messages))

    def write(
        self,
        messages: Sequence[Message],
        indices: Sequence[int],
        *,
        answered: bool,
        record: Record | None = None,
    ) -> Conversation:
        """Renders messages, and finds some of the assistant's turns in the text.

        Args:
          messages: the messages.
          indices: which turns of the assistant are looked for, besides the answer.
          answered: whether the last message is the answer; otherwise a prompt follows.
          record: named by errors, if given.

        Raises UserError for a template that fails, or writes these messages otherwise than it
        wrote those with which it was examined.
        """
        turns, marks = self._turns(messages)
        asked = turns[:-1] if answered else turns
        text = prompt = self.render(asked, prompt=True, record=record) + self._lead
        spans = self._find_turns(asked, indices, text, record) if indices else []
        if answered:
            text = self.render(turns, prompt=False, record=record)
            begin = len(prompt) + len(self.answer_separator)
            said = text[begin : len(text) - len(self._after)]
            if not (
                text.startswith(prompt + self.answer_separator)
                and text.endswith(self._after)
                and said.strip() == turns[-1]['content'].strip()
            ):
                raise _refusal('it changes the answer, or what stands before it', record=record)
            text = text[: len(text) - len(self._after) + len(self._ending)]
            spans.append((len(prompt), len(text)))
        return Conversation(text, marks, spans)

    def _find_turns(
        self, turns: Sequence[Turn], indices: Sequence[int], text: str, record: Record | None
    ) -> list[tuple[int, int]]:
        """Returns where turns of the assistant stand in a prompt.

        The prompt is rendered a second time with marks in their place. All that stands around the
        marks must stand around the turns, which may have lost white space at their ends.
        """
        marks = unused_marks([text, self._source], len(indices))
        marked = list(turns)
        for index, mark in zip(indices, marks, strict=True):
            marked[index] = marked[index] | {'content': mark}
        rest = self.render(marked, prompt=True, record=record) + self._lead
        spans, end = [], 0
        for index, mark in zip(indices, marks, strict=True):
            before, found, rest = rest.partition(mark)
            said, start = turns[index]['content'].strip(), end + len(before)
            begin = _WHITE_SPACE.match(text, start).end()
            if not (found and text.startswith(before, end) and text.startswith(said, begin)):
                raise _changed_turn(record)
            start -= len(self.answer_separator) * before.endswith(self.answer_separator)
            end = _WHITE_SPACE.match(text, begin + len(said)).end()
            rest, ending = rest.lstrip(), self._ending.lstrip()
            stop = self._encoder.control_pattern.match(text, end)
            if not (text.startswith(ending, end) or stop):
                raise _changed_turn(record)
            length = len(ending) if text.startswith(ending, end) else len(stop[0])
            spans.append((start, end + length))
        if text[end:] != rest:
            raise _changed_turn(record)
        return spans

    def _turns(self, messages: Sequence[Message]) -> tuple[list[Turn], Marks]:
        """Returns messages as the template takes them, with marks for spelled control tokens.

        So what the template writes can be told from what a message spells.
        """
        contents = [self._content(message) for message in messages]
        names = [message.name for message in messages]
        texts, marks = self._encoder.mark([*contents, *names], self._source)
        turns = [
            {'role': message.role, 'content': content, **({'name': name} if name else {})}
            for message, content, name in zip(
                messages, texts[: len(messages)], texts[len(messages) :], strict=True
            )
        ]
        return turns, marks

    def _content(self, message: Message) -> str:
        """Returns the content, which begins with the speaker if the template ignores names."""
        if message.name and not self._writes_names:
            return f'{message.name}: {message.content}'
        return message.content


def _refusal(message: str, fix: str = _OTHER_TEMPLATE, record: Record | None = None) -> UserError:
    """Returns the error for a template that cannot be trained with."""
    where = f'chat template: {describe_record(record)}' if record else 'chat template'
    return UserError(message, where=where, fix=fix)


def _changed_turn(record: Record | None) -> UserError:
    return _refusal(
        'it changes an earlier turn of the assistant',
        'use --config.data.train_on=answer and no behavior on earlier turns, or ' + _OTHER_TEMPLATE,
        record,
    )
