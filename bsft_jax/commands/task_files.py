"""Writes records as a task of another evaluation tool: lm-evaluation-harness or inspect_ai.

What a tool executes are files of `assets/tasks/`, copied as they are. The words of records stand in
JSONL files alone, of which no field is read as a template.
"""

from __future__ import annotations

import importlib.resources
import itertools
import json
import pathlib
import re
import string
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from bsft_jax.data.rendering import STEM, list_options
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics
from bsft_jax.records import taxonomy
from bsft_jax.records.record import Message, Record, describe_record, with_ids

_MACRO_F1, _YAML = 'macro_f1.py', 'behavior_bench.yaml'
# Files of each tool besides those of the records.
_FILES = {
    'lm_eval': ('README.md', _MACRO_F1, 'utils.py', _YAML),
    'inspect': ('README.md', _MACRO_F1, 'behavior_bench.py'),
}
TOOLS = tuple(_FILES)

_GROUP_METRIC = """\
  - metric: macro_f1_{}
    aggregation: !function macro_f1.macro_f1
    higher_is_better: true
"""


def write_task(
    directory: pathlib.Path, tool: str, by_split: Mapping[str, Sequence[Record]]
) -> dict[str, int]:
    """Writes a task that runs in a tool as it is.

    Records without options or without an answer are left out, and counted on stderr.

    Args:
      directory: folder to write to.
      tool: one of TOOLS.
      by_split: the records of each split.

    Returns the number of records by file. Raises UserError for options without a user turn, and
    where the test split has nothing to score.
    """
    scored = {
        split: [record for record in with_ids(records) if record.answer is not None]
        for split, records in by_split.items()
    }
    if not scored['test']:
        raise UserError(
            'no record of the test split has options and an answer to score',
            where=f'--format={tool}',
            fix='name a source with at least three cases, or with a test split',
        )
    counts = {split: len(records) for split, records in scored.items()}
    if left_out := sum(map(len, by_split.values())) - sum(counts.values()):
        print(f'left out as nothing to choose from: {left_out} records', file=sys.stderr)
    labels = {split: _categories_and_groups(records) for split, records in scored.items()}
    keys = group_keys(group for pairs in labels.values() for _, group in pairs)
    to_row = _to_doc if tool == 'lm_eval' else _to_sample
    for split, records in scored.items():
        with (directory / f'{split}.jsonl').open('w', encoding='utf-8') as file:
            for record, (category, group) in zip(records, labels[split], strict=True):
                row = to_row(record, {'category': category, 'group': keys[group]})
                file.write(json.dumps(row, ensure_ascii=False) + '\n')
    for name in _FILES[tool]:
        text = _asset(name if name == _MACRO_F1 else f'{tool}/{name}')
        if name == _YAML:
            groups = dict.fromkeys(keys[group] for _, group in labels['test'])
            text += ''.join(map(_GROUP_METRIC.format, groups)) + _split_lines(counts)
        (directory / name).write_text(text, encoding='utf-8')
    return {f'{split}.jsonl': count for split, count in counts.items()}


def files_of_task(names: Set[str]) -> frozenset[str]:
    """Returns which of a folder's files `write_task` wrote, and Python's cache beside them.

    There are none unless all files of a tool are there: a folder may have a README of its own.
    """
    for files in _FILES.values():
        if names >= {*files}:
            return frozenset([*files, '__pycache__'])
    return frozenset()


def prompt_text(record: Record) -> str:
    """Returns the prompt of a record as one text, with its options below the last question.

    Turns are separated by empty lines. They begin with their role where the assistant has spoken.
    Raises UserError for a record without a user turn.
    """
    turns, last = _turns(record)
    turns[last] = Message('user', list_options(turns[last].content, record.options))
    if any(turn.role == 'assistant' for turn in turns):
        return '\n\n'.join(f'{turn.role.capitalize()}: {turn.content}' for turn in turns)
    return '\n\n'.join(turn.content for turn in turns)


def _turns(record: Record) -> tuple[list[Message], int]:
    """Returns the turns of a record, and the index of the last one of the user.

    Consecutive turns of the user are one, as some templates and servers need it. Names stand before
    what their speakers say. Raises UserError for a record without a user turn.
    """
    turns: list[Message] = []
    for message in record.messages:
        content = f'{message.name}: {message.content}' if message.name else message.content
        if message.role == 'user' and turns and turns[-1].role == 'user':
            content = f'{turns.pop().content}\n\n{content}'
        turns.append(Message(message.role, content))
    last = max((i for i, turn in enumerate(turns) if turn.role == 'user'), default=None)
    if last is None:
        raise UserError(f'{describe_record(record)} has options but no user turn')
    return turns, last


def _to_doc(record: Record, scored_under: Mapping[str, str]) -> dict[str, Any]:
    """Returns the document of lm-evaluation-harness, whose choices are answers as trained."""
    letters = string.ascii_uppercase[: len(record.options)]
    return {
        'id': record.id,
        **scored_under,
        'prompt': prompt_text(record),
        'choices': [f'{STEM} {letter}.' for letter in letters],
        'answer': record.answer,
    }


def _to_sample(record: Record, scored_under: Mapping[str, str]) -> dict[str, Any]:
    """Returns the sample of inspect_ai, which letters the options itself."""
    turns, _ = _turns(record)
    return {
        'id': record.id,
        'input': [{'role': turn.role, 'content': turn.content} for turn in turns],
        'choices': list(record.options),
        'target': string.ascii_uppercase[record.answer],
        'metadata': {**scored_under, 'answer': record.answer},
    }


def _categories_and_groups(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Returns the category and the group that each record is scored under."""
    rows = [vars(record) for record in records]
    members = metrics.group_members(rows)
    group_of = {category: group for group, names in members.items() for category in names}
    return [(category, group_of[category]) for category in map(metrics.category_of, rows)]


def group_keys(groups: Iterable[str]) -> dict[str, str]:
    """Returns group → how metrics name it: in small letters, digits and `_`, each distinct."""
    keys: dict[str, str] = {}
    for group in taxonomy.ordered_groups(groups):
        stem = re.sub('[^a-z0-9]+', '_', group.lower()).strip('_') or 'none'
        names = itertools.chain([stem], (f'{stem}_{number}' for number in itertools.count(2)))
        keys[group] = next(name for name in names if name not in keys.values())
    return keys


def _split_lines(counts: Mapping[str, int]) -> str:
    """Returns the lines of the YAML file that name the splits which have records."""
    uses = {'training': 'train', 'fewshot': 'train', 'validation': 'validation', 'test': 'test'}
    return ''.join(f'{use}_split: {split}\n' for use, split in uses.items() if counts[split])


def _asset(name: str) -> str:
    """Returns the text of a file of `assets/tasks/`."""
    folder = importlib.resources.files('bsft_jax') / 'assets' / 'tasks'
    return (folder / name).read_text(encoding='utf-8')
