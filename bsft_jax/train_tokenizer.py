"""Trains a tokenizer and writes a model directory without weights around it.

`python -m bsft_jax.train_tokenizer --source=synthetic_text:4000 --vocab_size=1500 --output=DIR`
"""

from __future__ import annotations

from absl import flags

from bsft_jax import cli

_SOURCE = flags.DEFINE_multi_string(
    'source', None, 'Source of the texts to learn from; repeatable.', required=True
)
_VOCAB_SIZE = flags.DEFINE_integer(
    'vocab_size', 1500, 'Ids of the tokenizer, special ones included.'
)
_OUTPUT = cli.define_place(
    'output', None, 'New folder for tokenizer and config.json.', required=True
)


def main(argv) -> None:
    del argv
    from bsft_jax.data import tokenizer_training

    print(tokenizer_training.create_blank_model(_SOURCE.value, _VOCAB_SIZE.value, _OUTPUT.value))


if __name__ == '__main__':
    cli.run(main)
