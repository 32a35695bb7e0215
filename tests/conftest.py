"""Sets up eight simulated devices for every test, and finds the folder of shared real data."""

import os
import pathlib
import tempfile

# Most of a test is compiling; level 0 has the same fusions and collectives.
os.environ['XLA_FLAGS'] = ' '.join(
    (
        '--xla_backend_optimization_level=0',
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=8',
    )
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Threads of XLA. With one per device, two collectives at a time can wait for each other for ever.
os.environ.setdefault('NPROC', '64')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp(prefix='bsft_jax-cache-')
# Child processes find what another one compiled.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR',
    os.path.join(tempfile.gettempdir(), f'bsft_jax-tests-{os.getuid()}'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

import jax
import pytest

# Programs for several simulated devices cannot be cached, see parallel/mesh.py.
jax.config.update('jax_enable_compilation_cache', False)

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
    """Returns the folder of real data and models, `$BSFT_SHARED` or `../shared`."""
    path = pathlib.Path(os.environ.get('BSFT_SHARED', ROOT.parent / 'shared'))
    if not path.is_dir():
        pytest.skip(f'no shared data at {path}; set BSFT_SHARED')
    return path


@pytest.fixture(scope='module', autouse=True)
def _clear_compiled_programs():
    """Drops compiled programs after each file; those of a whole session take 6 GB."""
    yield
    jax.clear_caches()
