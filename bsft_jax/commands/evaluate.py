"""Scores a model on records and writes its predictions and metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax import api, files
from bsft_jax import config as config_lib
from bsft_jax.behaviors import Behavior
from bsft_jax.commands import calibrations, eval_folder, generated_answers
from bsft_jax.commands.prompting import parse_prompt_flags, show_in_style
from bsft_jax.config import DataConfig
from bsft_jax.data import checks, contamination, eval_records, sources, trained_on
from bsft_jax.data.prompts import PromptStyle
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.hub.pretrained import Model
from bsft_jax.inference import policies, scoring
from bsft_jax.inference.decoding import Sampling
from bsft_jax.inference.open_model import ModelSource, open_model
from bsft_jax.inference.scores import Scores
from bsft_jax.parallel import processes
from bsft_jax.records.record import Record
from bsft_jax.training import workdir as workdir_lib
from bsft_jax.training.progress import progress


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Describes an evaluation.

    Attributes:
      workdir: folder of the run; results go to `workdir/eval/NAME`.
      model: Hugging Face directory, PEFT adapter, GGUF file, hub id, or bundled or packaged model
        to score instead of the run.
      step: checkpoint of the run; None for the newest.
      data: data source; empty for the run's.
      split: split of the source.
      subset: `all` records of the split, the `hard` ones, or `difficulty=N`.
      prompt: prompt style.
      examples: data source whose train split `few_shot` shows; empty for the one that is scored.
      policy: how the behavior is chosen.
      name: folder of the results; empty for SPLIT-POLICY and every setting that is not the default.
      limit: at most this many records, whole cases, evenly spaced; 0 for all.
      chat_template: Jinja file for a `model` without a template.
      answer_format: how options are named; empty for what the model was trained with.
      max_dropped_fraction: largest share of records that may be dropped as too long for the model;
        None for the run's.
      tokens_per_batch: approximate prompt tokens that a device scores at a time.
      allow_trained_on: scores a test split of the run's own source although records of it were
        trained on.
      behaviors: the behaviors that records name, for a `model` without its own.
      tokenizer: a folder whose tokenizer replaces that of `model`.
      sampling: how records are also answered in words; None scores them alone.
    """

    workdir: str
    model: str = ''
    step: int | None = None
    data: str = ''
    split: str = 'test'
    subset: str = 'all'
    prompt: str = 'plain'
    examples: str = ''
    policy: str = 'auto'
    name: str = ''
    limit: int = 0
    chat_template: str = ''
    answer_format: str = ''
    max_dropped_fraction: float | None = None
    tokens_per_batch: int = 8192
    allow_trained_on: bool = False
    behaviors: tuple[Behavior, ...] = ()
    tokenizer: str = ''
    sampling: Sampling | None = None

    @property
    def model_source(self) -> ModelSource:
        """Returns the name of the model that is scored."""
        workdir = '' if self.model else self.workdir
        return ModelSource(
            workdir, self.model, self.step, self.chat_template, self.behaviors, self.tokenizer
        )


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Scores a model and writes predictions, metrics and their page to `workdir/eval/NAME`.

    Returns the metrics, which also hold the settings.

    Raises:
      UserError: settings that do not go together, records that cannot be scored, or a place that
        cannot be written or that another process writes to.
      AssertionError: the counts of the devices are not those of the predictions.
    """
    with contextlib.ExitStack() as stack:
        return _evaluate(options, stack)


def _evaluate(options: EvaluateOptions, stack: contextlib.ExitStack) -> dict[str, Any]:
    style = parse_prompt_flags(options.prompt, options.examples)
    options.model_source.check()
    eval_records.parse_subset(options.subset)
    if options.data:
        sources.check_name(options.data, '--data')
    if options.name:
        files.check_name(options.name, '--name')
    if options.sampling is not None:
        options.sampling.validate()
        generated_answers.check_policy(options.policy)
    eval_folder.check_place(options.workdir, options.name)
    run_data = DataConfig() if options.model else config_lib.read_workdir(options.workdir).data
    defaults = {'subset': 'all', 'data': '' if options.model else run_data.source}
    source = options.data or defaults['data']
    if not source:
        raise UserError('flag --data is missing', fix='name a data source for --model')
    if source == defaults['data'] and (warning := eval_records.unsplit_warning(source)):
        processes.log_first(warning)
    records = eval_records.choose_records(
        eval_records.load_scorable(source, options.split), source, options.subset, options.limit
    )
    calibration = calibrations.find(options.model_source, options.policy)
    trained = trained_on.read(*options.model_source.folders)
    if not options.allow_trained_on:
        contamination.check_scored(trained, source, options.split, records)

    model = open_model(options.model_source)
    calibrations.check_model(calibration, model, style.name, options.workdir)
    policy = options.policy if calibration is None else calibration.policy
    policies.parse_policy(policy, model.behaviors)
    checks.check_behaviors(records, model.behaviors.behaviors_or_default)
    defaults['answer_format'] = model.answer_format
    model = dataclasses.replace(model, answer_format=options.answer_format or model.answer_format)
    settings = {
        'subset': options.subset,
        'limit': options.limit,
        'data': source,
        'examples': options.examples,
        'model': options.model,
        'step': options.step,
        'chat_template': options.chat_template,
        'tokenizer': options.tokenizer,
        'answer_format': model.answer_format,
    }
    parts = [options.split, options.policy, *([] if style.name == 'plain' else [style.name])]
    parts += generated_answers.name_parts(options.sampling)
    name = options.name or eval_folder.evaluation_name(parts, settings, defaults)
    directory = pathlib.Path(options.workdir) / 'eval' / name
    workdir_lib.on_first_process(directory, lambda: eval_folder.claim(directory, stack))
    limit = options.max_dropped_fraction
    max_dropped = run_data.max_dropped_fraction if limit is None else limit
    scored = _show(model, records, style, options.examples or source, max_dropped)
    rows, scores, metrics = _measure(model, scored, style, policy, options, max_dropped, source)
    metrics |= calibrations.metrics_of(calibration, rows, model.behaviors.levels)
    if scores.confusion_CKK is not None:
        _check_counts(metrics, scores)
    metrics |= {'left_out': len(records) - len(scored), 'split': options.split, **settings}
    metrics['step'] = model.step
    # Under a prompt style the scored records have other turns than those that were read.
    ids = {record.id for record in scored}
    asked = [record for record in records if record.id in ids]
    overlap = None if trained is None else trained.overlap(asked)
    metrics['trained_on'] = None if overlap is None else overlap.to_dict()
    processes.log_first(contamination.describe(overlap))
    metrics['behaviors'] = model.behaviors.levels
    if processes.is_first():
        eval_folder.write(directory, rows, metrics, asked)
    at_step = '' if model.step is None else f', step {model.step}'
    processes.log_first(f'written: {directory}{at_step}')
    return metrics


def _measure(
    model: Model,
    shown: Sequence[Record],
    style: PromptStyle,
    policy: str,
    options: EvaluateOptions,
    max_dropped_fraction: float,
    source: str,
) -> tuple[list[dict[str, Any]], Scores, dict[str, Any]]:
    """Returns predictions, scores and metrics of records, and of answers in words if asked."""
    prompts, sampling = None, options.sampling
    if sampling is not None:
        prompts = generated_answers.make_prompts(
            model, shown, sampling.max_new_tokens, max_dropped_fraction
        )
    scores = _score(model, shown, style, policy, options.tokens_per_batch)
    rows = policies.predictions(shown, scores, policy)
    metrics = api.metrics_of_rows(rows, scores, policy) | {'policy': options.policy}
    if prompts is not None and sampling is not None:
        with_words = eval_folder.may_hold_words(source)
        rows, section = generated_answers.answer(
            model, prompts, rows, scores, policy=policy, sampling=sampling, with_words=with_words
        )
        metrics[eval_folder.GENERATED] = section
        processes.log_first(generated_answers.summary_line(section))
    return rows, scores, metrics


def _show(
    model: Model,
    records: Sequence[Record],
    style: PromptStyle,
    examples: str,
    max_dropped_fraction: float,
) -> list[Record]:
    """Returns the records as they are shown to the model, without those that are too long."""
    renderer = scoring.renderer_of(model)
    shown = show_in_style(style, records, renderer, model.behaviors, examples)
    return scoring.drop_too_long(shown, renderer, model.network, max_dropped_fraction)


def _score(
    model: Model, shown: Sequence[Record], style: PromptStyle, policy: str, tokens_per_batch: int
) -> Scores:
    """Returns the scores of records that are in their style already."""
    with progress('evaluate', len(shown), shown=processes.is_first()) as bar:
        scores = api.score_records(
            model,
            shown,
            policy=policy,
            tokens_per_batch=tokens_per_batch,
            on_batch=bar.update,
        )
    return dataclasses.replace(scores, prompt=style.name)


def _check_counts(metrics: Mapping[str, Any], scores: Scores) -> None:
    """Raises AssertionError unless the devices counted what the predictions say."""
    counted = metrics_lib.metrics_from_confusion(scores.confusion_CKK, scores.categories)
    from_devices = counted['categories']
    from_rows = {name: entry['macro_f1'] for name, entry in metrics['categories'].items()}
    if any(abs(from_devices[name] - from_rows[name]) > 1e-6 for name in from_rows):
        raise AssertionError(
            f'internal error: macro-F1 counted on the devices is {from_devices}, that of the '
            f'predictions {from_rows}'
        )
