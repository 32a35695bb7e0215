"""Rendering: records → token ids with loss weights, and the pieces that scoring needs.

The chat template renders the messages; options follow the last user turn as `A. …` lines; the
answer is `head + "Answer: " + X + ". " + rationale + end of turn`, the head a behavior token or words
(`BehaviorSet`). Prompt, head and answer are encoded apart and joined, so that no token spans a boundary.
"""

from __future__ import annotations

import functools
import json
import re
import string
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bsft_jax.behaviorbench.records import Message, Record, behavior_of
from bsft_jax.behaviors import NEUTRAL, Behavior, BehaviorSet
from bsft_jax.data.examples import Example, ExampleStore
from bsft_jax.errors import UserError

STEM = 'Answer:'
_PROBE = 'x9q7'  # stands for a message while a template is examined
_CHUNK = 4096
_FLAG_LONG = 'raise --config.data.sequence_length, or --config.data.drop_long to leave them out'


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    return re.compile('|'.join(map(re.escape, sorted(tokens, key=len, reverse=True))) or '(?!)')


def _label(record: Record) -> str:
    """How an error names a record: by its id, or by its first words."""
    if record.id:
        return f'record {record.id!r}'
    words = record.text or ''.join(message.content for message in record.messages[:1])
    return f'the record that begins {words[:40]!r}'


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
      loss_on: `answer`, or `turns` for weight 1 on the assistant's earlier turns and their ends, too.

    Attributes:
      stop_id: the template's end of turn.
      stem_ids: ids of `Answer:`.

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
        self._on_turns = loss_on == 'turns'
        if not tokenizer.chat_template:
            raise UserError(
                'the tokenizer has no chat template', fix='give one with --config.data.chat_template=FILE'
            )
        self._control = _any_of(token.content for token in tokenizer.added_tokens_decoder.values())
        self.stem_ids = self._encode([STEM])[0]
        self._examine_template()

    def _template(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except Exception as error:  # a template may raise whatever it likes
            raise UserError(f'the chat template fails ({error})', where='chat template') from error

    def _examine_template(self) -> None:
        user = {'role': 'user', 'content': 'q'}
        named = self._template([user | {'name': _PROBE}], prompt=True)
        self._template_names_speakers = _PROBE in named
        prompt = self._template([user], prompt=True)
        whole = self._template([user, {'role': 'assistant', 'content': _PROBE}], prompt=False)
        if not whole.startswith(prompt):
            raise UserError('its prompt does not begin the whole conversation', where='chat template')
        _, written, rest = whole.rpartition(_PROBE)
        after = self._control.match(rest)
        if not written or after is None:
            raise UserError('it does not end a turn with a token of its own', where='chat template')
        self.stop_id = self.tokenizer.convert_tokens_to_ids(after[0])

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
            raise UserError(f'{_label(record)} has nothing to answer')
        if any(message.role == 'system' for message in messages) and not self.writes_system_turns:
            raise UserError(
                f'{_label(record)} has a system turn, which the chat template drops or refuses',
                where='chat template',
                fix='move it into the first user turn, or give another template',
            )
        contents = [self._content(message) for message in messages]
        if record.options:
            last = max((i for i, m in enumerate(messages) if m.role == 'user'), default=None)
            if last is None:
                raise UserError(f'{_label(record)} has options but no user turn')
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
        prompts = [self._turns(record) for record in records]
        texts = [self._template(turns, prompt=True) for turns, _ in prompts]
        encoded = self._encode(texts)
        return [
            self._marked_ids(text, tokens) if tokens else ids
            for text, (_, tokens), ids in zip(texts, prompts, encoded, strict=True)
        ]

    def prompt_ids(self, record: Record) -> list[int]:
        """`prompt_ids_of` for one record."""
        return self.prompt_ids_of([record])[0]

    def _weighted_prompts(self, records: Sequence[Record]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Ids and loss weights of each prompt; earlier answers count under `loss_on='turns'`.

        Those are encoded apart, as the last answer is, so that no token spans their boundaries.
        """
        if not self._on_turns:
            for ids in self.prompt_ids_of(records):
                yield ids, np.zeros(len(ids), np.float32)
            return
        prompts = [self._pieces(record) for record in records]
        encoded = iter(self._encode([text for pieces, _ in prompts for text, _ in pieces]))
        for pieces, tokens in prompts:
            parts = [(next(encoded), weight) for _, weight in pieces]
            if tokens:
                parts = [(self._marked_ids(text, tokens), weight) for text, weight in pieces]
            yield (
                [i for ids, _ in parts for i in ids],
                np.concatenate([np.full(len(ids), weight, np.float32) for ids, weight in parts]),
            )

    def _pieces(self, record: Record) -> tuple[list[tuple[str, float]], dict[str, str]]:
        """The rendered prompt cut at the bounds of the assistant's turns, each piece with its weight.

        The control tokens that private-use characters stand for come with it, as from `_turns`.
        """
        turns, tokens = self._turns(record)
        whole, pieces, at = self._template(turns, prompt=True), [], 0
        for number, turn in enumerate(turns):
            if turn['role'] != 'assistant':
                continue
            before = self._template(turns[:number], prompt=True)
            answer = turn['content'] + self.tokenizer.convert_ids_to_tokens(self.stop_id)
            if not (whole.startswith(before) and whole.startswith(answer, len(before))):
                raise UserError(
                    f'{_label(record)}: it changes an earlier turn of the assistant',
                    where='chat template',
                    fix='use --config.data.loss_on=answer',
                )
            pieces += [(whole[at : len(before)], 0.0), (answer, 1.0)]
            at = len(before) + len(answer)
        return [*pieces, (whole[at:], 0.0)], tokens

    def _option_text(self, record: Record, option: int) -> str:
        """` X.` as it stands behind the stem."""
        if self._letters:
            return f' {string.ascii_uppercase[option]}.'
        return f' {record.options[option].strip().removesuffix(".")}.'

    def _apart(self, first: list[int], joint: list[int], rest: str) -> list[int]:
        """Ids of `rest` behind `first`: from the joint encoding, or encoded apart where tokens merge."""
        if joint[: len(first)] == first:
            return joint[len(first) :]
        return self._encode_content([rest])[0]

    def option_ids(self, record: Record) -> list[list[int]]:
        """Ids of each option behind `stem_ids`, up to and including the `.`; what training sees there."""
        rests = [self._option_text(record, option) for option in range(len(record.options))]
        joints = self._encode_content([STEM + rest for rest in rests])
        return [self._apart(self.stem_ids, joint, rest) for joint, rest in zip(joints, rests, strict=True)]

    def examples(self, records: Sequence[Record]) -> list[Example]:
        """Documents to train on, one per record; raises UserError for a record without an answer."""
        prompts = self._weighted_prompts([r for r in records if not r.text])
        tails = [self._tail(record) for record in records]
        rests = [self._option_text(r, r.answer) if r.options else '' for r in records]
        heads = self._encode_content([STEM + rest for rest in rests])
        wholes = self._encode_content([STEM + a + b if a else b for a, b in zip(rests, tails, strict=True)])
        result = []
        for record, rest, tail, head, whole in zip(records, rests, tails, heads, wholes, strict=True):
            if record.text:
                result.append(self._text_example(whole))
                continue
            answer = whole
            if rest:
                answer = self.stem_ids + self._apart(self.stem_ids, head, rest)
                answer = answer + (self._apart(answer, whole, tail) if tail else [])
            result.append(self._answer_example(record, *next(prompts), answer))
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
                raise UserError(f'{_label(record)} has options but no answer to train on')
            return f' {record.rationale}' if record.rationale else ''
        if record.messages[-1].role != 'assistant':
            raise UserError(f'{_label(record)} has no answer to train on')
        return record.messages[-1].content

    def _answer_example(
        self, record: Record, prompt: list[int], prompt_weights: np.ndarray, answer: list[int]
    ) -> Example:
        behavior = behavior_of(record)
        head = self.behaviors.head(behavior) if behavior else ()
        ids, weights = [*answer, self.stop_id], np.ones(len(answer) + 1, np.float32)
        if head:
            ids = [*head, *ids]
            share = np.float32(self._behavior_weight / len(head))
            weights = np.concatenate([np.full(len(head), share), weights])
        weights = np.concatenate([prompt_weights, weights])
        reserved = self.behaviors.longest - len(head) if behavior else 0
        return Example(np.asarray(prompt + ids, np.int32), weights, reserved)

    def _text_example(self, ids: list[int]) -> Example:
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        ids = [*start, *ids, self.stop_id]
        return Example(np.asarray(ids, np.int32), np.ones(len(ids), np.float32))


def check_records(records: Iterable[Record], renderer: Renderer, behaviors: tuple[Behavior, ...]) -> None:
    """Raises UserError for a record that must not be trained on.

    That is one whose messages, options or rationale spell a behavior token or a control token of
    the tokenizer (nobody steers a model from inside a note), and one with an unknown behavior.
    Heads without any record that has a behavior are an error as well.
    """
    tokens = {token.content for token in renderer.tokenizer.added_tokens_decoder.values()}
    tokens |= {behavior.token for behavior in (*behaviors, NEUTRAL)}
    control = _any_of(tokens)
    names = {behavior.name for behavior in behaviors}
    labelled = False
    for record in records:
        labelled = labelled or bool(behavior_of(record))
        pieces = [*(m.content for m in record.messages), *(m.name for m in record.messages)]
        for piece in (*pieces, *record.options, record.rationale, record.text):
            if found := control.search(piece):
                raise UserError(
                    f'{_label(record)}: the token {found[0]} inside a message',
                    fix='remove it; behavior and control tokens are written by the renderer alone',
                )
        for name in {record.behavior, *(m.behavior for m in record.messages)} - {''}:
            if name not in names:
                raise UserError(
                    f'{_label(record)}: unknown behavior {name!r}',
                    fix=f'known: {", ".join(sorted(names))}',
                )
    if renderer.behaviors.heads and not labelled:
        raise UserError(
            'no trainable token: no record has a behavior',
            where='--config.data.source',
            fix='label the records or use --config.arm=general_sft',
        )


def render_examples(
    renderer: Renderer, records: Sequence[Record], sequence_length: int, drop_long: float
) -> tuple[ExampleStore, str]:
    """Examples of at most `sequence_length` tokens, and one line about what was left out.

    A longer record is left out whole, never cut.

    Raises UserError when more than the share `drop_long` is longer, or nothing is left to train on.
    """
    kept, longest = [], 0
    for start in range(0, len(records), _CHUNK):
        for example in renderer.examples(records[start : start + _CHUNK]):
            length = len(example.ids) + example.reserved
            longest = max(longest, length)
            if length <= sequence_length:
                kept.append(example)
    dropped = len(records) - len(kept)
    report = (
        f'{dropped} of {len(records)} records are longer than {sequence_length} tokens, '
        f'the longest has {longest}'
    )
    if dropped > drop_long * len(records):
        raise UserError(report, where=f'--config.data.drop_long={drop_long}', fix=_FLAG_LONG)
    if not any(example.weights[1:].any() for example in kept):
        raise UserError('no trainable token: no answer is left to train on', where='--config.data.source')
    return ExampleStore.from_examples(kept), report
