"""What the apps do: each function is one app's work, from resolved arguments to files.

The apps parse flags and call these; so do tests and notebooks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from bsft_jax import config as config_lib
from bsft_jax import files
from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import Message, Record, read_jsonl
from bsft_jax.behaviorbench.sampling import spread
from bsft_jax.config import RunConfig
from bsft_jax.data import checks, labels, loader, prompts, rendering
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.evaluation import records as scored
from bsft_jax.hub import export as export_lib
from bsft_jax.hub import files as hub_files
from bsft_jax.hub import model as model_lib
from bsft_jax.hub.model import BaseModel, Model
from bsft_jax.inference import decoding, policies, scoring
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import processes, settings, sharding
from bsft_jax.training import loop, placement
from bsft_jax.training import records as records_lib
from bsft_jax.training import state as state_lib
from bsft_jax.training import workdir as workdir_lib
from bsft_jax.training.checkpoint import Checkpoints
from bsft_jax.training.loop import Run
from bsft_jax.training.telemetry import Clock, progress

NAME_LETTERS = 32  # of a long setting in the name of an evaluation


def _scorable(source: str, split: str) -> list[Record]:
    """The records of a split that can be scored; says how many cannot."""
    records = sources.load_records(source, split)
    tasks = scored.scorable(records, source)
    if len(tasks) < len(records):
        missing = len(records) - len(tasks)
        processes.say(f'{missing} of {len(records)} records have no options to score, or no answer')
    return tasks


def _fitting(
    records: list[Record], renderer: rendering.Renderer, network: Network, share: float, *, where: str
):
    """The records that fit the model's positions; says how many do not. Raises what `leave_out_long` does."""
    fitting = scoring.leave_out_long(records, renderer, network, share, where=where)
    if left_out := len(records) - len(fitting):
        processes.say(f'{left_out} of {len(records)} records are too long and left out')
    return fitting


class ScoreEvaluator:
    """Macro-F1 of the validation split under `auto`, while a run goes on."""

    def __init__(self, config: RunConfig, base: BaseModel, mesh):
        records = labels.hold_out(_scorable(config.data.source, 'validation'), config.data.hold_out)
        records = spread(records, config.evaluation.limit)
        renderer = records_lib.training_renderer(config, base)
        self._network = base.network
        self._scorer = scoring.Scorer(
            _fitting(records, renderer, base.network, config.data.drop_long, where='--config.data.drop_long'),
            renderer,
            base.network,
            mesh,
            policy='auto',
            tokens_per_batch=config.evaluation.tokens_per_batch,
        )

    def __call__(self, params: Params) -> dict[str, float]:
        scores = self._scorer(self._network, params)
        figures = metrics_lib.metrics_from_confusion(scores.confusion_COO, self._scorer.categories)
        return {
            'validation/macro_f1': figures['overall'],
            **{f'validation/macro_f1/{name}': value for name, value in figures['groups'].items() if name},
        }


def train(config: RunConfig, workdir: str | pathlib.Path) -> None:
    """Trains a run, or continues it from the newest whole checkpoint of `workdir`.

    Raises:
      UserError: anything the user must change, before a device computes; a loss that is not finite.
      Preempted: SIGTERM; the run is saved and can be started again.
    """
    config.validate()
    with loop.termination() as stopping:
        _train(config, pathlib.Path(workdir), stopping)


def _train(config: RunConfig, workdir: pathlib.Path, stopping: loop.Stopping) -> None:
    base = workdir_lib.open_base(config)
    workdir_lib.check(workdir, config)
    store, plan = records_lib.training_examples(config, base)
    loop.check_stopping(stopping)
    base.network = dataclasses.replace(base.network, documents=plan.most_in_row)
    placed = placement.place(config, base)
    mesh = placed.mesh
    source = loader.StepSource(
        store,
        plan,
        packed=config.data.packed,
        row_multiple=placed.row_multiple,
        held=functools.partial(sharding.local_rows, mesh),
        steps=config.steps,
    )
    evaluators = (ScoreEvaluator(config, base, mesh),) if config.evaluation.interval else ()
    workdir_lib.claim(workdir, config)
    processes.say(plan.describe_run(config.steps))
    processes.say(f'mesh: {mesh_lib.describe(mesh)}')
    processes.say(f'attention: {base.network.attention}')
    if lacking := settings.lacking():
        processes.say(lacking)

    keep = config.checkpoint.keep
    with workdir_lib.held(workdir), contextlib.closing(Checkpoints(workdir, keep)) as checkpoints:
        if processes.is_first():
            workdir_lib.write_environment(workdir)
            (workdir / 'parameters.txt').write_text(state_lib.table(placed.shapes) + '\n')
        restored, clock = None, Clock()
        if checkpoints.steps:
            restored = checkpoints.restore(workdir_lib.restorable(config, base, mesh))
        if restored is None:
            state = workdir_lib.initial_state(config, base, mesh)
        else:
            if restored.data != source.state(restored.data['step']):
                raise UserError(
                    'the training records are not those this run started with',
                    where=f'--config.data.source={config.data.source}',
                )
            state, clock = restored.state, Clock(**restored.clock)
            processes.say(f'continuing at step {int(state.step)}')
        workdir_lib.renew(workdir, config)
        if base.behaviors.ids:
            processes.say(f"behavior rows: norm {model_lib.row_norm_ratio(state.params):.3f} of the table's")
        run = Run(config, base.network, mesh, source, workdir, evaluators)
        state = loop.train(run, state, checkpoints, clock, stopping)
    processes.say(f'done: {workdir}, step {int(state.step)}', file=sys.stdout)


def open_model(
    *, model: str = '', workdir: str = '', step: int | None = None, chat_template: str = ''
) -> Model:
    """The model that `--model` or `--workdir` names, on all devices as `mesh.reading_mesh` has it.

    A run is held and computed in as its config says, a `--model` as `_in_stored_dtype` does.
    """
    if model and step is not None:
        raise UserError('belongs to --workdir, not to --model', where=f'--step={step}')
    if not (model or workdir):
        raise UserError('neither --model nor --workdir is given')
    if chat_template and not model:
        raise UserError('belongs to --model: a run has its own', where=f'--chat_template={chat_template}')
    if not model:
        return workdir_lib.load_model(pathlib.Path(workdir), step=step, mesh=_reading_mesh)
    base = model_lib.open_base(model, chat_template=chat_template)
    base.network = _in_stored_dtype(base, jax.default_backend())
    return model_lib.load(base, _reading_mesh(base.network))


def _reading_mesh(network: Network) -> Mesh:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(network.abstract()))
    return mesh_lib.reading_mesh(size, network.arch.kv_heads)


def _in_stored_dtype(base: BaseModel, platform: str) -> Network:
    """The base's network in bfloat16 where its files are; in float32 on CPUs."""
    if platform == 'cpu' or hub_files.stored_dtype(base.directory) != 'bfloat16':
        return base.network
    return dataclasses.replace(base.network, dtype='bfloat16', base_dtype='bfloat16')


def _in_style(
    style: prompts.Style,
    records: Sequence[Record],
    loaded: Model,
    renderer: rendering.Renderer,
    examples: str,
) -> list[Record]:
    """Records in a prompt style, whose examples come from the train split of the source `examples`."""
    where, pool = f'--prompt={style.name}', []
    if style.shots:
        if not examples:
            raise UserError('no records to show', where=where, fix='name a data source with --examples')
        try:
            pool = sources.load_records(examples, 'train')
        except UserError as error:
            fix = 'name a data source with a train split by --examples'
            raise UserError(f'no records to show ({error})', where=where, fix=fix) from error
    return prompts.apply(style, records, renderer, behaviors=loaded.behaviors.named, pool=pool)


def _parse_style(prompt: str, examples: str) -> prompts.Style:
    style = prompts.parse(prompt)
    if examples and not style.shots:
        raise UserError('belongs to --prompt=few_shot:K', where=f'--examples={examples}')
    return style


def _evaluation_name(parts: Sequence[str], asked: dict[str, Any], usual: dict[str, Any]) -> str:
    """Default folder of an evaluation: the parts, and what is asked for that is not as usual.

    A number stands behind its setting's name; of a long text the end stays, and a digest.
    """
    special = {key: value for key, value in asked.items() if value and value != usual.get(key)}
    words = []
    for text in [*parts, *(f'{k}{v}' if isinstance(v, int) else v for k, v in special.items())]:
        word = re.sub(r'[^\w.]+', '-', text).strip('-.')
        if len(word) > NAME_LETTERS:
            word = f'{word[-NAME_LETTERS:].strip("-.")}-{hashlib.sha256(text.encode()).hexdigest()[:6]}'
        words.append(word)
    return '-'.join(words)


def evaluate(
    *,
    workdir: str,
    model: str = '',
    step: int | None = None,
    data: str = '',
    split: str = 'test',
    subset: str = 'all',
    prompt: str = 'plain',
    examples: str = '',
    policy: str = 'auto',
    name: str = '',
    limit: int = 0,
    chat_template: str = '',
    answer_format: str = '',
    drop_long: float | None = None,
    tokens_per_batch: int = 8192,
) -> dict[str, Any]:
    """Scores a model and writes `predictions.jsonl` and `metrics.json` to `workdir/eval/NAME`.

    NAME is `name`, or `SPLIT-POLICY` followed by what is not as usual: the prompt style, `hard`, `limit8`, `step2`,
    other data, another model or template. `metrics.json` says all of it.

    The model is `model`, or the run in `workdir`, on `mesh.reading_mesh`. The confusion counts
    kept on the devices must agree with the rows written, or it is an error. Records that do not fit
    the model's positions are left out up to the share `drop_long` (default: the run's, or 0.01); of a
    `limit` whole cases are taken, evenly spread.
    `prompt` is the prompt style; the train split of `examples` (default: `data`) has what it shows.

    Returns the metrics.
    """
    style = _parse_style(prompt, examples)
    if '/' in name or name in ('.', '..'):
        raise UserError('is not the name of one folder', where=f'--name={name}', fix='leave out the slash')
    settings = (RunConfig() if model else config_lib.read_workdir(workdir)).data
    usual = {'subset': 'all', 'data': '' if model else settings.source}
    source = data or usual['data']
    drop_long = settings.drop_long if drop_long is None else drop_long
    if not source:
        raise UserError('flag --data is missing', fix='name a data source for --model')
    if source == usual['data'] and (warning := scored.shared_by_splits(source)):
        processes.say(warning)
    records = scored.choose(_scorable(source, split), source, subset, limit)
    loaded = open_model(model=model, workdir='' if model else workdir, step=step, chat_template=chat_template)
    checks.check_behaviors(records, loaded.behaviors.named)
    usual['answer_format'] = loaded.answer_format
    loaded.answer_format = answer_format or loaded.answer_format
    renderer = scoring.renderer_of(loaded)
    records = _in_style(style, records, loaded, renderer, examples or source)
    asked_for = len(records)
    records = _fitting(records, renderer, loaded.network, drop_long, where='--drop_long')
    scorer = scoring.Scorer(
        records, renderer, loaded.network, loaded.mesh, policy=policy, tokens_per_batch=tokens_per_batch
    )
    with progress('evaluate', len(scorer), shown=processes.is_first()) as bar:
        scores = scorer(loaded.network, loaded.params, lambda: bar.update(1))
    rows = policies.predictions(records, scores, policy)
    metrics = metrics_lib.summarize(rows, policy=policy, prompt=style.name, positive=loaded.behaviors.highest)
    asked = {
        'subset': subset,
        'limit': limit,
        'data': source,
        'examples': examples,
        'model': model,
        'step': step,
        'chat_template': chat_template,
        'answer_format': loaded.answer_format,
    }
    metrics |= {'left_out': asked_for - len(records), 'split': split, **asked, 'step': loaded.step}
    counted = metrics_lib.metrics_from_confusion(scores.confusion_COO, scorer.categories)
    by_rows = {name: entry['macro_f1'] for name, entry in metrics['categories'].items()}
    if any(abs(counted['categories'][name] - by_rows[name]) > 1e-6 for name in by_rows):
        raise AssertionError(
            f'counts of the devices {counted["categories"]} are not those of the rows {by_rows}'
        )
    parts = [split, policy] if style.name == 'plain' else [split, policy, style.name]
    directory = pathlib.Path(workdir) / 'eval' / (name or _evaluation_name(parts, asked, usual))
    if processes.is_first():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / 'metrics.json').unlink(missing_ok=True)  # it is of the predictions that go
        files.write_lines(directory / 'predictions.jsonl', rows)
        files.write_json(directory / 'metrics.json', metrics)
    processes.say(f'written: {directory}')
    return metrics


def export(*, workdir: str, output: str, step: int | None = None, form: str = 'merged') -> pathlib.Path:
    """Writes a run's model as a plain Hugging Face checkpoint, or as a `peft` adapter; returns the folder."""
    loaded = open_model(workdir=workdir, step=step)
    stop_id = scoring.renderer_of(loaded).stop_id
    return export_lib.write(loaded, output, stop_id=stop_id, form=form)


def generate(
    *,
    sampling: decoding.Sampling,
    workdir: str = '',
    model: str = '',
    step: int | None = None,
    text: str | None = None,
    input_file: str = '',
    prompt: str = 'plain',
    examples: str = '',
    policy: str = 'auto',
    raw: bool = False,
    chat_template: str = '',
) -> list[dict[str, Any]]:
    """Answers to one text or to every record of a file: `{id, text, ids, behavior, behavior_logprobs}`.

    `raw` continues the text behind the tokenizer's own start token, with policy `none` and no template.
    `prompt` is the prompt style; the train split of `examples` (default: the run's source) has what it shows.
    The model is `model`, or the run in `workdir`, on `mesh.reading_mesh`.
    """
    style = _parse_style(prompt, examples)
    if (text is None) == (not input_file):
        raise UserError('give either --text or --input')
    if raw and text is None:
        raise UserError('--raw needs --text')
    if raw and style.name != 'plain':
        raise UserError('needs a chat template, --raw uses none', where=f'--prompt={style.name}')
    if raw and policy not in ('auto', 'none'):
        raise UserError('needs an answer with a head, --raw has none', where=f'--policy={policy}')
    records = read_jsonl(input_file) if input_file else [Record((Message('user', text),), id='text')]
    loaded = open_model(model=model, workdir=workdir, step=step, chat_template=chat_template)
    if raw:
        tokenizer = loaded.tokenizer
        prompt_ids, policy, stop_id = [tokenizer.encode(text)], 'none', tokenizer.eos_token_id
        if stop_id is None:
            stop_id = -1  # no token ends the text
        if not prompt_ids[0]:
            raise UserError('is empty and the tokenizer has no start token', where='--text')
    else:
        renderer = scoring.renderer_of(loaded)
        if style.shots and workdir and not (model or examples):
            examples = config_lib.read_workdir(workdir).data.source
        records = _in_style(style, records, loaded, renderer, examples)
        prompt_ids, stop_id = renderer.prompt_ids_of(records), renderer.stop_id
    label_N = policies.labels(records, loaded.behaviors, policies.parse(policy, loaded.behaviors))
    with progress('generate', len(prompt_ids), shown=processes.is_first()) as bar:
        generations = decoding.generate(
            loaded,
            prompt_ids,
            policy=policy,
            stop_id=stop_id,
            sampling=sampling,
            labels=label_N,
            on_batch=bar.update,
        )
    return [
        {'id': record.id, **decoding.describe(loaded, generation)}
        for record, generation in zip(records, generations, strict=True)
    ]
