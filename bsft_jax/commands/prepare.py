"""Makes a data set: splits, leakage, shortcut baselines and a card, written all or nothing."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bsft_jax import folders, places
from bsft_jax.behaviorbench import shortcuts, splits
from bsft_jax.behaviors import DEFAULT_BEHAVIORS, Behavior, extend_tokenizer
from bsft_jax.commands import task_files
from bsft_jax.data import checks, generated, inspection, rendering
from bsft_jax.data import sources as sources_lib
from bsft_jax.errors import UserError, printable
from bsft_jax.records.column_map import ColumnMap
from bsft_jax.records.record import SPLITS, Record, behavior_of, describe_record, write_jsonl

CARD = 'card.json'
FILES = (*(f'{split}.jsonl' for split in SPLITS), CARD)
# Folder of a data set that is stored for TensorFlow Datasets.
TFDS_FOLDER = 'behavior_bench'

Inspect = Callable[[Sequence[Record]], None]


def prepare(
    sources: Sequence[str],
    output: str | pathlib.Path,
    seed: int = 0,
    column_map: ColumnMap | None = None,
    format: str = 'jsonl',
    inspect: Inspect | None = None,
    behaviors: Sequence[Behavior] | None = None,
) -> dict[str, Any]:
    """Writes `train.jsonl`, `validation.jsonl`, `test.jsonl` and `card.json`, all or nothing.

    With format `tfds` the records are in `behavior_bench/CONFIG/VERSION` instead, where CONFIG is
    the scheme of a single source `synthetic:` or `open:`, else `jsonl`. With `lm_eval` and
    `inspect` it is a task of that tool instead (`task_files`).

    Args:
      sources: what `sources.load_raw` takes. No two records may have the same id, and no case or
        pair may be in two splits.
      output: folder of the data set; an earlier data set there is replaced, anything else refused.
      seed: seed of the splits and of what adapters choose.
      column_map: makes records of the rows of every source.
      format: `jsonl`, `tfds`, `lm_eval` or `inspect`.
      inspect: is called with the training records before an earlier data set is replaced; whatever
        it raises prevents that.
      behaviors: the behaviors that records may name; None for any that do not misspell a default
        one.

    Returns the card. Raises UserError for a source, a record or a folder that does not fit, and for
    a record of the train split that has no answer.
    """
    places.check_output(output, 'output')
    output = pathlib.Path(os.path.realpath(output))
    _check_replaceable(output)
    replaced = ''
    with folders.whole_folder(output) as folder:
        loaded, leakage = _load(sources, seed, column_map)
        for _, records, _ in loaded:
            _check_records(records, behaviors)
        by_split = {
            split: [r for _, records, _ in loaded for r in records if r.split == split]
            for split in SPLITS
        }
        if format in task_files.TOOLS:
            counts = task_files.write_task(folder, format, by_split)
        elif format == 'tfds':
            counts = _write_tfds(folder, loaded)
        else:
            counts = _write_jsonl(folder, by_split)
        card = _make_card(loaded, by_split, folder, counts, seed, leakage)
        text = json.dumps(card, indent=2, ensure_ascii=False) + '\n'
        (folder / CARD).write_text(text, encoding='utf-8')
        if inspect is not None:
            inspect(by_split['train'])
        replaced = _describe_set(output)
    if replaced:
        print(f'replaced {replaced}', file=sys.stderr)
    return card


def _load(
    sources: Sequence[str], seed: int, column_map: ColumnMap | None
) -> tuple[list[sources_lib.Loaded], dict[str, Any]]:
    """Returns the sources, each record with its split, and the leakage between the splits."""
    try:
        loaded, near = sources_lib.load_together(sources, seed, column_map)
    except OSError as error:
        raise UserError(
            f'cannot be read ({error.strerror or error})', where=str(error.filename or sources[0])
        ) from error
    _check_together(loaded)
    # Generated cases share their wording, which says nothing about leakage.
    natural = [r for name, part, _ in loaded for r in part if not generated.is_generated(name)]
    return loaded, splits.leakage(natural, near)


def _check_records(records: Sequence[Record], behaviors: Sequence[Behavior] | None) -> None:
    """Raises UserError for a misspelled behavior, and a record to train on without an answer."""
    if behaviors is None:
        checks.check_behavior_names(records)
    else:
        checks.check_behaviors(records, behaviors)
    checks.check_answers(record for record in records if record.split == 'train')


def _describe_set(folder: pathlib.Path) -> str:
    """Returns the size and sources of the data set in a folder; '' where there is none."""
    if not (folder / CARD).exists():
        return ''
    try:
        card = json.loads((folder / CARD).read_text(encoding='utf-8'))
        names = ' and '.join(entry['source'] for entry in card['sources'])
        counts = {name.split('.')[0]: file['records'] for name, file in card['files'].items()}
        parts = ', '.join(f'{name} {count}' for name, count in counts.items())
        return f'{sum(counts.values())} records of {names} ({parts})'
    except (ValueError, KeyError, TypeError, AttributeError):
        return 'a data set whose card cannot be read'


def _make_card(
    loaded: Sequence[sources_lib.Loaded],
    by_split: Mapping[str, Sequence[Record]],
    folder: pathlib.Path,
    counts: Mapping[str, int],
    seed: int,
    leakage: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the card; `counts` are records by file of `folder`."""
    records = [record for _, part, _ in loaded for record in part]
    files = {
        name: {'records': count, 'sha256': hashlib.sha256((folder / name).read_bytes()).hexdigest()}
        for name, count in counts.items()
    }
    return {
        'seed': seed,
        'sources': [
            {'source': source, 'records': len(part), 'notes': notes}
            for source, part, notes in loaded
        ],
        'licenses': sorted({record.license for record in records if record.license}),
        'counts': _count_behaviors(records),
        'groups': _count_names(record.group for record in records),
        'option_behaviors': _count_names(name for r in records for name in r.option_behaviors),
        'characters_per_record': _length_stats([_num_characters(record) for record in records]),
        'leakage': dict(leakage),
        'shortcuts': shortcuts.shortcut_baselines(by_split['train'], by_split['test']),
        'files': files,
    }


def _write_jsonl(
    directory: pathlib.Path, by_split: Mapping[str, Sequence[Record]]
) -> dict[str, int]:
    """Writes a file per split; returns records by file."""
    for split, records in by_split.items():
        write_jsonl(directory / f'{split}.jsonl', records)
    return {f'{split}.jsonl': len(records) for split, records in by_split.items()}


def _write_tfds(directory: pathlib.Path, loaded: Sequence[sources_lib.Loaded]) -> dict[str, int]:
    """Writes a data set of TensorFlow Datasets; returns records by file."""
    from bsft_jax.data import tfds_builder

    scheme = loaded[0][0].partition(':')[0]
    config = scheme if len(loaded) == 1 and scheme in ('synthetic', 'open') else 'jsonl'
    records = [record for _, part, _ in loaded for record in part]
    return tfds_builder.write_tfds(directory, config, records)


def _check_replaceable(folder: pathlib.Path) -> None:
    """Raises UserError unless the folder is absent, empty, or holds only what `prepare` writes."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError('is not a folder', where=str(folder), fix='name another --output')
    names = {path.name for path in folder.iterdir()}
    known = {*FILES, TFDS_FOLDER, *task_files.files_of_task(names)}
    if names and not (CARD in names and names <= known):
        raise UserError(
            'contains files that are not part of a data set',
            where=str(folder),
            fix='name another --output',
        )


def _check_together(loaded: Sequence[sources_lib.Loaded]) -> None:
    """Raises UserError for an id that occurs twice and for a case or pair in two splits."""
    source_of: dict[str, str] = {}
    split_of: dict[tuple[str, str], str] = {}
    for source, records, _ in loaded:
        if not records:
            raise UserError('no records', where=source)
        for record in records:
            if record.split not in SPLITS:
                raise UserError(f'{describe_record(record)} has no split', where=source)
            if record.id in source_of:
                raise UserError(
                    f'record id {record.id!r} is also in {source_of[record.id]}', where=source
                )
            if record.id:
                source_of[record.id] = source
            for kind, name in (('case', record.case_id), ('pair', record.pair_id)):
                first = split_of.setdefault((kind, name), record.split) if name else record.split
                if first != record.split:
                    raise UserError(
                        f'{kind} {name!r} is in {first} and in {record.split}', where=source
                    )


def _count_behaviors(records: Sequence[Record]) -> dict[str, dict[str, dict[str, int]]]:
    """Returns records per split, category and behavior; `none` where a record names none."""
    counts: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    for record in records:
        in_category = counts[record.split].setdefault(record.category or 'none', {})
        behavior = behavior_of(record) or 'none'
        in_category[behavior] = in_category.get(behavior, 0) + 1
    return counts


def _count_names(names: Iterable[str]) -> dict[str, int]:
    """Returns how often each name occurs, the most frequent first, without empty names."""
    return dict(collections.Counter(filter(None, names)).most_common())


def format_names(card: Mapping[str, Any]) -> list[str]:
    """Returns lines with the behaviors and groups of a card, in which a misspelt one is seen."""
    lines = [f'behaviors: {behavior_totals(card["counts"])}']
    for title, key in (('behaviors of options', 'option_behaviors'), ('groups', 'groups')):
        if card[key]:
            lines.append(f'{title}: {", ".join(f"{n} {name}" for name, n in card[key].items())}')
    return lines


def behavior_totals(counts: dict[str, dict[str, dict[str, int]]]) -> str:
    """Formats how many records name each behavior, most frequent first: a misspelt one is last."""
    totals = collections.Counter()
    for in_category in itertools.chain.from_iterable(map(dict.values, counts.values())):
        totals.update(in_category)
    return ', '.join(
        f'{count} {"without" if name == "none" else name}' for name, count in totals.most_common()
    )


def format_left_out(card: Mapping[str, Any]) -> list[str]:
    """Returns a line for each source of which rows were left out: how many, and why."""
    lines = []
    for source in card['sources']:
        reasons = [
            f'{entry["rows"]} ({": ".join([entry["reason"], *entry.get("errors", [])[:1]])})'
            for entry in source['notes'].get('left_out', [])
        ]
        lines += [f'left out of {source["source"]}: {", ".join(reasons)}'] if reasons else []
    return lines


def _num_characters(record: Record) -> int:
    parts = (*(m.content for m in record.messages), *record.options, record.rationale, record.text)
    return sum(map(len, parts))


def _length_stats(values: Sequence[int]) -> dict[str, float]:
    return {'min': min(values), 'median': statistics.median(values), 'max': max(values)}


@dataclasses.dataclass(frozen=True)
class InspectOptions:
    """Describes how `--inspect` shows records.

    Attributes:
      count: records to show.
      base: model whose tokenizer and chat template render them.
      answer_format: how options are named, `letter` or `text`.
      chat_template: Jinja file for a base without a template.
      behaviors: the behaviors; None for the default ones and all that the records name.
      colour: marks token kinds by terminal colours.
      tokenizer: a folder whose tokenizer replaces that of `base`.
    """

    count: int
    base: str = 'tiny-clinical'
    answer_format: str = 'letter'
    chat_template: str = ''
    behaviors: tuple[Behavior, ...] | None = None
    colour: bool = False
    tokenizer: str = ''


def inspect_records(records: Sequence[Record], options: InspectOptions) -> list[str]:
    """Returns the first records as text, each with its tokens and loss weights.

    Behavior tokens are shown if any of the records has a behavior. Raises UserError for records
    that cannot be trained on.
    """
    # Imports jax, which preparing records does not need.
    from bsft_jax.hub import adapters, configs, pretrained
    from bsft_jax.hub import files as hub_files

    directory, adapter = adapters.locate(options.base)
    own = adapters.own_tokenizer(adapter)
    own = pathlib.Path(options.tokenizer).expanduser() if options.tokenizer else own
    tokenizer = pretrained.read_tokenizer(directory, own, options.chat_template)
    config = hub_files.read_config(directory)
    named = {name for record in records for name in checks.named_behaviors(record)}
    behaviors = options.behaviors or _known_behaviors(named)
    prefix_kind = 'tokens' if named else 'none'
    extended = extend_tokenizer(
        tokenizer, behaviors, prefix_kind, config.get('vocab_size'), configs.used_ids(config)
    )
    renderer = rendering.Renderer(tokenizer, extended, answer_format=options.answer_format)
    checks.check_records(records, renderer, behaviors)
    shown = records[: options.count]
    prefix_ids = frozenset(extended.ids)
    return [
        f'{printable(format_record(record))}\n\n'
        f'{inspection.format_example(example, tokenizer, prefix_ids, options.colour)}\n'
        for record, example in zip(shown, renderer.examples(shown), strict=True)
    ]


def _known_behaviors(named: set[str]) -> tuple[Behavior, ...]:
    """Returns the default behaviors and the others of `named`, whose level does not matter here."""
    default_names = {behavior.name for behavior in DEFAULT_BEHAVIORS}
    others = sorted(named - default_names)
    return (*DEFAULT_BEHAVIORS, *(Behavior(name, 0.0, name) for name in others))


def format_record(record: Record) -> str:
    """Formats a record as plain text, the right option marked with `*`."""
    level = f'difficulty {record.difficulty}' if record.difficulty else ''
    title = [record.id, record.category, record.behavior, level, record.source]
    lines = [f'--- {" | ".join(part for part in title if part)}']
    lines += [f'[{message.name or message.role}] {message.content}' for message in record.messages]
    lines += [record.text] if record.text else []
    for i, option in enumerate(record.options):
        behavior = f'  ({record.option_behaviors[i]})' if record.option_behaviors else ''
        mark = '*' if i == record.answer else ' '
        lines.append(f'{mark} {chr(ord("A") + i)}. {option}{behavior}')
    lines += [f'Rationale: {record.rationale}'] if record.rationale else []
    return '\n'.join(lines)
