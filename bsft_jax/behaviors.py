"""Behaviors: the named modes of assistance, their levels, and the heads of answers that stand for them."""

from __future__ import annotations

import dataclasses
import json
import re

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
_RESERVED = re.compile(r'<\|reserved_special_token_\d+\|>|<unused\d+>')
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
    """Raises UserError unless names are distinct identifiers, levels lie in [0, 1] and descriptions say something.

    `none` is no name: scores and policies call the branch without a behavior so.
    """
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
        if b.name == 'none':
            raise UserError("'none' means no behavior and cannot name one", where='config.behaviors')
        if not 0.0 <= b.level <= 1.0:
            raise UserError(
                f'level {b.level} of behavior {b.name!r} is not in [0, 1]', where='config.behaviors'
            )
        if not b.description.strip():
            raise UserError(
                f'behavior {b.name!r} has no description, which its row begins as', where='config.behaviors'
            )


def extend_tokenizer(
    tokenizer, behaviors: tuple[Behavior, ...], form: str = 'tokens', rows: int | None = None
) -> BehaviorSet:
    """Adds the tokens that `form` needs to a Hugging Face tokenizer, in place, and returns the set.

    The tokens are non-special, so that servers print them. A token that the vocabulary already has keeps
    its id (a checkpoint that was exported by this package). The others take spare rows of the table, which
    are the ids behind the tokenizer's last (Qwen); where there are too few, the ids that the vocabulary
    reserves (`<|reserved_special_token_0|>` of Llama 3, `<unused0>` of Gemma) and neither the tokenizer nor its
    template uses, whose names they replace; and where there are none either, ids behind the end of the table.
    Words are encoded apart from what stands around them.

    Args:
      rows: of the embedding table; None for a table that has rows for any id.
    """
    made = BehaviorSet(tuple(behaviors), form=form)
    vocabulary = tokenizer.get_vocab()
    new = [b.token for b in made.rows if b.token not in vocabulary]
    used = {*tokenizer.all_special_tokens, *_RESERVED.findall(str(tokenizer.chat_template or ''))}
    reserved = sorted((i, t) for t, i in vocabulary.items() if _RESERVED.fullmatch(t) and t not in used)
    if new and rows is not None and len(tokenizer) + len(new) > rows and len(reserved) >= len(new):
        _rename(tokenizer, dict(zip((token for _, token in reserved), new, strict=False)))
    elif new:
        tokenizer.add_tokens([_added(token) for token in new])
    words = tuple(tuple(tokenizer.encode(b.words, add_special_tokens=False)) for b in behaviors)
    tokens = tuple((tokenizer.convert_tokens_to_ids(b.token),) for b in made.rows)
    heads = words if form == 'words' else tokens
    return dataclasses.replace(made, heads=heads, longest=max(map(len, words), default=0))


def _added(token: str):
    from transformers import AddedToken

    return AddedToken(token, special=False, normalized=False, lstrip=False, rstrip=False)


def _rename(tokenizer, names: dict[str, str]) -> None:
    """Gives reserved tokens new names, in place; their ids stay."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state['model']['vocab']
    for old, new in names.items():
        if old in vocabulary:
            vocabulary[new] = vocabulary.pop(old)
    added = [entry for entry in state['added_tokens'] if entry['content'] not in names]
    ids = {old: tokenizer.convert_tokens_to_ids(old) for old in names}
    flags = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False, 'special': False}
    added += [{'id': ids[old], 'content': new, **flags} for old, new in names.items()]
    state['added_tokens'] = sorted(added, key=lambda entry: entry['id'])
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))  # has no public setter
