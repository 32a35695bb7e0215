"""Environment variables that must be set before jax starts.

The commands set some of them. The launch scripts set the others, which a run started by hand may
lack.
"""

from __future__ import annotations

import contextlib
import os
import sys

# Share of a GPU's memory that a program may allocate; JAX's own default is 0.75.
GPU_MEMORY_FRACTION = 0.92
# JAX refuses to start when both are set.
MEMORY_FRACTION_VARIABLES = ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION')
# The same setting as in launch/_env.sh, which says why. glibc reads it before Python starts.
MALLOC = 'glibc.malloc.hugetlb=1'
# Says for which memory Linux gives huge pages; the mode in force is in brackets.
HUGE_PAGES = '/sys/kernel/mm/transparent_hugepage/enabled'


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

    if sys.platform != 'linux' or jax.default_backend() != 'cpu':
        return ''
    if MALLOC.partition('=')[0] not in os.environ.get('GLIBC_TUNABLES', ''):
        return (
            'malloc asks the system for small pages at every step, which slows training down on a '
            f'CPU; before Python starts: export GLIBC_TUNABLES={MALLOC}'
        )
    mode = ''
    with contextlib.suppress(OSError), open(HUGE_PAGES) as file:
        mode = file.read()
    if '[never]' in mode:
        return (
            'the system gives no huge pages, so that steps on a CPU are slower; as root: '
            f'echo madvise > {HUGE_PAGES}'
        )
    return ''
