"""Generates answers: `python -m bsft_jax.generate --workdir=DIR --text="..."`.

Prints one JSON line per answer. A record that is too long has a line with its `error`, and the
command then exits with 2.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import json
import re
import sys
from typing import Any

from absl import flags

from bsft_jax import cli

_MODEL = cli.define_model_flags('Folder of a run.')
_TEXT = flags.DEFINE_string('text', None, 'What the user says.')
_INPUT = cli.define_place('input', '', 'JSONL file of records instead of --text.')
_RAW = flags.DEFINE_bool('raw', False, 'Continue the text as it is, without a chat template.')
_MAX = flags.DEFINE_integer('max_new_tokens', 256, 'Longest answer in tokens.')
_TEMPERATURE = flags.DEFINE_float('temperature', 0.0, '0 takes the most probable token.')
_TOP_P = flags.DEFINE_float('top_p', 1.0, 'Nucleus of the distribution that is sampled from.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the sampling.')


def main(argv) -> None:
    del argv
    from bsft_jax.commands.generate import GenerateOptions, check_answers, generate
    from bsft_jax.inference.decoding import Sampling
    from bsft_jax.inference.open_model import ModelSource
    from bsft_jax.parallel import processes

    sampling = Sampling(_MAX.value, _TEMPERATURE.value, _TOP_P.value, _SEED.value).validate()
    processes.start()
    options = GenerateOptions(
        ModelSource(
            _MODEL.workdir.value,
            _MODEL.model.value,
            _MODEL.step.value,
            _MODEL.chat_template.value,
            _MODEL.behaviors,
            _MODEL.tokenizer.value,
        ),
        text=_TEXT.value,
        input_file=_INPUT.value,
        prompt=_MODEL.prompt.value,
        examples=_MODEL.examples.value,
        policy=_MODEL.policy.value,
        raw=_RAW.value,
        sampling=sampling,
    )
    answers = generate(options)
    for answer in answers:
        processes.log_first(format_answer(answer), file=sys.stdout)
    check_answers(answers, options)


def format_answer(answer: dict[str, Any]) -> str:
    """Returns an answer as a line of JSON without control characters."""
    line = json.dumps(answer, ensure_ascii=False)
    # JSON itself leaves DEL, the C1 characters and lone surrogates as they are.
    return re.sub('[\x7f-\x9f\ud800-\udfff]', lambda match: f'\\u{ord(match[0]):04x}', line)


if __name__ == '__main__':
    cli.run(main)
