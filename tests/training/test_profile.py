"""The trace of some steps: of those, while the run stays the same."""

import gzip
import json

import pytest

from bsft_jax import runs
from bsft_jax.errors import UserError
from bsft_jax.training import loop
from tests.tiny import random_model
from tests.training.test_restarts import config, curve


def test_a_trace_of_the_named_steps(tmp_path, monkeypatch):
    base = random_model(tmp_path)
    runs.train(config(base), tmp_path / 'whole')
    assert not (tmp_path / 'whole' / 'profile').exists()
    seen, begin = [], loop.Trace.begin

    def watched(trace, step, state):
        begin(trace, step, state)
        seen.extend([step] * trace._running)

    monkeypatch.setattr(loop.Trace, 'begin', watched)
    first, rest = config(base), config(base)
    first.train.steps, first.profile.steps = 6, '5:9'
    rest.profile.steps = '9:11'
    runs.train(first, tmp_path / 'run')
    runs.train(rest, tmp_path / 'run')
    assert seen == [5, 6, 9, 10]
    assert curve(tmp_path / 'run') == curve(tmp_path / 'whole')
    traces = sorted((tmp_path / 'run' / 'profile').rglob('*.trace.json.gz'))
    assert len(traces) == 2
    for path in traces:
        names = {
            event.get('name', '') for event in json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
        }
        assert any('dot' in name for name in names)


@pytest.mark.parametrize('steps', ['10', '4:4', '0:3', 'a:b', '7:3'])
def test_a_range_that_is_none(steps, tmp_path):
    wrong = config(tmp_path)
    wrong.profile.steps = steps
    with pytest.raises(UserError, match=r'--config\.profile\.steps: cannot read .*; write FIRST:END'):
        wrong.validate()
