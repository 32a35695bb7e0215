"""Tests of the client of an endpoint, against a server on this machine."""

import contextlib
import email.utils
import threading
import time

import pytest

from bsft_jax.errors import UserError
from bsft_jax.inference import endpoint as endpoint_lib
from bsft_jax.inference.endpoint import ChatClient, Endpoint, Stopped, check_url, read_key
from tests.chat_server import Answer, ChatServer, said

MESSAGES = ({'role': 'user', 'content': 'Which one? "Ω"'},)
GOOD = said('Answer: B.', [('Answer: B', {'Answer: B': -0.5, 'Answer: A': -1.0})])


@pytest.fixture
def server():
    with contextlib.closing(ChatServer()) as server:
        yield server


class Asking:
    """Asks a server, without real pauses.

    Attributes:
      pauses: the seconds of every pause.
      lines: what was logged.
    """

    def __init__(self, monkeypatch, server, key='', **settings):
        self.pauses, self.lines, self.stop = [], [], threading.Event()
        settings = {'timeout': 20.0, 'attempts': 4, **settings}
        self.client = ChatClient(Endpoint(server.url, 'm', **settings), key, 64, self.lines.append)
        monkeypatch.setattr(self.stop, 'wait', lambda seconds: self.pauses.append(seconds))

    def __call__(self):
        return self.client.ask("record 'x'", MESSAGES, self.stop)


def in_turn(server, *answers):
    """Lets a server give these answers in turn, and the last one for ever."""
    waiting = list(answers)
    server.reply = lambda body: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def test_what_is_sent_and_what_is_read(server, monkeypatch):
    server.reply = lambda body: GOOD
    reply = Asking(monkeypatch, server, key='sk-1')()
    ((path, headers, body),) = server.asked
    assert path == '/v1/chat/completions' and headers['Authorization'] == 'Bearer sk-1'
    assert body == {
        'model': 'm',
        'messages': list(MESSAGES),
        'temperature': 0,
        'max_tokens': 64,
        'logprobs': True,
        'top_logprobs': 20,
    }
    assert (reply.text, reply.finish_reason) == ('Answer: B.', 'stop')
    assert (reply.prompt_tokens, reply.completion_tokens, reply.attempts) == (50, 5, 1)
    assert reply.tokens[0].alternatives == {'Answer: B': -0.5, 'Answer: A': -1.0}
    assert 0 < reply.latency_seconds < 20 and not reply.is_drawn
    Asking(monkeypatch, server)()
    assert 'Authorization' not in server.asked[1][1]


def test_what_a_server_leaves_out_is_not_known(server, monkeypatch):
    for body in (
        {'choices': [{'message': {'content': None}}]},
        {'choices': [{'message': {}, 'logprobs': {'content': None}}], 'usage': {}},
        {'choices': [{'message': {}, 'logprobs': {'content': [{'token': 'A'}]}}], 'usage': None},
        {'choices': [{'message': {}, 'logprobs': 7}], 'usage': {'prompt_tokens': 'many'}},
    ):
        in_turn(server, body)
        reply = Asking(monkeypatch, server)()
        assert (reply.text, reply.tokens, reply.finish_reason) == ('', (), '')
        assert reply.prompt_tokens is reply.completion_tokens is None


NONSENSE = (
    b'',
    b'<html>gateway</html>',
    b'[' * 10000,
    b'\xff\xfe',
    b'[]',
    b'null',
    {'choices': []},
    {'choices': [{'message': 'hi'}]},
    {'choices': [{'message': {'content': ['hi']}}]},
)


@pytest.mark.parametrize(
    'failure',
    [
        *(Answer(b'busy', status=status) for status in (408, 429, 500, 502, 503, 529)),
        *map(Answer, NONSENSE),
        Answer(GOOD, cut=0),
        Answer(GOOD, cut=40),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(server, monkeypatch, failure):
    in_turn(server, failure, failure, GOOD)
    asking = Asking(monkeypatch, server)
    reply = asking()
    assert (reply.text, reply.attempts) == ('Answer: B.', 3) and len(server.asked) == 3
    first, second = asking.pauses
    assert 0.75 <= first <= 1.25 and 1.5 <= second <= 2.5
    (line,) = asking.lines
    assert line.startswith(f'{server.url}: ') and line.endswith(': trying again')


def test_it_ends_in_one_line_when_it_does_not_pass(server, monkeypatch):
    in_turn(server, Answer(b'{"error": {"message": "over\\nloaded"}}', status=503))
    asking = Asking(monkeypatch, server, attempts=7)
    with pytest.raises(UserError) as caught:
        asking()
    line = f"--endpoint={server.url}: record 'x': HTTP 503: over loaded, 7 times; start again: "
    assert str(caught.value) == f'{line}what was answered is not asked again'
    assert len(server.asked) == 7 and len(asking.pauses) == 6
    in_turn(server, b'<html>\n gateway</html>')
    with pytest.raises(
        UserError, match="what came is no answer .'<html> gateway</html>'., 2 times"
    ):
        Asking(monkeypatch, server, attempts=2)()
    in_turn(server, b'you sent sk-1')
    with pytest.raises(UserError, match="'you sent …'"):
        Asking(monkeypatch, server, key='sk-1')()


def test_a_server_that_is_slow_or_gone(server, monkeypatch):
    in_turn(server, Answer(GOOD, delay=30), GOOD)
    asking = Asking(monkeypatch, server, timeout=1.0)
    assert asking().attempts == 2
    assert 'no answer within 1 s' in asking.lines[0]
    server.close()
    with pytest.raises(UserError, match="record 'x': Connection refused, 4 times"):
        Asking(monkeypatch, server)()


def test_the_pause_is_the_one_that_the_server_asks_for(server, monkeypatch):
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    past = email.utils.formatdate(time.time() - 100, usegmt=True)
    waits = ('7', '0.5', date, past, 'soon', 'inf', '-3')
    failures = [Answer(b'', status=429, headers={'Retry-After': wait}) for wait in waits]
    in_turn(server, *failures, GOOD)
    asking = Asking(monkeypatch, server, attempts=9)
    assert asking().attempts == 8
    seven, half, until, at_once, unknown, infinite, negative = asking.pauses
    assert (seven, half, at_once, negative) == (7, 0.5, 0, 0)
    assert 90 < until <= 100
    assert 12 <= unknown <= 20 and 24 <= infinite <= 40

    in_turn(server, Answer(b'', status=429, headers={'Retry-After': '86400'}))
    with pytest.raises(UserError, match='HTTP 429: .* it asks for a pause of 86400 s; start again'):
        Asking(monkeypatch, server)()


def test_a_pause_ends_when_the_command_does(server):
    in_turn(server, Answer(b'', status=500))
    stop = threading.Event()
    stop.set()
    endpoint = Endpoint(server.url, 'm', first_pause=60)
    with pytest.raises(Stopped):
        ChatClient(endpoint, '', 64, lambda line: None).ask('x', MESSAGES, stop)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ('key', 'failure', 'line'),
    [
        ('', Answer(b'', status=401), 'HTTP 401: a key is needed; set BSFT_API_KEY or OPENAI_'),
        ('sk-1', Answer(b'sk-1 is bad', status=403), 'HTTP 403: the key is refused; set BSFT_'),
        ('', Answer({'detail': 'no m'}, status=404), "HTTP 404: no m; is 'm' a model there, and"),
        ('', Answer(b'', status=404), 'HTTP 404: Not Found; is'),
        ('', Answer({'error': 'too long'}, status=400), "record 'x': HTTP 400: too long"),
        ('sk-1', Answer({'message': 'not sk-1'}, status=422), "record 'x': HTTP 422: not …"),
        (
            '',
            Answer(b'', status=307, headers={'Location': 'http://elsewhere/'}),
            'HTTP 307: it redirects to http://elsewhere/; name that address',
        ),
        ('', Answer(b'', status=302), 'HTTP 302: it redirects to nowhere'),
    ],
)
def test_what_does_not_pass_is_asked_once(server, monkeypatch, key, failure, line):
    in_turn(server, failure)
    with pytest.raises(UserError) as caught:
        Asking(monkeypatch, server, key=key)()
    assert str(caught.value).startswith(f'--endpoint={server.url}: {line}')
    assert len(server.asked) == 1


def test_settings_that_a_server_does_not_take_are_left_out_from_then_on(server, monkeypatch):
    def strict(body):
        if body.get('top_logprobs', 0) > most:
            return Answer({'error': {'message': 'top_logprobs must be small'}}, status=403)
        if 'max_tokens' in body:
            message = "'max_tokens' is not supported, use 'max_completion_tokens'"
            return Answer({'error': {'message': message}}, status=400)
        if 'temperature' in body:
            return Answer({'error': "'temperature' does not support 0"}, status=422)
        return GOOD

    server.reply = strict
    for most in (5, 0):
        server.asked.clear()
        asking = Asking(monkeypatch, server)
        first, second = asking(), asking()
        assert first.text == second.text == 'Answer: B.' and first.is_drawn and second.is_drawn
        *_, last = server.asked
        assert last[2].get('top_logprobs', 0) == most and ('logprobs' in last[2]) == bool(most)
        assert last[2]['max_completion_tokens'] == 64 and 'max_tokens' not in last[2]
        # The second question is asked once, and nothing was waited for.
        assert (first.attempts, second.attempts) == (4 if most else 5, 1)
        assert 'temperature' not in last[2] and not asking.pauses


@pytest.mark.parametrize(
    ('url', 'line'),
    [
        ('api.example.org/v1', 'is not an address of http or https'),
        ('ftp://host/v1', 'is not an address of http or https'),
        ('file:///etc/passwd', 'is not an address of http or https'),
        ('http://', 'is not an address of http or https'),
        ('http://host:port/v1', 'is not an address'),
        ('http://host:99999/v1', 'is not an address'),
        (f'http://{"a" * 70}/v1', 'is not an address'),
        ('http://[::1/v1', 'is not an address'),
        ('http://host/v1?key=1', 'holds more than a host and a path'),
        ('http://host/a b', 'holds more than a host and a path'),
        ('http://host/\x00', 'holds more than a host and a path'),
        ('http://host/v1/chat/completions', 'names a function; leave out /chat/completions'),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused(url, line):
    with pytest.raises(UserError) as caught:
        check_url(url)
    assert line in str(caught.value) and str(caught.value).startswith('--endpoint')


@pytest.mark.parametrize(
    'url',
    ['https://me:secret@host/v1', 'http://secret@host:port', 'http://h/?key=secret', 'h/#secret'],
)
def test_what_may_be_a_key_in_the_address_is_refused_and_not_shown(url):
    with pytest.raises(UserError) as caught:
        check_url(url)
    line = str(caught.value)
    assert line.startswith('--endpoint: holds ') and 'secret' not in line


def test_addresses_that_can_be_asked():
    assert check_url('https://host/v1/') == 'https://host/v1'
    assert check_url('http://[::1]:80/v1') == 'http://[::1]:80/v1'
    warn = endpoint_lib.warn_of_plain_text
    assert not any(
        map(warn, ('https://host/v1', 'http://localhost:1', 'http://127.0.0.1/v1', 'http://[::1]'))
    )
    for url in ('http://host/v1', 'http://127.example.org/v1'):
        assert 'sent unencrypted' in warn(url)


def test_the_key_is_read_from_the_environment():
    assert read_key({}) == read_key({'OPENAI_API_KEY': ' '}) == ''
    assert read_key({'OPENAI_API_KEY': 'a\n'}) == 'a'
    assert read_key({'OPENAI_API_KEY': 'a', 'BSFT_API_KEY': 'b'}) == 'b'
    for key in ('a b', 'a\nb', 'é'):
        with pytest.raises(UserError) as caught:
            read_key({'BSFT_API_KEY': key})
        assert str(caught.value).startswith('BSFT_API_KEY: is not a key') and key not in str(
            caught.value
        )
