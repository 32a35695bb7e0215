"""metrics.jsonl and the event files of TensorBoard hold the same scalars, also after a restart."""

import json
import struct
import subprocess
import sys

import numpy as np

from bsft_jax.training.telemetry import MetricsFile
from tests.conftest import ROOT


def events(workdir):
    """{(step, name): value} of all event files; a scalar written twice is an error."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in (workdir / 'tensorboard').iterdir():
        data, place = path.read_bytes(), 0
        while place < len(data):  # length, its checksum, the event, its checksum
            size = struct.unpack_from('<Q', data, place)[0]
            event = Event.FromString(data[place + 12 : place + 12 + size])
            place += size + 16
            for value in event.summary.value:
                assert (event.step, value.tag) not in found
                found[event.step, value.tag] = value.simple_value
    return found


def lines(workdir):
    """The same of metrics.jsonl, rounded as event files are."""
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return {
        (row['step'], name): float(np.float32(value))
        for row in rows
        for name, value in row.items()
        if name != 'step'
    }


def write(workdir, start, steps):
    file = MetricsFile(workdir / 'metrics.jsonl', start)
    for step in steps:
        file.write(step, {'loss': 1.0 / step, 'tokens': 100 * step})
    file.write(steps[-1], {'validation/macro_f1': 0.25 + start})
    file.close()


def test_event_files_hold_what_metrics_jsonl_holds(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    found = events(tmp_path)
    assert found == lines(tmp_path) and len(found) == 7
    assert found[3, 'validation/macro_f1'] == 0.25


def test_a_restart_drops_what_lies_beyond_its_step(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 2, "lo')
    write(tmp_path, 2, [3])
    found = events(tmp_path)
    assert found == lines(tmp_path)
    assert sorted({step for step, _ in found}) == [1, 2, 3]
    assert found[3, 'validation/macro_f1'] == 2.25 and (4, 'loss') not in found


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / 'tensorboard').mkdir()
    (tmp_path / 'tensorboard' / 'notes.txt').touch()
    MetricsFile(tmp_path / 'metrics.jsonl', 0).close()
    assert (tmp_path / 'tensorboard' / 'notes.txt').exists()


def test_only_writing_metrics_needs_tensorboardx():
    code = (
        'import sys; import bsft_jax.training.loop, bsft_jax.runs; '
        "print([m for m in ('tensorboardX', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == '[]', done.stderr
