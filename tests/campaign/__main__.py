"""Tries faults on the commands and counts which of them hold: `python -m tests.campaign`.

    python -m tests.campaign --kind=kills --kind=places    # parts of it
    python -m tests.campaign --sample=20                   # some tries of every kind
    python -m tests.campaign --table                       # the rows of docs/reliability.md

Each try ends well (exit code 0 and a result that is bit-equal), or in one line and exit code 2.
Whatever does not hold is printed; the last line is `tried N, held N`. The exit code is 1 unless
all hold. Random moments and bytes come from `--seed`.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import itertools
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
import traceback

from tests.campaign.place import Case, Place

# Between lines that say how far a campaign is.
PROGRESS_SECONDS = 30
# Modules of this folder, each with a function `cases(random) -> list[Case]`.
PARTS = (
    'kills',
    'signals',
    'checkpoints',
    'configs',
    'models',
    'places',
    'records',
    'flags',
    'writers',
)


def all_cases(seed: int, parts: tuple[str, ...] = PARTS) -> list[Case]:
    """Returns the cases of these parts, in the same order for the same seed."""
    return [
        case
        for part in parts
        for case in importlib.import_module(f'tests.campaign.{part}').cases(random.Random(seed))
    ]


def choose(cases: list[Case], kinds: list[str], name: str, sample: int) -> list[Case]:
    """Returns the cases of some kinds whose name holds a text, at most `sample` of each kind."""
    chosen = [case for case in cases if (not kinds or case.kind in kinds) and name in case.name]
    if not sample:
        return chosen
    by_kind = collections.defaultdict(list)
    for case in chosen:
        by_kind[case.kind].append(case)
    return [
        of_kind[i * len(of_kind) // sample]
        for of_kind in by_kind.values()
        for i in range(min(sample, len(of_kind)))
    ]


def try_case(place: Place, case: Case) -> str:
    """Returns '' where a case holds, else what was seen."""
    try:
        with place.folder():
            return case.check(place)
    except Exception:
        return f'the campaign itself failed: {traceback.format_exc()[-1500:]}'


def _work(place: Place, cases: list[Case], results: pathlib.Path) -> None:
    """Tries cases one after another and writes a line for each."""
    with results.open('w') as file:
        for case in cases:
            begun = time.monotonic()
            problem = try_case(place, case)
            line = (case.kind, case.name, case.tries, problem, time.monotonic() - begun)
            file.write(json.dumps(line) + '\n')
            file.flush()
            if problem:
                print(f'{case.kind}: {case.name}: {problem}', file=sys.stderr, flush=True)


def try_all(place: Place, cases: list[Case], jobs: int) -> list[tuple]:
    """Tries all cases in `jobs` processes.

    Returns (kind, name, tries, problem, seconds) of each.
    """
    files = [place.root / f'results-{job}.jsonl' for job in range(jobs)]
    pids = []
    for job, results in enumerate(files):
        results.touch()
        if pid := os.fork():
            pids.append(pid)
            continue
        try:
            _work(place, cases[job::jobs], results)
        finally:
            os._exit(0)
    total, shown = sum(case.tries for case in cases), time.monotonic()
    lines = []
    while pids:
        time.sleep(0.2)
        pids = [pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0] == 0]
        lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        if time.monotonic() > shown + PROGRESS_SECONDS:
            shown = time.monotonic()
            tried = sum(line[2] for line in lines)
            print(f'{tried} of {total} tried', file=sys.stderr, flush=True)
    return lines


def count(results: list[tuple]) -> dict[str, tuple[int, int]]:
    """Returns how many were tried and how many held, by kind and in total (last)."""
    counts = collections.defaultdict(lambda: (0, 0))
    for kind, _, tries, problem, _ in results:
        for key in (kind, 'total'):
            tried, held = counts[key]
            counts[key] = tried + tries, held + (0 if problem else tries)
    total = counts.pop('total', (0, 0))
    return {**dict(sorted(counts.items())), 'total': total}


def print_counts(counts: dict[str, tuple[int, int]], parts: dict[str, str], table: bool) -> None:
    """Prints the counts, as lines or as the rows of docs/reliability.md."""
    total = counts.pop('total')
    for kind, (tried, held) in counts.items():
        if table:
            print(f'| {kind} | {tried} | {held} | `tests/campaign/{parts[kind]}.py` |')
        else:
            print(f'{kind}: tried {tried}, held {held}')
    if table:
        print(f'| all | {total[0]} | {total[1]} | `python -m tests.campaign` |')
    print(f'tried {total[0]}, held {total[1]}', file=sys.stderr if table else sys.stdout)


def main() -> int:
    """Runs the campaign; returns 1 unless all tries hold."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kind', action='append', default=[], help='only this kind; repeatable')
    parser.add_argument('--name', default='', help='only tries whose name holds this text')
    parser.add_argument('--sample', type=int, default=0, help='at most so many cases of each kind')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1)
    parser.add_argument('--table', action='store_true', help='rows of docs/reliability.md')
    parser.add_argument('--list', action='store_true', help='names the tries and ends')
    options = parser.parse_args()
    by_part = {part: all_cases(options.seed, (part,)) for part in PARTS}
    parts = {case.kind: part for part, cases in by_part.items() for case in cases}
    if unknown := set(options.kind) - set(parts):
        parser.error(f'no kind {", ".join(unknown)}; there are {", ".join(parts)}')
    cases = choose(
        [*itertools.chain(*by_part.values())], options.kind, options.name, options.sample
    )
    if options.list:
        for case in cases:
            print(f'{case.kind}: {case.name}')
        return 0
    # Not a TemporaryDirectory, which every fork would remove at its end.
    root = pathlib.Path(tempfile.mkdtemp(prefix='campaign-')).resolve()
    try:
        place = Place(root)
        place.build(with_run=any(case.needs_run for case in cases))
        results = try_all(place, cases, options.jobs)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    counts = count(results)
    print_counts(dict(counts), parts, options.table)
    return int(counts['total'][0] != counts['total'][1] or len(results) != len(cases))


if __name__ == '__main__':
    sys.exit(main())
