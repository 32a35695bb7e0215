"""Places that commands write to: checked before any work, and written by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import stat
from collections.abc import Iterator

from bsft_jax.errors import UserError
from bsft_jax.files import is_scratch

# Names in a folder that belong to whoever made it: a run, a study, a data set.
RUN_NAMES = (
    *('config.json', 'run.json', 'trained_on.npz', 'environment.json', 'parameters.txt'),
    *('chat_template.jinja', 'metrics.jsonl', 'tensorboard', 'checkpoints', 'damaged'),
    *('profile', 'lock', 'eval', 'calibration.json', 'wandb'),
)
_STUDY_NAMES = ('study.json', 'logs', 'results.jsonl', 'summary.json', 'report.html')
_MAX_NAME_BYTES = 255


def parse_place(text: str) -> str:
    """Returns a local path with `~` expanded; raises ValueError for an address such as `gs://…`."""
    if address := re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://', text):
        raise ValueError(f'{address[0]} is not a local path; name one, and copy from there')
    return os.path.expanduser(text)


def check_writable(path: str | pathlib.Path, where: str, *, file: bool = False) -> None:
    """Checks before any work that a folder, or a file, can be created or replaced.

    Args:
      path: the folder or file.
      where: what the user said, such as `--workdir=runs/mine`.
      file: whether it is a file.

    Raises UserError for what exists and is something else, for a path through a file, for a place
    without permission, and for names that are too long.
    """
    target = pathlib.Path(os.path.realpath(path))
    try:
        if any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in target.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        nearest, mode = _nearest(target)
    except OSError as error:
        raise UserError(f'cannot be written ({error.strerror})', where=where) from error
    if nearest == target and file:
        if not stat.S_ISREG(mode):
            raise UserError('is not a file', where=where, fix='name a file')
        nearest = target.parent
    elif not stat.S_ISDIR(mode):
        what = 'is not a folder and cannot be written'
        if nearest != target:
            what = f'cannot be written ({nearest} is not a folder)'
        raise UserError(what, where=where, fix='name another place')
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f'cannot be written ({nearest})', where=where, fix='name another place')


def _nearest(target: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Returns the nearest path at or above `target` that exists, and its mode."""
    for path in (target, *target.parents):
        try:
            return path, path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def check_unowned(path: str | pathlib.Path, flag: str) -> None:
    """Raises UserError for a place among the files of a run, a study or a data set."""
    target = pathlib.Path(os.path.realpath(path))
    for folder in target.parents:
        name = target.relative_to(folder).parts[0]
        if is_run(folder):
            kind, names = 'run', RUN_NAMES
        elif (folder / 'study.json').is_file():
            kind, names = 'study', _STUDY_NAMES
        elif is_data_set(folder):
            kind, names = 'data set', (name,)
        else:
            continue
        if name in names:
            raise UserError(
                f'lies among the files of the {kind} {folder}',
                where=f'--{flag}={path}',
                fix='name another place',
            )
        return


def check_output(path: str | pathlib.Path, flag: str, *, file: bool = False) -> None:
    """Checks before any work that something new can be written at `path`, and may be.

    Raises UserError as `check_writable` and `check_unowned` do.
    """
    check_writable(path, f'--{flag}={path}', file=file)
    check_unowned(path, flag)


def check_new_folder(path: str | pathlib.Path, flag: str) -> None:
    """Checks before any work that `path` is free for a new folder: absent, or an empty one.

    Raises UserError also as `check_output` does.
    """
    check_output(path, flag)
    if os.path.isdir(path) and os.listdir(path):
        raise UserError(
            'exists and is not empty', where=f'--{flag}={path}', fix='name a new directory'
        )


def is_run(folder: pathlib.Path) -> bool:
    """Returns whether a folder is the workdir of a run."""
    if (folder / 'run.json').is_file():
        return True
    try:
        return b'"arm"' in (folder / 'config.json').read_bytes()
    except OSError:
        return False


def is_data_set(folder: pathlib.Path) -> bool:
    """Returns whether a folder is a data set that `prepare` made."""
    return (folder / 'card.json').is_file()


def check_study_folder(path: str | pathlib.Path, flag: str) -> None:
    """Raises UserError unless `path` is free or holds a study, and as `check_output` does."""
    check_output(path, flag)
    if not os.path.isdir(path) or os.path.isfile(os.path.join(path, 'study.json')):
        return
    if not all(is_scratch(name) for name in os.listdir(path)):
        raise UserError(
            'exists, is not empty and holds no study',
            where=f'--{flag}={path}',
            fix='name a new directory',
        )


@contextlib.contextmanager
def exclusive(folder: pathlib.Path, where: str) -> Iterator[None]:
    """Locks a folder against other processes; does nothing on storage without locks.

    Raises UserError while another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                'another process is writing there', where=where, fix='wait for it or stop it'
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
