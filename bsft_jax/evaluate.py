"""Evaluates a run or a model: `python -m bsft_jax.evaluate --workdir=DIR`.

Writes DIR/eval/NAME/ and prints a table. `--rescore=DIR/eval/NAME --policy=POLICY` evaluates the
stored predictions again under another policy, without a model or a device. `--generate` also
answers every record in words.
`--endpoint=URL --endpoint_model=NAME` asks a model behind an OpenAI-compatible endpoint instead.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import sys
from collections.abc import Iterable

from absl import flags

from bsft_jax import cli
from bsft_jax.errors import UserError, printable

_MODEL = cli.define_model_flags('Folder of the run; with --model, only where results are written.')
_RESCORE = cli.define_place(
    'rescore',
    '',
    'Folder of an evaluation, whose stored predictions are evaluated under --policy; takes no '
    'other flag but --name.',
)
_DATA = flags.DEFINE_string('data', '', "Data source; default the run's, required with --model.")
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'Split of the source.')
_SUBSET = flags.DEFINE_string(
    'subset', 'all', 'Which records of the split: all, hard, or difficulty=N of one level.'
)
_NAME = flags.DEFINE_string(
    'name', '', 'Name of the result folder; default SPLIT-POLICY and every non-default setting.'
)
_LIMIT = flags.DEFINE_integer(
    'limit', 0, 'At most LIMIT records, whole cases evenly spread; 0 for all.', lower_bound=0
)
_FORMAT = flags.DEFINE_enum(
    'answer_format',
    None,
    ['letter', 'text'],
    'How an answer names its option: its letter or its text; default as trained.',
)
_MAX_DROPPED_FRACTION = flags.DEFINE_float(
    'max_dropped_fraction',
    None,
    "Largest share of records left out as too long for the model; default the run's.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_ALLOW_TRAINED_ON = flags.DEFINE_boolean(
    'allow_trained_on',
    False,
    "Score a split of the run's own source although records of it were trained on.",
)
_ENDPOINT = flags.DEFINE_string(
    'endpoint',
    '',
    'Address of an OpenAI-compatible server, such as https://HOST/v1, whose --endpoint_model is '
    'asked. The text of the records is sent there. The key is read from the environment: '
    'BSFT_API_KEY or OPENAI_API_KEY.',
)
_ENDPOINT_MODEL = flags.DEFINE_string('endpoint_model', '', 'Name of the model at --endpoint.')
_ASK_FOR_LETTER = flags.DEFINE_boolean(
    'ask_for_letter', False, 'Ask --endpoint to begin its answer with the letter of an option.'
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    'max_new_tokens', 64, 'Longest answer of --endpoint or --generate in tokens.', lower_bound=1
)
_GENERATE = flags.DEFINE_boolean(
    'generate', False, 'Also answer every record in words, and count what the words choose.'
)
_TEMPERATURE = flags.DEFINE_float(
    'temperature', 0.0, 'Of --generate; 0 takes the most probable token.'
)
_TOP_P = flags.DEFINE_float(
    'top_p', 1.0, 'Of --generate: nucleus of the distribution that is sampled from.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of --generate: seed of the sampling.')
_CONCURRENCY = flags.DEFINE_integer(
    'concurrency', 8, 'Requests to --endpoint at a time.', lower_bound=1, upper_bound=256
)
_REQUEST_TIMEOUT = flags.DEFINE_float(
    'request_timeout',
    120.0,
    'Seconds without a byte after which a request to --endpoint is tried again.',
    lower_bound=0.1,
)
_PRICES = flags.DEFINE_string(
    'price_per_million',
    '',
    'IN,OUT: price of a million tokens of the prompts and of the answers, for the cost.',
)
# What goes with --rescore.
_RESCORE_FLAGS = ('rescore', 'policy', 'name')
# What goes with --endpoint alone, and what does not go with it.
_ENDPOINT_FLAGS = (
    'endpoint_model',
    'ask_for_letter',
    'concurrency',
    'request_timeout',
    'price_per_million',
)
_GENERATE_FLAGS = ('temperature', 'top_p', 'seed')
_DEVICE_FLAGS = (
    'model',
    'step',
    'chat_template',
    'tokenizer',
    'answer_format',
    'max_dropped_fraction',
    'allow_trained_on',
)


def _refuse(names: Iterable[str], what: str) -> None:
    """Raises UserError for the first of these flags that is given."""
    for name in names:
        if flags.FLAGS[name].present:
            raise UserError(what, where=f'--{name}', fix='leave it out')


def _rescore() -> None:
    from bsft_jax.commands.rescore import RescoreOptions, rescore
    from bsft_jax.report import table

    names = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
    others = [name for name in names if name not in _RESCORE_FLAGS]
    _refuse(others, 'does not go with --rescore, which reads stored predictions')
    if not flags.FLAGS['policy'].present:
        raise UserError('flag --policy is missing', fix='name the policy to evaluate')
    options = RescoreOptions(_RESCORE.value, _MODEL.policy.value, _NAME.value)
    directory, metrics = rescore(options)
    print(f'written: {directory}', file=sys.stderr)
    print(printable(table.format_table([(directory.name, metrics)])))


def _ask_endpoint() -> None:
    from bsft_jax.commands.endpoint import EndpointOptions, evaluate_endpoint, parse_prices
    from bsft_jax.inference.endpoint import Endpoint
    from bsft_jax.report import table

    _refuse(
        ('generate', *_GENERATE_FLAGS),
        'does not go with --endpoint, whose answers are in words anyway',
    )
    _refuse(_DEVICE_FLAGS, 'does not go with --endpoint, whose model is loaded elsewhere')
    required = {'endpoint_model': _ENDPOINT_MODEL, 'workdir': _MODEL.workdir, 'data': _DATA}
    for name, flag in required.items():
        if not flag.value:
            raise UserError(f'flag --{name} is missing')
    options = EndpointOptions(
        workdir=_MODEL.workdir.value,
        endpoint=Endpoint(_ENDPOINT.value, _ENDPOINT_MODEL.value, _REQUEST_TIMEOUT.value),
        data=_DATA.value,
        split=_SPLIT.value,
        subset=_SUBSET.value,
        limit=_LIMIT.value,
        prompt=_MODEL.prompt.value,
        examples=_MODEL.examples.value,
        policy=_MODEL.policy.value,
        name=_NAME.value,
        behaviors=_MODEL.behaviors,
        ask_for_letter=_ASK_FOR_LETTER.value,
        max_new_tokens=_MAX_NEW_TOKENS.value,
        concurrency=_CONCURRENCY.value,
        prices=parse_prices(_PRICES.value),
    )
    directory, metrics = evaluate_endpoint(options)
    print(f'written: {directory}', file=sys.stderr)
    print(printable(table.format_table([(directory.name, metrics)])))


def main(argv) -> None:
    del argv
    if _RESCORE.value:
        _rescore()
        return
    if _ENDPOINT.value:
        _ask_endpoint()
        return
    _refuse(_ENDPOINT_FLAGS, 'goes with --endpoint alone')
    if not _GENERATE.value:
        _refuse(('max_new_tokens',), 'goes with --generate or --endpoint')
        _refuse(_GENERATE_FLAGS, 'goes with --generate alone')
    if not _MODEL.workdir.value:
        raise UserError('flag --workdir is missing')
    from bsft_jax.commands.evaluate import EvaluateOptions, evaluate
    from bsft_jax.inference.decoding import Sampling
    from bsft_jax.parallel import processes
    from bsft_jax.report import table

    sampling = None
    if _GENERATE.value:
        sampling = Sampling(
            _MAX_NEW_TOKENS.value, _TEMPERATURE.value, _TOP_P.value, _SEED.value
        ).validate()
    processes.start()
    options = EvaluateOptions(
        workdir=_MODEL.workdir.value,
        model=_MODEL.model.value,
        step=_MODEL.step.value,
        data=_DATA.value,
        split=_SPLIT.value,
        subset=_SUBSET.value,
        prompt=_MODEL.prompt.value,
        examples=_MODEL.examples.value,
        policy=_MODEL.policy.value,
        name=_NAME.value,
        limit=_LIMIT.value,
        chat_template=_MODEL.chat_template.value,
        tokenizer=_MODEL.tokenizer.value,
        answer_format=_FORMAT.value or '',
        max_dropped_fraction=_MAX_DROPPED_FRACTION.value,
        allow_trained_on=_ALLOW_TRAINED_ON.value,
        behaviors=_MODEL.behaviors,
        sampling=sampling,
    )
    metrics = evaluate(options)
    name = _NAME.value or _MODEL.workdir.value
    if metrics['step'] is not None:
        name = f'{name}, step {metrics["step"]}'
    processes.log_first(table.format_table([(name, metrics)]), file=sys.stdout)


if __name__ == '__main__':
    cli.run(main)
