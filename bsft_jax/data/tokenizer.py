"""Hugging Face tokenizers from a model directory, with a chat template."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterable

from bsft_jax.errors import UserError

_CONTROL = re.compile(r'<\|.+\|>', re.DOTALL)
_MARKUP = re.compile(r'<\S+>|\[\S+\]')


def control_tokens(tokenizer) -> frozenset[str]:
    """The added tokens that steer a model: special ones, `<|…|>`, and marks like `<start_of_turn>` of the chat template.

    Others are ordinary text with an id of its own, as Gemma's blank lines and HTML tags are.
    """
    template = str(tokenizer.chat_template or '')
    return frozenset(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special
        or _CONTROL.fullmatch(token.content)
        or (_MARKUP.fullmatch(token.content) and token.content in template)
    )


_TODAY = {
    '%d': '26',
    '%b': 'Jul',
    '%B': 'July',
    '%m': '07',
    '%Y': '2024',
    '%y': '24',
    '%A': 'Friday',
    '%a': 'Fri',
}


def undated(template: str) -> str:
    """A chat template for which today is 26 July 2024: what is trained, scored and cached is the same every day.

    Llama 3's templates themselves use that date where they cannot ask for another; those of Llama 3.2 and of some
    Mistral models ask.
    """
    if 'strftime_now' not in template:
        return template
    written = ''.join(f".replace('{code}', '{part}')" for code, part in _TODAY.items())
    return f'{{%- macro strftime_now(format) -%}}{{{{ format{written} }}}}{{%- endmacro -%}}{template}'


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Finds any of some tokens, the longest first."""
    return re.compile('|'.join(map(re.escape, sorted(tokens, key=len, reverse=True))) or '(?!)')


def load_tokenizer(directory: str | os.PathLike, chat_template: str = ''):
    """The fast tokenizer of a model directory, exactly as its `tokenizer.json` says.

    Args:
      directory: with `tokenizer.json` and, usually, `tokenizer_config.json`.
      chat_template: a Jinja file that replaces the tokenizer's template; '' keeps it.

    Raises:
      UserError: no tokenizer there, or no such template file.
    """
    from transformers import PreTrainedTokenizerFast

    directory = pathlib.Path(directory)
    if not (directory / 'tokenizer.json').is_file():
        raise UserError('no tokenizer.json in this folder', where=str(directory))
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(directory))
    except Exception as error:  # tokenizers raises bare ones, transformers KeyError and others
        what = f'the tokenizer cannot be read ({type(error).__name__}: {error})'
        raise UserError(what, where=str(directory)) from error
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.backend_tokenizer.no_truncation()  # some files store a limit, which would cut silently
    tokenizer.backend_tokenizer.no_padding()
    if chat_template:
        path = pathlib.Path(chat_template)
        if not path.is_file():
            raise UserError('no such chat template', where=str(path))
        tokenizer.chat_template = path.read_text(encoding='utf-8')
    return tokenizer
