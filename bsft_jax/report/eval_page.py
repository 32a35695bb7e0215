"""Makes the page of one evaluation or of several: report.html, one self-contained file."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bsft_jax import files
from bsft_jax.records import taxonomy
from bsft_jax.report import (
    calibration,
    cases,
    columns,
    confusion,
    coverage,
    dial,
    html,
    provenance,
    results,
    table,
    terms,
    training,
)
from bsft_jax.report.evaluated import Evaluated

PAGE = 'report.html'
SCRIPTS = ('page.js', 'dial.js', 'reader.js')


def write_page(
    path: pathlib.Path,
    title: str,
    evaluations: Sequence[Evaluated],
    *,
    study: Sequence[str] = (),
    comparisons: str = '',
) -> None:
    """Writes the page of evaluations.

    Args:
      path: the file.
      title: plain text.
      evaluations: at least one.
      study: parts of a study's page as HTML, in place of the results of single evaluations.
      comparisons: a section as HTML.
    """
    records, shown = cases.reader_data(evaluations)
    dials = [dial.dial_points(evaluated) for evaluated in evaluations]
    data = {
        'records': records,
        'evaluations': [{**s, 'dial': d} for s, d in zip(shown, dials, strict=True)],
        'flags': {name: list(words) for name, words in cases.FLAGS.items()},
    }
    coverages = coverage.coverage_section(evaluations)
    confusions = confusion.confusion_section(evaluations)
    results_of_each = [
        *map(_outcome, itertools.count(), evaluations, dials),
        _contents(bool(coverages), bool(confusions)),
        _results(evaluations),
        comparisons,
    ]
    by_category = [_categories(evaluations), _difficulties(evaluations), _training(evaluations)]
    parts = [
        *_warnings(evaluations, records),
        *(study or results_of_each),
        dial.dial_section(evaluations, dials),
        calibration.calibration_section(evaluations),
        coverages,
        confusions,
        *([] if study else by_category),
        _reader(evaluations, records),
        provenance.provenance_section(evaluations),
        _glossary(),
    ]
    files.write_text(path, html.document(title, parts, scripts=SCRIPTS, data=data))


def _warnings(evaluations: Sequence[Evaluated], records: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = table.contamination_lines([(e.name, e.metrics) for e in evaluations])
    if with_words := sum('turns' in record for record in records):
        lines.append(
            f'This page holds the words of {with_words:,} records: pass it on as you would the '
            'records themselves.'
        )
    return [f'<p class="warning">{escape(line)}</p>' for line in lines]


def _outcome(number: int, evaluated: Evaluated, dialled: Mapping[str, Any] | None) -> str:
    """Returns the answer in a few sentences."""
    metrics = evaluated.metrics
    overall, rates = metrics['overall'], metrics.get('intervention') or {}
    interval = overall.get('macro_f1_interval')
    ends = f' (95 % interval {interval[0]:.3f} to {interval[1]:.3f})' if interval else ''
    text = (
        f'{evaluated.name} answers {overall["n"]:,} records of {overall["cases"]:,} cases with a '
        f'macro-F1 of {overall["macro_f1"]:.3f}{ends}'
    )
    over, missed = rates.get('over_intervention_rate'), rates.get('missed_intervention_rate')
    if over is not None and missed is not None:
        text += (
            f': it steps in uninvited on {html.percent(over)} of the records where it should not, '
            f'and misses {html.percent(missed)} of those where something was due'
        )
    answer = f'<p class="outcome">{escape(text)}.</p>'
    if dialled is None:
        return answer
    links = ', '.join(
        f'<a href="#reader" data-evaluation="{number}" data-flag="{flag}">{shown}</a>'
        for flag, shown in (
            ('missed_5', 'Cases it would then miss'),
            ('uninvited_5', 'cases where it would step in uninvited'),
        )
    )
    within = _within(dialled, metrics['stepping_in']['source'] == 'options')
    return f'{answer}<p class="outcome">{within} {links}.</p>'


def _within(dialled: Mapping[str, Any], of_options: bool) -> str:
    """Returns a sentence on the best setting of the dial within a rate of uninvited alerts.

    Args:
      dialled: what `dial.dial_points` returns.
      of_options: whether the dial turns options, which no policy does.
    """
    most = f'{100 * dial.MOST_UNINVITED:g} %'
    best = dial.setting_within(dialled['points'])
    if best is None:
        return f'No setting of its dial holds it to {most} uninvited.'
    note = ' (this dial turns the options, to compare with: no policy does that)'
    return (
        f'Held to {most} uninvited, at its best with the dial at {dial.position(best)}'
        f'{note if of_options else ""}, it would '
        f'step in uninvited on {html.percent(best["over"])} ({best["overs"]:,} of '
        f'{dialled["can_be_over"]:,}) and miss {html.percent(best["missed"])} '
        f'({best["misses"]:,} of {dialled["can_be_missed"]:,}) of these records; on others both '
        'rates will differ.'
    )


def _contents(has_coverage: bool, has_confusion: bool) -> str:
    items = {
        'results': 'Results',
        'dial': 'Dial',
        'calibration': 'Calibration',
        **({'coverage': 'Unsure answers'} if has_coverage else {}),
        **({'confusion': 'Due and done'} if has_confusion else {}),
        'categories': 'Categories',
        'reader': 'Cases',
        'provenance': 'Data and versions',
        'gaps': 'Not measured',
        'terms': 'Terms',
    }
    links = ''.join(f'<li><a href="#{name}">{text}</a></li>' for name, text in items.items())
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def _results(evaluations: Sequence[Evaluated]) -> str:
    if len(evaluations) > 1:
        rows = [results.row_of_metrics(e.name, e.metrics) for e in evaluations]
        colours = {e.name: n for n, e in enumerate(evaluations)}
        return (
            f'<section id="results">{results.results(rows)}{results.bars(rows, colours)}</section>'
        )
    metrics = evaluations[0].metrics
    body = [_scores('overall', metrics['overall'], kind='total')]
    body += [_scores(name, values) for name, values in metrics['groups'].items()]
    measures = [
        html.row(
            [
                f'<td class="name">{terms.term(c.header)}</td>',
                html.cell(c.meaning, 'name'),
                html.cell(html.number(value)),
            ]
        )
        for c in (*columns.COLUMNS, *_SELECTIVE)
        if (value := c.value(metrics)) is not None
    ]
    return html.section(
        'results',
        'Results by group',
        '<div class="side"><div>',
        html.table('results', _SCORES, body, name_columns=1),
        '</div><div>',
        html.table('measures', ['measure', 'meaning', 'value'], measures, name_columns=2),
        '</div></div>',
    )


# Where a model may abstain, beside the columns of every table.
_SELECTIVE = (
    columns.Column(
        key='aurc',
        header='aurc',
        meaning='share of wrong answers among the surest, averaged over how many are kept',
        section='selective',
        metric='aurc',
    ),
    *(
        columns.Column(
            key=f'surest_{percent}',
            header=f'surest {percent} %',
            meaning=f'macro-F1 of the surest {percent} % of the records',
            section='selective',
            metric=f'macro_f1_at_{percent}_percent',
        )
        for percent in (80, 90, 95)
    ),
)
_SCORES = ('group', 'macro-F1', '95 %', 'accuracy', 'n', 'cases')


def _scores(name: str, values: Mapping[str, Any], *more: str, kind: str = '') -> str:
    """Returns a row of a table with the headers _SCORES; more cells follow the name."""
    interval = values.get('macro_f1_interval')
    return html.row(
        [
            f'<td class="name">{terms.term(name)}</td>',
            *(html.cell(text, 'name') for text in more),
            html.cell(html.number(values['macro_f1'])),
            html.cell('–'.join(map(html.number, interval)) if interval else '–'),
            html.cell(html.number(values['accuracy'])),
            html.cell(f'{values["n"]:,}'),
            html.cell(f'{values["cases"]:,}'),
        ],
        kind,
    )


def _categories(evaluations: Sequence[Evaluated]) -> str:
    if len(evaluations) > 1:
        rows = [results.row_of_metrics(e.name, e.metrics) for e in evaluations]
        return f'<section id="categories">{results.categories(rows)}</section>'
    values = evaluations[0].metrics['categories']
    names = [name for name in taxonomy.CATEGORIES if name in values]
    names += [name for name in values if name not in taxonomy.CATEGORIES]
    body = []
    for name in names:
        group = taxonomy.CATEGORIES[name].group if name in taxonomy.CATEGORIES else '–'
        body.append(_scores(name or '–', values[name], group))
    return html.section(
        'categories',
        'By category',
        html.table('categories', ['category', *_SCORES], body, name_columns=2),
    )


def _difficulties(evaluations: Sequence[Evaluated]) -> str:
    rows = [
        (evaluated.name, level, own)
        for evaluated in evaluations
        for level, own in evaluated.metrics.get('difficulties', {}).items()
    ]
    if not rows:
        return ''
    groups = taxonomy.ordered_groups(group for *_, own in rows for group in own['groups'])
    body = []
    for name, level, own in rows:
        cells = [html.cell(name, 'name'), html.cell(level), html.cell(f'{own["overall"]["n"]:,}')]
        shown = results.row_of_metrics(name, {**own, 'policy': '', 'prompt': ''})
        cells.append(html.estimate_cell(shown['overall']))
        cells += [html.estimate_cell(shown['groups'].get(group)) for group in groups]
        cells += [html.cell(html.number(shown[column.key])) for column in columns.COLUMNS]
        body.append(html.row(cells))
    header = ['evaluation', 'difficulty', 'n', 'overall', *groups, *columns.headers()]
    return html.section(
        'difficulties',
        'By difficulty',
        html.table('difficulties', header, body, name_columns=1, kind='rows'),
    )


def _training(evaluations: Sequence[Evaluated]) -> str:
    runs = {e.workdir: e.name for e in evaluations if e.workdir is not None}
    runs = {path: name for path, name in runs.items() if (path / 'metrics.jsonl').is_file()}
    if not runs:
        return ''
    colours = {name: n for n, name in enumerate(runs.values())}
    curves = training.curves([(name, path) for path, name in runs.items()], colours)
    return f'<section id="training">{curves}</section>'


def _reader(evaluations: Sequence[Evaluated], records: Sequence[Mapping[str, Any]]) -> str:
    missing = sum('turns' not in record for record in records)
    notes = ''
    if missing == len(records):
        notes = (
            '<p class="soft">The words of the records are not in this page. '
            f'<code>python -m bsft_jax.report {escape(str(evaluations[0].directory))} '
            '--output=FILE</code> adds them where the data set is at hand.</p>'
        )
    elif missing:
        notes = (
            f'<p class="soft">{missing:,} records are without their words, which were not found '
            'or would make the page too large.</p>'
        )
    return html.section(
        'reader',
        'Cases',
        '<p>Worst first: wrong answers, of these the surest. Open one to see what the model would '
        'answer after each behavior, and its twin with the differing words marked.</p>',
        notes,
        '<noscript><p>The reader of cases needs JavaScript.</p></noscript><div id="cases"></div>',
    )


def _glossary() -> str:
    items = ''.join(
        f'<dt>{escape(name)}</dt><dd>{escape(meaning)}.</dd>'
        for name, meaning in sorted(terms.meanings().items(), key=lambda item: item[0].casefold())
    )
    return html.section('terms', 'Terms', f'<dl class="facts">{items}</dl>')
