"""Tests of metrics.jsonl, of its TensorBoard copy, and of the profiler's trace."""

import gzip
import json
import struct
import subprocess
import sys

import numpy as np

from bsft_jax.training.telemetry import MetricsFile, Trace
from tests.conftest import ROOT
from tests.run import train
from tests.training.small_run import loss_curve, metric_lines, small_run


def event_scalars(workdir):
    """Returns {(step, name): value} of all event files; a scalar written twice is an error."""
    from tensorboardX.proto.event_pb2 import Event

    scalars = {}
    for path in (workdir / 'tensorboard').iterdir():
        data, offset = path.read_bytes(), 0
        # A record is a length, its checksum, the event and its checksum.
        while offset < len(data):
            size = struct.unpack_from('<Q', data, offset)[0]
            event = Event.FromString(data[offset + 12 : offset + 12 + size])
            offset += size + 16
            for value in event.summary.value:
                assert (event.step, value.tag) not in scalars
                scalars[event.step, value.tag] = value.simple_value
    return scalars


def line_scalars(workdir):
    """Returns {(step, name): value} of metrics.jsonl, rounded as event files are."""
    return {
        (line['step'], name): float(np.float32(value))
        for line in metric_lines(workdir)
        for name, value in line.items()
        if name != 'step'
    }


def write_metrics(workdir, start, steps):
    file = MetricsFile(workdir / 'metrics.jsonl', start)
    for step in steps:
        file.write(step, {'loss': 1.0 / step, 'tokens': 100 * step})
    file.write(steps[-1], {'validation/macro_f1': 0.25 + start})
    file.close()


def test_event_files_hold_what_metrics_jsonl_holds(tmp_path):
    write_metrics(tmp_path, 0, [1, 2, 3])
    scalars = event_scalars(tmp_path)
    assert scalars == line_scalars(tmp_path) and len(scalars) == 7
    assert scalars[3, 'validation/macro_f1'] == 0.25


def test_a_restart_drops_lines_beyond_its_step(tmp_path):
    write_metrics(tmp_path, 0, [1, 2, 3, 4])
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 2, "lo')
    write_metrics(tmp_path, 2, [3])
    scalars = event_scalars(tmp_path)
    assert scalars == line_scalars(tmp_path)
    assert sorted({step for step, _ in scalars}) == [1, 2, 3]
    assert scalars[3, 'validation/macro_f1'] == 2.25 and (4, 'loss') not in scalars


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / 'tensorboard').mkdir()
    (tmp_path / 'tensorboard' / 'notes.txt').touch()
    MetricsFile(tmp_path / 'metrics.jsonl', 0).close()
    assert (tmp_path / 'tensorboard' / 'notes.txt').exists()


def test_only_writing_metrics_needs_tensorboardx():
    code = (
        'import sys; import bsft_jax.training.loop; '
        'from bsft_jax.commands import evaluate, export, generate, train; '
        "print([m for m in ('tensorboardX', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == '[]', done.stderr


def test_a_trace_holds_the_named_steps_and_changes_no_loss(base, tmp_path, monkeypatch):
    train(small_run(base), tmp_path / 'untraced')
    assert not (tmp_path / 'untraced' / 'profile').exists()
    traced, begin = [], Trace.begin

    def record_begin(trace, step, state):
        begin(trace, step, state)
        traced.extend([step] * trace._running)

    monkeypatch.setattr(Trace, 'begin', record_begin)
    first, rest = small_run(base), small_run(base)
    first.train.steps, first.profile.trace_steps = 6, '5:9'
    rest.profile.trace_steps = '9:11'
    train(first, tmp_path / 'run')
    train(rest, tmp_path / 'run')
    assert traced == [5, 6, 9, 10]
    assert loss_curve(tmp_path / 'run') == loss_curve(tmp_path / 'untraced')
    paths = sorted((tmp_path / 'run' / 'profile').rglob('*.trace.json.gz'))
    assert len(paths) == 2
    for path in paths:
        events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
        assert any('dot' in event.get('name', '') for event in events)
