"""Environment variables that must be set before jax starts.

The commands set some of them. The launch scripts set the others, which a run started by hand may
lack.
"""

from __future__ import annotations

import os
import sys

# Share of a GPU's memory that a program may allocate; JAX's own default is 0.75.
GPU_MEMORY_FRACTION = 0.92
# JAX refuses to start when both are set.
MEMORY_FRACTION_VARIABLES = ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION')
# The same settings as in launch/_env.sh, which says why. glibc reads them before Python starts.
MALLOC = (
    'glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:'
    'glibc.malloc.top_pad=67108864:glibc.malloc.arena_max=1'
)


def set_gpu_memory_fraction() -> None:
    """Lets the program allocate `GPU_MEMORY_FRACTION` of each GPU, which is what plans assume.

    A fraction that the environment sets is kept.
    """
    if not any(os.environ.get(name) for name in MEMORY_FRACTION_VARIABLES):
        os.environ[MEMORY_FRACTION_VARIABLES[0]] = str(GPU_MEMORY_FRACTION)


def missing_settings() -> str:
    """Returns one line that names missing settings and how to set them, or an empty string.

    Only CPUs on Linux need any.
    """
    import jax

    current = os.environ.get('GLIBC_TUNABLES', '')
    missing = any(setting.partition('=')[0] not in current for setting in MALLOC.split(':'))
    if not missing or sys.platform != 'linux' or jax.default_backend() != 'cpu':
        return ''
    return (
        'malloc returns the buffers of every step to the system, which can halve the speed on a '
        f'CPU; before Python starts: export GLIBC_TUNABLES={MALLOC}'
    )
