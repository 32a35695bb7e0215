"""The files of a workdir that say what a run is: config, chat template, environment and lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata

import jax

from bsft_jax import config as config_lib
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.files import write_json, write_text
from bsft_jax.parallel import processes

# File name of the text of `data.chat_template`, for a run that names one.
TEMPLATE = 'chat_template.jinja'

PACKAGES = (
    'bsft_jax',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'grain',
    'transformers',
)


def check_workdir(workdir: pathlib.Path, config: RunConfig) -> None:
    """Checks, before anything else is read, that the workdir can be this run's.

    Only process 0 reads the folder: network file systems cache negative lookups.

    Raises UserError when the folder holds a run with other fixed fields (all are listed) or another
    template, or files that are not a run's.
    """
    _on_first_process(workdir, lambda: _check_fits(workdir, config, _template_text(config)))


def create(workdir: pathlib.Path, config: RunConfig) -> None:
    """Creates `config.json` and a copy of the chat template in a new workdir; keeps existing ones.

    Raises UserError when it cannot be written or is not one folder for all processes.
    """
    path = workdir / 'config.json'

    def write() -> None:
        if path.exists():
            return
        workdir.mkdir(parents=True, exist_ok=True)
        if template := _template_text(config):
            write_text(workdir / TEMPLATE, template)
        write_json(path, config.to_dict())

    check_workdir(workdir, config)
    _on_first_process(workdir, write)
    if not processes.all_true(path.exists()):
        raise UserError(
            'not every process sees what process 0 wrote there',
            where=f'--workdir={workdir}',
            fix='name a folder on storage that all of them share',
        )


def update_config(workdir: pathlib.Path, config: RunConfig) -> None:
    """Writes the present config, once the run is known to continue with it."""
    _on_first_process(workdir, lambda: write_json(workdir / 'config.json', config.to_dict()))


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Locks a workdir against other runs; does nothing on storage without locks.

    Raises UserError while another run holds it.
    """
    with contextlib.ExitStack() as stack:

        def acquire() -> None:
            file = stack.enter_context((workdir / 'lock').open('w'))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    'another run is at work there',
                    where=f'--workdir={workdir}',
                    fix=f'wait for it or stop it; if its host is gone, delete {workdir / "lock"}',
                ) from error
            except OSError:
                pass

        _on_first_process(workdir, acquire)
        yield


def _template_text(config: RunConfig) -> str:
    path = config.data.chat_template
    return path and pathlib.Path(path).read_text(encoding='utf-8')


def _on_first_process(workdir: pathlib.Path, action: Callable[[], None]) -> None:
    """Runs `action` on process 0; where it raises, every process raises UserError."""
    problem = None
    if processes.is_first():
        try:
            action()
        except UserError as error:
            problem = error
        except OSError as error:
            problem = UserError(
                f'cannot be written ({error.strerror})', where=f'--workdir={workdir}'
            )
    if not processes.all_true(problem is None):
        raise problem or UserError('process 0 cannot use it', where=f'--workdir={workdir}')


def _check_fits(workdir: pathlib.Path, config: RunConfig, template: str) -> None:
    """Raises UserError for a folder that holds another run, other files, or cannot be written."""
    if (workdir / 'config.json').exists():
        old = config_lib.read_workdir(workdir)
        changed = config_lib.differences(old.to_dict(), config.to_dict())
        stored_template = workdir / TEMPLATE
        if stored_template.exists() and stored_template.read_text(encoding='utf-8') != template:
            changed.append(f'the text of data.chat_template is not that of {stored_template}')
        if changed:
            raise UserError(
                f'this workdir was made with another config ({"; ".join(changed)})',
                where=f'--workdir={workdir}',
                fix='name a new --workdir or undo the changes',
            )
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError('exists, is not empty and holds no run', where=f'--workdir={workdir}')
    nearest = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise UserError(f'cannot be written ({nearest})', where=f'--workdir={workdir}')


def package_version(package: str) -> str | None:
    """Returns the installed version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Returns the git revision of this package's folder; None outside a repository."""
    root = pathlib.Path(__file__).resolve().parents[2]
    try:
        result = subprocess.run(
            ['git', '-C', str(root), 'rev-parse', 'HEAD'],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def write_environment(workdir: pathlib.Path) -> None:
    """Writes `environment.json`: versions, devices and the git revision of the code."""
    write_json(
        workdir / 'environment.json',
        {
            'python': platform.python_version(),
            'packages': {package: package_version(package) for package in PACKAGES},
            'devices': [str(device.device_kind) for device in jax.devices()],
            'processes': jax.process_count(),
            'git_revision': _git_revision(),
        },
    )
