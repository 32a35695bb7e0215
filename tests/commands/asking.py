"""What tests of `evaluate --endpoint` share: what is asked, and what was answered."""

import dataclasses
import os
import sys

from bsft_jax import files
from bsft_jax.data.rendering import list_options
from tests.conftest import ROOT

LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'


def question(record):
    """Returns the turns of a record as they are sent, as one text."""
    *turns, last = record.messages
    last = dataclasses.replace(last, content=list_options(last.content, record.options))
    return '\n'.join(f'{t.name}: {t.content}' if t.name else t.content for t in (*turns, last))


def text_of(body):
    return '\n'.join(message['content'] for message in body['messages'])


def answer_by(records, reply):
    """Returns what makes a body of a request from what `reply` makes of the record's number."""
    number_of = {question(record): i for i, record in enumerate(records)}
    assert len(number_of) == len(records)
    return lambda body: reply(number_of[text_of(body)])


def lines_of(folder):
    return files.read_lines(folder / 'responses.jsonl')


def asked_of(server):
    return [text_of(body) for _, _, body in server.asked]


def command(server, data, *flags):
    required = (f'--endpoint={server.url}/', '--endpoint_model=m', f'--data={data}', '--workdir=x')
    return [sys.executable, '-m', 'bsft_jax.evaluate', *required, '--name=test', *flags]


def environment(**variables):
    return {'PYTHONPATH': str(ROOT), 'PATH': os.environ['PATH'], **variables}
