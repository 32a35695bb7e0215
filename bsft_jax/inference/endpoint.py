"""Asks a model behind an OpenAI-compatible endpoint, by HTTP, without a client library.

What may pass (429, 5xx, time-outs, broken connections, bodies that are no answer) is tried again;
anything else ends in one line. Redirects are not followed: they would take the key elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import http.client
import json
import math
import os
import random
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.inference.letters import Token

# Names of the environment variables that may hold the key; the first that is set counts.
KEY_VARIABLES = ('BSFT_API_KEY', 'OPENAI_API_KEY')
# Alternatives of each token that are asked for, until a server takes the number; 0 for none.
_ALTERNATIVES = (20, 5, 0)
_MAX_BYTES = 16 << 20
# Of what a server says.
_MAX_SHOWN = 200
_MAX_LOGGED = 8
# A server that asks for a longer pause, in seconds, is left.
MAX_PAUSE = 600.0
_MAX_BACKOFF = 60.0


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Names a model behind an endpoint, and says how patiently it is asked.

    Attributes:
      url: address that `/chat/completions` is below, such as `https://host/v1`.
      model: the model's name there.
      timeout: seconds without a byte after which a request has failed.
      attempts: how often a record is asked before the command ends.
      first_pause: seconds before the second attempt; each later pause is about twice as long.
    """

    url: str
    model: str
    timeout: float = 120.0
    attempts: int = 6
    first_pause: float = 1.0


@dataclasses.dataclass(frozen=True)
class Reply:
    """Holds an answer.

    Attributes:
      text: what the model wrote.
      tokens: its tokens; empty where the server does not say.
      finish_reason: why it ended; '' where the server does not say.
      prompt_tokens: tokens of the prompt; None where the server does not say.
      completion_tokens: tokens of the answer; None where the server does not say.
      latency_seconds: from the request that was answered to the end of the answer.
      attempts: requests that were sent, those included that a server refused for their settings.
      is_drawn: whether the server took no temperature, so that the answer is one drawn at random.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    finish_reason: str = ''
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_seconds: float = 0.0
    attempts: int = 1
    is_drawn: bool = False


class Stopped(Exception):
    """Signals that a request was given up because the command ends."""


class _Passing(Exception):
    """Signals a failure that may pass, with the pause that the server asks for, in seconds."""

    def __init__(self, what: str, pause: float | None = None):
        super().__init__(what)
        self.pause = pause


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Returns None, so that a redirect is an error."""


def check_url(url: str) -> str:
    """Returns an address without a final slash; raises UserError unless it can be asked."""
    where, fix = f'--endpoint={url}', 'name http://HOST/v1 or https://HOST/v1'
    # Not shown: they may hold a key.
    if '@' in url:
        raise UserError(
            'holds a name or password', where='--endpoint', fix=f'set {KEY_VARIABLES[0]} instead'
        )
    if any(sign in url for sign in '?# ') or not (url.isascii() and url.isprintable()):
        raise UserError('holds more than a host and a path', where='--endpoint', fix=fix)
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = (parts.hostname or '').encode('idna'), parts.port
    except ValueError as error:
        raise UserError(f'is not an address ({error})', where=where, fix=fix) from error
    if parts.scheme not in ('http', 'https') or not host:
        raise UserError('is not an address of http or https', where=where, fix=fix)
    if parts.path.rstrip('/').endswith('/completions'):
        raise UserError('names a function', where=where, fix='leave out /chat/completions')
    return url.rstrip('/')


def warn_of_plain_text(url: str) -> str:
    """Returns a warning where records and key would leave this machine unencrypted, else ''."""
    parts = urllib.parse.urlsplit(url)
    here = re.fullmatch(r'localhost|::1|127(\.\d+){3}', parts.hostname or '')
    if parts.scheme == 'https' or here:
        return ''
    return f'warning: {url} is not https: records and key are sent unencrypted'


def read_key(environ: Mapping[str, str] = os.environ) -> str:
    """Returns the key of the environment, '' without one; raises UserError for one with a blank."""
    for name in KEY_VARIABLES:
        if key := environ.get(name, '').strip():
            if not key.isascii() or not key.isprintable() or ' ' in key:
                raise UserError('is not a key: it has blanks or signs that no key has', where=name)
            return key
    return ''


class ChatClient:
    """Asks one model; several threads may ask at a time.

    Args:
      endpoint: the model.
      key: the key, or ''.
      max_new_tokens: longest answer in tokens.
      log: called with a line when an answer is waited for again, once for each reason.
    """

    def __init__(
        self, endpoint: Endpoint, key: str, max_new_tokens: int, log: Callable[[str], None]
    ):
        self._endpoint, self._key, self._max_new_tokens = endpoint, key, max_new_tokens
        self._where = f'--endpoint={endpoint.url}'
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._alternatives, self._limit = _ALTERNATIVES[0], 'max_tokens'
        self._takes_temperature = True
        self._log, self._logged = log, set[str]()

    def ask(self, name: str, messages: Sequence[Mapping[str, str]], stop: threading.Event) -> Reply:
        """Returns the answer to messages, tried again as often as the endpoint says.

        Args:
          name: what errors call the question.
          messages: `{role, content}` each.
          stop: ends the pauses once it is set.

        Raises:
          UserError: there is none.
          Stopped: `stop` was set.
        """
        failures = sent = 0
        while True:
            body = self._body(messages)
            sent, began = sent + 1, time.monotonic()
            try:
                reply = parse_reply(self._send(body))
                latency = time.monotonic() - began
                return dataclasses.replace(
                    reply,
                    latency_seconds=latency,
                    attempts=sent,
                    is_drawn='temperature' not in body,
                )
            except urllib.error.HTTPError as error:
                with error:
                    said = self._said(error)
                if error.code in (400, 403, 422) and self._can_do_without(body, said):
                    continue
                failure = self._failure(error, said, name)
            except (OSError, http.client.HTTPException) as error:
                failure = self._no_answer(error)
            except ValueError as error:
                failure = _Passing(self._hide_key(f'what came is no answer ({error})'))
            failures += 1
            if failures >= self._endpoint.attempts:
                raise UserError(
                    f'{name}: {failure}, {failures} times',
                    where=self._where,
                    fix='start again: what was answered is not asked again',
                )
            self._pause(failure, failures, stop)

    def _body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        alternatives = self._alternatives
        asked = {'logprobs': True, 'top_logprobs': alternatives} if alternatives else {}
        return {
            'model': self._endpoint.model,
            'messages': list(messages),
            self._limit: self._max_new_tokens,
            **({'temperature': 0} if self._takes_temperature else {}),
            **asked,
        }

    def _send(self, body: Mapping[str, Any]) -> bytes:
        headers = {'Content-Type': 'application/json', 'Accept': 'application/json'}
        headers['User-Agent'] = 'bsft_jax'
        if self._key:
            headers['Authorization'] = f'Bearer {self._key}'
        request = urllib.request.Request(
            f'{self._endpoint.url}/chat/completions',
            json.dumps(body).encode(),
            headers,
            method='POST',
        )
        with self._opener.open(request, timeout=self._endpoint.timeout) as response:
            return response.read(_MAX_BYTES)

    def _can_do_without(self, body: Mapping[str, Any], said: str) -> bool:
        """Changes what a server refuses and can be left out; returns whether there was such."""
        if 'max_completion_tokens' in said and 'max_tokens' in body:
            self._limit = 'max_completion_tokens'
            return True
        if 'logprobs' in said and 'logprobs' in body:
            fewer = next(n for n in _ALTERNATIVES if n < body['top_logprobs'])
            self._alternatives = min(self._alternatives, fewer)
            return True
        if 'temperature' in said and 'temperature' in body:
            self._takes_temperature = False
            return True
        return False

    def _failure(self, error: urllib.error.HTTPError, said: str, name: str) -> _Passing:
        """Returns a failure that may pass; raises UserError for one that does not."""
        status, said = f'HTTP {error.code}', said[:_MAX_SHOWN]
        if error.code in (408, 409, 425, 429) or error.code >= 500:
            return _Passing(f'{status}: {said}', _retry_after(error.headers))
        if error.code in (401, 403):
            # What the server says may hold the key.
            raise UserError(
                f'{status}: the key is refused' if self._key else f'{status}: a key is needed',
                where=self._where,
                fix=f'set {" or ".join(KEY_VARIABLES)}',
            )
        if error.code == 404:
            raise UserError(
                f'{status}: {said}',
                where=self._where,
                fix=f'is {self._endpoint.model!r} a model there, and the address complete?',
            )
        if 300 <= error.code < 400:
            target = (error.headers.get('Location') or 'nowhere')[:_MAX_SHOWN]
            raise UserError(
                f'{status}: it redirects to {target}',
                where=self._where,
                fix='name that address',
            )
        raise UserError(f'{name}: {status}: {said}', where=self._where)

    def _no_answer(self, error: Exception) -> _Passing:
        """Returns a connection's failure; raises UserError for a certificate that is not valid."""
        reason = getattr(error, 'reason', error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UserError(
                f'its certificate is not valid ({reason.verify_message})', where=self._where
            )
        if isinstance(reason, TimeoutError):
            return _Passing(f'no answer within {self._endpoint.timeout:g} s')
        return _Passing(getattr(reason, 'strerror', '') or str(reason) or type(reason).__name__)

    def _said(self, error: urllib.error.HTTPError) -> str:
        """Returns what a server says about an error, without the key."""
        try:
            content = error.read(_MAX_BYTES).decode('utf-8', 'replace')
        except (OSError, http.client.HTTPException):
            content = ''
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(content)
            for key in ('error', 'message', 'detail'):
                if isinstance(found, dict) and found.get(key):
                    found = found[key]
            content = found if isinstance(found, str) else json.dumps(found)
        return ' '.join(self._hide_key(content).split()) or str(error.reason)

    def _hide_key(self, text: str) -> str:
        return text.replace(self._key, '…') if self._key else text

    def _pause(self, failure: _Passing, failures: int, stop: threading.Event) -> None:
        """Waits before the next attempt, as long as the server asks or about twice the last time.

        Raises UserError where that is too long, and Stopped when the command ends.
        """
        pause = failure.pause
        if pause is None:
            pause = min(self._endpoint.first_pause * 2 ** (failures - 1), _MAX_BACKOFF)
            # Threads that failed together do not come back together.
            pause *= random.uniform(0.75, 1.25)
        if pause > MAX_PAUSE:
            raise UserError(
                f'{failure}: it asks for a pause of {pause:.0f} s',
                where=self._where,
                fix='start again then: what was answered is not asked again',
            )
        if str(failure) not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(str(failure))
            self._log(f'{self._endpoint.url}: {failure}: trying again')
        if stop.wait(pause):
            raise Stopped


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Returns the pause that a server asks for, in seconds; None where it does not."""
    value = headers.get('Retry-After') or ''
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


def parse_reply(body: bytes) -> Reply:
    """Reads the body of an answer; raises ValueError for anything else."""
    try:
        answer = json.loads(body)
        choice = answer['choices'][0]
        text = choice['message'].get('content') or ''
        usage = answer.get('usage') or {}
        if not isinstance(text, str) or not isinstance(usage, dict):
            raise TypeError
        return Reply(
            text=text,
            tokens=_tokens_of(choice.get('logprobs')),
            finish_reason=str(choice.get('finish_reason') or ''),
            prompt_tokens=_count(usage.get('prompt_tokens')),
            completion_tokens=_count(usage.get('completion_tokens')),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        shown = body[:_MAX_SHOWN].decode('utf-8', 'replace')
        raise ValueError(repr(' '.join(shown.split())[:80])) from error


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _tokens_of(logprobs: Any) -> tuple[Token, ...]:
    """Returns the tokens of an answer; none where they are left out or written in another way."""
    try:
        return tuple(_token(entry) for entry in logprobs['content'])
    except (LookupError, TypeError, ValueError):
        return ()


def _token(entry: Mapping[str, Any]) -> Token:
    listed = [entry, *(entry.get('top_logprobs') or ())]
    alternatives = {str(item['token']): float(item['logprob']) for item in listed}
    known = {text: value for text, value in alternatives.items() if -math.inf < value <= 1e-3}
    return Token(str(entry['token']), known)
