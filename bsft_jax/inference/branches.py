"""Branches after a shared prompt, laid out for the device.

Prompts are packed into rows as training records are. After each prompt come its branches: `none`
and one per answer prefix. A branch is the prefix (if any), the stem `Answer:`, and the options as
leaves of that stem. All branches of a row's prompts form one suffix row; branch and leaf numbers
keep them from attending to each other. The tokens of a branch are computed once, however many
options follow them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bsft_jax.data.packing import pack
from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError
from bsft_jax.records.record import Record, describe_record

# Name of the branch without an answer prefix.
NONE = 'none'
# Lengths are rounded up to a multiple of this.
_LENGTH_MULTIPLE = 64


class BranchBatch(NamedTuple):
    """Holds one batch: B rows of T prompt tokens and S suffix tokens, with Y scored positions.

    Attributes:
      tokens_BT, segment_ids_BT, positions_BT: packed prompts.
      suffix_…_BS: tokens, segment ids, positions, branch and leaf numbers of all branches.
      source_BY: index into prompt + suffix (T + S) of the token that predicts.
      target_BY: id whose log-probability is taken.
      output_index_BY: output of the row that it is added to; the last one collects padding.
    """

    tokens_BT: np.ndarray
    segment_ids_BT: np.ndarray
    positions_BT: np.ndarray
    suffix_tokens_BS: np.ndarray
    suffix_segment_ids_BS: np.ndarray
    suffix_positions_BS: np.ndarray
    suffix_branch_BS: np.ndarray
    suffix_leaf_BS: np.ndarray
    source_BY: np.ndarray
    target_BY: np.ndarray
    output_index_BY: np.ndarray


@dataclasses.dataclass(frozen=True)
class RecordBranches:
    """Holds the prompt and branches of one record.

    Attributes:
      prompt: token ids.
      suffix: (token, position, branch, leaf) of each token after the prompt.
      targets: (source, target, output index) of each scored position. Sources count prompt and
        suffix tokens; those from len(prompt) on are in the suffix.
    """

    prompt: list[int]
    suffix: list[tuple[int, int, int, int]]
    targets: list[tuple[int, int, int]]


def make_branches(
    prompt: list[int],
    stem: list[int],
    options: list[list[int]],
    prefixes: Sequence[Sequence[int]],
    max_options: int,
) -> RecordBranches:
    """Lays out the branches of a record.

    Outputs are n sums over the prefixes, then (n + 1) × max_options sums over the options, the
    options of one branch side by side.
    """
    P, n = len(prompt), len(prefixes)
    suffix: list[tuple[int, int, int, int]] = []
    prefix_targets, option_targets = [], []
    for branch, prefix in enumerate([(), *prefixes], start=1):
        # The last prompt token predicts the first token of every branch.
        source = P - 1
        for i, token in enumerate([*prefix, *stem]):
            if i < len(prefix):
                prefix_targets.append((source, token, branch - 2))
            suffix.append((token, P + i, branch, 0))
            source = P + len(suffix) - 1
        stem_end, option_start = source, P + len(prefix) + len(stem)
        for k, option in enumerate(options):
            source = stem_end
            for i, token in enumerate(option):
                option_targets.append((source, token, n + (branch - 1) * max_options + k))
                # The last token of an option predicts nothing that is scored.
                if i + 1 < len(option):
                    suffix.append((token, option_start + i, branch, k + 1))
                    source = P + len(suffix) - 1
    return RecordBranches(prompt, suffix, prefix_targets + option_targets)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def branch_lengths(records: Sequence[Record], renderer: Renderer) -> list[int]:
    """Returns the tokens of each record's prompt with its longest branch."""
    stem = len(renderer.stem_ids) + max(map(len, renderer.behaviors.prefixes), default=0)
    prompts = renderer.prompt_ids_of(records)
    return [
        len(prompt) + stem + max(map(len, renderer.option_ids(record)), default=0)
        for record, prompt in zip(records, prompts, strict=True)
    ]


class BranchPlan:
    """Packs all branches of a list of records once; every batch has the same shapes.

    Args:
      records: records with options.
      renderer: the renderer of the model that scores.
      tokens_per_batch: approximate prompt tokens of a batch.
      row_multiple: the number of rows of a batch is a multiple of this.

    Attributes:
      num_outputs: sums per record: n + (n + 1) · max_options.
      max_options: largest number of options of a record.
      num_options_R: options of each record.
      max_length: positions that the longest branch takes, its prompt included.
      B, T, S, Y: shape of a batch, see `BranchBatch`.
      R: most records of a row.

    Raises UserError without records, or for a record without options.
    """

    def __init__(
        self,
        records: Sequence[Record],
        renderer: Renderer,
        *,
        tokens_per_batch: int,
        row_multiple: int = 1,
    ):
        if not records:
            raise UserError('no records to score', fix='choose another --data, --split or --limit')
        for record in records:
            if not record.options:
                raise UserError(f'{describe_record(record)} has no options to score')
        prefixes = renderer.behaviors.prefixes
        self.num_options_R = np.asarray([len(record.options) for record in records], np.int32)
        self.max_options = int(self.num_options_R.max())
        self.num_outputs = len(prefixes) + (len(prefixes) + 1) * self.max_options
        self._branches = [
            make_branches(
                prompt, renderer.stem_ids, renderer.option_ids(record), prefixes, self.max_options
            )
            for record, prompt in zip(records, renderer.prompt_ids_of(records), strict=True)
        ]
        self.max_length = max(
            position + 1 for branches in self._branches for _, position, *_ in branches.suffix
        )
        lengths = [len(branches.prompt) for branches in self._branches]
        self.T = _round_up(max(lengths), _LENGTH_MULTIPLE)
        self.rows = pack(np.asarray(lengths), self.T)
        self.S = self._longest_row('suffix')
        self.Y = self._longest_row('targets')
        self.R = max(len(row) for row in self.rows)
        num_rows = max(1, min(tokens_per_batch // self.T, len(self.rows)))
        self.B = _round_up(num_rows, row_multiple)

    def _longest_row(self, field: str) -> int:
        """Returns the largest total length of a field of `RecordBranches` in a row, rounded up."""
        totals = (sum(len(getattr(self._branches[i], field)) for i in row) for row in self.rows)
        return _round_up(max(totals), _LENGTH_MULTIPLE)

    def __len__(self) -> int:
        """Returns the number of batches."""
        return -(-len(self.rows) // self.B)

    def batches(self) -> Iterator[tuple[BranchBatch, np.ndarray]]:
        """Yields batches with record_BR, the indices of the records of each row (-1: none)."""
        for start in range(0, len(self.rows), self.B):
            yield self._batch(self.rows[start : start + self.B])

    def _batch(self, rows: list[list[int]]) -> tuple[BranchBatch, np.ndarray]:
        B, T, S, Y = self.B, self.T, self.S, self.Y
        prompt = np.zeros((3, B, T), np.int32)
        suffix = np.zeros((5, B, S), np.int32)
        targets = np.zeros((3, B, Y), np.int32)
        # Padding is added to an output after those of all records.
        targets[2] = self.R * self.num_outputs
        record_BR = np.full((B, self.R), -1, np.int32)
        for b, row in enumerate(rows):
            t = s = y = 0
            for r, i in enumerate(row):
                branches, P = self._branches[i], len(self._branches[i].prompt)
                record_BR[b, r] = i
                prompt[:, b, t : t + P] = branches.prompt, np.full(P, r + 1), np.arange(P)
                token, position, branch, leaf = np.asarray(branches.suffix, np.int32).T
                end = s + len(token)
                suffix[:, b, s:end] = token, np.full(len(token), r + 1), position, branch, leaf
                source, target, output = np.asarray(branches.targets, np.int32).T
                source = np.where(source < P, source + t, source - P + T + s)
                output = output + r * self.num_outputs
                targets[:, b, y : y + len(output)] = source, target, output
                t, s, y = t + P, end, y + len(output)
        return BranchBatch(*prompt, *suffix, *targets), record_BR
