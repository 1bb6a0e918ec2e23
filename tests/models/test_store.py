"""A model folder is read back exactly, or refused in one line: nothing in it is trusted."""

import hashlib
import json
import struct
from dataclasses import asdict, replace

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import elman.files
from elman.config import ModelConfig
from elman.data.tokenizer import train_tokenizer
from elman.errors import ModelError, StoppedError
from elman.files import Disk
from elman.models import store
from elman.models.build import build, build_empty
from elman.models.store import (
    CONFIG,
    READINGS,
    SCHEMA,
    WEIGHTS,
    find_model,
    read_settings,
    read_tensors,
    write_model,
)
from elman.text_model import TextModel, load

VOCAB_SIZE, PAD = 9, 1
SHAPE = ModelConfig(cell="lstm", embedding_dim=3, hidden_size=4, num_layers=2, tie_embeddings=True)
SETTINGS = {"model": asdict(SHAPE), "vocab_size": VOCAB_SIZE, "name": "αβγ", "nothing": None}


def expected():
    """What a model of SHAPE holds, without its memory."""
    return dict(build_empty(SHAPE, VOCAB_SIZE, PAD).named_parameters())


def text_model() -> TextModel:
    tokenizer = train_tokenizer("byte", iter(["text"]), vocab_size=None)
    return TextModel(build(SHAPE, tokenizer.vocab_size, tokenizer.pad_id), tokenizer, SHAPE)


@pytest.fixture
def tensors():
    return {name: p.detach().clone() for name, p in build(SHAPE, VOCAB_SIZE, PAD).named_parameters()}


@pytest.fixture
def folder(tmp_path, tensors):
    write_model(tmp_path, SETTINGS, tensors)
    return tmp_path


def refuse(read, *arguments) -> str:
    """The message of the ModelError that `read` must raise, which is one line."""
    with pytest.raises(ModelError) as refusal:
        read(*arguments)
    message = str(refusal.value)
    assert message.strip()
    assert len(message.splitlines()) == 1, message
    return message


def sum_of_weights(folder) -> str:
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


# What is written is read


def test_settings_and_tensors_come_back_exactly(folder, tensors):
    assert read_settings(folder) == {"schema": SCHEMA, **SETTINGS, "weights_sha256": sum_of_weights(folder)}
    found = read_tensors(folder, expected())
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_any_dtype_and_any_layout_come_back(tmp_path, dtype):
    scattered = torch.randn(6, 4).mul(100).to(dtype).T[:, ::2]
    assert not scattered.is_contiguous()
    parameter = torch.nn.Parameter(torch.randn(2))
    write_model(
        tmp_path, {}, {"matrix": scattered, "scalar": torch.tensor(7, dtype=dtype), "weights": parameter}
    )
    wanted = {"matrix": scattered, "scalar": torch.tensor(7, dtype=dtype), "weights": parameter.detach()}
    found = read_tensors(tmp_path, wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert not found["weights"].requires_grad


def test_writing_again_replaces_both_files(folder, tensors):
    write_model(folder, {"name": "new"}, {name: tensor + 1 for name, tensor in tensors.items()})
    assert read_settings(folder) == {
        "schema": SCHEMA,
        "name": "new",
        "weights_sha256": sum_of_weights(folder),
    }
    found = read_tensors(folder, expected())
    assert all(torch.equal(found[name], tensor + 1) for name, tensor in tensors.items())


def test_a_folder_with_settings_has_its_weights(tmp_path, tensors, monkeypatch):
    """The settings are written last, so a folder that was left half written is not taken for a model."""

    class StoppingDisk(Disk):
        def rename(self, old, new):
            if renamed:
                raise KeyboardInterrupt
            renamed.append(new.name)
            super().rename(old, new)

    renamed: list[str] = []
    monkeypatch.setattr(elman.files, "disk", StoppingDisk())
    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path, SETTINGS, tensors)
    assert renamed == [WEIGHTS]
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]
    refuse(find_model, tmp_path)


# What is replaced while it is read


class Run:
    """A run that saves its best model in a folder, which others open: model n is all n."""

    def __init__(self, folder) -> None:
        self.folder, self.model, self.readings = folder, text_model(), 0
        self.save(0)

    def save(self, number: int) -> None:
        with torch.no_grad():
            for parameter in self.model.model.parameters():
                parameter.fill_(number)
        self.model.save(self.folder, "# A model\n")

    def on_each_reading(self, monkeypatch, name, act) -> None:
        """Call `act` with the number of the reading, just before the file `name` is read."""

        def watch(path, size):
            if path.name == name:
                self.readings += 1
                act(self.readings)
            return read(path, size)

        read = store.read_at_most
        monkeypatch.setattr(store, "read_at_most", watch)

    def opened(self) -> float:
        """The number of the model that is found, all of whose weights are of one save."""
        (number,) = {value for p in load(self.folder).model.parameters() for value in p.flatten().tolist()}
        return number


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "model")


@pytest.mark.parametrize("saves", [1, 5, READINGS])
def test_a_model_that_is_replaced_while_it_is_read_is_read_again(run, monkeypatch, saves):
    """Each time, both files are replaced between the reading of the one and of the other."""
    run.on_each_reading(monkeypatch, WEIGHTS, lambda reading: reading > saves or run.save(reading))
    assert run.opened() == saves
    assert run.readings == saves + 1


def test_a_model_that_is_opened_amid_a_save_waits_for_its_end(run, monkeypatch):
    """Its weights are new and its settings old, and nothing changes while it is read."""

    class PausingDisk(Disk):
        def rename(self, old, new):
            if new.name == CONFIG:
                found.append(run.opened())
            super().rename(old, new)

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:  # meanwhile, the other process goes on
            (scratch,) = run.folder.glob(f".{CONFIG}.*")
            (run.folder / CONFIG).write_bytes(scratch.read_bytes())

    found: list[float] = []
    waits: list[float] = []
    monkeypatch.setattr(store.time, "sleep", wait)
    monkeypatch.setattr(elman.files, "disk", PausingDisk())
    run.save(1)
    assert found == [1]
    assert len(waits) == 3
    assert run.opened() == 1


def test_what_stays_as_it_is_is_read_once(run, monkeypatch):
    (run.folder / WEIGHTS).write_bytes((run.folder / WEIGHTS).read_bytes()[:-1])
    run.on_each_reading(monkeypatch, WEIGHTS, lambda reading: None)
    assert "copy the whole model folder" in refuse(load, run.folder)
    assert run.readings == 1


def test_what_is_replaced_for_ever_and_what_a_killed_save_left_is_given_up(run, monkeypatch):
    run.on_each_reading(monkeypatch, WEIGHTS, run.save)
    assert "copy the whole model folder" in refuse(load, run.folder)
    assert run.readings == READINGS + 1

    monkeypatch.undo()
    monkeypatch.setattr(store, "PAUSE_SECONDS", 0.0)
    (run.folder / f".{CONFIG}.12345").write_text("{")
    (run.folder / WEIGHTS).write_bytes(b"")
    refuse(load, run.folder)


def test_a_signal_amid_the_reading_is_no_damage(folder, monkeypatch):
    def interrupted(content):
        raise StoppedError("stopped by SIGTERM; start again", 15)

    monkeypatch.setattr(store.safetensors.torch, "load", interrupted)
    with pytest.raises(StoppedError):
        read_tensors(folder, expected())


# What is no model


def test_a_model_is_found_in_its_folder_and_in_the_folder_of_its_run(tmp_path, tensors):
    inside = tmp_path / "model"
    inside.mkdir()
    assert "no config.json" in refuse(find_model, tmp_path)
    write_model(inside, SETTINGS, tensors)
    assert find_model(inside) == find_model(tmp_path) == inside
    write_model(tmp_path, SETTINGS, tensors)
    assert find_model(tmp_path) == tmp_path


def test_what_is_no_model_folder_is_refused(tmp_path):
    nowhere = tmp_path / "nowhere"
    assert str(nowhere) in refuse(find_model, nowhere)
    file = tmp_path / "file.txt"
    file.write_text("text")
    assert str(file) in refuse(find_model, file)
    refuse(find_model, file / "below")
    (tmp_path / CONFIG).mkdir()
    refuse(find_model, tmp_path)
    refuse(read_settings, tmp_path)


# Damaged settings

DAMAGED_SETTINGS = {
    "empty": b"",
    "not JSON": b"hidden_size: 4",
    "not UTF-8": b'{"schema": "\xff\xfe"}',
    "null": b"null",
    "a list": b"[]",
    "a number": b"17",
    "no schema": b"{}",
    "a schema that is no string": json.dumps({"schema": {"a": [1]}}).encode(),
    "an older schema": json.dumps({"schema": "elman.model/0"}).encode(),
    "a newer schema": json.dumps({"schema": "elman.model/2", "model": {}}).encode(),
    "a schema of two lines": json.dumps({"schema": "a\nb"}).encode(),
    "nested too deeply": b"[" * 200_000,
    "a number of 5,000 digits": b'{"schema": ' + b"9" * 5_000 + b"}",
}


@pytest.mark.parametrize("damage", DAMAGED_SETTINGS)
def test_damaged_settings_are_refused(folder, damage):
    (folder / CONFIG).write_bytes(DAMAGED_SETTINGS[damage])
    assert str(folder / CONFIG) in refuse(read_settings, folder)


def test_the_refusal_of_a_newer_schema_names_both(folder):
    (folder / CONFIG).write_text(json.dumps({"schema": "elman.model/2"}))
    message = refuse(read_settings, folder)
    assert "'elman.model/2'" in message
    assert repr(SCHEMA) in message


def test_missing_files_are_refused(folder):
    (folder / CONFIG).unlink()
    assert CONFIG in refuse(read_settings, folder)
    (folder / WEIGHTS).unlink()
    assert WEIGHTS in refuse(read_tensors, folder, expected())
    (folder / WEIGHTS).mkdir()
    refuse(read_tensors, folder, expected())


@pytest.mark.parametrize("sixteenths", range(16))
def test_truncated_files_are_refused(folder, sixteenths):
    for name, read in (
        (WEIGHTS, lambda: read_tensors(folder, expected())),
        (CONFIG, lambda: read_settings(folder)),
    ):
        read()
        whole = (folder / name).read_bytes()
        assert len(whole) > 16
        (folder / name).write_bytes(whole[: len(whole) * sixteenths // 16])
        assert str(folder / name) in refuse(read)


def test_bytes_too_many_are_refused(folder):
    with (folder / WEIGHTS).open("ab") as file:
        file.write(bytes(8))
    refuse(read_tensors, folder, expected())


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_any_changed_byte_gives_finite_tensors_or_a_refusal(tmp_path_factory, place, byte):
    folder = tmp_path_factory.mktemp("changed")
    write_model(folder, {}, {"a": torch.ones(2, 3), "b": torch.zeros(4)})
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[int(place * len(content))] = byte
    (folder / WEIGHTS).write_bytes(content)
    refusal, found = "", {}
    try:
        found = read_tensors(folder, {"a": torch.empty(2, 3), "b": torch.empty(4)})
    except ModelError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) == (0 if found else 1)
    assert all(tensor.isfinite().all() for tensor in found.values())


# Tensors that do not fit


def rewrite(folder, tensors):
    """The weights file as another program might have written it."""
    safetensors.torch.save_file(tensors, folder / WEIGHTS)


def test_missing_and_foreign_tensors_are_refused_by_name(folder, tensors):
    missing = {name: tensor for name, tensor in tensors.items() if name != "head.bias"}
    rewrite(folder, missing)
    assert "missing ['head.bias']" in refuse(read_tensors, folder, expected())
    rewrite(folder, tensors | {"cells.9.bias": torch.zeros(3)})
    assert "not expected ['cells.9.bias']" in refuse(read_tensors, folder, expected())
    rewrite(folder, {})
    refuse(read_tensors, folder, expected())


# The first three hold as many numbers.
@pytest.mark.parametrize("shape", [(16, 4, 1), (4, 16), (64,), (16, 5), (0, 4)], ids=str)
def test_another_shape_is_refused(folder, tensors, shape):
    assert tensors["cells.1.weight_hh"].shape == (16, 4)
    rewrite(folder, tensors | {"cells.1.weight_hh": torch.zeros(shape)})
    message = refuse(read_tensors, folder, expected())
    assert "cells.1.weight_hh" in message
    assert str(shape) in message
    assert "(16, 4)" in message


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64], ids=str
)
def test_another_dtype_is_refused(folder, tensors, dtype):
    rewrite(folder, tensors | {"head.bias": tensors["head.bias"].to(dtype)})
    assert str(dtype) in refuse(read_tensors, folder, expected())


@pytest.mark.parametrize("dtype", ["F4", "F8_E4M3", "F8_E8M0", "U16", "U64", "X9"])
def test_a_dtype_that_torch_hardly_knows_is_refused(tmp_path, dtype):
    bits = {"F4": 4, "U16": 16, "U64": 64}.get(dtype, 8)
    entry = {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * bits // 8]}
    header = json.dumps({"a": entry}).encode()
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * bits // 8))
    refuse(read_tensors, tmp_path, {"a": torch.empty(4)})


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_refused(folder, tensors, value):
    spoilt = tensors["cells.0.weight_ih"].clone()
    spoilt[-1, -1] = value
    rewrite(folder, tensors | {"cells.0.weight_ih": spoilt})
    message = refuse(read_tensors, folder, expected())
    assert "cells.0.weight_ih" in message
    assert "not finite" in message


# Sizes that would take all memory


@pytest.mark.parametrize("change", [{"hidden_size": 10**8}, {"embedding_dim": 10**9}], ids=str)
def test_an_absurd_size_is_refused_by_comparison_with_the_file(folder, change):
    absurd = build_empty(replace(SHAPE, **change), VOCAB_SIZE, PAD)
    assert sum(p.numel() for p in absurd.parameters()) > 10**9
    message = refuse(read_tensors, folder, dict(absurd.named_parameters()))
    assert "does not fit" in message or "makes it" in message


def test_more_than_the_settings_ask_for_is_not_read(folder):
    """A terabyte, which no machine that runs this would read."""
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(1 << 40)
    assert "1,099,511,627,776 bytes" in refuse(read_tensors, folder, expected())


@pytest.fixture(scope="module")
def text_model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_model")
    text_model().save(folder, "# A card\n")
    return folder


@pytest.mark.parametrize(
    "field", ["hidden_size", "embedding_dim", "num_layers", "cell", "pad_index", "model"]
)
@pytest.mark.parametrize(
    "value", [10**9, 10**18, 10**30, -1, 1.5, None, "x", [], {}, float("nan")], ids=lambda value: repr(value)
)
def test_loading_absurd_settings_is_refused_whatever_they_are(text_model_folder, tmp_path, field, value):
    for path in text_model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / CONFIG).read_text())
    assert settings.pop("sha256")  # which would be reason enough
    (settings if field in settings else settings["model"])[field] = value
    assert load(text_model_folder).config == SHAPE
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    refuse(load, tmp_path)
