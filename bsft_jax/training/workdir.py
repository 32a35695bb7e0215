"""The files of a workdir that say what a run is: config, chat template, environment and lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata

import jax

from bsft_jax import config as config_lib
from bsft_jax import places
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.files import is_scratch, write_json, write_text
from bsft_jax.hub.pretrained import PretrainedSpec
from bsft_jax.parallel import processes
from bsft_jax.training import run_record

# File name of the text of `data.chat_template`, for a run that names one.
TEMPLATE = 'chat_template.jinja'
# What a workdir holds in folders; its other files are files.
_FOLDERS = ('checkpoints', 'damaged', 'tensorboard', 'profile', 'eval', 'wandb')

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


def check_workdir(
    workdir: pathlib.Path, config: RunConfig, spec: PretrainedSpec | None = None
) -> None:
    """Checks, before anything else is read, that the workdir can be this run's.

    Only process 0 reads the folder: network file systems cache negative lookups. What a start left
    that was killed before its first save is no obstacle.

    Args:
      workdir: the folder.
      config: the run.
      spec: its base; None leaves the tokenizer unchecked.

    Raises UserError when the folder cannot be written; when it holds a run with other fixed fields
    (all are listed), another template or tokenizer, or a run whose checkpoints are gone; and when
    it holds files that are not a run's.
    """

    def check() -> None:
        _check_fits(workdir, config, _template_text(config))
        if spec is not None:
            run_record.check_tokenizer(workdir, spec)

    on_first_process(workdir, check)


def create(workdir: pathlib.Path, config: RunConfig) -> None:
    """Creates `config.json` and a copy of the chat template in a new workdir; keeps existing ones.

    Raises UserError when it cannot be written or is not one folder for all processes.
    """
    path = workdir / 'config.json'

    def write() -> None:
        if _is_json(path):
            return
        workdir.mkdir(parents=True, exist_ok=True)
        if template := _template_text(config):
            write_text(workdir / TEMPLATE, template)
        write_json(path, config.to_dict())

    check_workdir(workdir, config)
    on_first_process(workdir, write)
    if not processes.all_true(path.exists()):
        raise UserError(
            'not every process sees what process 0 wrote there',
            where=f'--workdir={workdir}',
            fix='name a folder on storage that all of them share',
        )


def update_config(workdir: pathlib.Path, config: RunConfig) -> None:
    """Writes the present config, once the run is known to continue with it."""
    on_first_process(workdir, lambda: write_json(workdir / 'config.json', config.to_dict()))


def check_not_lost(workdir: pathlib.Path) -> None:
    """Raises UserError before a run begins at step 0 that had saved steps already."""
    on_first_process(workdir, lambda: run_record.check_not_lost(workdir))


def record_start(workdir: pathlib.Path, spec: PretrainedSpec, step: int) -> None:
    """Remembers what the run is tied to, and the step that it continues at (0: at none)."""
    digests = run_record.digests(spec)
    on_first_process(
        workdir, lambda: run_record.update(workdir, saved_step=step or None, **digests)
    )


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

        on_first_process(workdir, acquire)
        yield


def _template_text(config: RunConfig) -> str:
    path = config.data.chat_template
    return path and pathlib.Path(path).read_text(encoding='utf-8')


def on_first_process(workdir: pathlib.Path, action: Callable[[], None]) -> None:
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
    places.check_output(workdir, 'workdir')
    names = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    if not names:
        return
    steps = [path for path in (workdir / 'checkpoints').glob('*') if path.name.isdigit()]
    if _is_json(workdir / 'config.json') or steps:
        _check_same_run(workdir, config, template)
    elif not all(name in places.RUN_NAMES or is_scratch(name) for name in names):
        raise UserError('exists, is not empty and holds no run', where=f'--workdir={workdir}')
    for name in names.intersection(places.RUN_NAMES):
        if (workdir / name).is_dir() != (name in _FOLDERS):
            kind = 'a folder' if name in _FOLDERS else 'a file'
            raise UserError(
                f'is not {kind}',
                where=str(workdir / name),
                fix='remove it, or name a new --workdir',
            )
    if not steps:
        run_record.check_not_lost(workdir)


def _check_same_run(workdir: pathlib.Path, config: RunConfig, template: str) -> None:
    """Raises UserError for a workdir of a run with other fixed fields or another template."""
    if not (workdir / 'config.json').exists():
        raise UserError(
            'its config.json is gone',
            where=f'--workdir={workdir}',
            fix='bring it back, or name a new --workdir',
        )
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


def _is_json(path: pathlib.Path) -> bool:
    """Returns whether a file exists and is whole, as a start that was killed may leave it not."""
    try:
        json.loads(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        return False
    return True


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
