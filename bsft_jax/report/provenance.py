"""Says where the figures of a page come from, and what they do not tell."""

from __future__ import annotations

import collections
import hashlib
import pathlib
from collections.abc import Sequence
from html import escape
from typing import Any

from bsft_jax import files
from bsft_jax.records import taxonomy
from bsft_jax.report import html
from bsft_jax.report.evaluated import Evaluated

# Settings of metrics.json, as a reader calls them; those that are empty are not shown.
_SETTINGS = {
    'model': 'model',
    'endpoint': 'asked at',
    'ask_for_letter': 'asked for a letter',
    'unparsed': 'share of answers that name no option',
    'step': 'checkpoint',
    'data': 'data',
    'split': 'split',
    'subset': 'subset',
    'limit': 'at most records',
    'left_out': 'left out, too long',
    'policy': 'policy',
    'prompt': 'prompt',
    'examples': 'examples of the prompt',
    'answer_format': 'options named by',
    'chat_template': 'chat template',
    'tokenizer': 'tokenizer',
    'rescored': 'predictions of',
}
_HASHED = ('predictions.jsonl', 'metrics.json')


def provenance_section(evaluations: Sequence[Evaluated]) -> str:
    """Returns the section with data card, hashes, versions and what was not measured."""
    parts = []
    for evaluated in evaluations:
        title = f'<h3>{escape(evaluated.name)}</h3>' if len(evaluations) > 1 else ''
        items = ''.join(
            f'<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>'
            for name, value in facts(evaluated)
        )
        parts.append(f'{title}<dl class="facts">{items}</dl>')
    gaps = dict.fromkeys(gap for evaluated in evaluations for gap in not_measured(evaluated))
    return html.section(
        'provenance',
        'Data, model and versions',
        *parts,
        _data_card(evaluations[0]),
    ) + html.section(
        'gaps',
        'What was not measured',
        '<ul>' + ''.join(f'<li>{escape(gap)}</li>' for gap in gaps) + '</ul>',
    )


def facts(evaluated: Evaluated) -> list[tuple[str, Any]]:
    """Returns (name, value) pairs: settings, hashes, versions, and the data set's own card."""
    metrics = evaluated.metrics
    found = [
        (shown, metrics[key])
        for key, shown in _SETTINGS.items()
        if metrics.get(key) not in ('', 0, None)
    ]
    if (overlap := metrics.get('trained_on')) is None:
        found.append(('trained on before', 'not known: the model has no list of its records'))
    else:
        found.append(('trained on before', f'{overlap["records"]} of the scored records'))
    for name in _HASHED:
        path = evaluated.directory / name
        if path.is_file():
            found.append((f'SHA-256 of {name}', hashlib.sha256(path.read_bytes()).hexdigest()))
    return [*found, *_run_facts(evaluated.workdir), *_card_facts(str(metrics.get('data') or ''))]


def _run_facts(workdir: pathlib.Path | None) -> list[tuple[str, Any]]:
    if workdir is None:
        return []
    environment = _read_object(workdir / 'environment.json')
    run = _read_object(workdir / 'run.json')
    config = _read_object(workdir / 'config.json')
    packages = environment.get('packages')
    versions = packages if isinstance(packages, dict) else {}
    found = [
        ('arm', config.get('arm')),
        ('base', (config.get('model') or {}).get('base')),
        ('versions in training', ', '.join(f'{k} {v}' for k, v in versions.items())),
        ('python', environment.get('python')),
        ('devices', ', '.join(map(str, environment.get('devices') or ()))),
        ('git revision', environment.get('git_revision')),
        ('digest of the tokenizer', run.get('tokenizer')),
        ('digest of the chat template', run.get('chat_template')),
    ]
    return [(name, value) for name, value in found if value]


def _card_facts(source: str) -> list[tuple[str, Any]]:
    """Returns what the card of a prepared data set says: licences and digests."""
    scheme, _, path = source.partition(':')
    card = _read_object(pathlib.Path(path) / 'card.json') if scheme == 'jsonl' else {}
    if not card:
        return []
    found = [
        ('sources of the data set', ', '.join(entry['source'] for entry in card['sources'])),
        ('licences of the data set', ', '.join(card['licenses']) or 'not named'),
    ]
    return found + [(f'SHA-256 of {name}', file['sha256']) for name, file in card['files'].items()]


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of a JSON file, {} where there is no such file or it holds another."""
    content = files.read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _data_card(evaluated: Evaluated) -> str:
    rows = evaluated.scored
    counts = collections.Counter(
        (row.get('group') or '', row.get('category') or '', row.get('behavior') or '')
        for row in rows
    )
    groups = taxonomy.ordered_groups(group for group, *_ in counts)
    body = [
        html.row([*(html.cell(name or '–', 'name') for name in key), html.cell(f'{counts[key]:,}')])
        for key in sorted(counts, key=lambda key: (groups.index(key[0]), *key))
    ]
    return '<h3>Scored records</h3>' + html.table(
        'scored records', ['group', 'category', 'label', 'n'], body, name_columns=3
    )


def not_measured(evaluated: Evaluated) -> list[str]:
    """Returns sentences on what the figures of an evaluation do not tell."""
    metrics, rows = evaluated.metrics, evaluated.scored
    intervention = metrics.get('intervention') or {}
    gaps = [
        'Whether the model helps a clinician: it chose among given options. Answers in words, time '
        'and harm were not looked at.',
        'How much another training would differ: intervals speak of other cases, not of another '
        'seed.',
    ]
    if str(metrics.get('data', '')).startswith('synthetic'):
        gaps.append('Real notes: the records were made by a simulator.')
    if metrics.get('trained_on') is None:
        gaps.append('Whether the model has seen these records in training: that is not known.')
    if intervention.get('over_intervention_rate') is None:
        gaps.append('Uninvited interventions: no record says what its options stand for.')
    if intervention.get('missed_intervention_rate') is None:
        gaps.append(
            'Missed interventions: no record in which one is due says what options stand for.'
        )
    if not intervention.get('pairs'):
        gaps.append('Twins: there are none.')
    if metrics.get('selection') is None:
        gaps.append(
            'The choice of behavior: the model has no behavior tokens, or records no label.'
        )
    if metrics['overall'].get('macro_f1_interval') is None:
        gaps.append('Intervals: all records are of one case.')
    if unlabelled := sum(not row.get('behavior') for row in rows):
        gaps.append(f'Interventions on {unlabelled} records without a label.')
    answers = metrics.get('answers') or {}
    if unsure := answers.get('text', 0) + answers.get('unparsed', 0):
        gaps.append(
            f'How sure the model was of {unsure} answers: the server gave no probabilities, and '
            'they count as certain.'
        )
    if left_out := len(evaluated.predictions) - len(rows):
        gaps.append(f'{left_out} records without options or an answer.')
    return gaps
