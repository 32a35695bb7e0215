"""Behaviors: the named modes of assistance, their levels and the prefixes of answers for them."""

from __future__ import annotations

import dataclasses
import json
import re

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
        """Returns the name of the behavior with the highest level.

        Intervention rates count this behavior as positive.
        """
        return max(self.behaviors_or_default, key=lambda b: b.level).name

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
) -> BehaviorSet:
    """Adds the tokens that a kind of prefix needs to a Hugging Face tokenizer, in place.

    The tokens are non-special, so that servers print them. A token that the vocabulary already has
    (in a checkpoint that this package exported) keeps its id. The ids of the others are, in this
    order of preference:
      1. ids after the tokenizer's last one, if the table has enough spare rows for them (Qwen);
      2. ids that the vocabulary reserves (`<|reserved_special_token_0|>` of Llama 3, `<unused0>` of
         Gemma) and that neither the tokenizer nor its template uses; these tokens are renamed;
      3. ids beyond the end of the table.
    Words are encoded separately from the text around them.

    Args:
      tokenizer: the tokenizer to extend.
      behaviors: the behaviors of the model.
      prefix_kind: one of PREFIX_KINDS.
      table_rows: rows of the embedding table; None for a table with a row for any id.

    Returns:
      The behaviors with their prefixes.
    """
    behavior_set = BehaviorSet(tuple(behaviors), prefix_kind=prefix_kind)
    token_behaviors = behavior_set.token_behaviors

    vocabulary = tokenizer.get_vocab()
    new = [b.token for b in token_behaviors if b.token not in vocabulary]
    used = {*tokenizer.all_special_tokens, *_RESERVED.findall(str(tokenizer.chat_template or ''))}
    reserved = sorted(
        (i, t) for t, i in vocabulary.items() if _RESERVED.fullmatch(t) and t not in used
    )
    needs_more_rows = table_rows is not None and len(tokenizer) + len(new) > table_rows
    if new and needs_more_rows and len(reserved) >= len(new):
        _rename_tokens(tokenizer, dict(zip((token for _, token in reserved), new, strict=False)))
    elif new:
        tokenizer.add_tokens([_added_token(token) for token in new])

    words = tuple(tuple(tokenizer.encode(b.words, add_special_tokens=False)) for b in behaviors)
    tokens = tuple((tokenizer.convert_tokens_to_ids(b.token),) for b in token_behaviors)
    return dataclasses.replace(
        behavior_set,
        prefixes=words if prefix_kind == 'words' else tokens,
        max_prefix_length=max(map(len, words), default=0),
    )


def _added_token(token: str):
    from transformers import AddedToken

    return AddedToken(token, special=False, normalized=False, lstrip=False, rstrip=False)


def _rename_tokens(tokenizer, new_names: dict[str, str]) -> None:
    """Renames reserved tokens, in place; their ids stay the same.

    Args:
      tokenizer: a fast tokenizer.
      new_names: `{old name: new name}`.
    """
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state['model']['vocab']
    for old, new in new_names.items():
        if old in vocabulary:
            vocabulary[new] = vocabulary.pop(old)

    added = [entry for entry in state['added_tokens'] if entry['content'] not in new_names]
    ids = {old: tokenizer.convert_tokens_to_ids(old) for old in new_names}
    flags = {
        'single_word': False,
        'lstrip': False,
        'rstrip': False,
        'normalized': False,
        'special': False,
    }
    added += [{'id': ids[old], 'content': new, **flags} for old, new in new_names.items()]
    state['added_tokens'] = sorted(added, key=lambda entry: entry['id'])
    # The tokenizer has no public setter for its backend.
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
