"""Answers a text, or every record of a file, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bsft_jax import api
from bsft_jax import config as config_lib
from bsft_jax.commands import calibrations
from bsft_jax.commands.prompting import parse_prompt_flags, show_in_style
from bsft_jax.errors import UserError
from bsft_jax.hub.pretrained import Model
from bsft_jax.inference import scoring
from bsft_jax.inference.decoding import Sampling
from bsft_jax.inference.open_model import ModelSource, open_model
from bsft_jax.parallel import processes
from bsft_jax.records.record import Message, Record, read_jsonl, with_ids
from bsft_jax.training.progress import progress

# Records that a line names.
_MAX_NAMED = 10


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """Describes what is answered and how.

    Attributes:
      source: the model.
      text: text of a user; or None, and `input_file` is given.
      input_file: JSONL file of records.
      prompt: prompt style.
      examples: data source whose train split `few_shot` shows; empty for the run's.
      policy: how the behavior is chosen.
      raw: continues `text` after the tokenizer's own start token, without a chat template.
      sampling: length, temperature, nucleus and seed.
    """

    source: ModelSource
    text: str | None = None
    input_file: str = ''
    prompt: str = 'plain'
    examples: str = ''
    policy: str = 'auto'
    raw: bool = False
    sampling: Sampling = dataclasses.field(default_factory=Sampling)

    def check(self) -> None:
        """Raises UserError for options that do not go together."""
        if (self.text is None) == (not self.input_file):
            raise UserError('give either --text or --input')
        if self.text is not None and not self.text.strip() and not self.raw:
            raise UserError('is empty', where='--text', fix='say something')
        if not self.raw:
            return
        if self.text is None:
            raise UserError('--raw needs --text')
        if self.prompt != 'plain':
            raise UserError(
                'needs a chat template, --raw uses none', where=f'--prompt={self.prompt}'
            )
        if self.policy not in ('auto', 'none'):
            raise UserError(
                'needs an answer with a prefix, --raw has none', where=f'--policy={self.policy}'
            )


def generate(options: GenerateOptions) -> list[dict[str, Any]]:
    """Returns an answer per record: `{id, text, ids, behavior, behavior_logprobs}`.

    A record that is too long has `{id, error}` instead. Raises UserError for options that do not go
    together, and where every record is too long.
    """
    style = parse_prompt_flags(options.prompt, options.examples)
    options.check()
    if options.input_file:
        records = with_ids(read_jsonl(options.input_file))
    else:
        records = [Record((Message('user', options.text),), id='text')]
    calibration = calibrations.find(options.source, options.policy)
    model = open_model(options.source)
    calibrations.check_model(calibration, model, style.name, options.source.workdir)
    # What is asked in practice has no category.
    policy = options.policy if calibration is None else calibration.pooled_policy
    with progress('generate', len(records), shown=processes.is_first()) as bar:
        if options.raw:
            return _continue_text(model, options, bar.update)
        examples = options.examples
        if style.shots and not (examples or options.source.model):
            examples = config_lib.read_workdir(options.source.workdir).data.source
        renderer = scoring.renderer_of(model)
        records = show_in_style(style, records, renderer, model.behaviors, examples)
        problems = _too_long(model, records, options)
        answers = iter(
            api.generate_answers(
                model,
                [record for i, record in enumerate(records) if i not in problems],
                policy,
                on_batch=bar.update,
                **dataclasses.asdict(options.sampling),
            )
        )
        return [
            {'id': record.id, 'error': problems[i]} if i in problems else next(answers)
            for i, record in enumerate(records)
        ]


def check_answers(answers: Sequence[dict[str, Any]], options: GenerateOptions) -> None:
    """Raises UserError that names the records without an answer, if there are any."""
    failed = [answer for answer in answers if 'error' in answer]
    if failed:
        names = ', '.join(repr(answer['id']) for answer in failed[:_MAX_NAMED])
        more = f' and {len(failed) - _MAX_NAMED} more' if len(failed) > _MAX_NAMED else ''
        raise UserError(
            f'no answer to {len(failed)} of {len(answers)} records: {names}{more}: '
            f'{failed[0]["error"]}',
            where=f'--input={options.input_file}' if options.input_file else '--text',
            fix='shorten them, leave them out, or lower --max_new_tokens',
        )


def _too_long(model: Model, records: Sequence[Record], options: GenerateOptions) -> dict[int, str]:
    """Returns by index what is wrong with each record that does not fit the model.

    Raises UserError if none fits.
    """
    limit, new = model.network.arch.max_positions, options.sampling.max_new_tokens
    lengths = [len(ids) for ids in scoring.renderer_of(model).prompt_ids_of(records)]
    problems = {
        i: f'a prompt of {length} tokens and {new} new ones exceed the {limit} positions of the '
        'model'
        for i, length in enumerate(lengths)
        if length + new > limit
    }
    if records and len(problems) == len(records):
        check_answers([{'id': records[i].id, 'error': p} for i, p in problems.items()], options)
    return problems


def _continue_text(model: Model, options: GenerateOptions, on_batch) -> list[dict[str, Any]]:
    tokenizer = model.tokenizer
    prompt_ids = tokenizer.encode(options.text)
    if not prompt_ids:
        raise UserError('is empty and the tokenizer has no start token', where='--text')
    return api.answer_prompts(
        model,
        ['text'],
        [prompt_ids],
        policy='none',
        # No token has id -1, so nothing ends the text of a tokenizer without an end token.
        stop_id=-1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id,
        sampling=options.sampling,
        on_batch=on_batch,
    )
