"""Tests of what is said, and what is not, when orbax fails in the background."""

import logging

import pytest

from bsft_jax.training import orbax_noise


@pytest.mark.parametrize(('file', 'said'), [('orbax/serialization.py', 0), ('mine/loop.py', 1)])
def test_failed_tasks_of_orbax_alone_are_not_reported(file, said):
    orbax_noise.silence()
    logger, records = logging.getLogger('asyncio'), []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        exec(compile('raise OSError(27)', f'/packages/{file}', 'exec'))
    except OSError:
        logger.error('Task exception was never retrieved', exc_info=True)
    finally:
        logger.removeHandler(handler)
    assert len(records) == said
