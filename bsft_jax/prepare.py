"""Makes a data set: `python -m bsft_jax.prepare --source=open:DIR --output=DIR`."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from bsft_jax import cli
from bsft_jax.behaviorbench import mapping as mapping_lib
from bsft_jax.behaviorbench import shortcuts, splits
from bsft_jax.behaviorbench import sources as sources_lib
from bsft_jax.behaviorbench.records import SPLITS, Record, behavior_of, label_of, write_jsonl
from bsft_jax.data import inspection
from bsft_jax.errors import UserError

_SOURCE = flags.DEFINE_multi_string(
    'source',
    None,
    'synthetic:CASES[:SEED], open:DIR, medec:DIR (mediq:, aci_bench:, mts_dialog:, pubmedqa:), jsonl:PATH, csv:FILE, '
    'hf:PATH_OR_HUB_ID[:CONFIG] or tfds:behavior_bench/CONFIG; may be repeated.',
    required=True,
)
_MAP = flags.DEFINE_string(
    'map', None, 'JSON file that says which columns of jsonl:, csv: and hf: sources are which fields.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder of the data set.', required=True)
_FORMAT = flags.DEFINE_enum('format', 'jsonl', ['jsonl', 'tfds'], 'JSON lines, or array_record for tfds:.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the splits and of what adapters choose.')
_INSPECT = flags.DEFINE_integer(
    'inspect', 0, 'Print this many training records, and how --base renders them.', lower_bound=0
)
_BASE = flags.DEFINE_string('base', 'tiny-clinical', 'Model whose tokenizer and template --inspect shows.')
_ANSWER_FORMAT = flags.DEFINE_enum(
    'answer_format',
    'letter',
    ['letter', 'text'],
    'How --inspect names an option, as in --config.data.answer_format.',
)
_TEMPLATE = flags.DEFINE_string('chat_template', '', 'Template for a --base that has none.')

CARD = 'card.json'
FILES = (*(f'{split}.jsonl' for split in SPLITS), CARD)
TFDS = 'behavior_bench'  # folder of --format=tfds


def prepare(
    sources: Sequence[str],
    output: str | pathlib.Path,
    seed: int = 0,
    mapping: mapping_lib.Mapping | None = None,
    stored: str = 'jsonl',
    look: Callable[[Sequence[Record]], None] | None = None,
) -> dict[str, Any]:
    """Writes `train.jsonl`, `validation.jsonl`, `test.jsonl` and `card.json`, all or nothing.

    Stored as `tfds` the records are in `behavior_bench/CONFIG/VERSION` instead, CONFIG being the scheme of a single
    source `synthetic:` or `open:`, else `jsonl`.

    Args:
      sources: what `sources.load_raw` takes; no two records may have the same id, no case or pair be in two splits.
      output: the folder; an earlier data set there is replaced, anything else is refused.
      seed: of the splits and of what adapters choose.
      mapping: makes records of the rows of every source.
      look: is shown the training records before an earlier data set is replaced; what it raises prevents that.

    Returns the card. Raises UserError for a source, a record or a folder that does not fit.
    """
    output = pathlib.Path(os.path.realpath(output))
    partial, old = (output.with_name(output.name + end) for end in ('.partial', '.old'))
    _check_replaceable(output, [CARD])
    _check_replaceable(partial, [])
    _check_replaceable(old, [CARD])
    loaded = [(source, *sources_lib.load_raw(source, seed, mapping)) for source in sources]
    records = [record for _, rows, _ in loaded for record in rows]
    _check_together(loaded)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        of_split = {split: [record for record in records if record.split == split] for split in SPLITS}
        written = _as_tfds(partial, sources, records) if stored == 'tfds' else _as_jsonl(partial, of_split)
        files = {
            name: {'records': count, 'sha256': hashlib.sha256((partial / name).read_bytes()).hexdigest()}
            for name, count in written.items()
        }
        card = {
            'seed': seed,
            'sources': [
                {'source': source, 'records': len(rows), 'notes': notes} for source, rows, notes in loaded
            ],
            'licenses': sorted({record.license for record in records if record.license}),
            'counts': _counts(records),
            'characters_per_record': _spread([_characters(record) for record in records]),
            'leakage': splits.leakage(
                [record for s, rows, _ in loaded for record in rows if not _generated(s)]
            ),
            'shortcuts': shortcuts.shortcut_baselines(of_split['train'], of_split['test']),
            'files': files,
        }
        (partial / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
        if look is not None:
            look(of_split['train'])
        _swap(partial, output, old)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f'cannot be written ({error.strerror})', where=str(output)) from error
        raise
    return card


def _swap(new: pathlib.Path, output: pathlib.Path, old: pathlib.Path) -> None:
    """Puts a folder in the place of another, which goes by the name `old` meanwhile and comes back if that fails."""
    if output.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(output, old)
    try:
        os.replace(new, output)
    except BaseException:
        if old.exists():
            os.replace(old, output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _generated(source: str) -> bool:
    return source.partition(':')[0] in sources_lib.GENERATED


def _as_jsonl(directory: pathlib.Path, of_split: Mapping[str, Sequence[Record]]) -> dict[str, int]:
    """Files and how many records each has."""
    for split, rows in of_split.items():
        write_jsonl(directory / f'{split}.jsonl', rows)
    return {f'{split}.jsonl': len(rows) for split, rows in of_split.items()}


def _as_tfds(directory: pathlib.Path, sources: Sequence[str], records: Sequence[Record]) -> dict[str, int]:
    """Files and how many records each has."""
    from bsft_jax.behaviorbench import tfds_builder

    scheme = sources[0].partition(':')[0]
    config = scheme if len(sources) == 1 and scheme in ('synthetic', 'open') else 'jsonl'
    return tfds_builder.write(directory, config, records)


def describe(record: Record) -> str:
    """A record as plain text, the right option marked with `*`."""
    head = [record.id, record.category, record.behavior, record.source]
    lines = [f'--- {" | ".join(part for part in head if part)}']
    lines += [f'[{message.name or message.role}] {message.content}' for message in record.messages]
    lines += [record.text] if record.text else []
    for i, option in enumerate(record.options):
        behavior = f'  ({record.option_behaviors[i]})' if record.option_behaviors else ''
        lines.append(f'{"*" if i == record.answer else " "} {chr(ord("A") + i)}. {option}{behavior}')
    lines += [f'Rationale: {record.rationale}'] if record.rationale else []
    return '\n'.join(lines)


def render(
    records: Sequence[Record], shown: int, base: str, answer_format: str, chat_template: str, colour: bool
) -> list[str]:
    """What training sees of the first so many records, with the tokenizer of `base`.

    It has the behavior tokens if any of the records has a behavior.
    """
    from bsft_jax.behaviors import DEFAULT_BEHAVIORS, extend_tokenizer
    from bsft_jax.data import checks, rendering
    from bsft_jax.data.tokenizer import load_tokenizer
    from bsft_jax.hub import files

    directory = files.resolve_directory(base)
    tokenizer = load_tokenizer(directory, chat_template)
    rows = files.read_config(directory).get('vocab_size')
    labelled = any(record.behavior or any(m.behavior for m in record.messages) for record in records)
    form = 'tokens' if labelled else 'none'
    behaviors = extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS, form, rows)
    renderer = rendering.Renderer(tokenizer, behaviors, answer_format=answer_format)
    checks.check_records(records, renderer, DEFAULT_BEHAVIORS)
    ids = frozenset(behaviors.ids)
    return [inspection.describe(e, tokenizer, ids, colour) for e in renderer.examples(records[:shown])]


def _check_replaceable(folder: pathlib.Path, must_hold: Sequence[str]) -> None:
    """Raises UserError unless the folder is absent, empty, or holds only what `prepare` writes."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError('is not a folder', where=str(folder), fix='name another --output')
    held = {path.name for path in folder.iterdir()}
    if held and not set(must_hold) <= held <= {*FILES, TFDS, *(f'{name}.partial' for name in FILES)}:
        raise UserError(
            'holds something else than a data set', where=str(folder), fix='name another --output'
        )


def _check_together(loaded: Sequence[tuple[str, list[Record], dict[str, Any]]]) -> None:
    """Raises UserError for an id that is there twice and for a case in two splits."""
    source_of: dict[str, str] = {}
    split_of: dict[tuple[str, str], str] = {}
    for source, rows, _ in loaded:
        if not rows:
            raise UserError('no records', where=source)
        for record in rows:
            if record.split not in SPLITS:
                raise UserError(f'{label_of(record)} has no split', where=source)
            if record.id in source_of:
                raise UserError(f'record id {record.id!r} is also in {source_of[record.id]}', where=source)
            if record.id:
                source_of[record.id] = source
            for kind, name in (('case', record.case_id), ('pair', record.pair_id)):
                if name and (other := split_of.setdefault((kind, name), record.split)) != record.split:
                    raise UserError(f'{kind} {name!r} is in {other} and in {record.split}', where=source)


def _counts(records: Sequence[Record]) -> dict[str, dict[str, dict[str, int]]]:
    """Records per split, category and behavior; `none` where a record names none."""
    counts: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    for record in records:
        of_category = counts[record.split].setdefault(record.category or 'none', {})
        behavior = behavior_of(record) or 'none'
        of_category[behavior] = of_category.get(behavior, 0) + 1
    return counts


def _behaviors_of(counts: dict[str, dict[str, dict[str, int]]]) -> str:
    """How many records name which behavior, the most frequent first: a misspelt one is last."""
    total = collections.Counter()
    for of_category in itertools.chain.from_iterable(map(dict.values, counts.values())):
        total.update(of_category)
    return ', '.join(
        f'{count} {"without" if name == "none" else name}' for name, count in total.most_common()
    )


def _characters(record: Record) -> int:
    parts = (*(m.content for m in record.messages), *record.options, record.rationale, record.text)
    return sum(map(len, parts))


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {'min': min(values), 'median': statistics.median(values), 'max': max(values)}


def main(argv: Sequence[str]) -> None:
    del argv
    mapping = mapping_lib.read(_MAP.value) if _MAP.value is not None else None
    colour, shown = sys.stdout.isatty(), []

    def look(train: Sequence[Record]) -> None:
        if count := min(_INSPECT.value, len(train)):
            rendered = render(train, count, _BASE.value, _ANSWER_FORMAT.value, _TEMPLATE.value, colour)
            shown.extend(zip(map(describe, train[:count]), rendered, strict=True))

    card = prepare(_SOURCE.value, _OUTPUT.value, _SEED.value, mapping, _FORMAT.value, look)
    for name, file in card['files'].items():
        print(f'{os.path.join(_OUTPUT.value, name)}: {file["records"]} records')
    print(f'behaviors: {_behaviors_of(card["counts"])}')
    print(shortcuts.table(card['shortcuts']))
    if pairs := card['leakage']['pairs']:
        first, second = card['leakage']['examples'][0]
        print(f'warning: {pairs} pairs of cases in different splits are nearly the same: {first}, {second}')
    if shown:
        print(f'\n{inspection.legend(colour)}')
    for described, rendered in shown:
        print(f'{described}\n\n{rendered}\n')


if __name__ == '__main__':
    cli.run(main)
