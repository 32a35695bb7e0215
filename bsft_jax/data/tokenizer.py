"""Hugging Face tokenizers from a model directory, and encoding with or without control tokens."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import os
import pathlib
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bsft_jax.errors import UserError

_CONTROL = re.compile(r'<\|.+\|>', re.DOTALL)
_MARKUP = re.compile(r'<\S+>|\[\S+\]')
# Unicode's private-use area: no template writes or interprets these characters.
_PRIVATE, _MARK_END = '\ue000', '\ue001'
# Texts before an answer whose ids are remembered; most records have the same.
_MAX_CONTEXTS = 256
_FROZEN_DATE = {
    '%d': '26',
    '%b': 'Jul',
    '%B': 'July',
    '%m': '07',
    '%Y': '2024',
    '%y': '24',
    '%A': 'Friday',
    '%a': 'Fri',
}


def template_texts(tokenizer: Any) -> list[str]:
    """Returns the texts of all chat templates of a tokenizer, the one in use first."""
    template = tokenizer.chat_template or ''
    if isinstance(template, str):
        return [template]
    return [template['default'], *(text for name, text in template.items() if name != 'default')]


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """Returns the added tokens that steer a model.

    Those are special tokens, `<|…|>`, and marks like `<start_of_turn>` that a chat template uses.
    Other added tokens are ordinary text with an id of its own, as Gemma's blank lines and
    HTML tags are.
    """
    template = '\n'.join(template_texts(tokenizer))
    return frozenset(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special
        or _CONTROL.fullmatch(token.content)
        or (_MARKUP.fullmatch(token.content) and token.content in template)
    )


def token_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Returns a pattern that finds any of the tokens, the longest first."""
    return re.compile('|'.join(map(re.escape, sorted(tokens, key=len, reverse=True))) or '(?!)')


def freeze_dates(template: str) -> str:
    """Returns a chat template for which today is always 26 July 2024.

    So what is trained, scored and cached does not change from day to day. Llama 3's own templates
    fall back to that date where they cannot ask for another; the templates of Llama 3.2 and of
    some Mistral models ask.
    """
    if 'strftime_now' not in template:
        return template
    replacements = ''.join(f".replace('{code}', '{part}')" for code, part in _FROZEN_DATE.items())
    macro = f'{{%- macro strftime_now(format) -%}}{{{{ format{replacements} }}}}{{%- endmacro -%}}'
    return macro + template


class Marks(NamedTuple):
    """Holds the marks that stand for control tokens which records spell.

    Attributes:
      pattern: finds any of the marks.
      tokens: mark → control token.
    """

    pattern: re.Pattern[str]
    tokens: dict[str, str]

    def restore(self, text: str) -> str:
        """Returns a text with the control tokens in place of their marks."""
        return self.pattern.sub(lambda match: self.tokens[match[0]], text)


def unused_marks(texts: Sequence[str], count: int) -> list[str]:
    """Returns texts that occur in none of `texts`, also where they touch.

    A mark begins with a longer run of one private-use character than any of them has.
    """
    runs = [0, *map(len, re.findall(f'{_PRIVATE}+', '\0'.join(texts)))]
    return [f'{_PRIVATE * (max(runs) + 1)}{number}{_MARK_END}' for number in range(count)]


class TextEncoder:
    """Encodes text in which control tokens count, and text in which they are ordinary characters.

    Args:
      tokenizer: a fast Hugging Face tokenizer.

    Attributes:
      control_tokens: as the function of that name returns them.
      control_pattern: finds any of them.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.control_tokens = control_tokens(tokenizer)
        self.control_pattern = token_pattern(self.control_tokens)
        self._token_of = {tokenizer.convert_tokens_to_ids(t): t for t in self.control_tokens}
        self._encode_context = functools.lru_cache(_MAX_CONTEXTS)(
            lambda text: self.encode([text])[0]
        )

    @functools.cached_property
    def _literal_tokenizer(self) -> Any:
        """Returns a copy of the tokenizer without added tokens: it has no control tokens."""
        from tokenizers import Tokenizer

        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # A Unigram model finds the tokens of its vocabulary by their text alone, so control tokens
        # are renamed to what no text can guess.
        if isinstance(vocabulary := state['model']['vocab'], list):
            for entry in vocabulary:
                if entry[0] in self.control_tokens:
                    entry[0] = secrets.token_hex(16)
        return Tokenizer.from_str(json.dumps(state | {'added_tokens': [], 'post_processor': None}))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of rendered texts, in which control tokens count."""
        batch = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def encode_content(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of texts from a record, in which a control token is ordinary text."""
        return [
            self._encode_literal(text) if self.control_pattern.search(text) else ids
            for text, ids in zip(texts, self.encode(texts), strict=True)
        ]

    def mark(self, texts: Sequence[str], *others: str) -> tuple[list[str], Marks | None]:
        """Puts marks in place of the control tokens that texts of a record spell.

        Args:
          texts: the texts.
          others: further texts in which no mark may occur.

        Returns:
          The texts, and their marks; None for texts without a control token.
        """
        spelled = sorted({token for t in texts for token in self.control_pattern.findall(t)})
        if not spelled:
            return list(texts), None
        marks = dict(zip(spelled, unused_marks([*texts, *others], len(spelled)), strict=True))
        marked = [self.control_pattern.sub(lambda match: marks[match[0]], text) for text in texts]
        tokens = {mark: token for token, mark in marks.items()}
        return marked, Marks(token_pattern(tokens), tokens)

    def encode_marked(self, text: str, marks: Marks) -> list[int]:
        """Returns the ids of a rendered text in which marks stand for ordinary text.

        The control tokens of the template count. What stands between two of them and has a mark is
        encoded without control tokens, and everything else as in a text without marks.
        """
        ids, start, context = [], 0, ''
        for match in [*self.control_pattern.finditer(text), None]:
            part = text[start : match.start() if match else len(text)]
            if marks.pattern.search(part):
                ids += self._encode_literal(marks.restore(part))
            elif part:
                # A tokenizer may treat the beginning of a text in another way.
                ids += self.encode([context + part])[0][bool(context) :]
            if match:
                ids.append(self.tokenizer.convert_tokens_to_ids(match[0]))
                start, context = match.end(), match[0]
        return ids

    def split(
        self, text: str, ids: list[int], cuts: Sequence[int], marks: Marks | None = None
    ) -> list[list[int]] | None:
        """Splits the ids of a rendered text where the text is cut.

        What a tokenizer makes of the text up to a cut, it makes of it in the whole text too, unless
        a token spans the cut. The last control token before the cut is far enough to look back.

        Args:
          text: the text.
          ids: its ids.
          cuts: ascending positions in the text.
          marks: as for `encode_marked`.

        Returns:
          The ids of each part, one more than there are cuts; None if a token spans a cut.
        """
        ends = [token.end() for token in self.control_pattern.finditer(text)]
        places = [place for place, i in enumerate(ids) if i in self._token_of]
        bounds = [0]
        for cut in cuts:
            # Counts the control tokens before the cut.
            number = bisect.bisect_right(ends, cut)
            start = place = 0
            if number and len(ends) == len(places):
                place = places[number - 1]
                start = ends[number - 1] - len(self._token_of[ids[place]])
            before = text[start:cut]
            expected = self.encode_marked(before, marks) if marks else self._encode_context(before)
            bounds.append(place + len(expected))
            if ids[place : bounds[-1]] != expected:
                return None
        return [ids[a:b] for a, b in itertools.pairwise([*bounds, len(ids)])]

    def _encode_one(self, text: str) -> list[int]:
        return self.encode([text])[0]

    def _encode_literal(self, text: str) -> list[int]:
        return self._literal_tokenizer.encode(text, add_special_tokens=False).ids


def load_tokenizer(directory: str | os.PathLike, chat_template: str = '') -> Any:
    """Loads the fast tokenizer of a model directory, exactly as its `tokenizer.json` says.

    Args:
      directory: with `tokenizer.json` and, usually, `tokenizer_config.json`.
      chat_template: a Jinja file that replaces the tokenizer's template; '' keeps it.

    Raises:
      UserError: the directory has no tokenizer, it has several chat templates and none of them is
        the default, or there is no such template file.
    """
    from transformers import PreTrainedTokenizerFast

    directory = pathlib.Path(directory)
    if not (directory / 'tokenizer.json').is_file():
        raise UserError('no tokenizer.json in this folder', where=str(directory))
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(directory))
    # `tokenizers` raises bare exceptions; `transformers` raises KeyError and others.
    except Exception as error:
        what = f'the tokenizer cannot be read ({type(error).__name__}: {error})'
        raise UserError(what, where=str(directory)) from error
    tokenizer.clean_up_tokenization_spaces = False
    # Some files store a length limit, which would silently cut texts.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if chat_template:
        path = pathlib.Path(chat_template)
        if not path.is_file():
            raise UserError('no such chat template', where=str(path))
        tokenizer.chat_template = path.read_text(encoding='utf-8')
    named = tokenizer.chat_template
    if isinstance(named, dict) and 'default' not in named:
        raise UserError(
            f'the tokenizer has the chat templates {", ".join(sorted(named))}, and no default',
            where=str(directory),
            fix='name a file with one by --config.data.chat_template or --chat_template',
        )
    return tokenizer
