"""The base model of command tests."""

import pytest

from tests.tiny import random_model


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Returns the folder of a random tiny model."""
    return random_model(tmp_path_factory.mktemp('base'))
