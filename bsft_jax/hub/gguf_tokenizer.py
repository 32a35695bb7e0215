"""Tokenizers from a GGUF file's metadata, as the files of Hugging Face describe them.

A GGUF file names the rule by which its text is split and does not hold it. A rule that is not known
here is refused, since another one would give other ids in rare texts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.hub import fields
from bsft_jax.hub.gguf_header import Header

# Kinds of tokens.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_SPACE = '▁'
_KEY = 'tokenizer.ggml.'
# Role in `tokenizer_config.json` → what the key of its id begins with.
_ROLES = {
    'bos_token': 'bos',
    'eos_token': 'eos',
    'pad_token': 'padding',
    'unk_token': 'unknown',
}

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_QWEN2 = _LLAMA3.replace(r'\p{N}{1,3}', r'\p{N}')
_TEKKEN = (
    r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+'
    r'|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*'
    r'|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Says how a byte-level BPE treats text before it merges.

    Attributes:
      pattern: finds the pieces of a text; '' for those of GPT-2, each digit apart if `digits`.
      digits: makes each digit a piece.
      nfc: normalizes Unicode.
      whole_words: a piece that is a token is never merged from parts.
      begins: whether a text begins with the token of its beginning, where the file does not say.
    """

    pattern: str = ''
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    begins: bool = False


# Value of `tokenizer.ggml.pre` → rule.
_RULES = {
    'gpt-2': _Rule(),
    'smollm': _Rule(digits=True),
    'qwen2': _Rule(_QWEN2, nfc=True),
    'tekken': _Rule(_TEKKEN, whole_words=True, begins=True),
    **dict.fromkeys(
        ('llama-bpe', 'llama3', 'llama-v3'), _Rule(_LLAMA3, whole_words=True, begins=True)
    ),
}


@dataclasses.dataclass(frozen=True)
class _Vocabulary:
    """Holds the tokens of a file and what it says of each.

    Attributes:
      tokens: texts by id.
      kinds: kinds by id.
      scores: scores by id; empty for none.
    """

    tokens: Sequence[str]
    kinds: Sequence[int]
    scores: Sequence[float]

    def of(self, *kinds: int) -> list[str]:
        """Returns the tokens of some kinds, in the order of their ids."""
        return [t for t, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds]

    @property
    def ids(self) -> dict[str, int]:
        """Returns the ids by token, without those of rows that only fill the table."""
        return {
            token: i
            for i, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True))
            if kind != _UNUSED
        }


def tokenizer_files(header: Header) -> dict[str, Any]:
    """Returns the content of `tokenizer.json` and `tokenizer_config.json` for a GGUF file.

    They depend on no version of `transformers`, so that a run knows its tokenizer again.

    Raises UserError for a file without a tokenizer or with one that cannot be taken from it.
    """
    model = header.value(f'{_KEY}model', str, 'no_vocab')
    if model == 'no_vocab' or f'{_KEY}tokens' not in header.metadata:
        raise _refused('there is no tokenizer in this file', header)
    if model not in ('gpt2', 'llama'):
        raise _refused(f'its tokenizer {fields.shorten(model)} cannot be taken from it', header)
    vocabulary = _vocabulary(header)
    tokens = {role: _token_at(vocabulary, key, header) for role, key in _ROLES.items()}
    if model == 'gpt2':
        backend, begins = _byte_level(vocabulary, header)
    else:
        backend, begins = _sentencepiece(vocabulary, tokens['unk_token'], header), True
    _add_tokens(backend, vocabulary)
    begins = header.value(f'{_KEY}add_bos_token', bool, begins)
    ends = header.value(f'{_KEY}add_eos_token', bool, False)
    first, last = tokens['bos_token'] if begins else '', tokens['eos_token'] if ends else ''
    _add_ends(backend, vocabulary, first, last)
    config = {'tokenizer_class': 'PreTrainedTokenizerFast', 'clean_up_tokenization_spaces': False}
    config |= {role: token for role, token in tokens.items() if token}
    if template := header.value('tokenizer.chat_template', str, ''):
        config['chat_template'] = template
    return {'tokenizer.json': json.loads(backend.to_str()), 'tokenizer_config.json': config}


def _refused(what: str, header: Header) -> UserError:
    fix = 'name a folder with its tokenizer.json by --config.model.tokenizer or --tokenizer'
    return UserError(what, where=header.path, fix=fix)


def _vocabulary(header: Header) -> _Vocabulary:
    """Returns the tokens; raises UserError for lists of other lengths and for tokens twice."""
    tokens = header.value(f'{_KEY}tokens', list, [])
    kinds = header.value(f'{_KEY}token_type', np.ndarray, np.zeros(0)).tolist()
    scores = header.value(f'{_KEY}scores', np.ndarray, np.zeros(0)).tolist()
    if not tokens or len(kinds) != len(tokens):
        message = f'it has {len(tokens)} tokens and the kinds of {len(kinds)}'
        raise _refused(message, header)
    vocabulary = _Vocabulary(tokens, kinds, scores)
    if len(vocabulary.ids) < len(tokens) - kinds.count(_UNUSED):
        raise _refused('two of its tokens have the same text', header)
    return vocabulary


def _token_at(vocabulary: _Vocabulary, key: str, header: Header) -> str:
    """Returns the token whose id a key names, '' for none; raises UserError for an unused id."""
    if (i := header.value(f'{_KEY}{key}_token_id', int, -1)) == -1:
        return ''
    is_used = 0 <= i < len(vocabulary.tokens) and vocabulary.kinds[i] != _UNUSED
    if not is_used:
        raise _refused(f'{key}_token_id is {i}, which no token has', header)
    return vocabulary.tokens[i]


def _byte_level(vocabulary: _Vocabulary, header: Header) -> tuple[Any, bool]:
    """Returns a byte-level BPE, and whether its texts begin with a token unless the file says."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pre = header.value(f'{_KEY}pre', str, '')
    if (rule := _RULES.get(pre)) is None:
        named = fields.shorten(pre) if pre else 'none'
        raise _refused(f'its rule to split text, {named}, is not known', header)
    merges = header.value(f'{_KEY}merges', list, [])
    pairs = [tuple(merge.split(' ')) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise _refused('its merges are not pairs', header)
    try:
        bpe = models.BPE(vocabulary.ids, pairs, ignore_merges=rule.whole_words)
    # `tokenizers` raises bare exceptions.
    except Exception as error:
        raise _refused(f'its merges do not fit its tokens ({error})', header) from error
    backend = Tokenizer(bpe)
    if rule.nfc:
        backend.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not rule.pattern)
    if rule.digits:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    elif rule.pattern:
        split = pre_tokenizers.Split(Regex(rule.pattern), 'isolated')
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    else:
        backend.pre_tokenizer = level
    backend.decoder = decoders.ByteLevel()
    return backend, rule.begins


def _sentencepiece(vocabulary: _Vocabulary, unknown: str, header: Header) -> Any:
    """Returns a BPE of SentencePiece, with bytes for characters that no token has.

    Llama's texts begin with a space, also after a control token. Gemma's do not.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    for key in ('precompiled_charsmap', 'remove_extra_whitespaces'):
        if np.any(header.metadata.get(f'{_KEY}{key}')):
            raise _refused(f'its tokenizer normalizes text ({key}), which is not supported', header)
    is_gemma = header.value('general.architecture', str, '').startswith('gemma')
    scores = vocabulary.scores
    if is_gemma:
        vocabulary = _with_spaces_respelled(vocabulary)
        # Not its scores but its order is that of the merges.
        scores = [-float(i) for i in range(len(vocabulary.tokens))]
    if len(scores) != len(vocabulary.tokens):
        message = f'it has {len(vocabulary.tokens)} tokens and the scores of {len(scores)}'
        raise _refused(message, header)
    backend = Tokenizer(
        models.BPE(
            vocabulary.ids,
            _merges(vocabulary, scores),
            unk_token=unknown or None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(' ', _SPACE)
    decoder = [decoders.Replace(_SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
    if header.value(f'{_KEY}add_space_prefix', bool, not is_gemma):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        decoder.append(decoders.Strip(' ', 1, 0))
    else:
        backend.normalizer = spaces
    backend.decoder = decoders.Sequence(decoder)
    return backend


def _with_spaces_respelled(vocabulary: _Vocabulary) -> _Vocabulary:
    """Returns a vocabulary in which tokens of spaces are spelled as text is when it is merged."""
    tokens = [t if t.strip(' ') else _SPACE * len(t) for t in vocabulary.tokens]
    return dataclasses.replace(vocabulary, tokens=tokens)


def _merges(vocabulary: _Vocabulary, scores: Sequence[float]) -> list[tuple[str, str]]:
    """Returns the merges that a vocabulary implies, the highest score first.

    Control tokens are no result of a merge. Among merges of one token the parts with the lower ids
    come first, and among equal scores the longer parts, as in `transformers`.
    """
    ids, found = vocabulary.ids, []
    for token, kind, score in zip(vocabulary.tokens, vocabulary.kinds, scores, strict=True):
        if kind not in (_NORMAL, _USER_DEFINED):
            continue
        parts = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(a, b) for a, b in parts if a in ids and b in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(score, len(a), len(b), a, b) for a, b in pairs]
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(a, b) for *_, a, b in found]


def _add_tokens(backend: Any, vocabulary: _Vocabulary) -> None:
    """Adds the tokens that are found in a text before it is split."""
    from tokenizers import AddedToken

    known = backend.get_vocab()
    for kinds, is_special in (((_UNKNOWN, _CONTROL), True), ((_USER_DEFINED,), False)):
        tokens = [t for t in vocabulary.of(*kinds) if t in known]
        added = [AddedToken(t, normalized=False, special=is_special) for t in tokens]
        (backend.add_special_tokens if is_special else backend.add_tokens)(added)


def _add_ends(backend: Any, vocabulary: _Vocabulary, first: str, last: str) -> None:
    """Lets a text begin and end with these tokens where special ones are asked for; '' for none."""
    from tokenizers import processors

    if not (first or last):
        return
    ids = vocabulary.ids
    backend.post_processor = processors.TemplateProcessing(
        single=[*([first] if first else []), '$A', *([last] if last else [])],
        special_tokens=[(token, ids[token]) for token in {first, last} if token],
    )
