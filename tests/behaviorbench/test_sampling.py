"""A part of the records: evenly spread, whole cases, never more than asked for."""

import collections

from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import Message, Record
from bsft_jax.behaviorbench.sampling import spread


def plain(n, **fields):
    return [Record((Message('user', f'q{i}'),), id=str(i), **fields) for i in range(n)]


def test_a_file_sorted_by_kind_gives_of_every_kind_its_share():
    records = plain(70, source='medec') + plain(30, source='mediq')
    assert collections.Counter(r.source for r in spread(records, 10)) == {'medec': 7, 'mediq': 3}
    assert [r.id for r in spread(plain(9), 3)] == ['0', '3', '6']
    assert len(spread(records, 33)) == 33


def test_cases_stay_whole_and_in_their_order():
    records = sources.load_records('synthetic:60', 'train')
    size = collections.Counter(r.case_id for r in records)
    kept = spread(records, 5 * max(size.values()))
    assert {case: size[case] for case in {r.case_id for r in kept}} == collections.Counter(
        r.case_id for r in kept
    )
    assert len({r.case_id for r in kept}) == 5 and kept == [r for r in records if r in kept]
    assert kept != records[: len(kept)]
    twins = [Record(id=str(i), pair_id=f'p{i // 2}') for i in range(40)]
    assert set(collections.Counter(r.pair_id for r in spread(twins, 8)).values()) == {2}


def test_a_limit_is_never_exceeded_and_none_takes_all():
    records = sources.load_records('synthetic:60', 'train')
    assert spread(records, 0) == spread(records, len(records)) == records
    assert [len(spread(records, limit)) for limit in (1, 4, 63, 100)] == [1, 4, 63, 100]
