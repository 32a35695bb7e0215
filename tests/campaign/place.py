"""The place of a campaign: a model, a data set and a run, made once, and a folder for each try."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

from tests.campaign import commands
from tests.campaign.commands import Done

STEPS = 6
CONFIG = """
from bsft_jax.config import *

def get_config(arg='behavior_sft'):
    return RunConfig(
        arm=arg,
        log_interval=1,
        model=ModelConfig(base={base!r}),
        data=DataConfig(source={source!r}, sequence_length=448, global_batch_rows=2,
                        answer_format='text'),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2, schedule_steps={steps}),
        checkpoint=CheckpointConfig(interval=1, keep=2),
        evaluation=EvaluationConfig(interval=3, limit=9),
    )
"""
STUDY = """
from bsft_jax.studies.study import Arm, Study

def get_config(arg=''):
    return Study(name='campaign', config={config!r},
                 endpoint=('overall', ('a', 'auto'), ('b', 'auto')),
                 arms=(Arm('a', {{'arm': 'behavior_sft'}}), Arm('b', {{'arm': 'general_sft'}})))
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """Holds one try.

    Attributes:
      kind: the part of the campaign that it belongs to.
      name: what is tried.
      check: tries it in a place and returns '' where it held, else what was seen.
      tries: how many tries it counts for.
      needs_run: whether it needs the run of the place, which takes a minute to make.
    """

    kind: str
    name: str
    check: Callable[[Place], str]
    tries: int = 1
    needs_run: bool = True

    @classmethod
    def calling(cls, kind: str, name: str, check: Callable[..., str], *arguments, needs_run: bool):
        """Returns a try that calls `check(place, *arguments)`."""
        return cls(kind, name, lambda place: check(place, *arguments), needs_run=needs_run)


class Place:
    """Holds what all tries start from; they never change it.

    Attributes:
      base: a random tiny model.
      data: a prepared data set.
      config: a config file that trains the base on the data.
      run: its run, with the checkpoints of the last two steps.
      export: the model of the run.
      scored: a copy of the run that was evaluated.
      seconds: how long training took.
    """

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.base, self.data, self.run = root / 'base', root / 'data', root / 'run'
        self.config, self.export = root / 'config.py', root / 'export'
        self.study, self.scored = root / 'study.py', root / 'scored'
        self.seconds = 0.0
        self._folder = root
        self._answers: dict[tuple[str, ...], str] = {}

    def build(self, with_run: bool) -> None:
        """Makes the model and the data, and the run and its export."""
        commands.warm_up(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.base.mkdir()
        # In a fork, since it starts a backend, after which forks would not work.
        made = self._in_fork(lambda: _random_model(self.base))
        assert made.code == 0, made.err
        source = f'jsonl:{self.data}'
        text = CONFIG.format(base=str(self.base), source=source, steps=STEPS)
        self.config.write_text(text)
        self.study.write_text(STUDY.format(config=str(self.config)))
        making = [('prepare', '--source=synthetic:40', f'--output={self.data}')]
        if with_run:
            making += [
                ('train', f'--config={self.config}', f'--workdir={self.root / "first"}'),
                ('train', f'--config={self.config}', f'--workdir={self.run}'),
                ('export', f'--workdir={self.run}', f'--output={self.export}'),
            ]
        for arguments in making:
            done = self.command(*arguments)
            assert not commands.succeeded(done), (arguments, done.end, done.err[-2000:])
            if arguments[0] == 'train':
                # Of the second run, whose programs are compiled.
                self.seconds = done.seconds
        if with_run:
            shutil.copytree(self.run, self.scored)
            done, _ = self.predictions(self.scored)
            assert not commands.succeeded(done), done.err[-2000:]

    def _in_fork(self, action: Callable[[], object]) -> Done:
        def act() -> None:
            action()
            raise SystemExit(0)

        return commands.run(self._folder, 'table', before=act)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Place]:
        """Yields the place with an empty folder, in which commands run; removes it."""
        folder = self.root / f'try-{time.monotonic_ns()}'
        folder.mkdir()
        before, self._folder = self._folder, folder
        try:
            yield self
        finally:
            self._folder = before
            _remove(folder)

    @property
    def here(self) -> pathlib.Path:
        """Returns the folder of the present try."""
        return self._folder

    def copy(self, what: pathlib.Path, name: str = '') -> pathlib.Path:
        """Copies a folder of the place into that of the try, and returns the copy."""
        target = self._folder / (name or what.name)
        shutil.copytree(what, target)
        return target

    def write(self, name: str, content: str | bytes) -> pathlib.Path:
        """Writes a file into the folder of the try and returns its path."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def command(self, name: str, *flags: object, **options) -> Done:
        """Runs a command in the folder of the try."""
        return commands.run(self._folder, name, *flags, **options)

    def start(self, name: str, *flags: object, **options) -> commands.Process:
        """Starts a command in the folder of the try."""
        return commands.start(self._folder, name, *flags, **options)

    def start_fresh(self, name: str, *flags: object) -> commands.Process:
        """Starts a command in a fresh interpreter, in the folder of the try."""
        return commands.start_fresh(self._folder, name, *flags)

    def train(self, workdir: pathlib.Path, *flags: object, **options) -> Done:
        """Trains the run of the config, or continues it."""
        flags = (f'--config={self.config}', f'--workdir={workdir}', *flags)
        return self.command('train', *flags, **options)

    def predictions(self, workdir: pathlib.Path, *flags: object) -> tuple[Done, str]:
        """Evaluates a run; returns how that ended and the predictions."""
        done = self.command('evaluate', f'--workdir={workdir}', '--limit=9', '--name=x', *flags)
        path = workdir / 'eval' / 'x' / 'predictions.jsonl'
        return done, path.read_text() if path.exists() else ''

    def expected_predictions(self, step: int) -> str:
        """Returns the predictions of the undamaged run at a step."""
        key = ('predictions', str(step))
        if key not in self._answers:
            run = self.copy(self.run, 'undamaged')
            self._answers[key] = self.predictions(run, f'--step={step}')[1]
            _remove(run)
        return self._answers[key]

    def answer(self, model: pathlib.Path, *flags: object) -> Done:
        """Lets a model answer a short text in four tokens."""
        return self.command(
            'generate', f'--model={model}', '--text=K 5.9', '--max_new_tokens=4', *flags
        )

    def expected_answer(self) -> str:
        """Returns the answer of the undamaged base."""
        key = ('answer',)
        if key not in self._answers:
            self._answers[key] = self.answer(self.base).out
        return self._answers[key]


def _random_model(folder: pathlib.Path) -> None:
    from tests.tiny import random_model

    random_model(folder)


def _remove(folder: pathlib.Path) -> None:
    for path in [folder, *folder.rglob('*')]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def outcome(workdir: pathlib.Path) -> dict:
    """Returns what a run came to: its loss curve and the fingerprints of its last step."""
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    names = ('step', 'loss', 'gradient_norm', 'tokens', 'validation/macro_f1')
    curve = [[json.loads(line).get(name) for name in names] for line in lines]
    last = workdir / 'checkpoints' / str(STEPS) / 'fingerprints' / 'metadata'
    marks = json.loads(last.read_text())
    # Those of `clock` depend on the time.
    return {'curve': curve, **{name: marks[name] for name in ('shapes', 'saved', 'frozen')}}
