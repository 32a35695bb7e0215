"""Behaviors: the named modes of assistance, their levels, and the heads of answers that stand for them."""

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

    @property
    def words(self) -> str:
        return f'Behavior: {self.name}\n'


REACTIVE = Behavior('reactive', 0.0, 'answer only what was asked')
PROACTIVE = Behavior('proactive', 1.0, 'raise what was overlooked, unprompted')
DEFAULT_BEHAVIORS = (REACTIVE, PROACTIVE)
NEUTRAL = Behavior('neutral', 0.0, 'the answer to this')
FORMS = ('none', 'tokens', 'words', 'neutral')


@dataclasses.dataclass(frozen=True)
class BehaviorSet:
    """The behaviors of a model and the heads of its answers, as one tokenizer writes them.

    A head is what an answer begins with. `form` says what stands there: `tokens`, one added token
    per behavior; `words`, `Behavior: NAME` and a line break, in ordinary tokens; `neutral`, one
    added token whatever the behavior; `none`, nothing.

    Attributes:
      behaviors: in the order of their heads.
      heads: ids of each head: one per behavior, one alone for `neutral`, empty for `none`.
      form: one of FORMS.
      longest: tokens of the longest head that any form writes; what all arms reserve in a plan.
    """

    behaviors: tuple[Behavior, ...] = ()
    heads: tuple[tuple[int, ...], ...] = ()
    form: str = 'none'
    longest: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.behaviors)

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(b.level for b in self.behaviors)

    @property
    def named(self) -> tuple[Behavior, ...]:
        """The behaviors that are spoken of: the default ones where a model was given none."""
        return self.behaviors or DEFAULT_BEHAVIORS

    @property
    def chooses(self) -> bool:
        """Whether the head says a behavior, so that a policy can choose one."""
        return self.form in ('tokens', 'words')

    @property
    def rows(self) -> tuple[Behavior, ...]:
        """What has a token of its own, in the order of the rows `behavior/input` and `behavior/output`."""
        return {'tokens': self.behaviors, 'neutral': (NEUTRAL,)}.get(self.form, ())

    @property
    def ids(self) -> tuple[int, ...]:
        """Vocabulary ids of `rows`."""
        return tuple(head[0] for head in self.heads) if self.rows else ()

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the heads, in their order."""
        return self.names if self.chooses else tuple(b.name for b in self.rows)

    @property
    def head_texts(self) -> tuple[str, ...]:
        """The heads in words, in their order."""
        if self.form == 'words':
            return tuple(b.words for b in self.behaviors)
        return tuple(b.token for b in self.rows)

    def head(self, name: str) -> tuple[int, ...]:
        """Ids that begin an answer of the behavior called `name`; raises UserError for an unknown one."""
        if self.chooses:
            return self.heads[self.index(name)]
        return self.heads[0] if self.heads else ()

    def without_head(self, ids: list[int]) -> list[int]:
        """Ids of an answer without the head it begins with and without behavior tokens."""
        for head in self.heads:
            if tuple(ids[: len(head)]) == head:
                ids = ids[len(head) :]
                break
        return [i for i in ids if i not in self.ids]

    @property
    def highest(self) -> str:
        """Name of the behavior of the highest level: what rates of intervention are about."""
        return max(self.named, key=lambda b: b.level).name

    def index(self, name: str) -> int:
        """Place of the behavior called `name`; raises UserError for an unknown one."""
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


def extend_tokenizer(tokenizer, behaviors: tuple[Behavior, ...], form: str = 'tokens') -> BehaviorSet:
    """Adds the tokens that `form` needs to a Hugging Face tokenizer, in place, and returns the set.

    The tokens are added as non-special, so that servers print them. A token that the vocabulary
    already has keeps its id (a checkpoint that was exported by this package). New tokens take
    the first ids behind the tokenizer's last: spare rows of the table where it has them. Words are
    encoded apart from what stands around them.
    """
    from transformers import AddedToken

    made = BehaviorSet(tuple(behaviors), form=form)
    new = [
        AddedToken(b.token, special=False, normalized=False, lstrip=False, rstrip=False)
        for b in made.rows
        if b.token not in tokenizer.get_vocab()
    ]
    if new:
        tokenizer.add_tokens(new)
    words = tuple(tuple(tokenizer.encode(b.words, add_special_tokens=False)) for b in behaviors)
    tokens = tuple((tokenizer.convert_tokens_to_ids(b.token),) for b in made.rows)
    heads = words if form == 'words' else tokens
    return dataclasses.replace(made, heads=heads, longest=max(map(len, words), default=0))
