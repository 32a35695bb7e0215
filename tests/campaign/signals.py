"""Ctrl-C and SIGTERM at random moments in every command, in forks and in fresh interpreters."""

from __future__ import annotations

import random
import signal

from tests.campaign.commands import Done, succeeded
from tests.campaign.place import Case, Place, outcome

# Seconds that a command may go on after a signal, on a busy machine.
PATIENCE = 20
# Seconds after its start by which an interpreter imports bsft_jax.cli.
STARTED = 0.7
COMMANDS = ('train', 'evaluate', 'generate', 'export', 'prepare', 'doctor', 'plan', 'study')
# SIGTERM says of them that they are to be started again.
RESTARTED = ('train', 'study')
OTHERS = ('table', 'train_tokenizer')
# Command → how long it takes; measured once by each process of a campaign.
_SECONDS: dict[str, float] = {}


def _flags(place: Place, name: str) -> tuple[str, ...]:
    """Returns the flags of a command that takes a while, and writes into the folder of the try."""
    here = place.here
    return {
        'train': (f'--config={place.config}', f'--workdir={here / "run"}'),
        'evaluate': (f'--workdir={here / "run"}', '--name=x', '--limit=9'),
        'generate': (f'--workdir={place.run}', '--text=K 5.9', '--max_new_tokens=64'),
        'export': (f'--workdir={place.run}', f'--output={here / "out"}'),
        'prepare': ('--source=synthetic:400', f'--output={here / "out"}'),
        'doctor': (f'--config={place.config}',),
        'plan': (f'--config={place.config}', '--topology=cpu:2', f'--output={here / "out"}'),
        'study': (f'--config={place.study}', f'--workdir={here / "out"}'),
        'table': (f'--runs={place.scored}',),
        'train_tokenizer': ('--source=synthetic_text:2000', f'--output={here / "out"}'),
    }[name]


def _try_signal(
    place: Place, name: str, number: int, moment: float, fresh: bool, times: int = 1
) -> str:
    """Sends a signal at a moment (a share of a command's time, or seconds) and checks the end."""
    after = STARTED + moment if fresh else moment * _seconds(place, name)
    if name == 'evaluate':
        place.copy(place.run)
    process = (place.start_fresh if fresh else place.start)(name, *_flags(place, name))
    for again in range(times):
        process.send(number, 0.3 if again else after)
    done = process.wait(PATIENCE + 30)
    problem = _ends_well(name, number, done, after) or _leaves_nothing(place)
    if problem or name != 'train':
        return problem
    return _continues(place)


def _seconds(place: Place, name: str) -> float:
    """Returns how long a command takes that no signal ends."""
    if name not in _SECONDS:
        with place.folder():
            if name == 'evaluate':
                place.copy(place.run)
            done = place.command(name, *_flags(place, name))
            assert not succeeded(done), done.err
            _SECONDS[name] = done.seconds
    return _SECONDS[name]


def _ends_well(name: str, number: int, done: Done, after: float) -> str:
    noise = 'Traceback' in done.err or 'Exception ignored' in done.err
    if noise or done.code is None:
        return done.end if done.code is None else f'traceback, {done.end}'
    if done.seconds > after + PATIENCE and done.code:
        return f'{done.seconds - after:.0f} s after the signal, {done.end}'
    if done.code == 0:
        # Only a command that was at its end already may say so, and a run that did its last step.
        is_done = name in RESTARTED or done.seconds < after + 2
        return '' if is_done else f'the signal is swallowed, {done.end}'
    expected = 130 if number == signal.SIGINT else 75 if name in RESTARTED else 143
    return '' if done.code == expected else done.end


def _leaves_nothing(place: Place) -> str:
    """Returns '' where nothing half-written lies beside what the command writes."""
    left = [
        path.name for path in place.here.glob('*') if 'partial' in path.name or '.tmp' in path.name
    ]
    return f'{left} stay' if left else ''


def _continues(place: Place) -> str:
    """Returns '' where a run that was stopped goes on to a bit-equal end."""
    workdir = place.here / 'run'
    if problem := succeeded(place.train(workdir)):
        return problem
    return '' if outcome(workdir) == outcome(place.run) else 'the resumed run is not bit-equal'


def cases(random: random.Random) -> list[Case]:
    """Returns signals at random moments."""
    found = []

    def add(name: str, number: int, moment: float, fresh: bool, times: int = 1) -> None:
        word = {signal.SIGINT: 'Ctrl-C', signal.SIGTERM: 'SIGTERM'}[number]
        unit = 's, fresh interpreter' if fresh else 'of the time'
        twice = ', twice' if times > 1 else ''
        found.append(
            Case(
                word,
                f'{name} at {moment:.2f} {unit}{twice}',
                lambda place: _try_signal(place, name, number, moment, fresh, times),
            )
        )

    for number in (signal.SIGINT, signal.SIGTERM):
        for name in COMMANDS:
            for _ in range(8 if name == 'train' else 4):
                add(name, number, random.uniform(0, 1), fresh=False)
            for _ in range(5 if name == 'train' else 1):
                add(name, number, random.uniform(0, 4), fresh=True)
        for name in OTHERS:
            add(name, number, random.uniform(0, 1), fresh=False)
    for name in ('train', 'evaluate', 'export'):
        add(name, signal.SIGINT, random.uniform(0.1, 0.5), fresh=False, times=2)
    return found
