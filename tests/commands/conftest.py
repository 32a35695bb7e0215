"""The base model of command tests, and the server that `evaluate --endpoint` asks."""

import contextlib
import dataclasses

import pytest

from bsft_jax.commands import endpoint as endpoint_lib
from bsft_jax.data import sources
from bsft_jax.inference.endpoint import Endpoint
from bsft_jax.records.record import write_jsonl
from tests.chat_server import ChatServer
from tests.tiny import random_model


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Returns the folder of a random tiny model."""
    return random_model(tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='module')
def records():
    return sources.load_records('synthetic:40', 'test')[:24]


@pytest.fixture(scope='module')
def data(records, tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'tasks.jsonl'
    write_jsonl(path, [dataclasses.replace(record, split='') for record in records])
    return f'jsonl:{path}'


@pytest.fixture
def server():
    with contextlib.closing(ChatServer()) as server:
        yield server


@pytest.fixture
def ask(server, data, tmp_path, monkeypatch):
    """Returns a call that evaluates what the server says, and returns folder and metrics."""
    for name in ('BSFT_API_KEY', 'OPENAI_API_KEY'):
        monkeypatch.delenv(name, raising=False)

    def ask(attempts=3, first_pause=0.0, **options):
        endpoint = Endpoint(server.url, 'm', 20.0, attempts, first_pause)
        options = {'workdir': str(tmp_path / 'x'), 'data': data, 'name': 'test', **options}
        return endpoint_lib.evaluate_endpoint(
            endpoint_lib.EndpointOptions(endpoint=endpoint, **options)
        )

    return ask
