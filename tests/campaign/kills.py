"""kill -9 at random moments: the run ends bit-equal, other results are whole or absent."""

from __future__ import annotations

import functools
import random
import signal

from tests.campaign.commands import refused, succeeded
from tests.campaign.place import Case, Place, outcome

RUNS, KILLS_OF_A_RUN = 12, 8
# Longer than any command takes here.
FACTORS = (0.05, 1.1)


def _killed_run(place: Place, moments: list[float]) -> str:
    """Kills a run at each of the moments, shares of its time, and lets it go to its end."""
    workdir = place.here / 'run'
    for moment in moments:
        process = place.start('train', f'--config={place.config}', f'--workdir={workdir}')
        process.send(signal.SIGKILL, after=moment * place.seconds)
        done = process.wait()
        if done.code not in (0, -signal.SIGKILL):
            return f'after a kill: {done.end}'
    return _ends_equal(place, workdir)


def _ends_equal(place: Place, workdir) -> str:
    if problem := succeeded(place.train(workdir)):
        return problem
    return '' if outcome(workdir) == outcome(place.run) else 'the resumed run is not bit-equal'


def _killed_in_the_first_seconds(place: Place, seconds: float) -> str:
    """Kills a fresh interpreter that trains, and starts it again."""
    workdir = place.here / 'run'
    process = place.start_fresh('train', f'--config={place.config}', f'--workdir={workdir}')
    process.send(signal.SIGKILL, after=seconds)
    process.wait()
    return _ends_equal(place, workdir)


def _killed_export(place: Place, share: float) -> str:
    output = place.here / 'export'
    flags = (f'--workdir={place.run}', f'--output={output}')
    begun = place.command('export', f'--workdir={place.run}', f'--output={place.here / "whole"}')
    process = place.start('export', *flags)
    process.send(signal.SIGKILL, after=share * begun.seconds)
    process.wait()
    if output.exists():
        return _same_files(output, place.export)
    return succeeded(place.command('export', *flags)) or _same_files(output, place.export)


def _same_files(folder, expected) -> str:
    names = sorted(path.name for path in expected.iterdir())
    if sorted(path.name for path in folder.iterdir()) != names:
        return f'{folder.name} is not whole'
    different = [n for n in names if (folder / n).read_bytes() != (expected / n).read_bytes()]
    return f'{different} differ' if different else ''


def _killed_evaluate(place: Place, share: float) -> str:
    run = place.copy(place.run)
    expected = place.expected_predictions(6)
    process = place.start('evaluate', f'--workdir={run}', '--limit=9', '--name=x')
    process.send(signal.SIGKILL, after=share * place.seconds)
    process.wait()
    path = run / 'eval' / 'x' / 'predictions.jsonl'
    if path.exists() and path.read_text() != expected:
        return 'predictions are not whole'
    done, predictions = place.predictions(run)
    return succeeded(done) or ('' if predictions == expected else 'other predictions')


def _killed_prepare(place: Place, seconds: float, existing: bool) -> str:
    output = place.here / 'data'
    flags = ('--source=synthetic:40', f'--output={output}')
    if existing:
        place.copy(place.data)
    process = place.start('prepare', *flags)
    process.send(signal.SIGKILL, after=seconds)
    process.wait()
    if output.exists() and (problem := _same_files(output, place.data)):
        return problem
    if existing and not output.exists():
        return 'the earlier data set is gone'
    return succeeded(place.command('prepare', *flags)) or _same_files(output, place.data)


def _killed_tokenizer(place: Place, seconds: float) -> str:
    flags = ('--source=synthetic_text:100', '--vocab_size=300', f'--output={place.here / "t"}')
    process = place.start('train_tokenizer', *flags)
    process.send(signal.SIGKILL, after=seconds)
    process.wait()
    done = place.command('train_tokenizer', *flags)
    return '' if not succeeded(done) or not refused(done, 'not empty|exists') else done.end


def cases(random: random.Random) -> list[Case]:
    """Returns the kills: of runs, and of the commands that write something else."""

    def case(kind, name, check, *arguments, tries=1) -> Case:
        return Case(
            kind, name, lambda place: functools.partial(check, place)(*arguments), tries=tries
        )

    runs = [[random.uniform(*FACTORS) for _ in range(KILLS_OF_A_RUN)] for _ in range(RUNS)]
    found = [
        case('kill -9 of train', f'run {i}', _killed_run, moments, tries=len(moments))
        for i, moments in enumerate(runs)
    ]
    for seconds in (0.3, 1.0, 2.0, 4.0):
        name = f'a fresh interpreter after {seconds} s'
        found.append(case('kill -9 of train', name, _killed_in_the_first_seconds, seconds))
    for i in range(8):
        kind, share = 'kill -9 of other commands', random.uniform(*FACTORS)
        found += [
            case(kind, f'export at {share:.2f}', _killed_export, share),
            case(kind, f'evaluate at {share:.2f}', _killed_evaluate, share),
            case(kind, f'prepare at {share:.2f} s', _killed_prepare, 0.4 * share, i % 2 == 1),
        ]
        if i < 3:
            found.append(case(kind, f'train_tokenizer at {share:.2f} s', _killed_tokenizer, share))
    return found
