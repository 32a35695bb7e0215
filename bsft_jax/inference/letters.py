"""Reads which option an answer in words names, and with which log-probabilities.

A chat model writes what it likes: `Answer: B.`, `**(B)** because …`, `The best option is B`, or the
words of the option. What cannot be read is no answer, and nothing is guessed.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bsft_jax.records.record import Record, option_words

# Thoughts that a reasoning model writes before its answer.
_THOUGHTS = '</think>'
# What a trained model writes before its answer: a behavior token, or the words for it.
_PREFIX = re.compile(r'\s*(?:<\|\w+\|>|Behavior: \w+\n)?\s*')
# A letter at the beginning is an answer where a sign or the end follows: `A patient` is not.
_FIRST = re.compile(
    r'[\s*_`"\'(\[]*(?:(?i:the\s+)?(?i:correct |best |final )?(?i:answer|option|choice)'
    r'(?i:\s+is)?[\s:*_`"\'(\[]*)?([A-Z])(?!,\s*[A-Z]\b)'
    r'(?=[*_`"\']*(?:\s*[.):\],;]|\s*(?:\n|$)|\s+(?:[-–—]\s|is (?:the )?(?:best|correct|right)\b)))'
)
_SAID = re.compile(
    r'(?i:\banswer|\bcorrect option|\bbest option|\bcorrect choice|\bbest choice)'
    r'(?i:\s+is|\s+would be)?[\s:*_`"\'(\[]*(?i:option\s+)?([A-Z])(?![\w\'])'
)
_NAMED = re.compile(r'(?i:\boption|\bchoice)[\s:*_`"\'(\[]+([A-Z])(?![\w\'])|\(([A-Z])\)')
# Signs around the letter within a token; SentencePiece and byte-level BPE spell a space like this.
_SIGNS = ' \t\n▁ĠĊ*_`"\'([.):]'
_SPELLED = str.maketrans('▁ĠĊ', '  \n')
# Probability that is left to the options that nothing says anything about.
_LEAST = 1e-9
# Log-probability of an option that an answer in words does not name.
UNNAMED = math.log(1e-6)


class Token(NamedTuple):
    """Holds a token of an answer and the log-probabilities of the tokens that could stand there."""

    text: str
    alternatives: dict[str, float]


class Choice(NamedTuple):
    """Holds what an answer chooses.

    Attributes:
      option: index of the option; None where none can be told.
      by: `logprobs` of the letter in the answer, `first_token` where the answer names no option
        but its first token has letters among its alternatives, `text`, or `unparsed`.
      option_logprobs: log-probability of each option by its letter; None for the last two.
    """

    option: int | None
    by: str
    option_logprobs: list[float] | None = None


def read_choice(text: str, tokens: Sequence[Token], options: Sequence[str]) -> Choice:
    """Returns what an answer chooses.

    Args:
      text: the answer.
      tokens: its tokens; empty where the server does not say.
      options: the options, lettered A, B, …
    """
    found = find_letter(text, len(options))
    if found is not None:
        option, position = found
        token = _token_at(tokens, text, position)
        logprobs = _logprobs_of(token, len(options)) if token else None
        # The letter that was written is the answer, whatever stands beside it.
        if logprobs and max(logprobs) == logprobs[option]:
            return Choice(option, 'logprobs', logprobs)
        return Choice(option, 'text')
    if (named := find_words(text, options)) is not None:
        return Choice(named, 'text')
    written = [token for token in tokens if not re.fullmatch(r'<\|\w+\|>|\s*', token.text)]
    logprobs = _logprobs_of(written[0], len(options)) if written else None
    if logprobs:
        return Choice(logprobs.index(max(logprobs)), 'first_token', logprobs)
    return Choice(None, 'unparsed')


def find_letter(text: str, num_options: int) -> tuple[int, int] | None:
    """Returns the option whose letter an answer names and where it stands; None without one.

    A letter at the beginning counts first, then the last one that is called the answer, then the
    only one that is called an option.
    """
    letters = string.ascii_uppercase[:num_options]
    start = _answer_start(text)
    match = _FIRST.match(text, start)
    if match and match[1] in letters:
        return letters.index(match[1]), match.start(1)
    if said := [m for m in _SAID.finditer(text, start) if m[1] in letters]:
        return letters.index(said[-1][1]), said[-1].start(1)
    named = [m for m in _NAMED.finditer(text, start) if (m[1] or m[2]) in letters]
    if len({m[1] or m[2] for m in named}) == 1:
        return letters.index(named[0][1] or named[0][2]), named[0].start(named[0].lastindex)
    return None


def find_words(text: str, options: Sequence[str]) -> int | None:
    """Returns the option whose words an answer begins with, else the only one that it holds.

    `Answer:` may stand before them. An option within the words of another that is found does not
    count. Returns None where that is none or several.
    """
    said = f' {_plain(text[_answer_start(text) :])} '
    words = [f' {_plain(option_words(option))} ' for option in options]
    opening = said.removeprefix(' answer')
    for found in (
        [i for i, option in enumerate(words) if opening.startswith(option)],
        [i for i, option in enumerate(words) if option in said],
    ):
        longest = [i for i in found if not any(i != j and words[i] in words[j] for j in found)]
        if len(longest) == 1:
            return longest[0]
    return None


def wrong_option(record: Record, levels: Mapping[str, float]) -> int:
    """Returns the option that an answer counts as which names none: a wrong one.

    It is one of the lowest level, as nothing was raised; of these the next after the right one.
    """
    num_options = len(record.options)
    others = [(record.answer + step) % num_options for step in range(1, num_options)]
    stands_for = record.option_behaviors or ('',) * num_options
    return min(others, key=lambda option: levels.get(stands_for[option], 0.0))


def mentions(text: str, groups: Sequence[Sequence[str]]) -> list[bool]:
    """Returns for each group of phrases whether a text holds one of them, as whole words.

    Case and the signs between words do not count: `INR-check` holds `INR check`. A phrase without
    a word is held by no text.
    """
    said = f' {_plain(text)} '
    return [any(f' {words} ' in said for words in map(_plain, group) if words) for group in groups]


def _answer_start(text: str) -> int:
    """Returns where an answer begins, after thoughts and a behavior."""
    thought = text.rfind(_THOUGHTS)
    return _PREFIX.match(text, 0 if thought < 0 else thought + len(_THOUGHTS)).end()


def _plain(text: str) -> str:
    return ' '.join(re.findall(r'\w+', text.casefold()))


def _token_at(tokens: Sequence[Token], text: str, position: int) -> Token | None:
    """Returns the token that holds a character of the text; None where they do not go together.

    Tokens may begin with ones that the server leaves out of the text.
    """
    spelled = [
        token.text.replace('▁', ' ').replace('Ġ', ' ').replace('Ċ', '\n') for token in tokens
    ]
    shift = ''.join(spelled).find(text[: position + 1])
    if shift < 0:
        return None
    end = 0
    for token, words in zip(tokens, spelled, strict=True):
        end += len(words)
        if end > shift + position:
            return token
    return None


def _logprobs_of(token: Token, num_options: int) -> list[float] | None:
    """Returns the log-probability of each option's letter at a token; None without any letter.

    A letter that is spelled in several ways has the most probable one. Letters that are not listed
    get the most that they could have: no more than the least listed token, and no more than what
    all listed ones leave.
    """
    listed: dict[int, float] = {}
    for spelled, logprob in token.alternatives.items():
        option = string.ascii_uppercase.find(letter) if (letter := spelled.strip(_SIGNS)) else -1
        if len(letter) == 1 and 0 <= option < num_options:
            listed[option] = max(logprob, listed.get(option, -math.inf))
    # The written token alone says nothing of the others.
    if not listed or len(token.alternatives) < 2:
        return None
    left = 1.0 - math.fsum(map(math.exp, token.alternatives.values()))
    bound = min(*token.alternatives.values(), math.log(max(left, _LEAST)))
    return [listed.get(option, bound) for option in range(num_options)]
