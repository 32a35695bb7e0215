"""Behaviors: the named modes of assistance, their levels and the prefixes of answers for them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Sequence

from bsft_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Behavior:
    """Describes a named mode of assistance.

    Attributes:
      name: a lower-case identifier; the token is `<|name|>`.
      level: position on the proactivity spectrum, from 0 (only what was asked) to 1.
      description: a few ordinary words; the mean of their embeddings is the initial value of the
        token's behavior row.
    """

    name: str
    level: float
    description: str

    @property
    def token(self) -> str:
        """Returns the behavior token."""
        return f'<|{self.name}|>'

    @property
    def words(self) -> str:
        """Returns the prefix in ordinary words."""
        return f'Behavior: {self.name}\n'


REACTIVE = Behavior('reactive', 0.0, 'answer only what was asked')
PROACTIVE = Behavior('proactive', 1.0, 'raise what was overlooked, unprompted')
DEFAULT_BEHAVIORS = (REACTIVE, PROACTIVE)
NEUTRAL = Behavior('neutral', 0.0, 'the answer to this')
PREFIX_KINDS = ('none', 'tokens', 'words', 'neutral')

_RESERVED = re.compile(r'<\|reserved_special_token_\d+\|>|<unused\d+>')


@dataclasses.dataclass(frozen=True)
class BehaviorSet:
    """Holds the behaviors of a model and the prefixes of its answers, for one tokenizer.

    A prefix is what an answer begins with. `prefix_kind` is one of PREFIX_KINDS:
      tokens: one added token per behavior.
      words: `Behavior: NAME` and a line break, in ordinary tokens.
      neutral: one added token, the same for every behavior.
      none: no prefix.

    Attributes:
      behaviors: the behaviors in the order of their prefixes.
      prefixes: token ids of each prefix: one prefix per behavior, a single one for `neutral`, none
        for `none`.
      prefix_kind: kind of the prefixes.
      max_prefix_length: number of tokens of the longest prefix of any kind. All arms reserve it
        when they plan rows, so that their plans are equal.
    """

    behaviors: tuple[Behavior, ...] = ()
    prefixes: tuple[tuple[int, ...], ...] = ()
    prefix_kind: str = 'none'
    max_prefix_length: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the behaviors."""
        return tuple(b.name for b in self.behaviors)

    @property
    def behaviors_or_default(self) -> tuple[Behavior, ...]:
        """Returns the behaviors, or DEFAULT_BEHAVIORS for a model that was given none."""
        return self.behaviors or DEFAULT_BEHAVIORS

    @property
    def is_selectable(self) -> bool:
        """Returns whether prefixes differ by behavior, so that a policy can choose one."""
        return self.prefix_kind in ('tokens', 'words')

    @property
    def token_behaviors(self) -> tuple[Behavior, ...]:
        """Returns the behaviors with a token of their own, in the order of the behavior rows."""
        return {'tokens': self.behaviors, 'neutral': (NEUTRAL,)}.get(self.prefix_kind, ())

    @property
    def ids(self) -> tuple[int, ...]:
        """Returns the token ids of `token_behaviors`."""
        return tuple(prefix[0] for prefix in self.prefixes) if self.token_behaviors else ()

    @property
    def prefix_names(self) -> tuple[str, ...]:
        """Returns the name of the behavior of each prefix."""
        return self.names if self.is_selectable else tuple(b.name for b in self.token_behaviors)

    @property
    def prefix_texts(self) -> tuple[str, ...]:
        """Returns the text of each prefix."""
        if self.prefix_kind == 'words':
            return tuple(b.words for b in self.behaviors)
        return tuple(b.token for b in self.token_behaviors)

    def prefix_ids(self, name: str) -> tuple[int, ...]:
        """Returns the ids that begin an answer of a behavior; raises UserError if it is unknown."""
        if self.is_selectable:
            return self.prefixes[self.index(name)]
        return self.prefixes[0] if self.prefixes else ()

    def strip_prefix(self, ids: list[int]) -> list[int]:
        """Returns the ids of an answer without its prefix and without behavior tokens."""
        for prefix in self.prefixes:
            if tuple(ids[: len(prefix)]) == prefix:
                ids = ids[len(prefix) :]
                break
        return [i for i in ids if i not in self.ids]

    @property
    def highest(self) -> str:
        """Returns the name of the behavior with the highest level."""
        return max(self.behaviors_or_default, key=lambda b: b.level).name

    @property
    def levels(self) -> dict[str, float]:
        """Returns the level of each behavior, by which intervention rates compare them."""
        return {b.name: b.level for b in self.behaviors_or_default}

    @property
    def positions(self) -> tuple[float, ...]:
        """Returns where each level lies between the lowest one, 0, and the highest, 1.

        Empty where all levels are alike.
        """
        levels = [b.level for b in self.behaviors]
        low, high = min(levels, default=0.0), max(levels, default=0.0)
        return tuple((x - low) / (high - low) for x in levels) if low < high else ()

    def index(self, name: str) -> int:
        """Returns the index of a behavior; raises UserError for an unknown name."""
        if name not in self.names:
            raise UserError(f'unknown behavior {name!r}', fix=f'use one of {", ".join(self.names)}')
        return self.names.index(name)


def validate_behaviors(behaviors: tuple[Behavior, ...]) -> None:
    """Checks the behaviors of a config.

    Raises:
      UserError: unless there are two or more, names are distinct lower-case identifiers other than
        `none` (the name that scores and policies use for the branch without a behavior), levels are
        in [0, 1], and descriptions are not blank.
    """
    where = 'config.behaviors'
    names = [b.name for b in behaviors]
    if len(names) < 2 or len(set(names)) != len(names):
        message = f'behaviors must be two or more with distinct names, got {names}'
        raise UserError(message, where=where)
    for b in behaviors:
        if not b.name.isidentifier() or b.name != b.name.lower():
            message = f'behavior name {b.name!r} is not a lower-case identifier'
            raise UserError(message, where=where)
        if b.name == 'none':
            raise UserError("'none' means no behavior and cannot name one", where=where)
        if not 0.0 <= b.level <= 1.0:
            message = f'level {b.level} of behavior {b.name!r} is not in [0, 1]'
            raise UserError(message, where=where)
        if not b.description.strip():
            message = f'behavior {b.name!r} has no description to initialize its row from'
            raise UserError(message, where=where)


def extend_tokenizer(
    tokenizer,
    behaviors: tuple[Behavior, ...],
    prefix_kind: str = 'tokens',
    table_rows: int | None = None,
    used_ids: Collection[int] = (),
) -> BehaviorSet:
    """Adds the tokens that a kind of prefix needs to a Hugging Face tokenizer, in place.

    The tokens are non-special, so that servers print them. A token that the vocabulary already has
    (in a checkpoint that this package exported) keeps its id. No other token changes its id, and no
    new one takes an id in use. The ids of the new ones are, in this order of preference:
      1. ids after the tokenizer's last one, if the table has enough spare rows for them (Qwen);
      2. ids below it that no token has;
      3. ids that the vocabulary reserves (`<|reserved_special_token_0|>` of Llama 3, `<unused0>` of
         Gemma) and that neither the tokenizer nor its templates use; these tokens are renamed;
      4. ids beyond the end of the table.
    Words are encoded separately from the text around them.

    Args:
      tokenizer: the tokenizer to extend.
      behaviors: the behaviors of the model.
      prefix_kind: one of PREFIX_KINDS.
      table_rows: rows of the embedding table; None for a table with a row for any id.
      used_ids: ids that the model uses, whether or not the tokenizer has them.

    Returns:
      The behaviors with their prefixes.

    Raises:
      UserError: the tokenizer cannot be given such ids.
    """
    behavior_set = BehaviorSet(tuple(behaviors), prefix_kind=prefix_kind)
    token_behaviors = behavior_set.token_behaviors

    vocabulary = tokenizer.get_vocab()
    new = [b.token for b in token_behaviors if b.token not in vocabulary]
    if new:
        renamed, ids = _choose_ids(tokenizer, vocabulary, len(new), table_rows, frozenset(used_ids))
        _add_tokens(tokenizer, dict(zip(new, ids, strict=True)), renamed)

    words = tuple(tuple(tokenizer.encode(b.words, add_special_tokens=False)) for b in behaviors)
    tokens = tuple((tokenizer.convert_tokens_to_ids(b.token),) for b in token_behaviors)
    return dataclasses.replace(
        behavior_set,
        prefixes=words if prefix_kind == 'words' else tokens,
        max_prefix_length=max(map(len, words), default=0),
    )


def _choose_ids(
    tokenizer,
    vocabulary: dict[str, int],
    count: int,
    table_rows: int | None,
    used_ids: frozenset[int],
) -> tuple[list[str], list[int]]:
    """Returns ids for new tokens, and the reserved tokens that have had them, if any."""
    taken = used_ids.union(vocabulary.values())
    first = max(vocabulary.values(), default=-1) + 1
    following = [i for i in range(first, first + count + len(used_ids)) if i not in taken][:count]
    if table_rows is None or following[-1] < table_rows:
        return [], following
    unassigned = [i for i in range(table_rows) if i not in taken]
    if len(unassigned) >= count:
        return [], unassigned[:count]
    templates = str(tokenizer.chat_template or '')
    in_use = {*tokenizer.all_special_tokens, *_RESERVED.findall(templates)}
    reserved = sorted(
        (i, token)
        for token, i in vocabulary.items()
        if _RESERVED.fullmatch(token) and token not in in_use and i not in used_ids
    )[:count]
    if len(reserved) == count:
        return [token for _, token in reserved], [i for i, _ in reserved]
    return [], following


def _add_tokens(tokenizer, new: dict[str, int], renamed: Sequence[str]) -> None:
    """Adds tokens at their ids, in place.

    Args:
      tokenizer: a fast tokenizer.
      new: `{token: id}`.
      renamed: tokens whose names, in the order of `new`, they take the place of; or none.

    Raises UserError where the tokenizer has no place for such an id.
    """
    expected = {t: i for t, i in tokenizer.get_vocab().items() if t not in renamed} | new
    ids = list(new.values())
    if not renamed and ids == list(range(_next_id(tokenizer), _next_id(tokenizer) + len(ids))):
        tokenizer.add_tokens([_added_token(token) for token in new])
    else:
        _rewrite(tokenizer, new, dict(zip(renamed, new, strict=False)))
    if tokenizer.get_vocab() != expected:
        raise UserError(f'the tokenizer cannot be given {", ".join(new)} at the free ids {ids}')


def _next_id(tokenizer) -> int:
    """Returns the id that the `tokenizers` library gives to the next added token.

    It counts the vocabulary, so that the id may be in use where ids are left out.
    """
    size = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    last_added = max(tokenizer.added_tokens_decoder, default=-1)
    return max(size, last_added + 1)


def _added_token(token: str):
    from transformers import AddedToken

    return AddedToken(token, special=False, normalized=False, lstrip=False, rstrip=False)


def _rewrite(tokenizer, new: dict[str, int], new_names: dict[str, str]) -> None:
    """Writes new tokens into the state of a tokenizer, in place.

    Args:
      tokenizer: a fast tokenizer.
      new: `{token: id}`.
      new_names: `{old name: new name}` of the tokens that they rename; empty for none.
    """
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state['model']['vocab']
    if isinstance(vocabulary, dict):
        for old, name in new_names.items():
            if old in vocabulary:
                vocabulary[name] = vocabulary.pop(old)
        if not new_names:
            # The library numbers added tokens by itself, but for those of the vocabulary.
            vocabulary |= {entry['content']: entry['id'] for entry in state['added_tokens']} | new
    else:
        for entry in vocabulary:
            entry[0] = new_names.get(entry[0], entry[0])

    added = [entry for entry in state['added_tokens'] if entry['content'] not in new_names]
    flags = {
        'single_word': False,
        'lstrip': False,
        'rstrip': False,
        'normalized': False,
        'special': False,
    }
    added += [{'id': i, 'content': token, **flags} for token, i in new.items()]
    state['added_tokens'] = sorted(added, key=lambda entry: entry['id'])
    # The tokenizer has no public setter for its backend.
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
