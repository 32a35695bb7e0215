"""Hugging Face tokenizers from a model directory, with a chat template."""

from __future__ import annotations

import os
import pathlib

from bsft_jax.errors import UserError


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
