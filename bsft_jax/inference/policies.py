"""Policies: how the behavior is chosen at inference, and predictions from scores.

Everything here reads stored scores alone, so that another policy needs neither model nor device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviors import Behavior, BehaviorSet
from bsft_jax.errors import UserError
from bsft_jax.inference.branches import NONE
from bsft_jax.inference.scores import Scores
from bsft_jax.records.digest import digest_of_words
from bsft_jax.records.record import Record, behavior_of, describe_record

KINDS = ('auto', 'none', 'oracle', 'forced', 'threshold', 'mixture', 'dial', 'calibrated')
_WITH_ARGUMENT = ('forced', 'threshold', 'dial')
_NEED_CHOICE = ('oracle', 'forced', 'threshold', 'mixture', 'dial', 'calibrated')
_BY_CATEGORY = 'write dial:B,CATEGORY=B,CATEGORY=B with each category once'


@dataclasses.dataclass(frozen=True)
class Policy:
    """Holds a parsed policy; hashable, since jit takes it as static.

    Attributes:
      kind: `auto`, `none`, `oracle`, `forced`, `mixture` or `dial`, which `threshold` becomes.
      behavior_index: index of a forced behavior, else -1.
      dial: what is added to the log-odds of stepping in; 0 for the other kinds.
      positions: for `dial`, the position of each behavior between the lowest level, 0, and the
        highest, 1.
      by_category: for `dial`, the categories whose records have a dial of their own, and that.
    """

    kind: str
    behavior_index: int = -1
    dial: float = 0.0
    positions: tuple[float, ...] = ()
    by_category: tuple[tuple[str, float], ...] = ()

    @property
    def is_by_branch(self) -> bool:
        """Returns whether `choose_branch` can tell the branch of a record without its category."""
        return self.kind != 'mixture' and not self.by_category

    def of_category(self, category: str) -> Policy:
        """Returns the policy for the records of a category."""
        dial = dict(self.by_category).get(category, self.dial)
        return dataclasses.replace(self, dial=dial, by_category=())


def parse_policy(policy: str, behaviors: BehaviorSet) -> Policy:
    """Reads `auto`, `none`, `oracle`, `forced:NAME`, `threshold:T`, `mixture` or `dial:B`.

    For a model whose answers have no prefix, `auto` means `none`; with one constant prefix, `auto`
    means that one. `threshold:T` is the dial at -logit(T). `dial:B,CATEGORY=C` has a dial of its
    own, C, for the records of a category, and may go on with others. `calibrated` stands for the
    dial that is stored with a model (`inference.calibrated`), in whose place its users put it.

    Raises UserError for an unknown policy or behavior, a number that is out of range, a choice that
    the model does not have, and `calibrated` itself.
    """
    kind, _, argument = policy.partition(':')
    if kind not in KINDS or (kind in _WITH_ARGUMENT) != bool(argument):
        raise UserError(
            f'unknown policy {policy!r}',
            where='--policy',
            fix='use auto, none, oracle, forced:NAME, threshold:T, mixture, dial:B or calibrated',
        )
    if kind in _NEED_CHOICE and not behaviors.is_selectable:
        raise UserError(
            f'{policy!r} needs behaviors to choose from, this model has none', where='--policy'
        )
    if kind == 'calibrated':
        raise UserError(
            'is not a dial yet',
            where='--policy=calibrated',
            fix='name the dial of calibration.json: dial:B',
        )
    if kind in ('threshold', 'dial'):
        return _parse_dial(policy, behaviors)
    if not behaviors.prefixes:
        return Policy('none')
    return Policy(kind, behaviors.index(argument)) if argument else Policy(kind)


def _parse_dial(policy: str, behaviors: BehaviorSet) -> Policy:
    kind, _, argument = policy.partition(':')
    argument, *categories = argument.split(',') if kind == 'dial' else [argument]
    number = _parse_number(argument)
    if kind == 'threshold' and not 0 < number < 1:
        raise UserError(
            f'{argument!r} in {policy!r} is not a probability between 0 and 1', where='--policy'
        )
    named = [entry.rpartition('=') for entry in categories]
    by_category = {name: _parse_number(text) for name, _, text in named}
    if not all(by_category) or len(by_category) < len(named):
        raise UserError(f'{policy!r} is no dial by category', where='--policy', fix=_BY_CATEGORY)
    for text, value in ((argument, number), *zip(categories, by_category.values(), strict=True)):
        if not math.isfinite(value):
            raise UserError(f'{text!r} in {policy!r} is not a number', where='--policy')
    if not behaviors.positions:
        raise UserError(f'{policy!r} needs behaviors of different levels', where='--policy')
    dial = math.log1p(-number) - math.log(number) if kind == 'threshold' else number
    return Policy(
        'dial', dial=dial, positions=behaviors.positions, by_category=tuple(by_category.items())
    )


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def label_indices(records: Sequence[Record], behaviors: BehaviorSet, policy: Policy) -> np.ndarray:
    """Returns the index of each record's labelled behavior, int32[R]; -1 for none of the model's.

    Raises UserError where `policy` is `oracle` and a record has no such label.
    """
    names = behaviors.names if behaviors.is_selectable else ()
    index_of = {name: i for i, name in enumerate(names)}
    label_R = np.asarray([index_of.get(behavior_of(record), -1) for record in records], np.int32)
    if policy.kind == 'oracle' and (label_R < 0).any():
        unlabelled = records[int(np.argmin(label_R))]
        raise UserError(
            f'{describe_record(unlabelled)} has no behavior of this model', where='--policy=oracle'
        )
    return label_R


def choose_branch(policy: Policy, behavior_logprob_Rn, label_R, xp=np):
    """Returns the branch of each record: 0 for `none`, 1 + i for behavior i.

    `dial` takes arg max (log p + dial · position). Of equals it takes the one of the highest level,
    `auto` the first. `mixture` has no branch, and a dial by category none without the category;
    they are refused.

    `xp` is numpy or jax.numpy, which choose alike. Leading dimensions other than R are allowed.
    """
    if policy.by_category:
        raise UserError(
            'a dial by category is for records that are scored',
            where='--policy=dial',
            fix='use dial:B',
        )
    if policy.kind == 'auto':
        return 1 + xp.argmax(behavior_logprob_Rn, axis=-1)
    if policy.kind == 'oracle':
        return 1 + label_R
    if policy.kind == 'dial':
        position_n = np.asarray(policy.positions, np.float32)
        # One float32 addition per behavior, which rounds alike on the host and on devices.
        raised_Rn = behavior_logprob_Rn + xp.asarray(np.float32(policy.dial) * position_n)
        order_n = np.argsort(-position_n, kind='stable')
        return 1 + xp.asarray(order_n)[xp.argmax(raised_Rn[..., order_n], axis=-1)]
    if policy.kind == 'mixture':
        raise UserError(
            'chooses no behavior to begin an answer with', where='--policy=mixture', fix='use auto'
        )
    return xp.full(label_R.shape, 1 + policy.behavior_index)


def predictions(
    records: Sequence[Record], scores: Scores, policy: str = 'auto'
) -> list[dict[str, Any]]:
    """Returns one row of `predictions.jsonl` per record, in their order.

    Raises UserError for `oracle` on a record without a labelled behavior.
    """
    parsed = parse_policy(policy, scores.behaviors)
    # Names the file of a record without a label.
    label_indices(records, scores.behaviors, parsed)
    names, is_selectable = scores.branches, scores.behaviors.is_selectable
    rows = []
    for i, record in enumerate(records):
        option_logprob_WK = scores.option_logprob_RWK[i, :, : len(record.options)]
        behavior_logprobs = dict(
            zip(names[1:], scores.behavior_logprob_Rn[i].tolist(), strict=True)
        )
        rows.append(
            {
                'id': record.id,
                'case_id': record.case_id,
                'pair_id': record.pair_id,
                'category': record.category,
                'group': record.group,
                'hard': record.hard,
                'difficulty': record.difficulty,
                'behavior': record.behavior or None,
                'answer': record.answer,
                'prediction': None,
                'confidence': None,
                'behavior_prediction': None,
                'behavior_logprobs': behavior_logprobs if is_selectable else None,
                'option_logprobs': dict(zip(names, option_logprob_WK.tolist(), strict=True)),
                'option_behaviors': list(record.option_behaviors),
                'digest': digest_of_words(record),
            }
        )
    return apply_policy(rows, parsed)


def stored_behaviors(rows: Sequence[Mapping[str, Any]], levels: Mapping[str, float]) -> BehaviorSet:
    """Returns the behaviors of the model that rows of `predictions.jsonl` come from.

    No ids are stored, so their prefixes are empty. `levels` has the level of each behavior.
    """
    if chosen := rows[0]['behavior_logprobs']:
        behaviors = tuple(Behavior(name, levels[name], '') for name in chosen)
        return BehaviorSet(behaviors, ((),) * len(behaviors), 'tokens')
    # Beside `none` there is at most the one constant prefix.
    prefixes = ((),) * (len(rows[0]['option_logprobs']) - 1)
    return BehaviorSet((), prefixes, 'neutral' if prefixes else 'none')


def apply_policy(rows: Sequence[dict[str, Any]], policy: Policy) -> list[dict[str, Any]]:
    """Returns rows of `predictions.jsonl` under any policy as they are under `policy`.

    Under `mixture` an answer's probability is the mean of those in the branches, weighted by the
    probabilities of the behaviors; both are renormalised, over the options and over the behaviors.

    Raises UserError for `oracle` on a row without a labelled behavior.
    """
    return [{**row, **_choose(row, policy)} for row in rows]


def _choose(row: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """Returns the prediction of a row, its probability and the behavior that it was made with.

    The probability is renormalised over the options.
    """
    of_behavior, of_option = row['behavior_logprobs'], row['option_logprobs']
    if policy.kind == 'mixture':
        weight_n = _log_normalise(list(of_behavior.values()))
        option_nK = _log_normalise([of_option[name] for name in of_behavior])
        mixed_K = np.logaddexp.reduce(weight_n[:, None] + option_nK, axis=0)
        return {**_best(mixed_K), 'behavior_prediction': None}
    name = _branch_name(row, policy)
    return {
        **_best(of_option[name]),
        'behavior_prediction': name if of_behavior and name != NONE else None,
    }


def _best(logprob_K: Any) -> dict[str, Any]:
    best = int(np.argmax(logprob_K))
    return {'prediction': best, 'confidence': float(np.exp(_log_normalise(logprob_K)[best]))}


def _branch_name(row: Mapping[str, Any], policy: Policy) -> str:
    """Returns the name of the branch that a policy takes in a row of `predictions.jsonl`."""
    of_behavior = row['behavior_logprobs']
    if policy.kind == 'oracle':
        if row['behavior'] not in (of_behavior or ()):
            raise UserError(
                f'record {row["id"]!r} has no behavior of this model', where='--policy=oracle'
            )
        return row['behavior']
    names = list(row['option_logprobs'])
    if not of_behavior:
        # Beside `none` there is at most the one constant prefix.
        return names[-1] if policy.kind == 'auto' else NONE
    logprob_n = np.asarray(list(of_behavior.values()), np.float32)
    policy = policy.of_category(row.get('category') or '')
    return names[int(choose_branch(policy, logprob_n, np.int32(-1)))]


def _log_normalise(logprob_K: Any) -> np.ndarray:
    """Returns log-probabilities whose exponentials add up to 1 along the last axis."""
    logprob_K = np.asarray(logprob_K, np.float64)
    return logprob_K - np.logaddexp.reduce(logprob_K, axis=-1, keepdims=True)
