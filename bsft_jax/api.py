"""The library in five calls; `import bsft_jax` names them without loading any of this."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from bsft_jax.behaviorbench.records import Record
from bsft_jax.behaviors import Behavior
from bsft_jax.data import prompts
from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.hub import export
from bsft_jax.hub import model as model_lib
from bsft_jax.hub.model import Model
from bsft_jax.inference import decoding, policies, scoring
from bsft_jax.inference.policies import Scores
from bsft_jax.training import workdir as workdir_lib


def load_model(
    path: str | pathlib.Path,
    dtype: str = 'float32',
    mesh: Mesh | None = None,
    behaviors: tuple[Behavior, ...] | None = None,
    chat_template: str = '',
) -> Model:
    """Loads a Hugging Face directory, a bundled model by name, or a workdir's newest checkpoint.

    Args:
      path: where the model is.
      dtype: of activations, `float32` or `bfloat16`. Parameters are float32, or for a workdir as its
        config holds them.
      mesh: where the parameters go; default the first device.
      behaviors: to be added to a base model; None keeps what the model has.
      chat_template: a Jinja file, for a tokenizer that has no template.

    Raises:
      UserError: nothing there, or something that cannot be loaded exactly.
    """
    if (pathlib.Path(path) / 'checkpoints').is_dir():
        if behaviors is not None or chat_template:
            raise UserError('a workdir has its own behaviors and template', where=str(path))
        return workdir_lib.load_model(pathlib.Path(path), mesh=mesh, dtype=dtype)
    base = model_lib.open_base(str(path), behaviors=behaviors or (), dtype=dtype, chat_template=chat_template)
    return model_lib.load(base, mesh)


def _styled(
    model: Model, records: Sequence[Record], prompt: str, examples: Sequence[Record]
) -> tuple[str, list[Record], Renderer]:
    style, renderer = prompts.parse(prompt), scoring.renderer_of(model)
    behaviors = model.behaviors.named
    return style.name, prompts.apply(style, records, renderer, behaviors=behaviors, pool=examples), renderer


def score_records(
    model: Model, records: Sequence[Record], prompt: str = 'plain', examples: Sequence[Record] = ()
) -> Scores:
    """Scores every branch and option of each record in one pass.

    Args:
      prompt: the prompt style: `plain`, `instructed` or `few_shot:K`.
      examples: solved records, of which `few_shot` shows K.

    Raises UserError for a record without options, an unknown prompt style or too few examples.
    """
    name, records, renderer = _styled(model, records, prompt, examples)
    scores = scoring.Scorer(records, renderer, model.network, model.mesh)(model.network, model.params)
    return dataclasses.replace(scores, prompt=name)


def compute_metrics(records: Sequence[Record], scores: Scores, policy: str = 'auto') -> dict[str, Any]:
    """The content of `metrics.json` for one policy; raises UserError for a policy that does not fit."""
    return metrics_lib.summarize(
        policies.predictions(records, scores, policy),
        policy=policy,
        prompt=scores.prompt,
        positive=scores.behaviors.highest,
    )


def generate_answers(
    model: Model,
    records: Sequence[Record],
    policy: str = 'auto',
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    prompt: str = 'plain',
    examples: Sequence[Record] = (),
) -> list[dict[str, Any]]:
    """Answers in words: `{id, text, ids, behavior, behavior_logprobs}` per record, in their order.

    `prompt` and `examples` are those of `score_records`.

    Raises UserError without a record, for an unknown policy or prompt style and as `Sampling.validate` does.
    """
    if not records:
        raise UserError('no records to answer')
    _, records, renderer = _styled(model, records, prompt, examples)
    generations = decoding.generate(
        model,
        renderer.prompt_ids_of(records),
        policy=policy,
        stop_id=renderer.stop_id,
        sampling=decoding.Sampling(max_new_tokens, temperature, top_p, seed),
        labels=policies.labels(records, model.behaviors, policies.parse(policy, model.behaviors)),
    )
    return [
        {'id': record.id, **decoding.describe(model, generation)}
        for record, generation in zip(records, generations, strict=True)
    ]


def save_model(model: Model, path: str | pathlib.Path) -> pathlib.Path:
    """Writes the model as a Hugging Face checkpoint; raises UserError when `path` is not empty."""
    return export.write(model, path, stop_id=scoring.renderer_of(model).stop_id)
