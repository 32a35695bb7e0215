"""A config with one field changed."""

from typing import Any

from bsft_jax.config import RunConfig


def config_with(path: str, value: Any) -> RunConfig:
    """Returns the default config with another value of the field at a dotted path."""
    config = RunConfig()
    *sections, field = path.split('.')
    target = config
    for section in sections:
        target = getattr(target, section)
    assert hasattr(target, field), path
    setattr(target, field, value)
    return config
