"""The files of a workdir that say what a run is, and the model that a run has made."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata

import jax
from jax.sharding import Mesh

from bsft_jax import config as config_lib
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.files import write_json, write_text
from bsft_jax.hub import model as model_lib
from bsft_jax.hub.model import BaseModel, Model
from bsft_jax.models.lora import LoraSpec
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import processes
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training import state as state_lib
from bsft_jax.training.checkpoint import Checkpoints
from bsft_jax.training.state import TrainState

TEMPLATE = 'chat_template.jinja'  # in a workdir: the text of `data.chat_template`, where that names one
_PACKAGES = ('bsft_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'transformers')


def check(workdir: pathlib.Path, config: RunConfig) -> None:
    """Checks, before anything is read, that the workdir can be this run's.

    Process 0 alone looks: a shared file system may remember for a while what others did not find.

    Raises UserError when the folder holds a run with other fixed fields (all are listed) or another template,
    or files that are not a run's.
    """
    _first_alone(workdir, lambda: _check(workdir, config, _template(config)))


def claim(workdir: pathlib.Path, config: RunConfig) -> None:
    """Makes a new workdir this run's: `config.json` and a copy of its chat template; leaves one that is as it is.

    Raises UserError when it cannot be written or is not one folder for all processes.
    """
    path = workdir / 'config.json'

    def make() -> None:
        if path.exists():
            return
        workdir.mkdir(parents=True, exist_ok=True)
        if template := _template(config):
            write_text(workdir / TEMPLATE, template)
        write_json(path, config.to_dict())

    check(workdir, config)
    _first_alone(workdir, make)
    if not processes.all_agree(path.exists()):
        raise UserError(
            'not every process sees what process 0 has written there',
            where=f'--workdir={workdir}',
            fix='name a folder on storage that all of them share',
        )


def renew(workdir: pathlib.Path, config: RunConfig) -> None:
    """Writes the config as it is now, once the run is known to go on with it."""
    _first_alone(workdir, lambda: write_json(workdir / 'config.json', config.to_dict()))


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Holds a claimed workdir; raises UserError while another run does. Storage without locks holds nothing."""
    with contextlib.ExitStack() as stack:

        def hold() -> None:
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

        _first_alone(workdir, hold)
        yield


def _template(config: RunConfig) -> str:
    path = config.data.chat_template
    return path and pathlib.Path(path).read_text(encoding='utf-8')


def _first_alone(workdir: pathlib.Path, run: Callable[[], None]) -> None:
    """What process 0 does; where it raises, every process raises UserError."""
    problem = None
    if processes.is_first():
        try:
            run()
        except UserError as error:
            problem = error
        except OSError as error:
            problem = UserError(f'cannot be written ({error.strerror})', where=f'--workdir={workdir}')
    if not processes.all_agree(problem is None):
        raise problem or UserError('process 0 cannot use it', where=f'--workdir={workdir}')


def _check(workdir: pathlib.Path, config: RunConfig, template: str) -> None:
    if (workdir / 'config.json').exists():
        old = config_lib.read_workdir(workdir)
        changed = config_lib.differences(old.to_dict(), config.to_dict())
        kept = workdir / TEMPLATE
        if kept.exists() and kept.read_text(encoding='utf-8') != template:
            changed.append(f'the text of data.chat_template is not that of {kept}')
        if changed:
            raise UserError(
                f'this workdir was made with another config ({"; ".join(changed)})',
                where=f'--workdir={workdir}',
                fix='name a new --workdir or undo the changes',
            )
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError('exists, is not empty and holds no run', where=f'--workdir={workdir}')
    there = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UserError(f'cannot be written ({there})', where=f'--workdir={workdir}')


def write_environment(workdir: pathlib.Path) -> None:
    """Writes `environment.json`: versions, devices and the git revision of the working folder."""

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    try:
        root = pathlib.Path(__file__).resolve().parents[2]
        done = subprocess.run(
            ['git', '-C', str(root), 'rev-parse', 'HEAD'], capture_output=True, text=True, timeout=10
        )
        revision = done.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        revision = None
    write_json(
        workdir / 'environment.json',
        {
            'python': platform.python_version(),
            'packages': {package: version(package) for package in _PACKAGES},
            'devices': [str(device.device_kind) for device in jax.devices()],
            'processes': jax.process_count(),
            'git_revision': revision,
        },
    )


def open_base(config: RunConfig) -> BaseModel:
    """The base model of a run, before a device is touched."""
    return model_lib.open_base(
        config.model.base,
        behaviors=config.behaviors,
        form=config.form,
        dtype=config.model.dtype,
        chat_template=config.data.chat_template,
        base_dtype=config.model.base_dtype,
        new_rows=config.model.new_rows,
        remat=config.train.remat,
        attention=config.model.attention,
        lora=LoraSpec(**dataclasses.asdict(config.lora)) if config.train.mode == 'lora' else None,
    )


def base_params(config: RunConfig, base: BaseModel, mesh: Mesh) -> Params:
    """The parameters a run starts from."""
    if config.model.weights == 'random':
        return model_lib.random_base_params(base, mesh, config.seed)
    return model_lib.load_base_params(base, mesh, config.seed)


def initial_state(config: RunConfig, base: BaseModel, mesh: Mesh) -> TrainState:
    """The state of a run at step 0."""
    optimizer = optimizer_lib.make_optimizer(config.optimizer)
    return state_lib.create(base_params(config, base, mesh), config.trainable, optimizer, mesh)


def restorable(config: RunConfig, base: BaseModel, mesh: Mesh) -> TrainState:
    """What a checkpoint of a run is restored into: shapes of all that it holds, and the frozen parameters."""
    optimizer = optimizer_lib.make_optimizer(config.optimizer)
    shapes = state_lib.abstract(base.network, config.trainable, optimizer, mesh)
    if not shapes.frozen:
        return shapes
    return shapes.replace(frozen=state_lib.partition(base_params(config, base, mesh), config.trainable)[1])


def load_model(
    workdir: pathlib.Path,
    *,
    step: int | None = None,
    mesh: Mesh | Callable[[Network], Mesh] | None = None,
    dtype: str = '',
) -> Model:
    """The model of a workdir at `step` (default: its newest whole checkpoint).

    On `mesh`, or the one that it makes for the network; default the first device.

    How its rows attend is for the devices here to say, not for those it was trained on.

    Raises UserError when there is no such checkpoint.
    """
    config = config_lib.read_workdir(workdir)
    config.model.attention = 'auto'
    if (workdir / TEMPLATE).exists():
        config.data.chat_template = str(workdir / TEMPLATE)
    if dtype:
        config.model.dtype = dtype
    base = open_base(config)
    if not base.behaviors.behaviors:
        base.behaviors = BehaviorSet(config.behaviors)
    mesh = mesh(base.network) if callable(mesh) else mesh or mesh_lib.single_device_mesh()
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        restored = checkpoints.restore(restorable(config, base, mesh).replace(opt_state=None), step)
    if restored is None:
        raise UserError('no checkpoint yet', where=f'--workdir={workdir}', fix='train first')
    return Model(base, restored.state.params, mesh, config.data.answer_format, int(restored.state.step))
