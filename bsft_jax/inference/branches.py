"""Branches behind a shared prompt, laid out for the device.

Prompts are packed into rows as training documents are. Behind each prompt stand its branches:
`none` and one per head of answers, each the head (if any), the stem `Answer:`, and the options as
leaves of that stem. All branches of a row's prompts form one suffix row; `branch` and `leaf`
numbers keep them apart. A branch token is read once, however many options follow it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bsft_jax.behaviorbench.records import Record, label_of
from bsft_jax.data.packing import pack
from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError

NONE = 'none'
_ROUND = 64


class BranchBatch(NamedTuple):
    """One batch for the device; B rows, T prompt tokens, S suffix tokens, M sums, R records a row.

    Attributes:
      tokens_BT, segment_ids_BT, positions_BT: packed prompts.
      suffix_…_BS: tokens, segment ids, positions, branch and leaf numbers of all branches.
      source_BM: index into prompt + suffix (T + S) of the token that predicts.
      target_BM: the token whose log-probability is taken.
      slot_BM: which sum of the row it is added to (the last slot collects padding).
    """

    tokens_BT: np.ndarray
    segment_ids_BT: np.ndarray
    positions_BT: np.ndarray
    suffix_tokens_BS: np.ndarray
    suffix_segment_ids_BS: np.ndarray
    suffix_positions_BS: np.ndarray
    suffix_branch_BS: np.ndarray
    suffix_leaf_BS: np.ndarray
    source_BM: np.ndarray
    target_BM: np.ndarray
    slot_BM: np.ndarray


@dataclasses.dataclass
class _Tree:
    """Prompt and branches of one record; sources ≥ len(prompt) point into the suffix."""

    prompt: list[int]
    suffix: list[tuple[int, int, int, int]]  # token, position, branch, leaf
    sums: list[tuple[int, int, int]]  # source, target, slot


def _tree(prompt: list[int], stem: list[int], options: list[list[int]], heads, width: int) -> _Tree:
    """Slots: n sums over the heads, then (n + 1) × width option sums, branch-major."""
    P, n = len(prompt), len(heads)
    suffix: list[tuple[int, int, int, int]] = []
    head_sums, sums = [], []
    for branch, head in enumerate([(), *heads], start=1):
        source = P - 1
        for i, token in enumerate([*head, *stem]):
            if i < len(head):
                head_sums.append((source, token, branch - 2))
            suffix.append((token, P + i, branch, 0))
            source = P + len(suffix) - 1
        stem_end, depth = source, P + len(head) + len(stem)
        for o, option in enumerate(options):
            source = stem_end
            for i, token in enumerate(option):
                sums.append((source, token, n + (branch - 1) * width + o))
                if i + 1 < len(option):
                    suffix.append((token, depth + i, branch, o + 1))
                    source = P + len(suffix) - 1
    return _Tree(prompt, suffix, head_sums + sums)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def branch_lengths(records: Sequence[Record], renderer: Renderer) -> list[int]:
    """Tokens of each record's prompt with its longest branch behind it."""
    head = len(renderer.stem_ids) + max(map(len, renderer.behaviors.heads), default=0)
    prompts = renderer.prompt_ids_of(records)
    return [
        len(prompt) + head + max(map(len, renderer.option_ids(record)), default=0)
        for record, prompt in zip(records, prompts, strict=True)
    ]


class BranchPlan:
    """All branches of a list of records, packed once; every batch has the same shapes.

    Args:
      records: each with options.
      renderer: of the model that scores.
      tokens_per_batch: about how many prompt tokens a batch holds.
      row_multiple: the number of rows of a batch is a multiple of this.

    Attributes:
      slots: sums per record: n + (n + 1) · width.
      width: the largest number of options.
      option_tokens_RO: tokens of each option, 0 where there is none.
      longest: positions that the longest branch takes, its prompt included.
    """

    def __init__(
        self, records: Sequence[Record], renderer: Renderer, *, tokens_per_batch: int, row_multiple: int = 1
    ):
        if not records:
            raise UserError('no records to score', fix='choose another --data, --split or --limit')
        for record in records:
            if not record.options:
                raise UserError(f'{label_of(record)} has no options to score')
        heads = renderer.behaviors.heads
        self.width = max(len(record.options) for record in records)
        self.slots = len(heads) + (len(heads) + 1) * self.width
        self.option_tokens_RO = np.zeros((len(records), self.width), np.int32)
        self._trees = []
        for i, (record, prompt) in enumerate(zip(records, renderer.prompt_ids_of(records), strict=True)):
            options = renderer.option_ids(record)
            self.option_tokens_RO[i, : len(options)] = [len(option) for option in options]
            self._trees.append(_tree(prompt, renderer.stem_ids, options, heads, self.width))
        lengths = [len(tree.prompt) for tree in self._trees]
        self.longest = max(position + 1 for tree in self._trees for _, position, *_ in tree.suffix)
        self.T = _round_up(max(lengths), _ROUND)
        self.rows = pack(np.asarray(lengths), self.T)
        self.S = _round_up(max(sum(len(self._trees[i].suffix) for i in row) for row in self.rows), _ROUND)
        self.M = _round_up(max(sum(len(self._trees[i].sums) for i in row) for row in self.rows), _ROUND)
        self.R = max(len(row) for row in self.rows)
        wanted = max(1, min(tokens_per_batch // self.T, len(self.rows)))
        self.B = _round_up(wanted, row_multiple)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.B)

    def batches(self) -> Iterator[tuple[BranchBatch, np.ndarray]]:
        """Batches with record_BR, the record of each place in a row (-1: none)."""
        for start in range(0, len(self.rows), self.B):
            yield self._batch(self.rows[start : start + self.B])

    def _batch(self, rows: list[list[int]]) -> tuple[BranchBatch, np.ndarray]:
        B, T, S, M = self.B, self.T, self.S, self.M
        prompt = np.zeros((3, B, T), np.int32)
        suffix = np.zeros((5, B, S), np.int32)
        sums = np.zeros((3, B, M), np.int32)
        sums[2] = self.R * self.slots
        record_BR = np.full((B, self.R), -1, np.int32)
        for b, row in enumerate(rows):
            t = s = m = 0
            for place, i in enumerate(row):
                tree, P = self._trees[i], len(self._trees[i].prompt)
                record_BR[b, place] = i
                prompt[:, b, t : t + P] = tree.prompt, np.full(P, place + 1), np.arange(P)
                token, position, branch, leaf = np.asarray(tree.suffix, np.int32).T
                end = s + len(token)
                suffix[:, b, s:end] = token, np.full(len(token), place + 1), position, branch, leaf
                source, target, slot = np.asarray(tree.sums, np.int32).T
                source = np.where(source < P, source + t, source - P + T + s)
                sums[:, b, m : m + len(slot)] = source, target, slot + place * self.slots
                t, s, m = t + P, end, m + len(slot)
        return BranchBatch(*prompt, *suffix, *sums), record_BR
