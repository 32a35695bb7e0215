"""Policies: how the behavior is chosen at inference, and predictions from scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.errors import UserError
from bsft_jax.inference.scores import Scores
from bsft_jax.records.record import Record, behavior_of, describe_record


@dataclasses.dataclass(frozen=True)
class Policy:
    """Holds a parsed policy.

    Attributes:
      kind: `auto`, `none`, `oracle` or `forced`.
      behavior_index: index of a forced behavior, else -1.
    """

    kind: str
    behavior_index: int = -1


def parse_policy(policy: str, behaviors: BehaviorSet) -> Policy:
    """Reads `auto`, `none`, `oracle` or `forced:NAME`.

    For a model whose answers have no prefix, `auto` means `none`; with one constant prefix, `auto`
    means that one.

    Raises UserError for an unknown policy or behavior, and for a choice that the model does not
    have.
    """
    kind, _, name = policy.partition(':')
    if kind not in ('auto', 'none', 'oracle', 'forced') or (kind == 'forced') != bool(name):
        raise UserError(
            f'unknown policy {policy!r}',
            where='--policy',
            fix='use auto, none, oracle or forced:NAME',
        )
    if kind in ('forced', 'oracle') and not behaviors.is_selectable:
        raise UserError(
            f'{policy!r} needs behaviors to choose from, this model has none', where='--policy'
        )
    if not behaviors.prefixes:
        return Policy('none')
    return Policy(kind, behaviors.index(name)) if name else Policy(kind)


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

    `xp` is numpy or jax.numpy. Leading dimensions other than R are allowed.
    """
    if policy.kind == 'auto':
        return 1 + xp.argmax(behavior_logprob_Rn, axis=-1)
    if policy.kind == 'oracle':
        return 1 + label_R
    return xp.full(label_R.shape, 1 + policy.behavior_index)


def predictions(
    records: Sequence[Record], scores: Scores, policy: str = 'auto'
) -> list[dict[str, Any]]:
    """Returns one row of `predictions.jsonl` per record, in their order.

    Raises UserError for `oracle` on a record without a labelled behavior.
    """
    parsed = parse_policy(policy, scores.behaviors)
    label_R = label_indices(records, scores.behaviors, parsed)
    branch_R = choose_branch(parsed, scores.behavior_logprob_Rn, label_R)
    names, is_selectable = scores.branches, scores.behaviors.is_selectable
    rows = []
    for i, record in enumerate(records):
        branch, K = int(branch_R[i]), len(record.options)
        option_logprob_WK = scores.option_logprob_RWK[i, :, :K]
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
                'behavior': record.behavior or None,
                'answer': record.answer,
                'prediction': int(np.argmax(option_logprob_WK[branch])),
                'behavior_prediction': names[branch] if branch and is_selectable else None,
                'behavior_logprobs': behavior_logprobs if is_selectable else None,
                'option_logprobs': dict(zip(names, option_logprob_WK.tolist(), strict=True)),
                'option_behaviors': list(record.option_behaviors),
            }
        )
    return rows


def relabel_as_oracle(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows of `predictions.jsonl` under any policy as they are under `oracle`.

    Raises UserError for a row without a labelled behavior, and for a model without a choice.
    """
    relabelled = []
    for row in rows:
        label = row['behavior']
        if label not in (row['behavior_logprobs'] or {}):
            raise UserError(
                f'record {row["id"]!r} has no behavior of this model', where='--policy=oracle'
            )
        best = int(np.argmax(row['option_logprobs'][label]))
        relabelled.append({**row, 'behavior_prediction': label, 'prediction': best})
    return relabelled
