"""The seal covers every byte, and a manifest that was changed by hand is found."""

import json

import pytest

from elman.errors import ModelError
from elman.train.manifest import MANIFEST, Damaged, describe, read_file, read_manifest, seal


def write(folder, raw):
    (folder / MANIFEST).write_bytes(raw)


def test_a_manifest_comes_back(tmp_path):
    write(tmp_path, describe(7, {"a": b"12", "b": b""}, {"é": [1.5, None]}))
    manifest = read_manifest(tmp_path)
    assert (manifest["step"], manifest["facts"]) == (7, {"é": [1.5, None]})
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {"a": 2, "b": 0}
    assert manifest == json.loads((tmp_path / MANIFEST).read_bytes())


def test_any_other_byte_is_found(tmp_path):
    raw = describe(7, {"a": b"12"}, {"é": "fact"})
    for place in range(len(raw)):
        for other in (raw[place] ^ 1, raw[place] ^ 32, 32):
            if other != raw[place]:
                write(tmp_path, raw[:place] + bytes([other]) + raw[place + 1 :])
                with pytest.raises(Damaged, match="not as it was written"):
                    read_manifest(tmp_path)


@pytest.mark.parametrize("how", [dict, lambda old: old | {"step": 8}], ids=["reformatted", "edited"])
def test_a_manifest_changed_by_hand_is_found(tmp_path, how):
    changed = how(json.loads(describe(7, {"a": b"12"}, {})))
    write(tmp_path, json.dumps(changed).encode())
    with pytest.raises(Damaged, match="not as it was written"):
        read_manifest(tmp_path)


def test_no_damage_looks_like_a_newer_format(tmp_path):
    raw = describe(7, {}, {})
    write(tmp_path, raw.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(Damaged):
        read_manifest(tmp_path)
    write(tmp_path, seal({"format": 2}))
    with pytest.raises(ModelError, match="upgrade") as caught:
        read_manifest(tmp_path)
    assert caught.type is ModelError


def test_a_file_longer_than_its_entry_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"123")
    entry = json.loads(describe(1, {"a": b"12"}, {}))["files"]["a"]
    monkeypatch.setattr("elman.files.disk", None)  # a read would fail
    with pytest.raises(Damaged, match="3 bytes, more than the 2"):
        read_file(tmp_path / "a", entry)
