"""Tests of `evaluate --endpoint`: nothing is asked twice, however the command ends."""

import dataclasses
import itertools
import signal
import subprocess
import threading

import pytest

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, write_jsonl
from tests.chat_server import Answer, said
from tests.commands.asking import (
    LETTERS,
    answer_by,
    asked_of,
    command,
    environment,
    lines_of,
    question,
)


def test_an_error_half_way_loses_no_answer_and_asks_nothing_twice(server, records, ask):
    refusal = Answer({'error': 'enough'}, status=400)
    server.reply = answer_by(
        records, lambda i: refusal if i >= 10 else Answer(said('A.'), delay=0.05)
    )
    with pytest.raises(UserError, match='HTTP 400: enough'):
        ask(concurrency=4)
    questions = [question(record) for record in records]
    assert set(questions[:10]) < set(asked_of(server)) and len(server.asked) < 15
    server.asked.clear()
    server.reply = lambda body: said('B.')
    folder, metrics = ask(concurrency=4)
    assert sorted(asked_of(server)) == sorted(questions[10:])
    assert sorted(line['text'] for line in lines_of(folder)) == ['A.'] * 10 + ['B.'] * 14
    # All has been answered: the numbers are made again without a question.
    server.asked.clear()
    assert ask()[1] == metrics and not server.asked
    assert len(lines_of(folder)) == len(records)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped_goes_on_where_it_was(server, records, data, tmp_path, number):
    enough, go_on, under_way = threading.Event(), threading.Event(), itertools.count(1)

    def slow(i):
        if i >= 12:
            # All three are under way when the signal comes, and answered after it. One that came
            # in later would count as asked again.
            if next(under_way) == 3:
                enough.set()
            go_on.wait(20)
        return said(f'{LETTERS[records[i].answer]}.')

    server.reply = answer_by(records, slow)
    started = subprocess.Popen(
        command(server, data, '--concurrency=3'),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert enough.wait(60)
    path = tmp_path / 'x' / 'eval' / 'test' / 'responses.jsonl'
    while not path.is_file() or path.read_bytes().count(b'\n') < 12:
        assert started.poll() is None
    started.send_signal(number)
    if number == signal.SIGKILL:
        started.wait()
    go_on.set()
    _, error = started.communicate(timeout=60)
    if number == signal.SIGINT:
        assert started.returncode == 130 and error.endswith('interrupted\n')
    answered = {line['id'] for line in files.read_lines(path)}
    first = asked_of(server)
    assert len(answered) == (12 if number == signal.SIGKILL else len(first))

    server.asked.clear()
    done = subprocess.run(
        command(server, data, '--concurrency=3'),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f'{len(answered)} of {len(records)} records were answered before' in done.stderr
    again = [question(record) for record in records if record.id not in answered]
    assert sorted(asked_of(server)) == sorted(again)
    metrics = files.read_json(path.parent / 'metrics.json')
    assert metrics['overall']['accuracy'] == 1 and len(lines_of(path.parent)) == len(records)


def test_a_torn_last_line_is_dropped_and_asked_again(server, records, ask):
    folder, metrics = ask()
    path = folder / 'responses.jsonl'
    *whole, last = path.read_bytes().splitlines(keepends=True)
    for torn in (last[:-1], last[:20], b'\xff'):
        path.write_bytes(b''.join(whole) + torn)
        server.asked.clear()
        assert ask()[1]['overall'] == metrics['overall']
        assert len(server.asked) == 1 and len(lines_of(folder)) == len(records)
    for line in (b'{}\n', b'[1]\n', b'not json\n', b'[' * 10000 + b'\n'):
        path.write_bytes(whole[0] + line + whole[1])
        with pytest.raises(
            UserError, match=r'responses.jsonl:2: not an answer of an endpoint; del'
        ):
            ask()


def test_what_differs_is_asked_anew(server, records, ask, data, tmp_path):
    ask()
    for change in ({'max_new_tokens': 32}, {'ask_for_letter': True}, {'prompt': 'instructed'}):
        server.asked.clear()
        ask(**change)
        assert len(server.asked) == len(records)
    # One record has changed, another name has the same words.
    changed = [dataclasses.replace(record, split='') for record in records]
    turn = Message('user', 'Another question')
    changed[3] = dataclasses.replace(changed[3], messages=(turn,))
    changed[4] = dataclasses.replace(changed[4], id='another')
    write_jsonl(tmp_path / 'changed.jsonl', changed)
    server.asked.clear()
    ask(data=f'jsonl:{tmp_path}/changed.jsonl')
    assert sorted(asked_of(server)) == sorted(map(question, changed[3:5]))
