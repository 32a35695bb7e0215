"""Reads the key of a review and the files of its raters, and refuses what does not belong."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.review_kit import page, wording
from bsft_jax.review_kit.make import KEY_KIND

FILE_KIND = 'blind review'


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Holds what one rater said of one comparison.

    Attributes:
      rater: number of the rater.
      comparison: index among the comparisons of the key.
      repeated: whether the rater had seen it before.
      shown: names of the two systems in the order in which their answers were shown.
      choice: name of the preferred system, `tie` or `neither`.
      scales: by system, the value of each scale; None where it does not apply.
      comment: what the rater wrote.
      seconds: time taken.
    """

    rater: int
    comparison: int
    repeated: bool
    shown: tuple[str, str]
    choice: str
    scales: Mapping[str, Mapping[str, int | None]]
    comment: str
    seconds: int


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Holds the judgements of all raters, and by rater which attention items were passed."""

    judgements: tuple[Judgement, ...]
    checks: Mapping[int, tuple[bool, ...]]


def checksum(file: Mapping[str, Any]) -> str:
    """Returns the checksum of a rater's file: CRC-32 of all of it but `checksum`.

    It shows a change made by accident or in an editor, not one by somebody who computes it anew.
    """
    content = {name: value for name, value in file.items() if name != 'checksum'}
    return f'{zlib.crc32(page.canonical_json(content).encode("utf-8")):08x}'


def read_key(path: str | pathlib.Path) -> dict[str, Any]:
    """Reads `KEY.json`; raises UserError for another file, and for one that was changed."""
    key = _read_object(path, KEY_KIND, 'is not the key of a review', 'name KEY.json first')
    content = {name: value for name, value in key.items() if name != 'study'}
    if page.digest_of(content) != key.get('study'):
        raise UserError('was changed since it was made', where=str(path), fix='use the original')
    return key


def read_ratings(key: Mapping[str, Any], paths: Sequence[str | pathlib.Path]) -> Ratings:
    """Reads the files of raters.

    Raises UserError without a file, and for one that no page of this study saved, that is
    incomplete, that was changed, or whose rater has another file.
    """
    if not paths:
        raise UserError(
            'no file of a rater', where='review analyse', fix='name them after KEY.json'
        )
    pages = {entry['rater']: entry for entry in key['pages']}
    judgements, checks, seen = [], {}, {}
    for path in paths:
        file = _read_file(path, key, pages)
        rater = file['rater']
        if rater in seen:
            raise UserError(
                f'is of rater {rater}, like {seen[rater]}', where=str(path), fix='leave one out'
            )
        seen[rater], passed = path, []
        for screen, rating in zip(pages[rater]['screens'], file['ratings'], strict=True):
            if screen['kind'] == 'check':
                passed.append(rating['preference'] == screen['expected'])
            else:
                judgements.append(_judgement(rater, screen, rating))
        checks[rater] = tuple(passed)
    return Ratings(tuple(judgements), checks)


def _judgement(rater: int, screen: Mapping[str, Any], rating: Mapping[str, Any]) -> Judgement:
    first, second = screen['shown']
    choice = {'first': first, 'second': second}.get(rating['preference'], rating['preference'])
    return Judgement(
        rater=rater,
        comparison=screen['comparison'],
        repeated=screen['kind'] == 'repeat',
        shown=(first, second),
        choice=choice,
        scales={
            system: {
                name: None if value == wording.NOT_APPLICABLE else value
                for name, value in answer.items()
            }
            for system, answer in zip((first, second), rating['answers'], strict=True)
        },
        # Half a surrogate pair, which a browser can hold, is no text that could be written.
        comment=re.sub('[\ud800-\udfff]', '\ufffd', rating['comment']),
        seconds=rating['seconds'],
    )


def _read_object(path: str | pathlib.Path, kind: str, what: str, fix: str) -> dict[str, Any]:
    """Reads a JSON object of a kind; raises UserError for anything else."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError('no such file', where=str(path))
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{what}: no JSON', where=str(path), fix=fix) from error
    if not isinstance(value, dict) or value.get('kind') != kind:
        raise UserError(what, where=str(path), fix=fix)
    if value.get('format') != page.FORMAT:
        raise UserError(
            f'has the format {value.get("format")!r}, not {page.FORMAT}',
            where=str(path),
            fix='use the version of bsft_jax that made it',
        )
    return value


def _read_file(
    path: str | pathlib.Path, key: Mapping[str, Any], pages: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    file = _read_object(
        path, FILE_KIND, 'is not what a page of a review saves', 'name the files of the raters'
    )
    again = 'ask the rater for the file again'
    if file.get('study') != key['study']:
        raise UserError(
            f'belongs to the study {file.get("study")!r}, the key to {key["study"]!r}',
            where=str(path),
            fix='leave it out',
        )
    if file.get('checksum') != checksum(file):
        raise UserError('was changed since it was saved', where=str(path), fix=again)
    entry = pages.get(file.get('rater'))
    if entry is None or file.get('page') != entry['page']:
        raise UserError('is not of a page of this study', where=str(path), fix='leave it out')
    ratings, screens = file.get('ratings'), entry['screens']
    if not _has_layout(ratings, screens):
        raise UserError('has other ratings than its page', where=str(path), fix=again)
    missing = sum(not _is_complete(rating) for rating in ratings)
    if missing:
        raise UserError(
            f'is incomplete: {missing} of {len(screens)} pages are open',
            where=str(path),
            fix='let the rater finish, or leave it out',
        )
    return file


def _has_layout(ratings: Any, screens: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether there is a rating for each screen, with values that the page can give."""
    if not isinstance(ratings, list) or len(ratings) != len(screens):
        return False
    try:
        return all(
            rating['screen'] == screen['screen'] and _is_valid(rating)
            for rating, screen in zip(ratings, screens, strict=True)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_valid(rating: Mapping[str, Any]) -> bool:
    names = {scale.name for scale in wording.SCALES}
    seconds = rating['seconds']
    return (
        len(rating['answers']) == 2
        and all(answer.keys() == names for answer in rating['answers'])
        and all(
            _is_value(a[scale.name], scale) for a in rating['answers'] for scale in wording.SCALES
        )
        and rating['preference'] in (None, *wording.CHOICES)
        and isinstance(rating['comment'], str)
        and type(seconds) is int
        and seconds >= 0
    )


def _is_value(value: Any, scale: wording.Scale) -> bool:
    if value is None or (value == wording.NOT_APPLICABLE and scale.not_applicable):
        return True
    return type(value) is int and 1 <= value <= len(scale.anchors)


def _is_complete(rating: Mapping[str, Any]) -> bool:
    values = [value for answer in rating['answers'] for value in answer.values()]
    return None not in (*values, rating['preference'])
