"""BehaviorSFT in JAX: fine-tune a language model so that each answer begins with a behavior token.

The public names load on first use: `import bsft_jax` imports no jax and touches no device.
"""

import importlib

__version__ = '0.1.0'
__all__ = ['compute_metrics', 'generate_answers', 'load_model', 'save_model', 'score_records']


def __getattr__(name: str):
    if name in __all__:
        return getattr(importlib.import_module('bsft_jax.api'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
