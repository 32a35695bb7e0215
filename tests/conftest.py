"""Eight simulated devices for every test, and the folder of shared real data."""

import os
import pathlib
import tempfile

os.environ['XLA_FLAGS'] = ' '.join(
    (
        '--xla_backend_optimization_level=0',  # the same fusions and collectives; most of a test is compiling
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=8',
    )
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault(
    'NPROC', '64'
)  # threads of XLA: with one a device, two collectives at a time can wait for ever
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp(prefix='bsft_jax-cache-')
os.environ.setdefault(  # what one child of a session compiles the others find
    'JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), f'bsft_jax-tests-{os.getuid()}')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

import jax
import pytest

jax.config.update('jax_enable_compilation_cache', False)  # here are eight devices: see parallel/mesh.py

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
    """The folder of real data and models: `$BSFT_SHARED`, or `shared` beside the repository."""
    path = pathlib.Path(os.environ.get('BSFT_SHARED', ROOT.parent / 'shared'))
    if not path.is_dir():
        pytest.skip(f'no shared data at {path}; set BSFT_SHARED')
    return path


@pytest.fixture(scope='module', autouse=True)
def _nothing_kept():
    """A session compiles thousands of programs; kept to its end they take 6 GB of a process."""
    yield
    jax.clear_caches()
