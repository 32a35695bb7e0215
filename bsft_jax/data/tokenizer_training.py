"""A tokenizer trained on own texts, and the blank model around it: where a tiny base model begins.

`python -m bsft_jax.data.tokenizer_training --source=synthetic_text:4000 --vocab_size=1500 --output=DIR`
writes a model directory without weights.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable

from absl import flags

from bsft_jax import cli
from bsft_jax.data.rendering import STEM
from bsft_jax.errors import UserError

END_OF_TEXT, START_OF_TURN, END_OF_TURN = SPECIALS = '<|endoftext|>', '<|im_start|>', '<|im_end|>'
CHAT_TEMPLATE = (
    '{% for message in messages %}'
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    '{% endfor %}'
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_PIECES = (  # Qwen2's, which `transformers` restores for every model of that type; digits stand alone
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r'|\s+(?!\S)|\s+'
)
_BYTES = 256
_SPARE_ROWS = 8  # for behavior tokens
_ROW_MULTIPLE = 128
_INIT_STD = 0.08  # about 1 / sqrt(width)


def train_tokenizer(texts: Iterable[str], vocab_size: int):
    """A byte-level BPE in which every digit is a token of its own, with a chat template.

    Turns end with `<|im_end|>`, which is also the end of sequence; `<|endoftext|>` is padding.

    Args:
      texts: to learn merges from.
      vocab_size: ids at most, special tokens and the 256 bytes included.

    Returns:
      A PreTrainedTokenizerFast.
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


def blank_config(tokenizer) -> dict:
    """`config.json` of a small Qwen2: 4 layers of width 128, a table with spare rows."""
    rows = -(-(len(tokenizer) + _SPARE_ROWS) // _ROW_MULTIPLE) * _ROW_MULTIPLE
    theta = 10000.0
    return {
        'architectures': ['Qwen2ForCausalLM'],
        'model_type': 'qwen2',
        'vocab_size': rows,
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


def write_blank_model(tokenizer, output: str | os.PathLike) -> None:
    """Writes the tokenizer's files and `config.json`, no weights; raises UserError for a folder in use."""
    output = pathlib.Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError('exists and is not empty', where=str(output), fix='name a new folder')
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(output))
    text = json.dumps(blank_config(tokenizer), indent=2)
    (output / 'config.json').write_text(text + '\n', encoding='utf-8')


def texts_of(record) -> list[str]:
    """Every text of a record in pieces as they will be rendered: roles, speakers before words, answers."""
    roles = [f'{message.role}\n' for message in record.messages]
    spoken = [f'{m.name}: {m.content}' if m.name else m.content for m in record.messages]
    answers = [f'{STEM} {option}. {record.rationale}' for option in record.options]
    return [text for text in (*roles, *spoken, *answers, record.text) if text]


def main(argv) -> None:
    del argv
    from bsft_jax.behaviorbench import sources

    args = flags.FLAGS
    texts = [
        text
        for source in args.source
        for record in sources.load_records(source, 'train')
        for text in texts_of(record)
    ]
    tokenizer = train_tokenizer(texts, args.vocab_size)
    write_blank_model(tokenizer, args.output)
    print(f'{args.output}: {len(tokenizer)} ids learned from {len(texts):,} texts')


if __name__ == '__main__':  # this module is imported as a library too, beside apps with the same flags
    flags.DEFINE_multi_string('source', None, 'Source of the texts to learn from; repeatable.', required=True)
    flags.DEFINE_integer('vocab_size', 1500, 'Ids of the tokenizer, special ones included.')
    flags.DEFINE_string('output', None, 'New folder for tokenizer and config.json.', required=True)
    cli.run(main)
