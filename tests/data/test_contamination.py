"""Tests of what is refused and warned of where records that are scored were trained on."""

import dataclasses
import json

import pytest

from bsft_jax.commands.prepare import prepare
from bsft_jax.data import contamination, eval_records, sources, split_names
from bsft_jax.data.trained_on import TrainedOn
from bsft_jax.errors import UserError
from bsft_jax.records.record import SPLITS, Message, Record, write_jsonl


def tasks(count=60, **fields):
    return [
        Record(
            (Message('user', f'Patient {i} has sign {i * 7919 % 10**6}. Next step?'),),
            options=(f'rest {i}', f'drug {i}'),
            answer=i % 2,
            **{'id': f'r{i}', 'case_id': f'c{i}', **fields},
        )
        for i in range(count)
    ]


@pytest.fixture
def raw(tmp_path):
    write_jsonl(tmp_path / 'mine.jsonl', tasks())
    return f'jsonl:{tmp_path}/mine.jsonl'


def trained_on(source):
    """Returns what a run on a source would keep."""
    parts = []
    for part, _ in sources.parse_mixture(source):
        own = TrainedOn.of_records(sources.load_records(part, 'train'))
        parts.append(own.from_source(part, own.digest))
    return TrainedOn.joined(parts)


def check(trained, source, split='test'):
    """Checks a split as `evaluate` does and returns the overlap."""
    records = eval_records.load_scorable(source, split)
    contamination.check_scored(trained, source, split, records)
    return trained.overlap(records)


def test_a_set_is_scored_as_it_was_and_refused_when_it_was_prepared_again(raw, tmp_path):
    data = f'jsonl:{tmp_path}/data'
    prepare([raw], tmp_path / 'data', seed=0)
    trained = trained_on(data)
    assert not check(trained, data) and not check(trained, data, 'validation')
    # On purpose.
    assert check(trained, data, 'train').records == 48
    prepare([raw], tmp_path / 'data', seed=1)
    for split in ('test', 'validation'):
        with pytest.raises(UserError, match=r'again since .*: \d of 6 scored .*--allow_trained_on'):
            check(trained, data, split)
    # Another part of a mixture, and the same records without a name.
    mixture = f'0.5*{data} + 0.5*synthetic:20'
    with pytest.raises(UserError, match='was made again since'):
        check(trained, mixture)
    bare = [dataclasses.replace(r, id='', case_id='') for r in tasks()]
    write_jsonl(tmp_path / 'bare.jsonl', bare)
    prepare([f'jsonl:{tmp_path}/bare.jsonl'], tmp_path / 'bare', seed=0)
    trained = trained_on(f'jsonl:{tmp_path}/bare')
    prepare([f'jsonl:{tmp_path}/bare.jsonl'], tmp_path / 'bare', seed=2)
    with pytest.raises(UserError, match='in the same words'):
        check(trained, f'jsonl:{tmp_path}/bare')


def test_a_generated_set_of_another_size_in_the_same_folder(tmp_path):
    data = f'jsonl:{tmp_path}/data'
    prepare(['synthetic:40'], tmp_path / 'data')
    trained = trained_on(data)
    assert not check(trained, data)
    prepare(['synthetic:10'], tmp_path / 'data')
    with pytest.raises(UserError, match='of a case that was'):
        check(trained, data)
    prepare(['synthetic:40:1'], tmp_path / 'data')
    assert not check(trained, data)


def test_other_sources_are_counted(raw, tmp_path):
    prepare([raw], tmp_path / 'data', seed=0)
    trained = trained_on(f'jsonl:{tmp_path}/data')
    assert check(trained, raw).to_dict() == dict(records=48, ids=48, cases=48, texts=48)
    prepare([raw], tmp_path / 'other', seed=1)
    overlap = check(trained, f'jsonl:{tmp_path}/other')
    test = {r.id for r in sources.load_records(f'jsonl:{tmp_path}/other', 'test')}
    train = {r.id for r in sources.load_records(f'jsonl:{tmp_path}/data', 'train')}
    assert overlap.records == len(test & train) > 0
    line = contamination.describe(overlap)
    assert line.startswith(f'warning: {overlap.records} of 6 scored records were trained on, ')
    assert contamination.describe(trained.overlap(tasks(3, id='', case_id='')[:0])) == (
        '0 of 0 scored records were trained on'
    )
    assert 'not known' in contamination.describe(None)
    contamination.check_scored(None, raw, 'test', tasks())


def parquet(path, rows):
    import datasets

    datasets.Dataset.from_list(rows).to_parquet(str(path))
    return f'hf:{path}'


def test_every_kind_of_set_without_splits_is_warned_of(tmp_path):
    rows = [
        {'prompt': f'Question {i}?', 'options': ['yes', 'no'], 'answer': i % 2} for i in range(12)
    ]
    (tmp_path / 'x.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    unsplit = [f'jsonl:{tmp_path}/x.jsonl', parquet(tmp_path / 'x.parquet', rows)]
    for source in [*unsplit, f'0.5*synthetic:9 + 0.5*{unsplit[1]}']:
        trained = trained_on(source)
        (line,) = contamination.split_warnings(trained, source, 'validation')
        assert line.startswith('warning: 12 records of ') and 'prepare assigns splits' in line
        # Refused would be a set that says it keeps them apart.
        assert check(trained, source).texts == 12
    named = [row | {'split': SPLITS[i % 3]} for i, row in enumerate(rows)]
    source = parquet(tmp_path / 'named.parquet', named)
    assert contamination.split_warnings(trained_on(source), source, 'validation') == []
    assert eval_records.unsplit_warning(source) == ''


def test_the_same_words_in_two_splits_are_warned_of(tmp_path):
    again = [dataclasses.replace(r, id=f'again{r.id}', case_id='') for r in tasks(3)]
    for split, records in (('train', tasks(9)), ('validation', again)):
        write_jsonl(tmp_path / f'{split}.jsonl', records)
    source = f'jsonl:{tmp_path}'
    trained = trained_on(source)
    (line,) = contamination.split_warnings(trained, source, 'validation')
    assert line == ('warning: 3 of 3 validation records were trained on, 3 in the same words')
    assert check(trained, source, 'validation').texts == 3
    assert contamination.split_warnings(trained, 'synthetic:9', 'validation') == []


def torn_sets(folder):
    """Yields kinds of sources whose splits share a name, and which name that is."""
    for field in ('id', 'case_id', 'pair_id'):
        by_split = {}
        for number, split in enumerate(SPLITS):
            named = {'id': '', 'case_id': '', field: 'shared' if number != 1 else 'own'}
            by_split[split] = tasks(1, **named, split=split)
        place = folder / field
        place.mkdir()
        for split, records in by_split.items():
            write_jsonl(place / f'{split}.jsonl', records)
        yield f'jsonl:{place}', field
        if field != 'id':
            write_jsonl(folder / f'{field}.jsonl', [r for part in by_split.values() for r in part])
            yield f'jsonl:{folder}/{field}.jsonl', field


def test_a_name_in_two_splits_is_refused(tmp_path):
    for source, field in torn_sets(tmp_path):
        kind = {'id': 'record', 'case_id': 'case', 'pair_id': 'pair'}[field]
        for split in SPLITS:
            with pytest.raises(UserError, match=f"{kind} 'shared' is in train and in test"):
                eval_records.load_scorable(source, split)
    rows = [{'prompt': 'a', 'completion': 'b', 'split': s, 'case_id': 'x'} for s in SPLITS]
    with pytest.raises(UserError, match="'x' is in train and in validation"):
        split_names.check_apart(parquet(tmp_path / 'x.parquet', rows))


def test_parts_of_a_mixture_are_apart_too(raw, tmp_path):
    for name, split in (('a', 'train'), ('b', 'test')):
        write_jsonl(tmp_path / f'{name}.jsonl', [dataclasses.replace(tasks(1)[0], split=split)])
        assert sources.load_records(f'jsonl:{tmp_path}/{name}.jsonl', split)
    mixture = f'0.5*jsonl:{tmp_path}/a.jsonl + 0.5*jsonl:{tmp_path}/b.jsonl'
    with pytest.raises(UserError, match="record 'r0' is in train and in test"):
        split_names.check_apart(mixture)
    prepare(['synthetic:20'], tmp_path / 'small')
    with pytest.raises(UserError, match='is in .* and in '):
        split_names.check_apart(f'0.5*jsonl:{tmp_path}/small + 0.5*synthetic:40')


def test_a_set_that_changes_is_read_again(tmp_path):
    path = tmp_path / 'x.jsonl'
    records = [dataclasses.replace(r, split=s) for r, s in zip(tasks(3), SPLITS, strict=True)]
    write_jsonl(path, records)
    split_names.check_apart(f'jsonl:{path}')
    write_jsonl(path, [dataclasses.replace(r, case_id='one') for r in records])
    with pytest.raises(UserError, match="case 'one' is in train and in validation"):
        split_names.check_apart(f'jsonl:{path}')
