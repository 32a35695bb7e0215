"""Records, tables and maps that are broken or hostile."""

from __future__ import annotations

import json
import random

from tests.campaign.commands import refused
from tests.campaign.place import Case, Place

GOOD = {
    'id': 'a',
    'case_id': 'c',
    'behavior': 'proactive',
    'messages': [{'role': 'user', 'content': 'K 5.9?'}],
    'options': ['stop', 'go on'],
    'answer': 1,
}
# Field → values that it cannot have.
FIELDS = {
    'messages': ('x', 3, [], [3], [{}], [{'role': 'user'}], [{'role': 'nurse', 'content': 'x'}]),
    'options': ('x', 3, ['one'], [1, 2], ['x', 'x'], [f'{i}' for i in range(27)], [None, 'x']),
    'answer': (2, -1, 'B', True, 1.5, [1]),
    'behavior': (3, [], True),
    'option_behaviors': ('x', ['reactive'], [1, 2]),
    'category': (3, 'nonsense', []),
    'group': (3, 'proctive'),
    'split': (3, 'trian'),
    'hard': ('x', 3, []),
    'id': (3.5, [], {}),
    'case_id': ([], {}),
    'pair_id': ([],),
    'rationale': (3, []),
    'text': (3, [], 'and messages too'),
    'must_mention': ('x', [3]),
    'another': (1,),
}
GOOD_LINE = json.dumps(GOOD)
LINES = {
    'a cut line': GOOD_LINE[:60],
    'a list': '[1]',
    'a number': '3',
    'null': 'null',
    'a text': '"x"',
    'deep brackets': '[' * 50_000,
    'deep objects': '{"a":' * 50_000,
    'NUL': GOOD_LINE.replace('K 5.9', '\\u0000'),
    'half a surrogate pair': GOOD_LINE.replace('K 5.9', '\\ud800'),
    'bytes that are no UTF-8': GOOD_LINE.encode().replace(b'K 5.9', b'\xff\xfe'),
    'a line of 17 MiB': GOOD_LINE.replace('K 5.9', 'x' * (17 << 20)),
    'NaN': GOOD_LINE.replace('"answer": 1', '"answer": NaN'),
    'the id of line 1': json.dumps(GOOD | {'id': 'first'}),
}
TABLE = 'q,a,b,gold,label\nK 5.9?,stop,go on,B,Act\nNa 120?,stop,go on,A,Wait\n'
MAP = {
    'columns': {'question': 'q', 'options': ['a', 'b'], 'answer': 'gold', 'behavior': 'label'},
    'answer': 'letter',
    'values': {'behavior': {'Act': 'proactive', 'Wait': 'reactive'}},
}
# Name → (map, table).
MAPS = {
    'no column': (MAP | {'columns': {'question': 'nothing'}}, TABLE),
    'columns is a list': (MAP | {'columns': []}, TABLE),
    'columns is absent': ({'answer': 'letter'}, TABLE),
    'an unknown field': (MAP | {'columns': MAP['columns'] | {'nothing': 'q'}}, TABLE),
    'an unknown key': (MAP | {'nothing': 1}, TABLE),
    'an unknown way to answer': (MAP | {'answer': 'roman'}, TABLE),
    'answer is a number': (MAP | {'answer': 3}, TABLE),
    'a value that is not listed': (MAP | {'values': {'behavior': {'Act': 'proactive'}}}, TABLE),
    'a category that no record may have': (MAP | {'constants': {'category': 'x'}}, TABLE),
    'values is a text': (MAP | {'values': 'x'}, TABLE),
    'constants is a list': (MAP | {'constants': []}, TABLE),
    'a constant of another type': (MAP | {'constants': {'hard': 'perhaps'}}, TABLE),
    'an answer beyond the options': (MAP, TABLE.replace('B,Act', 'D,Act')),
    'a group that is misspelt': (MAP | {'constants': {'group': 'proactiv'}}, TABLE),
    'a list': ([], TABLE),
    'a text': ('x', TABLE),
    'an empty table': (MAP, ''),
    'a header alone': (MAP, TABLE.splitlines()[0] + '\n'),
    'a column twice': (MAP, TABLE.replace('label', 'gold')),
    'a row that is too long': (MAP, TABLE + 'x,y,z,B,Act,more\n'),
    'a quote that is open': (MAP, TABLE + '"x,y,z,B,Act\n'),
    'one option': (MAP | {'columns': MAP['columns'] | {'options': ['a']}}, TABLE),
    'NUL in a cell': (MAP, TABLE.replace('5.9', '\0')),
}


def _prepare(place: Place, line: str | bytes, says: str) -> str:
    line = line.encode() if isinstance(line, str) else line
    first = json.dumps(GOOD | {'id': 'first', 'case_id': 'first'}).encode()
    path = place.write('own.jsonl', first + b'\n' + line + b'\n')
    done = place.command('prepare', f'--source=jsonl:{path}', f'--output={place.here / "out"}')
    if (place.here / 'out').exists():
        return f'a data set is written, {done.end}'
    return refused(done, says)


def _other_command(place: Place, command: str, line: str | bytes) -> str:
    """Expects the same line of every command that reads records."""
    line = line.encode() if isinstance(line, str) else line
    first = json.dumps(GOOD | {'id': 'first', 'case_id': 'first'}).encode()
    path = place.write('own.jsonl', first + b'\n' + line + b'\n')
    if command == 'train':
        done = place.train(place.here / 'r', f'--config.data.source=jsonl:{path}')
    elif command == 'generate':
        done = place.command('generate', f'--model={place.base}', f'--input={path}')
    else:
        flags = (f'--model={place.base}', f'--data=jsonl:{path}', f'--workdir={place.here / "e"}')
        done = place.command('evaluate', *flags)
    return refused(done, r'own\.jsonl:2')


def _map(place: Place, mapping: object, table: str) -> str:
    path = place.write('table.csv', table)
    chart = place.write('map.json', json.dumps(mapping))
    output = place.here / 'out'
    done = place.command('prepare', f'--source=csv:{path}', f'--map={chart}', f'--output={output}')
    return refused(done, r'map|table|column|row|csv') or (
        'out is written' if output.exists() else ''
    )


def _file(place: Place, name: str, content: str | bytes, scheme: str) -> str:
    path = place.write(name, content)
    source = f'--source={scheme}:{path}'
    return refused(place.command('prepare', source, f'--output={place.here / "out"}'))


def _long_record(place: Place, among: int) -> str:
    """Expects that `generate` names the record that is too long."""
    long = GOOD | {'id': 'long one', 'messages': [{'role': 'user', 'content': 'K 5.9? ' * 2000}]}
    lines = [json.dumps(GOOD | {'id': f'short {i}'}) for i in range(among)] + [json.dumps(long)]
    path = place.write('own.jsonl', '\n'.join(lines) + '\n')
    done = place.command(
        'generate', f'--model={place.base}', f'--input={path}', '--max_new_tokens=2'
    )
    named = 'long one' in done.err
    if done.code == 0 and among:
        return '' if named and 'short 0' in done.out else f'does not name it, {done.end}'
    return refused(done, 'long one')


def cases(rng: random.Random) -> list[Case]:
    """Returns records with every field wrong, lines that are no records, and maps."""
    del rng
    found = []

    def add(kind: str, name: str, check, *arguments) -> None:
        found.append(Case.calling(kind, name, check, *arguments, needs_run=False))

    for field, values in FIELDS.items():
        for value in values:
            line = json.dumps(GOOD | {field: value})
            says = r'own\.jsonl:2'
            add('records', f'{field} = {str(value)[:40]}', _prepare, line, says)
    for name, line in LINES.items():
        add('records', name, _prepare, line, r'own\.jsonl:2')
        for command in ('train', 'evaluate', 'generate'):
            if name in ('a cut line', 'a list', 'NUL', 'bytes that are no UTF-8'):
                add('records', f'{command}, {name}', _other_command, command, line)
    for name, (mapping, table) in MAPS.items():
        add('maps', name, _map, mapping, table)
    add('maps', 'a table without a map', _file, 'x.csv', TABLE, 'csv')
    for name, content, scheme in (
        ('x.jsonl', '', 'jsonl'),
        ('x.jsonl', '\n\n', 'jsonl'),
        ('x.jsonl', b'\x80\x04\x95', 'jsonl'),
        ('x.pkl', b'\x80\x04\x95', 'hf'),
        ('x.parquet', b'PAR1', 'hf'),
        ('x/evil.py', 'open("pwned", "w")', 'hf'),
    ):
        add('records', f'{scheme}, {name} {content[:8]!r}', _file, name, content, scheme)
    for among in (0, 2):
        add('records', f'a long one among {among}', _long_record, among)
    return found
