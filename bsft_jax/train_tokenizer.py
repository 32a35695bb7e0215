"""Trains a tokenizer and writes a model directory without weights around it.

`python -m bsft_jax.train_tokenizer --source=synthetic_text:4000 --vocab_size=1500 --output=DIR`
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

from absl import flags

from bsft_jax import cli
from bsft_jax.errors import printable

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

    folder = tokenizer_training.create_blank_model(_SOURCE.value, _VOCAB_SIZE.value, _OUTPUT.value)
    print(printable(str(folder)))


if __name__ == '__main__':
    cli.run(main)
