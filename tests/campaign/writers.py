"""Several commands at a time on one output: one wins, the others are told."""

from __future__ import annotations

import functools
import json
import random
import time

from tests.campaign.commands import Done, refused, succeeded
from tests.campaign.kills import _same_files
from tests.campaign.place import Case, Place, outcome


def _ends(ended: list[Done], must_win: bool = True) -> str:
    """Returns '' where each writer succeeded or was refused in one line."""
    for done in ended:
        problem = refused(done) if done.code == 2 else succeeded(done)
        if problem:
            return problem
    return '' if any(done.code == 0 for done in ended) or not must_win else 'nobody wins'


def _together(place: Place, command: str, flags: tuple[str, ...], delay: float) -> list[Done]:
    first = place.start(command, *flags)
    time.sleep(delay)
    second = place.start(command, *flags)
    return [first.wait(), second.wait()]


def _prepare(place: Place, delay: float, existing: bool) -> str:
    output = place.copy(place.data) if existing else place.here / 'data'
    ended = _together(place, 'prepare', ('--source=synthetic:40', f'--output={output}'), delay)
    return _ends(ended) or _same_files(output, place.data) or _clean(place)


def _clean(place: Place) -> str:
    left = [path.name for path in place.here.iterdir() if 'partial' in path.name]
    return f'{left} stay' if left else ''


def _export(place: Place, delay: float) -> str:
    output = place.here / 'export'
    flags = (f'--workdir={place.run}', f'--output={output}')
    ended = _together(place, 'export', flags, delay)
    return _ends(ended) or _same_files(output, place.export) or _clean(place)


def _evaluate(place: Place, delay: float) -> str:
    run = place.copy(place.run)
    expected = place.expected_predictions(6)
    ended = _together(place, 'evaluate', (f'--workdir={run}', '--limit=9', '--name=x'), delay)
    folder = run / 'eval' / 'x'
    if problem := _ends(ended):
        return problem
    json.loads((folder / 'metrics.json').read_text())
    whole = (folder / 'predictions.jsonl').read_text() == expected
    return '' if whole else 'other predictions'


def _train(place: Place, delay: float) -> str:
    workdir = place.here / 'run'
    flags = (f'--config={place.config}', f'--workdir={workdir}')
    ended = _together(place, 'train', flags, delay)
    if problem := _ends(ended):
        return problem
    return '' if outcome(workdir) == outcome(place.run) else 'not bit-equal'


def _beside_train(place: Place, command: str, delay: float) -> str:
    """Expects that a reader finds a whole step, or is told that there is none yet."""
    workdir = place.here / 'run'
    train = place.start('train', f'--config={place.config}', f'--workdir={workdir}')
    time.sleep(delay)
    flags = {'evaluate': ('--limit=9',), 'export': (f'--output={place.here / "out"}',)}[command]
    reader = place.command(command, f'--workdir={workdir}', *flags)
    if problem := succeeded(train.wait()):
        return f'train: {problem}'
    if outcome(workdir) != outcome(place.run):
        return 'train is disturbed'
    return _ends([reader], must_win=False)


def _tokenizer(place: Place, delay: float) -> str:
    flags = ('--source=synthetic_text:100', '--vocab_size=300', f'--output={place.here / "t"}')
    return _ends(_together(place, 'train_tokenizer', flags, delay)) or _clean(place)


def cases(rng: random.Random) -> list[Case]:
    """Returns pairs of writers that begin within a moment of each other."""
    found = []

    def add(name: str, check, *arguments) -> None:
        kind = 'several writers'
        found.append(Case(kind, name, lambda place: functools.partial(check, place)(*arguments)))

    for i in range(8):
        delay = rng.choice((0.0, rng.uniform(0, 0.15)))
        add(f'two prepare, {delay:.2f} s', _prepare, delay, i % 2 == 1)
    for _ in range(5):
        delay = rng.choice((0.0, rng.uniform(0, 0.5)))
        add(f'two export, {delay:.2f} s', _export, delay)
        add(f'two evaluate, {delay:.2f} s', _evaluate, delay)
        add(f'two train, {delay:.2f} s', _train, delay)
    for command in ('evaluate', 'export'):
        for delay in (0.5, 2.0, 3.0):
            add(f'{command} beside train after {delay} s', _beside_train, command, delay)
    for delay in (0.0, 0.1):
        add(f'two train_tokenizer, {delay:.2f} s', _tokenizer, delay)
    return found
