"""Generates answers: `python -m bsft_jax.generate --workdir=DIR --text="..."`, one JSON line each."""

from __future__ import annotations

import json
import sys

from absl import flags

from bsft_jax import cli

_WORKDIR = flags.DEFINE_string('workdir', '', 'Folder of a run.')
_MODEL = flags.DEFINE_string('model', '', 'Hugging Face directory or bundled model instead of a run.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint of the run; default the newest.')
_TEXT = flags.DEFINE_string('text', None, 'What the user says.')
_INPUT = flags.DEFINE_string('input', '', 'JSONL file of records instead of --text.')
_PROMPT = flags.DEFINE_string('prompt', 'plain', 'plain, instructed or few_shot:K.')
_EXAMPLES = flags.DEFINE_string(
    'examples', '', "Data source whose train split few_shot shows; default the run's."
)
_POLICY = flags.DEFINE_string('policy', 'auto', 'auto, none, oracle or forced:NAME.')
_RAW = flags.DEFINE_bool('raw', False, 'Continue the text as it is, without a chat template.')
_TEMPLATE = flags.DEFINE_string('chat_template', '', 'Jinja file for a --model without a template.')
_MAX = flags.DEFINE_integer('max_new_tokens', 256, 'Longest answer in tokens.')
_TEMPERATURE = flags.DEFINE_float('temperature', 0.0, '0 takes the most probable token.')
_TOP_P = flags.DEFINE_float('top_p', 1.0, 'Nucleus of the distribution that is sampled from.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the sampling.')


def main(argv) -> None:
    del argv
    from bsft_jax import runs
    from bsft_jax.inference.decoding import Sampling
    from bsft_jax.parallel import processes

    sampling = Sampling(_MAX.value, _TEMPERATURE.value, _TOP_P.value, _SEED.value).validate()
    processes.start()
    answers = runs.generate(
        workdir=_WORKDIR.value,
        model=_MODEL.value,
        step=_STEP.value,
        text=_TEXT.value,
        input_file=_INPUT.value,
        prompt=_PROMPT.value,
        examples=_EXAMPLES.value,
        policy=_POLICY.value,
        raw=_RAW.value,
        chat_template=_TEMPLATE.value,
        sampling=sampling,
    )
    for answer in answers:
        processes.say(json.dumps(answer, ensure_ascii=False), file=sys.stdout)


if __name__ == '__main__':
    cli.run(main)
