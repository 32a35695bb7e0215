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


@pytest.mark.parametrize(
    ('message', 'wanted'),
    [
        ('"/run/checkpoints/4.orbax-checkpoint-tmp/state/d/7": File too large', False),
        ('a future of somebody else', True),
    ],
)
def test_futures_of_a_failed_save_are_not_logged(message, wanted):
    error = ValueError(message)
    record = logging.LogRecord(
        'asyncio',
        logging.ERROR,
        'asyncio/base_events.py',
        1,
        'Future exception was never retrieved\nfuture: <Future finished exception=%r>',
        (error,),
        (ValueError, error, None),
    )
    assert orbax_noise._is_wanted(record) is wanted
