"""Damaged files of checkpoints and of the workdir, and runs whose base or state has changed."""

from __future__ import annotations

import functools
import json
import pathlib
import random
import shutil
from collections.abc import Callable

from tests.campaign.commands import refused, succeeded
from tests.campaign.place import STEPS, Case, Place, outcome

Damage = Callable[[pathlib.Path, random.Random], None]


def _flip(path: pathlib.Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(min(64, len(content))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


DAMAGES: dict[str, Damage] = {
    'removed': lambda path, _: path.unlink(),
    'emptied': lambda path, _: path.write_bytes(b''),
    'cut': lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    'flipped': _flip,
}


# The files of a step; of several that match the first is taken.
FILES = (
    '_CHECKPOINT_METADATA',
    'clock/metadata',
    'config/metadata',
    'data/metadata',
    'fingerprints/metadata',
    'state/_METADATA',
    'state/_sharding',
    'state/array_metadatas/*',
    'state/manifest.ocdbt',
    'state/d/*',
    'state/ocdbt.process_0/manifest.ocdbt',
    'state/ocdbt.process_0/d/*',
)


def _damage(run: pathlib.Path, name: str, damage: str, seed: int) -> None:
    """Damages a file of the newest step."""
    path, *_ = sorted((run / 'checkpoints' / str(STEPS)).glob(name))
    DAMAGES[damage](path, random.Random(seed))


def _evaluate_damaged(place: Place, name: str, damage: str, seed: int) -> str:
    """Expects the predictions of the newest step, or of the one before, which is then named."""
    run = place.copy(place.run)
    _damage(run, name, damage, seed)
    done, predictions = place.predictions(run)
    if problem := succeeded(done):
        return problem
    step = json.loads((run / 'eval' / 'x' / 'metrics.json').read_text())['step']
    if predictions != place.expected_predictions(step):
        return f'other predictions than those of step {step}'
    says = step == STEPS or f'step {step}' in done.err
    return '' if says else f'does not say that step {step} is used: {done.err[-200:]}'


def _train_on_damaged(place: Place, name: str, damage: str, seed: int) -> str:
    run = place.copy(place.run)
    _damage(run, name, damage, seed)
    done = place.train(run)
    if problem := succeeded(done):
        return problem
    return '' if outcome(run) == outcome(place.run) else 'not bit-equal'


def _edit_item(run: pathlib.Path, item: str, value: object) -> None:
    path = run / 'checkpoints' / str(STEPS) / item / 'metadata'
    content = json.loads(path.read_text())
    content.update(value)
    path.write_text(json.dumps(content))


def _edited_item(place: Place, item: str, value: object) -> str:
    """Expects that a changed item is found as damage, and the step before used."""
    run = place.copy(place.run)
    _edit_item(run, item, value)
    done = place.train(run)
    if problem := succeeded(done):
        return problem
    return '' if outcome(run) == outcome(place.run) else 'not bit-equal'


def _remove_checkpoints(run: pathlib.Path) -> None:
    shutil.rmtree(run / 'checkpoints')


def _empty_checkpoints(run: pathlib.Path) -> None:
    for step in (run / 'checkpoints').iterdir():
        shutil.rmtree(step)


def _damage_all(run: pathlib.Path) -> None:
    for step in (run / 'checkpoints').iterdir():
        (step / 'state' / 'manifest.ocdbt').write_bytes(b'')


def _replace_checkpoints(run: pathlib.Path) -> None:
    _remove_checkpoints(run)
    (run / 'checkpoints').write_text('')


LOST = {
    'removed': _remove_checkpoints,
    'emptied': _empty_checkpoints,
    'all damaged': _damage_all,
    'a file': _replace_checkpoints,
}


def _lost(place: Place, lose: Callable[[pathlib.Path], None], command: str) -> str:
    """Expects that nothing begins anew where the checkpoints are lost."""
    run = place.copy(place.run)
    history = (run / 'metrics.jsonl').read_text()
    lose(run)
    flags = {
        'train': (f'--config={place.config}', f'--workdir={run}'),
        'evaluate': (f'--workdir={run}',),
        'generate': (f'--workdir={run}', '--text=hi'),
        'export': (f'--workdir={run}', f'--output={place.here / "out"}'),
    }[command]
    problem = refused(place.command(command, *flags))
    if not problem and (run / 'metrics.jsonl').read_text() != history:
        return 'metrics.jsonl has lost its lines'
    return problem


def _history(place: Place, tail: bytes) -> str:
    """Expects that lines of metrics.jsonl that are no records are dropped, as torn ones are."""
    run = place.copy(place.run)
    shutil.rmtree(run / 'checkpoints' / str(STEPS))
    with (run / 'metrics.jsonl').open('ab') as file:
        file.write(tail)
    done = place.train(run)
    return succeeded(done) or ('' if outcome(run) == outcome(place.run) else 'not bit-equal')


def _swap_words(base: pathlib.Path) -> None:
    path = base / 'tokenizer.json'
    content = json.loads(path.read_text())
    vocab = content['model']['vocab']
    words = sorted(vocab, key=vocab.get)[100:140]
    for first, second in zip(words[::2], words[1::2], strict=True):
        vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(content))


def _other_template(base: pathlib.Path) -> None:
    path = base / 'chat_template.jinja'
    text = path.read_text() if path.exists() else '{{ messages[0]["content"] }}'
    path.write_text('Note: ' + text)


def _changed_base(place: Place, change: Callable[[pathlib.Path], None], command: str) -> str:
    """Expects that a run is refused with another tokenizer or template than it was trained with."""
    base = place.copy(place.base)
    workdir, flags = place.here / 'run', (f'--config.model.base={base}', '--config.train.steps=1')
    if problem := succeeded(place.train(workdir, *flags)):
        return problem
    change(base)
    if command == 'train':
        return refused(place.train(workdir, f'--config.model.base={base}'))
    more = {
        'evaluate': ('--limit=9',),
        'generate': ('--text=hi',),
        'export': (f'--output={place.here / "out"}',),
    }[command]
    return refused(place.command(command, f'--workdir={workdir}', *more))


def cases(rng: random.Random) -> list[Case]:
    """Returns damages of every file of a step, and states that are not a run's own."""
    found = []

    def add(kind: str, name: str, check, *arguments) -> None:
        found.append(Case(kind, name, lambda place: functools.partial(check, place)(*arguments)))

    for file in FILES:
        for damage in DAMAGES:
            arguments = (file, damage, rng.randrange(2**31))
            add(
                'damaged checkpoint',
                f'evaluate, {file} {damage}',
                _evaluate_damaged,
                *arguments,
            )
            if damage in ('flipped', 'emptied'):
                add(
                    'damaged checkpoint',
                    f'train, {file} {damage}',
                    _train_on_damaged,
                    *arguments,
                )
    for item, value in (
        ('data', {'step': 3}),
        ('data', {'step': 'x'}),
        ('clock', {'tokens': 'x'}),
        ('clock', {'another': 1}),
        ('clock', {'tokens': None}),
        ('fingerprints', {'saved': {}}),
    ):
        add('damaged checkpoint', f'{item} {value}', _edited_item, item, value)
    for name, lose in LOST.items():
        for command in ('train', 'evaluate', 'generate', 'export'):
            add('lost checkpoints', f'{command}, {name}', _lost, lose, command)
    for tail in (b'5\n', b'[1]\n', b'\xff\n', b'{"step": "x"}\n', b'{"step": 6, "lo', b'null\n'):
        add('metrics.jsonl', f'a line {tail!r}', _history, tail)
    for name, change in (('tokenizer', _swap_words), ('template', _other_template)):
        for command in ('train', 'evaluate', 'generate', 'export'):
            add('changed base', f'{command}, {name}', _changed_base, change, command)
    return found
