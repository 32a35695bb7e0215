"""Loops and collectives, with their mesh axes, read from the text of a program."""

import pytest

from bsft_jax.ops.hlo_names import BOUNDED_LOOP_SCOPE
from bsft_jax.planning.collectives import axes_of, find_collectives, summarize_collectives
from bsft_jax.planning.hlo import parse_hlo

MESH = {'data': 2, 'fsdp': 4, 'context': 1, 'tensor': 1}
LOOPS = """HloModule nested, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_condition (p: (u32[], f32[2,4])) -> pred[] {
  %p = (u32[]{:T(128)}, f32[2,4]{1,0:T(8,128)(2,1)}) parameter(0)
  %bound = u32[] constant(5)
  %i = u32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%inner_body (q: (u32[], f32[2,4])) -> (u32[], f32[2,4]) {
  %q = (u32[], f32[2,4]{1,0}) parameter(0)
  %j = u32[] get-tuple-element(%q), index=0
  %one = u32[] constant(1)
  %middle = u32[] add(%j, %one)
  %next = u32[] add(%middle, %one)
  %x = f32[2,4]{1,0} get-tuple-element(%q), index=1
  %send = (f32[2,4]{1,0}, f32[2,4]{1,0}, u32[], u32[]) collective-permute-start(%x), channel_id=4, source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  %sent = f32[2,4]{1,0} collective-permute-done(%send)
  ROOT %out = (u32[], /*index=1*/f32[2,4]{1,0}) tuple(%next, %sent)
}

%outer_condition (r: (s32[], f32[2,4])) -> pred[] {
  %r = (s32[], f32[2,4]{1,0}) parameter(0)
  ROOT %same = pred[] custom-call(%r), custom_call_target="opaque"
}

%outer_body (s: (s32[], f32[2,4])) -> (s32[], f32[2,4]) {
  %s = (s32[], f32[2,4]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%s), index=0
  %y = f32[2,4]{1,0} get-tuple-element(%s), index=1
  %zero = u32[] constant(1)
  %first = u32[] copy(%zero)
  %start = (u32[], f32[2,4]{1,0}) tuple(%first, %y)
  %loop = (u32[], f32[2,4]{1,0}) while(%start), condition=%inner_condition, body=%inner_body
  %z = f32[2,4]{1,0} get-tuple-element(%loop), index=1
  %gathering = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%z), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
  %gathered = f32[8,4]{1,0} all-gather-done(%gathering)
  %scattered = f32[2,4]{1,0} reduce-scatter(%gathered), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
  ROOT %more = (s32[], f32[2,4]{1,0}) tuple(%k, %scattered)
}

%all-reduce-scatter.1 (t: f32[8,4]) -> f32[2,4] {
  %t = f32[8,4]{1,0} parameter(0)
  %reduced = f32[8,4]{1,0} all-reduce(%t), channel_id=7, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  ROOT %kept = f32[2,4]{1,0} bitcast(%reduced)
}

ENTRY %main (input: f32[8,4]) -> f32[8,4] {
  %input = f32[8,4]{1,0} parameter(0)
  %part = f32[2,4]{1,0} fusion(%input), kind=kCustom, calls=%all-reduce-scatter.1
  %number = s32[] constant(0)
  %state = (s32[], f32[2,4]{1,0}) tuple(%number, %part)
  %loop = (s32[], f32[2,4]{1,0}) while(%state), condition=%outer_condition, body=%outer_body, frontend_attributes={note={
"written": "over two lines"
}}, backend_config={LENGTH}
  ROOT %total = f32[8,4]{1,0} all-reduce(%input), channel_id=9, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
}
"""  # noqa: E501
KNOWN = LOOPS.replace('{LENGTH}', '{"known_trip_count":{"n":"3"}}')


def test_collectives_of_nested_loops():
    found, unknown_loops = find_collectives(parse_hlo(KNOWN), [0] * 8)
    rows = {
        (r['kind'], r['axes']): (r['count'], r['bytes'], r['payload'])
        for r in summarize_collectives(found, MESH)
    }
    assert not unknown_loops
    assert rows == {
        # From 1 to 5 in steps of 2, three times.
        ('collective-permute', 'fsdp'): (6, 6 * 32, 6 * 32),
        ('all-gather', 'fsdp'): (3, 3 * 96, 3 * 128),
        # Three in the loop, one in a fusion.
        ('reduce-scatter', 'fsdp'): (4, 4 * 96, 4 * 128),
        ('all-reduce', 'data'): (1, 128, 128),
    }


def test_a_loop_of_unknown_length_is_named():
    found, unknown_loops = find_collectives(parse_hlo(LOOPS.replace('{LENGTH}', '{}')), [0] * 8)
    assert unknown_loops == ['loop']
    assert sum(c.runs for c in found if c.kind == 'all-gather') == 1


def test_the_name_of_a_loop_may_bound_its_length():
    assert BOUNDED_LOOP_SCOPE.format(3) == 'at_most_3_times'
    name = '{}, metadata={op_name="jit(step)/jvp(at_most_3_times)/while" stack_frame_id=1}'
    found, unknown_loops = find_collectives(parse_hlo(LOOPS.replace('{LENGTH}', name)), [0] * 8)
    assert not unknown_loops
    assert sum(c.runs for c in found if c.kind == 'all-gather') == 3


@pytest.mark.parametrize(
    'spelled, axes',
    [
        ('{{0,1,2,3},{4,5,6,7}}', 'fsdp'),
        ('{}', 'data, fsdp'),
        ('[2,4]<=[8]', 'fsdp'),
        ('[4,2]<=[2,4]T(1,0)', 'data'),
        ('[1,8]<=[8]', 'data, fsdp'),
        ("mesh['x'=2,'y'=4] {'x'}", 'data'),
        ("mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}", 'fsdp'),
        ("mesh['x'=2,'y'=4], device_ids=(0,1,2,3,4,5,6,7) {'x','y'}", 'data, fsdp'),
        ("mesh['x'=8] {'x':(2)4}", 'fsdp'),
        ("mesh['x'=8] {'x':(1)2}", 'data'),
        ('{{0,1},{2,3},{4,5},{6,7}}', 'part of fsdp'),
    ],
)
def test_axes_of_replica_groups(spelled, axes):
    text = KNOWN.replace('replica_groups=[4,2]<=[2,4]T(1,0)', f'replica_groups={spelled}')
    found, _ = find_collectives(parse_hlo(text), [0] * 8)
    (collective,) = (c for c in found if c.kind == 'all-reduce')
    assert axes_of(collective.groups, MESH) == axes
    assert sorted(device for group in collective.groups for device in group) == list(range(8))


ASYNC = """HloModule spread

%started (p: bf16[2,4]) -> bf16[8,4] {
  %p = bf16[2,4]{1,0} parameter(0)
  %gather.1 = bf16[8,4]{1,0} all-gather(%p), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="1"}
  ROOT %start = bf16[8,4]{1,0} custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%meanwhile (q: bf16[2,4]) -> bf16[8,4] {
  %q = bf16[2,4]{1,0} parameter(0)
  ROOT %gather.2 = bf16[8,4]{1,0} all-gather(%q), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="1"}
}

ENTRY %main (x: bf16[2,4]) -> bf16[8,4] {
  %x = bf16[2,4]{1,0} parameter(0)
  %a = bf16[8,4]{1,0} fusion(%x), kind=kCustom, calls=%started
  ROOT %b = bf16[8,4]{1,0} fusion(%x), kind=kOutput, calls=%meanwhile
}
"""  # noqa: E501


def test_a_gather_spread_over_fusions_counts_once():
    (collective,) = find_collectives(parse_hlo(ASYNC), [0] * 8)[0]
    assert (collective.kind, collective.payload, collective.received, collective.runs) == (
        'all-gather',
        64,
        48.0,
        1,
    )


SLICES = """HloModule slices

ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4]{1,0} parameter(0)
  %token = token[] after-all()
  %sent = (f32[4,4]{1,0}, u32[], token[]) send(%x, %token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %got = (f32[4,4]{1,0}, u32[], token[]) recv(%token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %done = (f32[4,4]{1,0}, token[]) recv-done(%got), channel_id=2, is_host_transfer=true
  ROOT %y = f32[4,4]{1,0} get-tuple-element(%done), index=0
}
"""  # noqa: E501


def test_transfers_between_slices():
    (collective,) = find_collectives(parse_hlo(SLICES), [0, 0, 0, 0, 1, 1, 1, 1])[0]
    assert (collective.kind, collective.payload, collective.received) == ('all-reduce', 64, 64.0)
    assert collective.groups == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert axes_of(collective.groups, MESH) == 'data'
