"""Chat templates: finds out how a tokenizer's template writes conversations, and renders them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

from bsft_jax.data.tokenizer import TextEncoder, freeze_dates
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record, describe_record

# Stands for a message or a name while a template is examined.
_PROBE = 'x9q7'
# Unicode's private-use area: no template writes or interprets these characters.
_PRIVATE_USE = range(0xE000, 0xF900)

Turn = dict[str, str]


class ChatTemplate:
    """Renders conversations as text with the chat template of a tokenizer.

    Args:
      tokenizer: a Hugging Face tokenizer.
      encoder: encodes text with that tokenizer.
      sample_answer: how answers begin; shows whether the tokenizer writes a space before them.

    Attributes:
      stop_token: the token with which the template ends a turn.
      stop_id: the id of `stop_token`.
      answer_separator: the space that the template writes before an answer (Mistral); usually ''.

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
        self._examine(sample_answer)

    def _examine(self, sample_answer: str) -> None:
        """Finds out what the template does with names, answers and the ends of turns."""
        user = {'role': 'user', 'content': 'q'}
        self._writes_names = _PROBE in self.render([user | {'name': _PROBE}], prompt=True)

        prompt = self.render([user], prompt=True)
        answer = {'role': 'assistant', 'content': f' {_PROBE} '}
        conversation = self.render([user, answer], prompt=False)
        self._strips_answers = f' {_PROBE} ' not in conversation
        if not self._strips_answers:
            conversation = conversation.replace(f' {_PROBE} ', _PROBE)
        if not conversation.startswith(prompt):
            raise UserError(
                'its prompt does not begin the whole conversation', where='chat template'
            )

        before, probe, after = conversation.rpartition(_PROBE)
        stop = self._encoder.control_pattern.match(after)
        if not probe or stop is None:
            raise UserError('it does not end a turn with a token of its own', where='chat template')
        self.stop_token = stop[0]
        self.stop_id = self.tokenizer.convert_tokens_to_ids(self.stop_token)

        # The space between prompt and answer, unless the tokenizer writes it by itself.
        between = before[len(prompt) :]
        self.answer_separator = between if between.isspace() else ''
        if self.answer_separator:
            prompt_ids, answer_ids, joint_ids = self._encoder.encode(
                [prompt, sample_answer, prompt + between + sample_answer]
            )
            if prompt_ids + answer_ids == joint_ids:
                self.answer_separator = ''

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

        Raises UserError if the template fails.
        """
        try:
            return self.tokenizer.apply_chat_template(
                turns,
                add_generation_prompt=prompt,
                chat_template=freeze_dates(self.tokenizer.get_chat_template()),
                tokenize=False,
            )
        # A template may raise anything.
        except Exception as error:
            where = f'chat template: {describe_record(record)}' if record else 'chat template'
            raise UserError(f'the chat template fails ({error})', where=where) from error

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

    def turns_of(self, messages: Sequence[Message]) -> tuple[list[Turn], dict[str, str]]:
        """Returns the turns of messages, and the control tokens that their texts spell.

        A control token inside a message is replaced by a private-use character that occurs in no
        message. So what the template writes can be told from what a message spells.

        Returns:
          The turns, and a dict from each private-use character to the control token it stands for.
        """
        contents = [self._content(message) for message in messages]
        names = [message.name for message in messages]
        text = '\0'.join(contents + names)
        spelled = sorted(set(self._encoder.control_pattern.findall(text)))
        unused = (character for character in map(chr, _PRIVATE_USE) if character not in text)
        characters = dict(zip(spelled, unused, strict=False))
        if characters:
            contents, names = (
                [self._encoder.control_pattern.sub(lambda m: characters[m[0]], t) for t in texts]
                for texts in (contents, names)
            )
        turns = [
            {'role': message.role, 'content': content, **({'name': name} if name else {})}
            for message, content, name in zip(messages, contents, names, strict=True)
        ]
        return turns, {character: token for token, character in characters.items()}

    def _content(self, message: Message) -> str:
        """Returns the content, which begins with the speaker if the template ignores names."""
        if message.name and not self._writes_names:
            return f'{message.name}: {message.content}'
        return message.content

    def strip_answer(self, content: str) -> str:
        """Returns the content of an answer, stripped if the template strips it."""
        return content.strip() if self._strips_answers else content

    def complete_answer(self, content: str) -> str:
        """Returns the text of a whole assistant turn, from its separator through its stop token."""
        return self.answer_separator + self.strip_answer(content) + self.stop_token
