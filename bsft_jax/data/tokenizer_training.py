"""A tokenizer trained on the texts of records, and a model directory around it without weights.

A tiny base model is pretrained from there. `bsft_jax.train_tokenizer` is the command.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from bsft_jax import files, folders, places
from bsft_jax.data import sources
from bsft_jax.data.rendering import STEM
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record

END_OF_TEXT, START_OF_TURN, END_OF_TURN = SPECIALS = '<|endoftext|>', '<|im_start|>', '<|im_end|>'
CHAT_TEMPLATE = (
    '{% for message in messages %}'
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    '{% endfor %}'
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The pattern of Qwen2, which `transformers` restores for every model of that type. Each digit is a
# piece of its own.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_BYTES = 256
# Spare rows of the embedding table, for behavior tokens.
_SPARE_ROWS = 8
_ROW_MULTIPLE = 128
# About 1 / sqrt(embed_dim).
_INIT_STD = 0.08


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Trains a byte-level BPE in which every digit is a token of its own, with a chat template.

    Turns end with `<|im_end|>`, which is also the end of sequence. `<|endoftext|>` is padding.

    Args:
      texts: texts from which merges are learned.
      vocab_size: the largest number of ids, with the special tokens and the 256 bytes.

    Returns:
      A PreTrainedTokenizerFast.

    Raises UserError for a vocabulary too small for the special tokens and bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < _BYTES + len(SPECIALS):
        raise UserError(
            f'{vocab_size} ids do not hold {_BYTES} bytes and {len(SPECIALS)} special tokens',
            where='--vocab_size',
        )
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[START_OF_TURN],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def blank_config(tokenizer: Any) -> dict[str, Any]:
    """Returns the `config.json` of a small Qwen2: 4 layers, embed_dim 128, spare table rows."""
    vocab_size = -(-(len(tokenizer) + _SPARE_ROWS) // _ROW_MULTIPLE) * _ROW_MULTIPLE
    theta = 10000.0
    return {
        'architectures': ['Qwen2ForCausalLM'],
        'model_type': 'qwen2',
        'vocab_size': vocab_size,
        'hidden_size': 128,
        'intermediate_size': 384,
        'num_hidden_layers': 4,
        'num_attention_heads': 4,
        'num_key_value_heads': 2,
        'hidden_act': 'silu',
        'max_position_embeddings': 2048,
        'rms_norm_eps': 1e-6,
        'initializer_range': _INIT_STD,
        'rope_theta': theta,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': theta},
        'tie_word_embeddings': True,
        'use_sliding_window': False,
        'bos_token_id': tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        'eos_token_id': tokenizer.eos_token_id,
    }


def write_blank_model(tokenizer: Any, output: str | os.PathLike) -> None:
    """Writes the tokenizer's files and `config.json`, but no weights.

    Raises UserError for a path that exists and is not an empty folder.
    """
    places.check_new_folder(output, 'output')
    with folders.whole_folder(output) as folder:
        tokenizer.save_pretrained(str(folder))
        files.write_json(folder / 'config.json', blank_config(tokenizer))


def texts_of(record: Record) -> list[str]:
    """Returns the texts of a record in pieces as they are rendered.

    Those are the roles, the messages (with the speaker before the words), the options as answers,
    and the pretraining text.
    """
    roles = [f'{message.role}\n' for message in record.messages]
    messages = [f'{m.name}: {m.content}' if m.name else m.content for m in record.messages]
    answers = [f'{STEM} {option}. {record.rationale}' for option in record.options]
    return [text for text in (*roles, *messages, *answers, record.text) if text]


def create_blank_model(
    source_names: Sequence[str], vocab_size: int, output: str | os.PathLike
) -> str:
    """Trains a tokenizer on the train splits of sources and writes a model directory around it.

    Returns one line about the result. Raises UserError for a source that cannot be read, a
    vocabulary that is too small, or an output folder in use.
    """
    places.check_new_folder(output, 'output')
    texts = [
        text
        for source in source_names
        for record in sources.load_records(source, 'train')
        for text in texts_of(record)
    ]
    tokenizer = train_tokenizer(texts, vocab_size)
    write_blank_model(tokenizer, output)
    return f'{output}: {len(tokenizer)} ids learned from {len(texts):,} texts'
