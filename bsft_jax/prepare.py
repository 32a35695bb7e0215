"""Makes a data set: `python -m bsft_jax.prepare --source=open:DIR --output=DIR`."""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import os
import sys
from collections.abc import Sequence

from absl import flags

from bsft_jax import cli
from bsft_jax import config as config_lib
from bsft_jax.errors import printable

_CONFIG = cli.define_config(required=False)
_SOURCE = flags.DEFINE_multi_string(
    'source',
    None,
    'synthetic:CASES[:SEED[:LEVELS[:CATEGORIES]]], open:DIR, medec:DIR (mediq:, aci_bench:, '
    'mts_dialog:, pubmedqa:), jsonl:PATH, csv:FILE, hf:PATH_OR_HUB_ID[:CONFIG] or '
    'tfds:behavior_bench/CONFIG; may be repeated.',
    required=True,
)
_MAP = cli.define_place(
    'map', None, 'JSON file that maps columns of jsonl:, csv: and hf: sources to fields.'
)
_OUTPUT = cli.define_place('output', None, 'Folder of the data set.', required=True)
_FORMAT = flags.DEFINE_enum(
    'format',
    'jsonl',
    ['jsonl', 'tfds', 'lm_eval', 'inspect'],
    'JSON lines, array_record for tfds:, or a task for lm-evaluation-harness or inspect_ai.',
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the splits and of what adapters choose.')
_INSPECT = flags.DEFINE_integer(
    'inspect',
    0,
    'Print this many training records with their tokens and loss weights, as --config or --base '
    'renders them.',
    lower_bound=0,
)
_BASE = flags.DEFINE_string(
    'base', 'tiny-clinical', 'Model whose tokenizer and template --inspect uses without --config.'
)
_ANSWER_FORMAT = flags.DEFINE_enum(
    'answer_format',
    'letter',
    ['letter', 'text'],
    'How --inspect names an option without --config.',
)
_TEMPLATE = flags.DEFINE_string('chat_template', '', 'Jinja file for a --base without a template.')


def main(argv: Sequence[str]) -> None:
    del argv
    config = config_lib.validate(_CONFIG.value) if _CONFIG.value is not None else None
    from bsft_jax.behaviorbench import shortcuts
    from bsft_jax.commands import prepare
    from bsft_jax.data import inspection
    from bsft_jax.records import column_map

    mapping = column_map.read_column_map(_MAP.value) if _MAP.value is not None else None
    colour, shown = sys.stdout.isatty(), []
    options = prepare.InspectOptions(
        _INSPECT.value, _BASE.value, _ANSWER_FORMAT.value, _TEMPLATE.value, colour=colour
    )
    if config is not None:
        options = prepare.InspectOptions(
            _INSPECT.value,
            config.model.base,
            config.data.answer_format,
            config.data.chat_template,
            config.behaviors,
            colour,
            config.model.tokenizer,
        )

    def inspect(train_records) -> None:
        if options.count and train_records:
            shown.extend(prepare.inspect_records(train_records, options))

    card = prepare.prepare(
        _SOURCE.value,
        _OUTPUT.value,
        _SEED.value,
        mapping,
        _FORMAT.value,
        inspect,
        options.behaviors,
    )
    for name, file in card['files'].items():
        print(printable(f'{os.path.join(_OUTPUT.value, name)}: {file["records"]} records'))
    for line in [*prepare.format_left_out(card), *prepare.format_names(card)]:
        print(printable(line))
    print(shortcuts.format_baselines(card['shortcuts']))
    if pairs := card['leakage']['pairs']:
        first, second = card['leakage']['examples'][0]
        line = f'warning: {pairs} pairs of cases in different splits are nearly the same: '
        print(printable(f'{line}{first}, {second}'))
        print(
            'give both of a pair one `split` or leave one of them out; records that name no split '
            'are kept together'
        )
    if shown:
        print(f'\n{inspection.format_legend(colour)}')
    for text in shown:
        print(text)


if __name__ == '__main__':
    cli.run(main)
