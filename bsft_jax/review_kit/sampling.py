"""Draws the items of a review, and the screens that each rater sees.

An item is a record with the answers of two systems. Everything here is a function of its arguments
and the seed.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.review_kit.pool import Candidate

# Parts of a rater's screens: repeated items come from the first and return in the last.
_PARTS = 3


@dataclasses.dataclass(frozen=True)
class Item:
    """Holds one comparison: a record, and the indices of the two systems, in their order."""

    candidate: Candidate
    pair: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Screen:
    """Holds what a rater sees at a time.

    Attributes:
      item: index of the item; of a check, index among the candidates that lend it their case.
      kind: `item`, `repeat` for an item seen again, or `check` for an item that asks for a choice.
      swapped: whether the answer of the pair's second system is shown first.
      expected: choice that a check asks for, `tie` or `neither`; else ''.
    """

    item: int
    kind: str
    swapped: bool
    expected: str = ''


@dataclasses.dataclass(frozen=True)
class Plan:
    """Describes the size of a review.

    Attributes:
      items: comparisons in all. `overlap`: how many of them every rater sees; the others are dealt
        out among the raters.
      raters: number of raters.
      repeats: items that each rater sees twice. `checks`: attention items of each rater.
      seed: of all draws.
    """

    items: int
    raters: int
    overlap: int
    repeats: int
    checks: int
    seed: int

    def check(self) -> None:
        """Raises UserError for sizes that do not go together."""
        if self.overlap > self.items:
            raise UserError(
                f'is more than --items={self.items}',
                where=f'--overlap={self.overlap}',
                fix='raise --items or lower it',
            )
        fewest = self.overlap + (self.items - self.overlap) // self.raters
        if not fewest:
            raise UserError(
                'leaves a rater without items', where=f'--items={self.items}', fix='raise --items'
            )
        if self.repeats > fewest // _PARTS:
            raise UserError(
                f'is more than a third of the {fewest} items of a rater',
                where=f'--repeats={self.repeats}',
                fix=f'at most {fewest // _PARTS}',
            )


def draw_items(candidates: Sequence[Candidate], systems: int, plan: Plan) -> list[Item]:
    """Draws records on which two systems answer differently, as many of each category as of others.

    Within a category a record is taken from the case that was used least, and the pair of systems
    that was used least. A record is drawn once. Categories alternate in the result.

    Raises UserError where there are too few such records.
    """
    rng = np.random.default_rng((plan.seed, 0))
    pairs = list(itertools.combinations(range(systems), 2))
    by_category = collections.defaultdict(list)
    for index in rng.permutation(len(candidates)):
        candidate = candidates[index]
        if any(map(candidate.differs, pairs)):
            by_category[candidate.category].append(candidate)
    available = sum(map(len, by_category.values()))
    if available < plan.items:
        raise UserError(
            f'{available} of {len(candidates)} records are answered differently',
            where=f'--items={plan.items}',
            fix=f'at most {available}',
        )
    names = sorted(by_category)
    drawn: list[Item] = []
    case_uses, pair_uses = collections.Counter(), collections.Counter()
    for name in itertools.cycle([names[i] for i in rng.permutation(len(names))]):
        if len(drawn) == plan.items:
            return drawn
        left = by_category[name]
        if not left:
            continue
        pair = min(
            (pair for pair in pairs if any(c.differs(pair) for c in left)),
            key=lambda pair: (pair_uses[pair], pairs.index(pair)),
        )
        candidate = min((c for c in left if c.differs(pair)), key=lambda c: case_uses[c.case])
        left.remove(candidate)
        case_uses[candidate.case] += 1
        pair_uses[pair] += 1
        drawn.append(Item(candidate, pair))
    return drawn


def deal_items(plan: Plan) -> list[list[int]]:
    """Returns by rater the indices of the items: the shared ones, and a share of the others."""
    own = range(plan.overlap, plan.items)
    return [[*range(plan.overlap), *own[rater :: plan.raters]] for rater in range(plan.raters)]


def draw_screens(items: Sequence[Item], spare: int, plan: Plan) -> list[list[Screen]]:
    """Returns by rater the screens in their order.

    Within the items of a pair of systems, each system's answer is shown first in half of a rater's
    screens. A repeated item is in the first third and comes again in the last, with its answers
    exchanged.

    Args:
      items: what `draw_items` returns.
      spare: number of candidates that can lend a check their case, at least 1.
      plan: the sizes.
    """
    return [
        _screens_of_rater(items, own, spare, plan, np.random.default_rng((plan.seed, 1, rater)))
        for rater, own in enumerate(deal_items(plan))
    ]


def _screens_of_rater(
    items: Sequence[Item], own: Sequence[int], spare: int, plan: Plan, rng: np.random.Generator
) -> list[Screen]:
    order = [own[i] for i in rng.permutation(len(own))]
    by_pair = collections.defaultdict(list)
    for item in order:
        by_pair[items[item].pair].append(item)
    swapped = {}
    for members in by_pair.values():
        start = int(rng.integers(2))
        for position, member in enumerate(rng.permutation(len(members))):
            swapped[members[member]] = (position + start) % 2 == 1
    screens = [Screen(item, 'item', swapped[item]) for item in order]
    third = len(order) // _PARTS
    repeated = [screens[i] for i in rng.choice(third, plan.repeats, replace=False)] if third else []
    first, last = screens[: len(order) - third], screens[len(order) - third :]
    last += [Screen(s.item, 'repeat', not s.swapped) for s in repeated]
    screens = first + [last[i] for i in rng.permutation(len(last))]
    lent = rng.choice(spare, plan.checks, replace=spare < plan.checks)
    for candidate in lent:
        check = Screen(
            int(candidate), 'check', bool(rng.integers(2)), str(rng.choice(['tie', 'neither']))
        )
        screens.insert(int(rng.integers(1, len(screens) + 1)), check)
    return screens
