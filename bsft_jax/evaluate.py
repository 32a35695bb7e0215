"""Evaluates a run or a model: `python -m bsft_jax.evaluate --workdir=DIR` writes DIR/eval/NAME/ and prints a table."""

from __future__ import annotations

import sys

from absl import flags

from bsft_jax import cli

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run; with --model, only the place of the results.', required=True
)
_MODEL = flags.DEFINE_string('model', '', 'Hugging Face directory or bundled model instead of the run.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint of the run; default the newest.')
_DATA = flags.DEFINE_string('data', '', "Data source; default the run's.")
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'Split of the source.')
_SUBSET = flags.DEFINE_enum('subset', 'all', ['all', 'hard'], 'Which records of the split.')
_PROMPT = flags.DEFINE_string('prompt', 'plain', 'plain, instructed or few_shot:K.')
_EXAMPLES = flags.DEFINE_string(
    'examples', '', 'Data source whose train split few_shot shows; default the one evaluated.'
)
_POLICY = flags.DEFINE_string('policy', 'auto', 'auto, none, oracle or forced:NAME.')
_NAME = flags.DEFINE_string(
    'name', '', 'Name of the result folder; default SPLIT-POLICY and what is not as usual.'
)
_LIMIT = flags.DEFINE_integer(
    'limit', 0, 'At most LIMIT records, whole cases evenly spread; 0 for all.', lower_bound=0
)
_TEMPLATE = flags.DEFINE_string('chat_template', '', 'Jinja file for a --model without a template.')
_FORMAT = flags.DEFINE_enum(
    'answer_format', None, ['letter', 'text'], 'How options are answered; default as the model was trained.'
)
_DROP_LONG = flags.DEFINE_float(
    'drop_long',
    None,
    "Largest share of records left out as too long for the model; default the run's.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def main(argv) -> None:
    del argv
    from bsft_jax import runs
    from bsft_jax.parallel import processes
    from bsft_jax.report import table

    processes.start()
    metrics = runs.evaluate(
        workdir=_WORKDIR.value,
        model=_MODEL.value,
        step=_STEP.value,
        data=_DATA.value,
        split=_SPLIT.value,
        subset=_SUBSET.value,
        prompt=_PROMPT.value,
        examples=_EXAMPLES.value,
        policy=_POLICY.value,
        name=_NAME.value,
        limit=_LIMIT.value,
        chat_template=_TEMPLATE.value,
        answer_format=_FORMAT.value or '',
        drop_long=_DROP_LONG.value,
    )
    processes.say(table.format_table([(_NAME.value or _WORKDIR.value, metrics)]), file=sys.stdout)


if __name__ == '__main__':
    cli.run(main)
