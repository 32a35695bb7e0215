"""Answers records in words beside their scores, and says what the words choose and mention."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bsft_jax import api
from bsft_jax.commands.eval_folder import GENERATED
from bsft_jax.errors import UserError
from bsft_jax.hub.pretrained import Model
from bsft_jax.inference import decoding, letters, scoring
from bsft_jax.inference.decoding import Sampling
from bsft_jax.inference.scores import Scores
from bsft_jax.parallel import processes
from bsft_jax.records.record import Record
from bsft_jax.training.progress import progress

# Longest answer in tokens where nothing is said: a letter and the first words of its reason.
MAX_NEW_TOKENS = 64
# What `metrics.json` keeps of the usual metrics: they rest on the answers alone.
_SECTIONS = ('groups', 'categories')
_RATES = (
    'over_intervention_rate',
    'missed_intervention_rate',
    'overshoot',
    'undershoot',
    'twin_score',
    'pairs',
)


class Prompts(NamedTuple):
    """Holds what is answered in words.

    Attributes:
      records: the records, as they are shown to the model.
      ids: token ids of each prompt.
      stop_id: id that ends an answer.
    """

    records: list[Record]
    ids: list[list[int]]
    stop_id: int


def check_policy(policy: str) -> None:
    """Raises UserError for a policy that begins no answer."""
    if policy == 'mixture':
        raise UserError(
            'chooses no behavior to begin an answer with',
            where='--policy=mixture',
            fix='leave --generate out, or use auto',
        )


def name_parts(sampling: Sampling | None) -> list[str]:
    """Returns what the default name of an evaluation says of generation."""
    if sampling is None:
        return []
    settings = dataclasses.asdict(sampling)
    defaults = dataclasses.asdict(Sampling(MAX_NEW_TOKENS))
    return ['generate', *(f'{k}{v}' for k, v in settings.items() if v != defaults[k])]


def make_prompts(
    model: Model, records: Sequence[Record], max_new_tokens: int, max_dropped_fraction: float
) -> Prompts:
    """Returns the prompts that leave room for an answer within the model's positions.

    Logs how many do not. Raises UserError when that is more than the share `max_dropped_fraction`,
    or all.
    """
    renderer, positions = scoring.renderer_of(model), model.network.arch.max_positions
    ids = renderer.prompt_ids_of(records)
    fitting = [i for i, prompt in enumerate(ids) if len(prompt) + max_new_tokens <= positions]
    dropped = len(records) - len(fitting)
    if dropped > max_dropped_fraction * len(records) or not fitting:
        raise UserError(
            f'{dropped} of {len(records)} records leave no room for {max_new_tokens} new tokens in '
            f'the {positions} positions of the model, the longest has {max(map(len, ids))}',
            where='--max_new_tokens',
            fix='lower it, or raise --max_dropped_fraction',
        )
    if dropped:
        processes.log_first(
            f'{dropped} of {len(records)} records are too long to be answered in words'
        )
    return Prompts([records[i] for i in fitting], [ids[i] for i in fitting], renderer.stop_id)


def answer(
    model: Model,
    prompts: Prompts,
    rows: Sequence[dict[str, Any]],
    scores: Scores,
    *,
    policy: str,
    sampling: Sampling,
    with_words: bool,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Answers the prompts, each after the behavior that the policy chose by the scores.

    Args:
      model: the model.
      prompts: what `make_prompts` returns.
      rows: the predictions under the policy.
      scores: the scores of all records.
      policy: how the behavior is chosen; `calibrated` stands for the dial that it is.
      sampling: length, temperature, nucleus and seed.
      with_words: whether the rows get the words of the answers.

    Returns:
      The rows, each with its `generated` (null where the record is not answered), and what
      `metrics.json` says under `generated`.
    """
    row_of = {row['id']: row for row in rows}
    asked = [row_of[record.id] for record in prompts.records]
    labels = _labels(model, asked)
    with progress('generate', len(asked), shown=processes.is_first()) as bar:
        answers = api.answer_prompts(
            model,
            [record.id for record in prompts.records],
            prompts.ids,
            policy=policy if labels is None else 'oracle',
            stop_id=prompts.stop_id,
            sampling=sampling,
            of_prompts=decoding.PerPrompt(
                labels, [decoding.seed_of_record(record.id) for record in prompts.records]
            ),
            on_batch=bar.update,
        )
    options = [
        letters.read_choice(answer['text'], (), record.options).option
        for record, answer in zip(prompts.records, answers, strict=True)
    ]
    counted, said = [], {}
    for record, row, option, reply in zip(prompts.records, asked, options, answers, strict=True):
        levels = scores.behaviors.levels
        taken = letters.wrong_option(record, levels) if option is None else option
        counted.append({**row, 'prediction': taken})
        said[record.id] = {
            'letter': None if option is None else string.ascii_uppercase[option],
            **_mentions(record, reply['text']),
            **({'text': reply['text']} if with_words else {}),
        }
    metrics = api.metrics_of_rows(counted, scores, policy)
    section = {
        **metrics['overall'],
        **{name: metrics[name] for name in _SECTIONS},
        **{name: metrics['intervention'][name] for name in _RATES},
        'unparsed': _share([option is None for option in options]),
        'agreement': _share(
            [o == row['prediction'] for o, row in zip(options, asked, strict=True)]
        ),
        **_rates_of_mentions(list(said.values())),
        'cut': sum(len(answer['ids']) == sampling.max_new_tokens for answer in answers),
        'left_out': len(rows) - len(asked),
        **dataclasses.asdict(sampling),
    }
    return [{**row, GENERATED: said.get(row['id'])} for row in rows], section


def summary_line(section: Mapping[str, Any]) -> str:
    """Returns one line on what `metrics.json` says of generated answers."""
    groups = ', '.join(f'{name} {part["macro_f1"]:.3f}' for name, part in section['groups'].items())
    return (
        f'generated: macro-F1 {section["macro_f1"]:.3f} ({groups}), '
        f'{section["unparsed"]:.1%} of {section["n"]} answers name no option'
    )


def _labels(model: Model, rows: Sequence[Mapping[str, Any]]) -> list[int] | None:
    """Returns which behavior begins each answer, that of its scored prediction; None for none.

    They are given to decoding as labels, for a dial may differ by category, which it does not know.
    """
    if rows[0]['behavior_prediction'] is None:
        return None
    index = {name: i for i, name in enumerate(model.behaviors.names)}
    return [index[row['behavior_prediction']] for row in rows]


def _mentions(record: Record, text: str) -> dict[str, bool | None]:
    """Returns whether a text mentions all that it must, and any of what it must not.

    Either is None for a record that asks for nothing of the kind.
    """
    due, banned = record.must_mention, record.must_not_mention
    return {
        'mentions': all(letters.mentions(text, due)) if due else None,
        'false_alarm': any(letters.mentions(text, banned)) if banned else None,
    }


def _rates_of_mentions(said: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mentions, alarms = (
        [entry[name] for entry in said if entry[name] is not None]
        for name in ('mentions', 'false_alarm')
    )
    return {
        'mention_rate': _share(mentions),
        'mention_n': len(mentions),
        'false_alarm_rate': _share(alarms),
        'false_alarm_n': len(alarms),
    }


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
