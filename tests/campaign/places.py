"""Places that cannot be written or hold something else, and disks that fill up."""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import random
import re
import resource
import time

from tests.campaign.commands import refused, succeeded
from tests.campaign.place import Case, Place, outcome

# Capabilities by which root writes into folders that it may not write into.
_DAC_CAPABILITIES = 0b110
_VERSION_3 = 0x20080522


def obey_modes() -> None:
    """Makes this process, if it is root's, obey the modes of files as other users do."""
    if os.getuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert not libc.capget(header, data)
    for i in range(3):
        data[i] &= ~_DAC_CAPABILITIES
    assert not libc.capset(header, data)


def _flags(place: Place, command: str, output: object) -> tuple[str, ...]:
    """Returns the flags of a command that writes to `output`."""
    return {
        'train': (f'--config={place.config}', f'--workdir={output}'),
        'evaluate': (
            f'--model={place.base}',
            f'--data=jsonl:{place.data}',
            '--limit=4',
            f'--workdir={output}',
        ),
        'export': (f'--workdir={place.run}', f'--output={output}'),
        'prepare': ('--source=synthetic:20', f'--output={output}'),
        'plan': (f'--config={place.config}', '--topology=cpu:2', f'--output={output}'),
        'study': (f'--config={place.study}', f'--workdir={output}'),
        'train_tokenizer': (
            '--source=synthetic_text:50',
            '--vocab_size=300',
            f'--output={output}',
        ),
    }[command]


COMMANDS = ('train', 'evaluate', 'export', 'prepare', 'plan', 'study', 'train_tokenizer')
# Seconds by which an unwritable place is found: before a program is compiled or a model trained.
SOON = 15


def _read_only(place: Place) -> pathlib.Path:
    folder = place.here / 'read only'
    folder.mkdir()
    folder.chmod(0o555)
    return folder


def _unwritable(place: Place, command: str, where: str) -> str:
    output = {
        'below a read-only folder': lambda: _read_only(place) / 'new' / 'out',
        'in a read-only folder': lambda: _read_only(place) / 'out',
        'below a file': lambda: place.write('file', '') / 'out',
        'a file': lambda: place.write('file', ''),
        'a name of 300 letters': lambda: place.here / ('a' * 300),
        'a device': lambda: pathlib.Path('/dev/null/out'),
    }[where]()
    if command == 'plan' and where == 'a file':
        output = place.here
    begun = time.monotonic()
    done = place.command(command, *_flags(place, command, output), before=obey_modes)
    seconds = time.monotonic() - begun
    problem = refused(done)
    return problem or ('' if seconds < SOON else f'found after {seconds:.0f} s')


def _something_else(place: Place, command: str, what: str) -> str:
    """Expects that no command writes into a folder that holds something else."""
    folder = place.here / 'folder'
    if what == 'a run':
        folder = place.copy(place.run, 'folder')
    elif what == 'a data set':
        folder = place.copy(place.data, 'folder')
    elif what == "somebody's files":
        place.write('folder/thesis.txt', 'years of work')
    elif what == "a run's checkpoints":
        folder = place.copy(place.run, 'folder') / 'checkpoints' / '25'
    before = {path: path.is_file() and path.read_bytes() for path in place.here.rglob('*')}
    before = {path: content for path, content in before.items() if content is not False}
    done = place.command(command, *_flags(place, command, folder))
    lost = [path for path, content in before.items() if not path.exists()]
    changed = [p for p, content in before.items() if p.exists() and p.read_bytes() != content]
    if lost or changed:
        return f'{[path.name for path in lost + changed]} changed, {done.end}'
    return refused(done)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _full(place: Place, command: str, size: int) -> str:
    """Expects one line where a file cannot grow beyond `size` bytes, and nothing half-written."""
    output = place.here / 'out'
    # Programs and examples are written to caches; a full disk there is no error.
    flags = _flags(place, command, output)
    done = place.command(command, *flags, before=lambda: _limit_files(size))
    partial = [path.name for path in place.here.rglob('*partial*')]
    if partial and command != 'train':
        return f'{partial} stay, {done.end}'
    if done.code == 0:
        # All files of this command may be smaller.
        return succeeded(done)
    says = 'large|space|quota|saved|written'
    if command == 'study' and done.code == 1:
        # A command of the study found the disk full, and its own line is shown.
        return '' if re.search(f'failed: .*error: .*({says})', done.err) else done.end
    if problem := refused(done, says):
        return problem
    if command != 'train':
        return ''
    return succeeded(place.train(output)) or (
        '' if outcome(output) == outcome(place.run) else 'the resumed run is not bit-equal'
    )


def _closed_output(place: Place, command: str) -> str:
    """Expects one line where the output cannot be written."""
    if command == 'generate':
        flags = (f'--model={place.base}', '--text=hi', '--max_new_tokens=2')
    else:
        flags = (f'--runs={place.run}',)

    def fill() -> None:
        os.dup2(os.open('/dev/full', os.O_WRONLY), 1)

    return refused(place.command(command, *flags, before=fill))


def cases(rng: random.Random) -> list[Case]:
    """Returns places for every command that writes."""
    del rng
    found = []

    def add(kind: str, name: str, check, *arguments) -> None:
        found.append(Case(kind, name, lambda place: functools.partial(check, place)(*arguments)))

    for command in COMMANDS:
        for where in (
            'below a read-only folder',
            'in a read-only folder',
            'below a file',
            'a file',
            'a name of 300 letters',
            'a device',
        ):
            add('unwritable places', f'{command}, {where}', _unwritable, command, where)
    for command in ('train', 'export', 'prepare', 'study', 'train_tokenizer'):
        for what in ('a run', 'a data set', "somebody's files", "a run's checkpoints"):
            allowed = (command, what) in (('train', 'a run'), ('prepare', 'a data set'))
            if not allowed and (command == 'export' or what != "a run's checkpoints"):
                add('places of others', f'{command} to {what}', _something_else, command, what)
    for command in COMMANDS:
        for size in (0, 200, 20_000):
            if command != 'plan' or size < 20_000:
                add('full disks', f'{command}, {size} bytes', _full, command, size)
    add('full disks', 'generate to a full device', _closed_output, 'generate')
    return found
