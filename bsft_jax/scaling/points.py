"""Reads the points of a scaling study: one trained model per row of a CSV file.

Array letters: P are the points, U the clusters that resampling draws, E the resamples.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.evaluation import statistics
from bsft_jax.records import readers

# Training FLOPs of a parameter and token (Kaplan et al. 2020, arXiv 2001.08361, C = 6 N D).
FLOPS_PER_PARAM_TOKEN = 6
SCALES = ('params', 'tokens', 'flops')
SCORES = ('macro_f1', 'gain')
_POSITIVE = (*SCALES, 'loss')
_NUMBERS = (*_POSITIVE, *SCORES)
# What a number may be: beyond these a column has another meaning.
_RANGES = {
    **dict.fromkeys(SCALES, (1.0, 1e40)),
    'loss': (1e-6, 1e6),
    'macro_f1': (0.0, 1.0),
    'gain': (-1.0, 1.0),
}
# Neighbours in compute that are further apart than this factor belong to two budgets.
_BUDGET_GAP = 1.05


@dataclasses.dataclass(frozen=True)
class Points:
    """Holds models of known size, data and loss.

    Attributes:
      params_P: number of parameters N.
      tokens_P: number of training tokens D.
      flops_P: training compute C.
      loss_P: final loss in nats per token.
      cluster_P: number of the cluster, int. Points of one size and seed are one.
      budget_P: name of the compute budget of each point; none is empty.
      where_P: file and line of each point.
      named_budgets: whether the file names them; otherwise equal compute makes a budget.
    """

    params_P: np.ndarray
    tokens_P: np.ndarray
    flops_P: np.ndarray
    loss_P: np.ndarray
    cluster_P: np.ndarray
    budget_P: tuple[str, ...]
    where_P: tuple[str, ...]
    named_budgets: bool = True

    def __len__(self) -> int:
        """Returns the number of points."""
        return len(self.loss_P)

    @property
    def clusters(self) -> int:
        """Returns the number of clusters."""
        return int(self.cluster_P.max()) + 1

    @property
    def budgets(self) -> dict[str, np.ndarray]:
        """Returns the points of each budget as bool[P], by ascending compute."""
        names = np.array(self.budget_P)
        members = {name: names == name for name in dict.fromkeys(self.budget_P)}
        return dict(sorted(members.items(), key=lambda item: self.flops_P[item[1]].mean()))


def read_rows(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Reads a CSV file of points.

    Returns:
      A row per point: `where`, and of `params`, `tokens`, `flops`, `loss`, `macro_f1`, `gain` as
      floats, `arm`, `seed` and `budget` as texts, those that the file has. `tokens` is computed
      from `flops` where the file has no such column, and the other way round.

    Raises:
      UserError: the file cannot be read or holds no row, or a number is missing, is none, is not
        finite or is out of its range.
    """
    rows = []
    for where, cells in readers.read_csv_rows(path):
        row: dict[str, Any] = {'where': where}
        for name in _NUMBERS:
            if name in cells:
                row[name] = _number(cells[name], name, where)
        for name in ('arm', 'seed', 'budget'):
            if name in cells:
                if cells[name] is None:
                    raise UserError(f'{name} is empty', where=where)
                row[name] = cells[name].strip()
        if 'params' in row:
            _complete(row)
        rows.append(row)
    if not rows:
        raise UserError('holds no point', where=str(path), fix='write a header and a row per model')
    return rows


def _number(cell: str | None, name: str, where: str) -> float:
    if cell is None:
        raise UserError(f'{name} is empty or NaN', where=where, fix='give it a number')
    try:
        value = float(cell)
    except ValueError:
        raise UserError(f'{name} {cell.strip()!r} is not a number', where=where) from None
    if not math.isfinite(value):
        raise UserError(f'{name} {cell.strip()} is not a finite number', where=where)
    if name in _POSITIVE and value <= 0:
        raise UserError(f'{name} {cell.strip()} is not above 0', where=where)
    low, high = _RANGES[name]
    if not low <= value <= high:
        raise UserError(f'{name} {cell.strip()} is not between {low:g} and {high:g}', where=where)
    return value


def _complete(row: dict[str, Any]) -> None:
    """Adds tokens or flops by C = 6 N D where the file has one of them.

    Raises UserError where the flops are those of no token.
    """
    if 'tokens' not in row and 'flops' in row:
        row['tokens'] = row['flops'] / (FLOPS_PER_PARAM_TOKEN * row['params'])
        if row['tokens'] < 1:
            raise UserError(
                f'{row["flops"]:g} flops are less than a token for {row["params"]:g} params',
                where=row['where'],
                fix='flops are all of the training, not per token or second',
            )
    elif 'flops' not in row and 'tokens' in row:
        row['flops'] = FLOPS_PER_PARAM_TOKEN * row['params'] * row['tokens']


def loss_points(
    rows: Sequence[Mapping[str, Any]], where: str, *, arm: str = '', drop_highest: int = 0
) -> Points:
    """Returns the points with a loss.

    Args:
      rows: as `read_rows` returns them.
      where: what an error names.
      arm: the arm to take; empty takes all, of which there must be one.
      drop_highest: number of the highest losses to leave out.

    Raises:
      UserError: a column is missing, there are several arms and none is named, no row is of
        `arm`, or no point would be left.
    """
    for name in ('params', 'loss'):
        if name not in rows[0]:
            raise UserError(f'has no column {name}', where=where, fix=f'add {name}')
    if 'tokens' not in rows[0]:
        raise UserError('has neither a column tokens nor flops', where=where, fix='add tokens')
    arms = list(dict.fromkeys(row.get('arm', '') for row in rows))
    if arm and arm not in arms:
        raise UserError(f'no row of {where}', where=f'--arm={arm}', fix=f'arms: {", ".join(arms)}')
    if not arm and len(arms) > 1:
        raise UserError(
            f'has losses of several arms ({", ".join(arms)})', where=where, fix='choose by --arm'
        )
    rows = [row for row in rows if not arm or row['arm'] == arm]
    if drop_highest >= len(rows):
        raise UserError(
            f'leaves none of {len(rows)} points', where=f'--drop_highest={drop_highest}'
        )
    # A stable order: of equal losses the later ones stay.
    order = np.argsort([-row['loss'] for row in rows], kind='stable')
    kept = sorted(order[drop_highest:].tolist())
    rows = [rows[i] for i in kept]
    flops_P = np.array([row['flops'] for row in rows])
    return Points(
        *(np.array([row[name] for row in rows]) for name in _POSITIVE),
        cluster_P=clusters(rows),
        budget_P=tuple(row['budget'] for row in rows) if 'budget' in rows[0] else _budgets(flops_P),
        where_P=tuple(pathlib.Path(row['where']).name for row in rows),
        named_budgets='budget' in rows[0],
    )


def clusters(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns the cluster of each row, int[P]: its size and seed, or without a seed its own.

    Where all rows are of one size, it is the number of tokens and the seed: one cluster for each
    seed would leave nothing to draw.
    """
    one_size = len({row.get('params') for row in rows}) == 1
    kind = 'tokens' if one_size and 'tokens' in rows[0] else 'params'
    return statistics.cluster_ids(
        [f'{row.get(kind)} {row["seed"]}' if 'seed' in row else '' for row in rows]
    )


def _budgets(flops_P: np.ndarray) -> tuple[str, ...]:
    """Names the budget of each point by its lowest compute."""
    order = np.argsort(flops_P, kind='stable')
    names = [''] * len(order)
    name, last = '', 0.0
    for i in order.tolist():
        if not last or flops_P[i] > last * _BUDGET_GAP:
            name = f'{flops_P[i]:.4g}'
        names[i], last = name, flops_P[i]
    return tuple(names)
