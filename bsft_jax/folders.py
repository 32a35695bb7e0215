"""Folders that appear whole or not at all, also where several commands write the same one."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

from bsft_jax.errors import UserError
from bsft_jax.files import writing

# Of a longer name, what stands in that of the private folder of a writer.
_KEPT_CHARACTERS = 60
# Within that folder.
_LOCK, _OLD, _NEW = 'lock', 'old', 'new.partial'


@contextlib.contextmanager
def whole_folder(output: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new folder, which becomes `output` when the block ends, in place of what is there.

    The folder lies in a private one beside `output`, which is removed whatever happens. What a
    killed writer left there is removed by the next one.

    Raises UserError where another command wrote `output` since the block began, for the first one
    wins, and for an error of the operating system, such as a full disk.
    """
    output = pathlib.Path(os.path.realpath(output))
    missing = [folder for folder in output.parents if not folder.exists()]
    try:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            _clear_abandoned(output)
            before = _state(output)
            private = pathlib.Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
            try:
                with (private / _LOCK).open('w') as lock:
                    _try_lock(lock.fileno())
                    new = private / _NEW
                    new.mkdir()
                    yield new
                    _swap(new, output, private / _OLD, before)
            finally:
                shutil.rmtree(private, ignore_errors=True)
    finally:
        # Those that are empty, where nothing was written.
        with contextlib.suppress(OSError):
            for folder in missing if not output.exists() else ():
                folder.rmdir()


def _prefix(output: pathlib.Path) -> str:
    """Returns how the names of the writers' folders begin, also beside a name of 255 bytes."""
    name = output.name
    if len(name) > _KEPT_CHARACTERS:
        name = f'{name[:_KEPT_CHARACTERS]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}'
    return f'.{name}.writing-'


def _state(folder: pathlib.Path) -> tuple[int, int] | None:
    """Returns what changes when a folder is replaced or files are added; None without a folder."""
    if not folder.exists():
        return None
    stat = folder.stat()
    return stat.st_ino, stat.st_mtime_ns


def _swap(
    new: pathlib.Path, output: pathlib.Path, old: pathlib.Path, before: tuple[int, int] | None
) -> None:
    """Moves `new` to `output`; what was there is `old` meanwhile and comes back on failure."""
    # A lock on the folder above leaves no file behind.
    above = os.open(output.parent, os.O_RDONLY)
    try:
        _try_lock(above, wait=True)
        if _state(output) != before:
            raise UserError(
                'another command wrote it meanwhile; what that one wrote stays',
                where=str(output),
                fix='start again to replace it, or name another --output',
            )
        if before is not None:
            os.replace(output, old)
        try:
            os.replace(new, output)
        except BaseException:
            if before is not None:
                os.replace(old, output)
            raise
    finally:
        os.close(above)


def _try_lock(file: int, wait: bool = False) -> bool:
    """Locks a file or folder; returns whether it did. Some network storage has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _clear_abandoned(output: pathlib.Path) -> None:
    """Removes the private folders of writers that were killed.

    A folder that one of them had moved away, and not replaced, comes back.
    """
    for private in output.parent.glob(f'{glob.escape(_prefix(output))}*'):
        try:
            # Somebody's own folder may have such a name.
            if {path.name for path in private.iterdir()} - {_LOCK, _OLD, _NEW}:
                continue
            with (private / _LOCK).open('r') as lock:
                if not _try_lock(lock.fileno()):
                    continue
                if (private / _OLD).exists() and not output.exists():
                    os.replace(private / _OLD, output)
                    print(f'{output}: restored after a command was killed', file=sys.stderr)
                shutil.rmtree(private, ignore_errors=True)
        # Not a writer's folder, or one that has just been removed.
        except OSError:
            continue
