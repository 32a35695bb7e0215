"""A model with behaviors and the records that it scores and answers."""

import dataclasses

import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.data import sources
from bsft_jax.hub import pretrained
from tests.tiny import random_model


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Returns the folder of a random tiny model."""
    return random_model(tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='module')
def records():
    return sources.load_records('synthetic:40', 'train')[:37]


@pytest.fixture(scope='module')
def model(base):
    spec = pretrained.read_pretrained(str(base), behaviors=DEFAULT_BEHAVIORS)
    return dataclasses.replace(pretrained.load_pretrained(spec), answer_format='text')
