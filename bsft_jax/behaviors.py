"""Behaviors: the named modes of assistance, their levels, and the tokens that stand for them."""

from __future__ import annotations

import dataclasses

from bsft_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Behavior:
    """A named mode of assistance.

    Attributes:
      name: a lower-case identifier; the token is `<|name|>`.
      level: position on the proactivity spectrum, 0 (only what was asked) to 1.
      description: a few ordinary words; the mean of their embeddings starts the token's row.
    """

    name: str
    level: float
    description: str

    @property
    def token(self) -> str:
        return f'<|{self.name}|>'


REACTIVE = Behavior('reactive', 0.0, 'answer only what was asked')
PROACTIVE = Behavior('proactive', 1.0, 'raise what was overlooked, unprompted')
DEFAULT_BEHAVIORS = (REACTIVE, PROACTIVE)


@dataclasses.dataclass(frozen=True)
class BehaviorSet:
    """The behaviors of a run with the vocabulary ids of their tokens, in the order of their rows.

    Attributes:
      behaviors: in the order of the rows `behavior/input` and `behavior/output`.
      ids: one vocabulary id per behavior; empty for a model without behavior tokens.
    """

    behaviors: tuple[Behavior, ...] = ()
    ids: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.behaviors)

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(b.token for b in self.behaviors)

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(b.level for b in self.behaviors)

    @property
    def named(self) -> tuple[Behavior, ...]:
        """The behaviors that are spoken of: the default ones where a model was given none."""
        return self.behaviors or DEFAULT_BEHAVIORS

    @property
    def highest(self) -> str:
        """Name of the behavior of the highest level: what rates of intervention are about."""
        return max(self.named, key=lambda b: b.level).name

    def index(self, name: str) -> int:
        """Row of the behavior called `name`; raises UserError for an unknown one."""
        if name not in self.names:
            raise UserError(f'unknown behavior {name!r}', fix=f'use one of {", ".join(self.names)}')
        return self.names.index(name)


def validate_behaviors(behaviors: tuple[Behavior, ...]) -> None:
    """Raises UserError unless names are distinct identifiers and levels lie in [0, 1]."""
    names = [b.name for b in behaviors]
    if len(names) < 2 or len(set(names)) != len(names):
        raise UserError(
            f'behaviors must be two or more with distinct names, got {names}', where='config.behaviors'
        )
    for b in behaviors:
        if not b.name.isidentifier() or b.name != b.name.lower():
            raise UserError(
                f'behavior name {b.name!r} is not a lower-case identifier', where='config.behaviors'
            )
        if not 0.0 <= b.level <= 1.0:
            raise UserError(
                f'level {b.level} of behavior {b.name!r} is not in [0, 1]', where='config.behaviors'
            )


def extend_tokenizer(tokenizer, behaviors: tuple[Behavior, ...]) -> BehaviorSet:
    """Adds one token per behavior to a Hugging Face tokenizer, in place, and returns the set with ids.

    The tokens are added as non-special, so that servers print them. A token that the vocabulary
    already has keeps its id (a checkpoint that was exported by this package). New tokens take
    the first ids behind the tokenizer's last: spare rows of the table where it has them.
    """
    from transformers import AddedToken

    new = [
        AddedToken(b.token, special=False, normalized=False, lstrip=False, rstrip=False)
        for b in behaviors
        if b.token not in tokenizer.get_vocab()
    ]
    if new:
        tokenizer.add_tokens(new)
    return BehaviorSet(tuple(behaviors), tuple(tokenizer.convert_tokens_to_ids(b.token) for b in behaviors))
