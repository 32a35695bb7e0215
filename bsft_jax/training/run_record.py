"""Keeps `run.json` of a workdir: digests of tokenizer and chat template, and the last saved step.

So a changed tokenizer is noticed where no weight changed, and lost checkpoints are not taken for
a run that never began. A workdir of an earlier version has no such file and is used without it.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.hub.pretrained import PretrainedSpec

NAME = 'run.json'
_TOKENIZER_FILES = (
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
)
_SAVED_STEP = 'saved_step'


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the content of `run.json`; an empty dictionary where there is none.

    Raises UserError for a file that holds something else.
    """
    path = workdir / NAME
    if not path.is_file():
        return {}
    record = files.read_json(path)
    if not isinstance(record, dict):
        raise UserError('is not a JSON object', where=str(path), fix='delete it')
    return record


def update(workdir: pathlib.Path, **changes: Any) -> None:
    """Writes `run.json` with some fields changed, unless nothing changes."""
    record = read(workdir)
    if record | changes != record:
        files.write_json(workdir / NAME, record | changes)


def saved_step(workdir: pathlib.Path) -> int | None:
    """Returns the last step that is known to have been saved, if any."""
    step = read(workdir).get(_SAVED_STEP)
    return step if type(step) is int else None


def set_saved_step(workdir: pathlib.Path, step: int | None) -> None:
    """Remembers the newest step on disk."""
    update(workdir, **{_SAVED_STEP: step})


def digests(spec: PretrainedSpec) -> dict[str, str]:
    """Returns digests of what turns records into tokens.

    The tokenizer's is taken of its files, since the libraries that read them write them anew in
    each version; layout does not count. The template's is taken of the text that is used.
    """
    digest = hashlib.sha256()
    folder = spec.tokenizer_directory or spec.directory
    paths = [folder / name for name in _TOKENIZER_FILES]
    if not paths[0].is_file():
        # The tokenizer is stored within another file.
        digest.update(spec.tokenizer.backend_tokenizer.to_str().encode())
    for path in paths:
        if path.is_file():
            values = files.read_json(path)
            if isinstance(values, dict):
                values.pop('chat_template', None)
            digest.update(json.dumps([path.name, values], sort_keys=True).encode())
    template = json.dumps(spec.tokenizer.chat_template, sort_keys=True)
    return {
        'tokenizer': digest.hexdigest(),
        'chat_template': hashlib.sha256(template.encode()).hexdigest(),
    }


def check_tokenizer(workdir: pathlib.Path, spec: PretrainedSpec) -> None:
    """Raises UserError unless tokenizer and template are those that the run was trained with."""
    record = read(workdir)
    for name, digest in digests(spec).items():
        if record.get(name, digest) != digest:
            raise UserError(
                f'the {name.replace("_", " ")} is not the one that this run was trained with',
                where=f'--workdir={workdir}',
                fix=f'undo the change in {spec.tokenizer_directory or spec.directory} or in the '
                'workdir, or train a new --workdir',
            )


def check_not_lost(workdir: pathlib.Path) -> None:
    """Raises UserError for a workdir without checkpoints whose run had saved some.

    A run that was killed before its first save may begin again.
    """
    record, saved = read(workdir), saved_step(workdir)
    steps = [row['step'] for row in files.read_metrics(workdir / 'metrics.jsonl')]
    aside = _names(workdir / 'damaged')
    traces = [f'step {saved} was saved'] if saved is not None else []
    if steps:
        traces.append(f'metrics.jsonl speaks of steps {int(min(steps))} to {int(max(steps))}')
    if aside:
        traces.append(f'damaged/ holds {", ".join(aside)}')
    # Before the first save metrics.jsonl has lines, too; only earlier versions do not tell.
    known = _SAVED_STEP in record
    if saved is not None or aside or (steps and not known):
        folder = workdir / 'checkpoints'
        state = 'is empty' if folder.is_dir() else 'is gone'
        raise UserError(
            f'checkpoints/ {state}, but {" and ".join(traces)}',
            where=f'--workdir={workdir}',
            fix='bring the checkpoints back, or name a new --workdir to begin anew',
        )


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
