"""Writes the results of a review as one self-contained page."""

from __future__ import annotations

import html
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bsft_jax.review_kit import page, wording

_TITLE = 'Results of a blind review'
_NONE = '–'
_SCALE_TITLES = {scale.name: scale.title for scale in wording.SCALES}


def outcome(entry: Mapping[str, Any]) -> str:
    """Returns the win rate of a pair of systems as a sentence."""
    rate, first, second = entry['ties_half'], entry['first'], entry['second']
    if rate['value'] is None:
        return f'{first} and {second} were not compared.'
    interval = ''
    if rate['wilson']:
        interval = f', 95 % interval {_percent(rate["wilson"][0])} to {_percent(rate["wilson"][1])}'
    return (
        f'Raters preferred {first} to {second} in {_percent(rate["value"])} of {rate["items"]} '
        f'comparisons of {rate["cases"]} cases (ties as half{interval}): {_verdict(rate, entry)}.'
    )


def _verdict(rate: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Returns in words what the interval says."""
    low, high = rate['wilson'] or (0.0, 1.0)
    if low > 0.5:
        return f'{entry["first"]} is preferred'
    if high < 0.5:
        return f'{entry["second"]} is preferred'
    return 'no preference is shown'


def render_results(found: Mapping[str, Any]) -> str:
    """Returns the HTML of `review.json`."""
    parts = [
        *(_paragraph(outcome(entry), 'outcome') for entry in found['win_rates']),
        *(_paragraph(f'Warning: {text}.', 'warning') for text in found['warnings']),
        _paragraph(
            f'{found["comparisons"]} comparisons of {found["cases"]} cases, '
            f'{found["judgements"]} judgements by {len(found["raters"])} raters; '
            f'study {found["study"]}.'
        ),
        _systems(found['systems']),
        _win_rates(found['win_rates']),
        *([_bradley_terry(found['bradley_terry'])] if found['bradley_terry'] else []),
        _scales(found['scales'], list(found['systems'])),
        _by('group', found['groups']),
        _by('category', found['categories']),
        _biases(found),
        _agreement(found['agreement']),
        _consistency(found['own_consistency']),
        _raters(found['raters']),
        _comments(found['comments']),
    ]
    style = page.asset('base.css') + page.asset('results.css')
    return string.Template(page.asset('results.html')).substitute(
        policy=html.escape(page.content_policy(style=style)),
        title=html.escape(_TITLE),
        style=style,
        body='\n'.join(parts),
    )


def _percent(value: float) -> str:
    return f'{100 * value:.0f} %'


def _share(rate: Mapping[str, Any], interval: str = 'wilson') -> str:
    """Returns a share with its interval below it."""
    if rate['value'] is None:
        return _cell(_NONE)
    ends = rate[interval]
    below = f'{_percent(ends[0])} to {_percent(ends[1])}' if ends else ''
    return _cell(_percent(rate['value']), below=below)


def _number(value: float | None, interval: Sequence[float] | None = None) -> str:
    """Returns a number with its interval below it."""
    if value is None:
        return _cell(_NONE)
    below = ' to '.join(map(_decimals, interval)) if interval else ''
    return _cell(_decimals(value), below=below)


def _decimals(value: float) -> str:
    # Python writes -0.00 for a small negative number.
    return f'{value:.2f}'.replace('-0.00', '0.00')


def _cell(text: Any, kind: str = 'number', below: str = '') -> str:
    small = f'<small>{_escape(below)}</small>' if below else ''
    return f'<td class="{kind}">{_escape(str(text))}{small}</td>'


def _paragraph(text: str, kind: str = '') -> str:
    return f'<p class="{kind}">{_escape(text)}</p>'


def _escape(text: str) -> str:
    """Returns text as HTML, with percent signs kept on the line of their numbers."""
    return html.escape(text).replace(' %', '\u00a0%')


def _section(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], note: str = '', names: int = 1
) -> str:
    """Returns a heading, a table and a note.

    Args:
      title: the heading.
      header: titles of the columns.
      rows: cells, already HTML.
      note: text below the table.
      names: columns from the left that hold names.
    """
    head = ''.join(
        f'<th scope="col"{" class=name" if n < names else ""}>{html.escape(text)}</th>'
        for n, text in enumerate(header)
    )
    body = ''.join(f'<tr>{"".join(row)}</tr>' for row in rows)
    table = f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    below = _paragraph(note, 'soft') if note else ''
    return (
        f'<h2>{html.escape(title)}</h2><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{html.escape(title)}">{table}</div>{below}'
    )


def _systems(systems: Mapping[str, Mapping[str, str]]) -> str:
    rows = [
        [
            _cell(text, 'name')
            for text in (name, e['folder'], e['policy'], e['prompt'], e['answers'])
        ]
        for name, e in systems.items()
    ]
    header = ['system', 'evaluation', 'policy', 'prompt', 'answers']
    return _section('Systems', header, rows, names=5)


def _win_rates(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        counts, half, out = entry['judgements'], entry['ties_half'], entry['ties_left_out']
        rows.append(
            [
                _cell(f'{entry["first"]} against {entry["second"]}', 'name'),
                _cell(half['items']),
                *(_cell(counts[name]) for name in ('first', 'second', 'tie', 'neither')),
                _share(half),
                _share(half, 'bootstrap'),
                _share(out),
                _share(out, 'bootstrap'),
                _cell(f'{entry["same_answer"]} of {entry["records"]}'),
            ]
        )
    header = ['pair', 'comparisons', 'first', 'second', 'tie', 'neither']
    header += ['ties half, Wilson', 'ties half, bootstrap', 'without ties, Wilson']
    header += ['without ties, bootstrap', 'same words']
    return _section(
        'How often the first system is preferred',
        header,
        rows,
        'Counts are judgements: first and second are the systems of the pair, neither means that '
        'neither answer was safe. Rates count each comparison once, as the mean over its raters; '
        '“neither” counts as a tie. Below each rate: 95 % interval over cases, for these raters. '
        'Same words: records on which both answers were equal; these were not reviewed.',
    )


def _bradley_terry(found: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(found)
    rows = [
        [
            _cell(name, 'name'),
            _number(entry['strength'], entry['interval']),
            *(
                _cell(_percent(entry['preferred_to'][other]) if other != name else _NONE)
                for other in names
            ),
        ]
        for name, entry in found.items()
    ]
    return _section(
        'Order of the systems (Bradley-Terry)',
        ['system', 'log strength', *(f'preferred to {name}' for name in names)],
        rows,
        'Each pair gets one more tie than was seen, so that a clean sweep stays finite. Below: '
        '95 % interval of the bootstrap over cases.',
    )


def _scales(scales: Mapping[str, Mapping[str, Any]], systems: Sequence[str]) -> str:
    rows = []
    for scale in wording.SCALES:
        entries = scales[scale.name]
        cells = [_number(entries[name]['value'], entries[name]['wilson']) for name in systems]
        better = 'higher is better' if scale.better == 'high' else 'lower is better'
        rows.append([_cell(scale.title, 'name', f'1 to 5, {better}'), *cells])
    harmful = scales['harmful']
    cells = [_share(harmful[name]) for name in systems]
    rows.append([_cell('Harmful answers', 'name', 'temporary harm or worse'), *cells])
    left_out = sum(scales['initiative'][name]['not_applicable'] for name in systems)
    return _section(
        'Scales',
        ['scale', *systems],
        rows,
        f'Means over comparisons, 95 % interval over cases below. In {left_out} ratings of helpful '
        'initiative nothing had to be raised; they are left out.',
    )


def _by(field: str, entries: Sequence[Mapping[str, Any]]) -> str:
    pairs = list(dict.fromkeys((entry['first'], entry['second']) for entry in entries))
    found = {(e[field], e['first'], e['second']): e for e in entries}
    rows = []
    for name in dict.fromkeys(entry[field] for entry in entries):
        cells = [_cell(name or _NONE, 'name')]
        for pair in pairs:
            cells += [_cell(found[name, *pair]['items']), _share(found[name, *pair])]
        rows.append(cells)
    header = [field]
    for first, second in pairs:
        header += ['comparisons', f'{first} preferred to {second}']
    note = '' if field == 'group' else 'Ties as half. Few comparisons each: read them as examples.'
    return _section(f'By {field}', header, rows, note)


def _biases(found: Mapping[str, Any]) -> str:
    rows = [
        [
            _cell('Shown first', 'name'),
            _cell(found['position']['items']),
            _share(found['position']),
        ],
        [_cell('More words', 'name'), _cell(found['length']['items']), _share(found['length'])],
    ]
    words = ', '.join(f'{name} {mean:.1f}' for name, mean in found['length']['words'].items())
    return _section(
        'Position and length',
        ['answer', 'comparisons', 'preferred'],
        rows,
        f'Ties as half. 50 % is no effect. Mean words of an answer: {words}. Longer answers may be '
        'preferred because they are better: this is no proof of a bias.',
    )


def _agreement(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    rows = []
    for name, entry in found.items():
        title = _SCALE_TITLES.get(name, 'Preference')
        if entry is None:
            rows.append([_cell(title, 'name'), *(_cell(_NONE) for _ in range(5))])
            continue
        rows.append(
            [
                _cell(title, 'name'),
                _cell(entry['units']),
                _cell(_percent(entry['agreement'])),
                _number(entry['alpha'], entry['alpha_interval']),
                _number(entry['ac'], entry['ac_interval']),
                _cell(' / '.join(f'{100 * share:.0f}' for share in entry['prevalence'])),
            ]
        )
    return _section(
        'Agreement of the raters',
        ['rated', 'units', 'equal pairs', 'Krippendorff’s alpha', 'Gwet’s AC', 'prevalence in %'],
        rows,
        'Units with two ratings or more. Alpha and AC are nominal for the preference (AC1) and '
        'ordinal for the scales (AC2). Where one value prevails, alpha is low although raters '
        'agree: read it beside AC and the prevalence, which lists first / second / tie / neither, '
        'and the values from 1 to 5.',
    )


def _consistency(found: Mapping[str, Mapping[str, Any]]) -> str:
    def cell(share: float | None) -> str:
        return _cell(_NONE if share is None else _percent(share))

    rows = [
        [
            _cell('all' if name == 'all' else f'rater {name}', 'name'),
            _cell(entry['repeats']),
            cell(entry['preference']),
            *(cell(entry['within_one'][scale.name]) for scale in wording.SCALES),
        ]
        for name, entry in found.items()
    ]
    return _section(
        'Each rater’s own consistency',
        ['rater', 'repeats', 'same preference', *(scale.title for scale in wording.SCALES)],
        rows,
        'Comparisons seen twice, the second time with the answers exchanged. Scales: share of '
        'values at most one apart.',
    )


def _raters(raters: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _cell(f'rater {entry["rater"]}', 'name'),
            _cell(entry['comparisons']),
            _cell(f'{entry["seconds"]:.0f} s'),
            _cell(f'{entry["checks_failed"]} of {entry["checks"]}'),
        ]
        for entry in raters
    ]
    header = ['rater', 'comparisons', 'median time of one', 'attention items failed']
    return _section('Raters', header, rows)


def _comments(comments: Sequence[Mapping[str, Any]]) -> str:
    if not comments:
        return ''
    rows = [
        [
            _cell(f'rater {entry["rater"]}', 'name'),
            _cell(entry['record'], 'name'),
            _cell(' then '.join(entry['shown']), 'name'),
            _cell(entry['choice'], 'name'),
            _cell(entry['comment'], 'words'),
        ]
        for entry in comments
    ]
    return _section('Comments', ['rater', 'record', 'shown', 'choice', 'comment'], rows, names=5)
