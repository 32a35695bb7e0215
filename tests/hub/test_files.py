"""Models by hub id: from the cache or the network, else one line; a path is never looked up."""

import pathlib

import huggingface_hub
import pytest

from bsft_jax.errors import UserError
from bsft_jax.hub import files


def matches(name, patterns):
    return any(pathlib.PurePath(name).match(p) for p in patterns)


def test_a_hub_id_is_downloaded_with_its_revision(tmp_path, monkeypatch):
    requests = []
    (tmp_path / 'config.json').write_text('{}')

    def download(repository, *, revision, allow_patterns, ignore_patterns):
        requests.append((repository, revision))
        assert not matches('pytorch_model.bin', allow_patterns)
        assert matches('consolidated.safetensors', ignore_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    assert files.resolve_directory('some-lab/Model-7B') == tmp_path
    assert files.resolve_directory('some-lab/Model-7B@refs/pr/1') == tmp_path
    assert requests == [('some-lab/Model-7B', None), ('some-lab/Model-7B', 'refs/pr/1')]
    (tmp_path / 'config.json').unlink()
    with pytest.raises(UserError, match=r'some-lab/Model-7B: no config\.json in this repository'):
        files.resolve_directory('some-lab/Model-7B')


def test_a_hub_id_without_network_and_cache_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(UserError, match='not available from the hub or its cache') as raised:
        files.resolve_directory('no-such-lab/no-such-model')
    assert '\n' not in str(raised.value)


def test_a_mistyped_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(
        huggingface_hub, 'snapshot_download', lambda *_, **__: pytest.fail('asked the hub')
    )
    (tmp_path / 'runs').mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ('runs/mistyped', str(tmp_path / 'absent'), 'mistyped', 'a/b/c'):
        with pytest.raises(UserError, match='no model at'):
            files.resolve_directory(name)
