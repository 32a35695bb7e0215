"""Policies: how the behavior is chosen at inference, and predictions from scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviorbench.records import Record, behavior_of, label_of
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.errors import UserError
from bsft_jax.inference.branches import NONE


@dataclasses.dataclass
class Scores:
    """What one pass over records yields; N records, n heads, O the most options of a record.

    Attributes:
      behaviors: with the heads of the model's answers.
      behavior_logprob_Nn: log-probability of each head behind the prompt, the sum over its tokens,
        over the full vocabulary.
      option_logprob_NBO: sum over each option's tokens given the branch; branch 0 is `none`, then
        the heads; -inf where a record has fewer options.
      option_tokens_NO: tokens of each option (for the mean per token).
      confusion_COO: for a policy given to the scorer: counts by category, answer and prediction,
        accumulated on the device; None without one.
      prompt: the prompt style that the records were shown in.
    """

    behaviors: BehaviorSet
    behavior_logprob_Nn: np.ndarray
    option_logprob_NBO: np.ndarray
    option_tokens_NO: np.ndarray
    confusion_COO: np.ndarray | None = None
    prompt: str = 'plain'

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches, in the order of axis B."""
        return (NONE, *self.behaviors.head_names)


@dataclasses.dataclass(frozen=True)
class Policy:
    """A parsed policy: `auto`, `none`, `oracle`, or `forced` with a behavior's row."""

    kind: str
    row: int = -1


def parse(policy: str, behaviors: BehaviorSet) -> Policy:
    """Reads `auto`, `none`, `oracle` or `forced:NAME`.

    For a model whose answers have no head `auto` means `none`; where there is one constant head,
    `auto` means that one. Raises UserError for an unknown policy or behavior, or one that needs a
    choice the model does not have.
    """
    kind, _, name = policy.partition(':')
    if kind not in ('auto', 'none', 'oracle', 'forced') or (kind == 'forced') != bool(name):
        raise UserError(
            f'unknown policy {policy!r}', where='--policy', fix='use auto, none, oracle or forced:NAME'
        )
    if kind in ('forced', 'oracle') and not behaviors.chooses:
        raise UserError(f'{policy!r} needs behaviors to choose from, this model has none', where='--policy')
    if not behaviors.heads:
        return Policy('none')
    return Policy(kind, behaviors.index(name)) if name else Policy(kind)


def labels(records: Sequence[Record], behaviors: BehaviorSet, policy: Policy) -> np.ndarray:
    """Row of each record's labelled behavior, -1 where it has none or an unknown one.

    Raises UserError where `policy` is `oracle` and a record has none.
    """
    rows = {name: i for i, name in enumerate(behaviors.names)} if behaviors.chooses else {}
    label_N = np.asarray([rows.get(behavior_of(record), -1) for record in records], np.int32)
    if policy.kind == 'oracle' and (label_N < 0).any():
        missing = records[int(np.argmin(label_N))]
        raise UserError(f'{label_of(missing)} has no behavior of this model', where='--policy=oracle')
    return label_N


def choose_branch(policy: Policy, behavior_logprob_Nn, label_N, xp=np):
    """Branch of each record: 0 for `none`, 1 + row for a behavior; `xp` is numpy or jax.numpy."""
    if policy.kind == 'auto':
        return 1 + xp.argmax(behavior_logprob_Nn, axis=-1)
    if policy.kind == 'oracle':
        return 1 + label_N
    return xp.full(label_N.shape, 1 + policy.row)


def predictions(records: Sequence[Record], scores: Scores, policy: str = 'auto') -> list[dict[str, Any]]:
    """One row of `predictions.jsonl` per record, in their order.

    Raises UserError for `oracle` on a record without a labelled behavior.
    """
    parsed = parse(policy, scores.behaviors)
    label_N = labels(records, scores.behaviors, parsed)
    branch_N = choose_branch(parsed, scores.behavior_logprob_Nn, label_N)
    names, chooses, rows = scores.branches, scores.behaviors.chooses, []
    for i, record in enumerate(records):
        branch, O = int(branch_N[i]), len(record.options)
        head_logprobs = dict(zip(names[1:], scores.behavior_logprob_Nn[i].tolist(), strict=True))
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
                'prediction': int(np.argmax(scores.option_logprob_NBO[i, branch, :O])),
                'behavior_prediction': names[branch] if branch and chooses else None,
                'behavior_logprobs': head_logprobs if chooses else None,
                'option_logprobs': {
                    name: scores.option_logprob_NBO[i, b, :O].tolist() for b, name in enumerate(names)
                },
                'option_behaviors': list(record.option_behaviors),
            }
        )
    return rows


def with_labels(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `predictions.jsonl` under any policy as they are under `oracle`.

    Raises UserError for a row without a labelled behavior, or one whose model has none to choose.
    """
    known = []
    for row in rows:
        label = row['behavior']
        if label not in (row['behavior_logprobs'] or {}):
            raise UserError(f'record {row["id"]!r} has no behavior of this model', where='--policy=oracle')
        best = int(np.argmax(row['option_logprobs'][label]))
        known.append({**row, 'behavior_prediction': label, 'prediction': best})
    return known
