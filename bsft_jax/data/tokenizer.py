"""Hugging Face tokenizers from a model directory, and encoding with or without control tokens."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from bsft_jax.errors import UserError

_CONTROL = re.compile(r'<\|.+\|>', re.DOTALL)
_MARKUP = re.compile(r'<\S+>|\[\S+\]')
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

    def encode_marked(self, text: str, tokens: dict[str, str]) -> list[int]:
        """Returns the ids of a rendered prompt whose messages spell control tokens.

        The control tokens of the template count. Those of the messages are ordinary text.

        Args:
          text: the prompt, with private-use characters for the control tokens of the messages.
          tokens: private-use character → control token, from `ChatTemplate.turns_of`.
        """
        ids, start, restore = [], 0, str.maketrans(tokens)
        for match in [*self.control_pattern.finditer(text), None]:
            part = text[start : match.start() if match else len(text)].translate(restore)
            if part:
                ids += self._encode_literal(part)
            if match:
                ids.append(self.tokenizer.convert_tokens_to_ids(match[0]))
                start = match.end()
        return ids

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
