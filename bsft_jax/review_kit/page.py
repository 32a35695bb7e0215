"""Writes the pages that raters fill in: offline, self-contained, without a name of a system."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import importlib.resources
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax.records.record import Message, Record
from bsft_jax.review_kit import wording
from bsft_jax.review_kit.sampling import Item, Screen

FORMAT = 1
# Characters of a hexadecimal digest that identify a study or a page.
DIGEST_LENGTH = 16
_ROLES = {'system': 'Setting', 'user': 'Question', 'assistant': 'Earlier answer'}
# Within a script element these could end it, or begin what HTML reads as a comment.
_UNSAFE = re.compile('[<>&\u2028\u2029]|[\ud800-\udfff]')


def asset(name: str) -> str:
    """Returns the text of a file of `review_kit/assets/`."""
    folder = importlib.resources.files('bsft_jax.review_kit') / 'assets'
    return (folder / name).read_text(encoding='utf-8')


def canonical_json(value: Any) -> str:
    """Returns JSON without blanks, as `JSON.stringify` of JavaScript writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(',', ':'))
    # JavaScript escapes half a surrogate pair, which Python leaves as it is.
    return re.sub('[\ud800-\udfff]', lambda match: f'\\u{ord(match[0]):04x}', text)


def digest_of(value: Any) -> str:
    """Returns a digest of a JSON value."""
    data = canonical_json(value).encode('utf-8')
    return hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]


def answers_of(screen: Screen, items: Sequence[Item], lenders: Sequence[Item]) -> list[str]:
    """Returns the two answers of a screen in the order in which they are shown.

    A check lends the case and the first answer of an item; its other answer asks for a choice.
    """
    if screen.kind == 'check':
        lender = lenders[screen.item]
        texts = [lender.candidate.answers[lender.pair[0]], wording.check_text(screen.expected)]
    else:
        item = items[screen.item]
        texts = [item.candidate.answers[system] for system in item.pair]
    return texts[::-1] if screen.swapped else texts


def page_content(
    rater: int, screens: Sequence[Screen], items: Sequence[Item], lenders: Sequence[Item]
) -> dict[str, Any]:
    """Returns what a rater's page shows, as JSON.

    Neither ids of records nor categories nor anything of the systems but their answers is in it.
    """
    return {
        'format': FORMAT,
        'rater': rater,
        'title': wording.TITLE,
        'instructions': list(wording.INSTRUCTIONS),
        'keys': wording.KEYS,
        'scales': [_scale(scale) for scale in wording.SCALES],
        'preferences': wording.PREFERENCES,
        'screens': [
            {
                'id': screen_id(number),
                'turns': _turns((lenders if s.kind == 'check' else items)[s.item].candidate.record),
                'answers': answers_of(s, items, lenders),
            }
            for number, s in enumerate(screens)
        ],
    }


def screen_id(number: int) -> str:
    """Returns the id of a rater's screen, `s01` for the first."""
    return f's{number + 1:02d}'


def _scale(scale: wording.Scale) -> dict[str, Any]:
    fields = dataclasses.asdict(scale)
    del fields['better']
    return fields


def _turns(record: Record) -> list[dict[str, str]]:
    return [{'speaker': _speaker(turn), 'text': turn.content} for turn in record.messages]


def _speaker(message: Message) -> str:
    role = _ROLES[message.role]
    return f'{role} ({message.name})' if message.name and message.role == 'user' else role


def render_page(content: Mapping[str, Any], study: str) -> str:
    """Returns the HTML of a rater's page.

    The policy of the page forbids every request and every script but its own.

    Args:
      content: what `page_content` returns.
      study: id of the study.
    """
    data = {'study': study, 'page': digest_of(content), **content}
    text = json.dumps(data, ensure_ascii=False)
    script, style = asset('review.js'), asset('base.css') + asset('review.css')
    return string.Template(asset('page.html')).substitute(
        policy=html.escape(content_policy(script=script, style=style)),
        title=html.escape(content['title']),
        style=style,
        data=_UNSAFE.sub(lambda match: f'\\u{ord(match[0]):04x}', text),
        script=script,
    )


def content_policy(*, style: str, script: str = '') -> str:
    """Returns a content security policy that allows these two texts alone."""
    parts = ["default-src 'none'", f'style-src {_source(style)}', 'img-src data:']
    if script:
        parts.append(f'script-src {_source(script)}')
    return '; '.join([*parts, "base-uri 'none'", "form-action 'none'"])


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode('utf-8')).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
