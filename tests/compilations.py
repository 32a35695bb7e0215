"""Counts compilations; imports nothing that sets up simulated devices."""

import contextlib

import jax

from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.hub import pretrained

COMPILED = '/jax/core/compile/backend_compile_duration'


@contextlib.contextmanager
def count_compilations():
    """Yields a list that grows by one entry with each program that XLA compiles."""
    compilations = []

    def listen(event, duration, **_):
        if event == COMPILED:
            compilations.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def open_base(folder):
    """Returns the model at `folder/base` with the default behaviors."""
    spec = pretrained.read_pretrained(f'{folder}/base', behaviors=DEFAULT_BEHAVIORS)
    return pretrained.load_pretrained(spec)
