"""Tests tables and JSON files as programs write them, and what is said of those that are cut."""

import pytest

from bsft_jax.data import sources
from bsft_jax.errors import UserError
from tests.records.mapped import read

TABLE = {'question': 'q', 'options': ['a', 'b', 'c'], 'answer': 'g'}


@pytest.mark.parametrize(
    'text',
    [
        'q,a,b,c,g\nhow,1,2,,B\n',
        # pandas' index, twice.
        ',Unnamed: 0,q,a,b,c,g\n0,0,how,1,2,nan,B\n',
        ',,q,a,b,c,g\n0,0,how,1,2,,B\n',
        # Excel's trailing commas, empty rows and separator line.
        'q,a,b,c,g,,\nhow,1,2,,B,,\n,,,,,,\n',
        'q,a,b,c,g\nhow,1,2,NaN,B,,\n',
        'sep=,\r\nq,a,b,c,g\r\nhow,1,2,,B\r\n',
        'sep=;\nq;a;b;c;g\nhow;1;2;;B\n',
        '\ufeffsep=\t\nq\ta\tb\tc\tg\nhow\t1\t2\t\tB\n',
        'q;a;b;c;g\nhow;1;2;;B\n',
        'q\ta\tb\tc\tg\nhow\t1\t2\t\tB\n',
        '"q";"a";"b";"c";"g"\n"how";1;2;;B\n',
        # Two columns of one name that nobody maps.
        'x,x,q,a,b,c,g\n1,2,how,1,2,,B\n',
    ],
)
def test_tables_as_programs_write_them(text, tmp_path):
    given = {'columns': TABLE, 'answer': 'letter'}
    (record,), _ = read(tmp_path, text, given, 'csv')
    assert record.messages[0].content == 'how'
    assert record.options == ('1', '2') and record.answer == 1


def test_cells_with_line_ends_separators_and_their_lines(tmp_path):
    text = 'q;a;b;c;g\n"one,\r\ntwo\rthree";1,5;2,5;;A\n"x;y";1;2;;B\n'
    made, _ = read(tmp_path, text, {'columns': TABLE, 'answer': 'letter'}, 'csv')
    assert made[0].messages[0].content == 'one,\ntwo\nthree' and made[0].options == ('1,5', '2,5')
    assert made[1].messages[0].content == 'x;y'
    assert [record.origin.rpartition(':')[2] for record in made] == ['2', '4']
    with pytest.raises(UserError, match=r"x\.csv:6: column 'g': 'Z'"):
        read(
            tmp_path, 'sep=;\n' + text + 'q;1;2;;Z\n', {'columns': TABLE, 'answer': 'letter'}, 'csv'
        )


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('q,a,b,c,g,g\nhow,1,2,,B,A\n', "1: two columns are called 'g'; rename one"),
        ('q,a,b,c,g\nhow,1,2,,B,,x\n', '2: 7 cells below 5 columns'),
        ('q,a,b,c\nhow,1,2,\n', "no row has the column 'g'"),
    ],
)
def test_a_table_that_a_map_cannot_read_is_one_line(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, {'columns': TABLE, 'answer': 'letter'}, 'csv')


def test_a_table_without_a_map_says_so(tmp_path):
    (tmp_path / 'x.csv').write_text('q,a\n1,2\n')
    with pytest.raises(
        UserError, match=r'x\.csv:2: exactly one of .* prepare --map=FILE says which'
    ):
        sources.load_raw(f'csv:{tmp_path}/x.csv', 0)
    (tmp_path / 'x.csv').write_text(',prompt,completion\n0,q,a\n')
    with pytest.raises(UserError, match=r'x\.csv:1: column 1 has no name; name it, or choose'):
        sources.load_raw(f'csv:{tmp_path}/x.csv', 0)


GOOD = '{"prompt": "q", "completion": "a"}'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            GOOD + '\n' + GOOD[:20],
            ':2: not valid JSON: the line ends within a text; is the file whole',
        ),
        (GOOD + '\n' + GOOD[:-1], ':2: not valid JSON: the line ends within a value; is the file'),
        ('{\n "prompt": "q"\n}\n', ':1: not valid JSON: the line ends within a value'),
        ('{"prompt": "a\tb"}\n', r':1: not valid JSON \(Invalid control character at column 14\)'),
        ('{"prompt" "q"}\n', r":1: not valid JSON \(Expecting ':' delimiter at column 11\)"),
        (f'[{GOOD},\n{GOOD[:12]}', r':2 \(entry 2\): not valid JSON: the line ends within a text'),
        (f'[{GOOD},\n {GOOD}', r':2 \(entry 2\): not valid JSON: the array does not end; is the'),
        (f'[{GOOD}\n{GOOD}]', r':1 \(entry 1\): not valid JSON: no comma after this entry'),
        (
            f'[{GOOD}]\n[{GOOD}]\n',
            r':1 \(entry 1\): not valid JSON: text after the end of the array',
        ),
        (f'[{GOOD}, 5]', r':1 \(entry 2\): a record must be an object, got int'),
    ],
)
def test_json_that_is_cut_or_wrong_says_where_and_what_to_do(text, message, tmp_path):
    (tmp_path / 'x.jsonl').write_text(text)
    with pytest.raises(UserError, match=rf'x\.jsonl{message}') as caught:
        sources.load_records(f'jsonl:{tmp_path}/x.jsonl', 'train')
    assert ' at at ' not in str(caught.value)
