"""Three evaluations and their review, made once."""

import pytest

from bsft_jax import files
from bsft_jax.review_kit.make import MakeOptions, make
from bsft_jax.review_kit.sampling import Plan
from tests.review_kit import evaluations

PLAN = Plan(items=39, raters=3, overlap=13, repeats=3, checks=2, seed=0)


@pytest.fixture(scope='session')
def evals(tmp_path_factory):
    """Returns the folders of three evaluations."""
    return evaluations.write_three(tmp_path_factory.mktemp('evaluations'))


@pytest.fixture(scope='session')
def study(evals, tmp_path_factory):
    """Returns the folder of a review of two evaluations."""
    folder = tmp_path_factory.mktemp('study')
    make(MakeOptions(tuple(evals[:2]), str(folder / 'review.html'), PLAN))
    return folder


@pytest.fixture(scope='session')
def key(study):
    """Returns the key of that review."""
    return files.read_json(study / 'KEY.json')
