"""The library in five calls, which the commands use too.

`import bsft_jax` names them without loading any of this.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh

from bsft_jax import places
from bsft_jax.behaviors import Behavior
from bsft_jax.config import ComputeConfig
from bsft_jax.data import prompts
from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.hub import export, pretrained
from bsft_jax.hub.pretrained import Model
from bsft_jax.inference import decoding, policies, scoring
from bsft_jax.inference.decoding import Sampling
from bsft_jax.inference.scores import Scores
from bsft_jax.records.record import Record
from bsft_jax.training import setup

OnBatch = Callable[[int], object]


def load_model(
    path: str | pathlib.Path,
    dtype: str = 'float32',
    mesh: Mesh | None = None,
    behaviors: tuple[Behavior, ...] | None = None,
    chat_template: str = '',
    tokenizer: str = '',
) -> Model:
    """Loads a directory, an adapter, a GGUF file, a named model or a workdir's newest checkpoint.

    Args:
      path: where the model is, or the name of a bundled or packaged one.
      dtype: dtype of activations, `float32` or `bfloat16`. Parameters are float32, or for a workdir
        as its config holds them.
      mesh: where the parameters go; default the first device.
      behaviors: behaviors to add to a base model; None keeps the model's own.
      chat_template: a Jinja file, for a tokenizer that has no template.
      tokenizer: a folder whose tokenizer replaces that of a base model.

    Raises UserError where there is no model, or one that cannot be loaded exactly.
    """
    if places.is_run(pathlib.Path(path)):
        if behaviors is not None or chat_template or tokenizer:
            what = 'a workdir has its own behaviors, tokenizer and template'
            raise UserError(what, where=str(path))
        return setup.load_run(pathlib.Path(path), mesh=mesh, dtype=dtype)
    spec = pretrained.read_pretrained(
        str(path),
        ComputeConfig(dtype=dtype, attention='auto'),
        behaviors=behaviors or (),
        chat_template=chat_template,
        tokenizer=tokenizer,
    )
    return pretrained.load_pretrained(spec, mesh)


def _show_in_style(
    model: Model, records: Sequence[Record], prompt: str, examples: Sequence[Record]
) -> tuple[str, list[Record], Renderer]:
    """Returns the style's name, the records in that style, and the model's renderer."""
    style, renderer = prompts.parse_prompt_style(prompt), scoring.renderer_of(model)
    behaviors = model.behaviors.behaviors_or_default
    shown = prompts.apply_prompt_style(style, records, renderer, behaviors=behaviors, pool=examples)
    return style.name, shown, renderer


def score_records(
    model: Model,
    records: Sequence[Record],
    prompt: str = 'plain',
    examples: Sequence[Record] = (),
    *,
    policy: str | None = None,
    tokens_per_batch: int = 8192,
    on_batch: OnBatch = lambda _: None,
) -> Scores:
    """Scores every branch and option of each record in one pass.

    Args:
      model: the model.
      records: records with options.
      prompt: prompt style: `plain`, `instructed` or `few_shot:K`.
      examples: solved records, of which `few_shot` shows K.
      policy: also counts predictions under this policy on the devices; records need answers.
      tokens_per_batch: approximate prompt tokens that a device scores at a time.
      on_batch: called after each batch with the number of its records.

    Raises UserError for a record without options, an unknown prompt style or too few examples.
    """
    name, shown, renderer = _show_in_style(model, records, prompt, examples)
    scorer = scoring.Scorer(
        shown,
        renderer,
        model.network,
        model.mesh,
        policy=policy,
        tokens_per_batch=tokens_per_batch,
    )
    return dataclasses.replace(scorer(model.network, model.params, on_batch), prompt=name)


def compute_metrics(
    records: Sequence[Record], scores: Scores, policy: str = 'auto'
) -> dict[str, Any]:
    """Computes the content of `metrics.json` for one policy.

    Raises UserError for a policy that does not fit.
    """
    return metrics_of_rows(policies.predictions(records, scores, policy), scores, policy)


def metrics_of_rows(rows: Sequence[dict[str, Any]], scores: Scores, policy: str) -> dict[str, Any]:
    """Computes the metrics of predictions, the rows of `predictions.jsonl`."""
    return metrics_lib.metrics_from_predictions(
        rows,
        policy=policy,
        prompt=scores.prompt,
        dial=policies.parse_policy(policy, scores.behaviors).dial,
        positive=scores.behaviors.highest,
        levels=scores.behaviors.levels,
    )


def generate_answers(
    model: Model,
    records: Sequence[Record],
    policy: str = 'auto',
    *,
    prompt: str = 'plain',
    examples: Sequence[Record] = (),
    on_batch: OnBatch = lambda _: None,
    **sampling: Any,
) -> list[dict[str, Any]]:
    """Answers records in words, in their order.

    An answer is `{id, text, ids, behavior, behavior_logprobs}`.

    Args:
      model: the model.
      records: what is answered.
      policy: how the behavior is chosen.
      prompt: prompt style, as in `score_records`.
      examples: solved records, of which `few_shot` shows K.
      on_batch: called after each batch with the number of its records.
      **sampling: fields of `decoding.Sampling`: max_new_tokens, temperature, top_p and seed.

    Raises UserError without a record, for an unknown policy or prompt style, and as
    `Sampling.validate` does.
    """
    if not records:
        raise UserError('no records to answer')
    _, shown, renderer = _show_in_style(model, records, prompt, examples)
    parsed = policies.parse_policy(policy, model.behaviors)
    return answer_prompts(
        model,
        [record.id for record in records],
        renderer.prompt_ids_of(shown),
        policy=policy,
        stop_id=renderer.stop_id,
        sampling=Sampling(**sampling),
        of_prompts=decoding.PerPrompt(
            policies.label_indices(shown, model.behaviors, parsed),
            [decoding.seed_of_record(record.id) for record in records],
        ),
        on_batch=on_batch,
    )


def answer_prompts(
    model: Model, ids: Sequence[str], prompt_ids: Sequence[list[int]], **options: Any
) -> list[dict[str, Any]]:
    """Continues prompts of token ids; `options` are those of `decoding.generate`.

    Returns what `generate_answers` does.
    """
    generations = decoding.generate(model, prompt_ids, **options)
    return [
        {'id': id, **decoding.answer_to_dict(model, generation)}
        for id, generation in zip(ids, generations, strict=True)
    ]


def save_model(model: Model, path: str | pathlib.Path) -> pathlib.Path:
    """Writes the model as a Hugging Face checkpoint and returns its folder.

    Raises UserError when `path` is not empty.
    """
    return export.write_export(model, path, stop_id=scoring.renderer_of(model).stop_id)
