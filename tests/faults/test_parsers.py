"""Files that come from others, damaged in any way: every reader takes one as it is, or refuses it in its own words.

A damage is a few edits of a sound file: a byte changed, a stretch left out, said twice, or replaced by something nasty.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elman.compare.job import Measures, Result
from elman.config import PRESETS
from elman.data.corpora import open_corpus
from elman.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from elman.errors import ConfigError, ElmanError, InputError, ModelError, TokenizerError
from elman.evaluate.score import Score
from elman.models.arpa import read_arpa
from elman.models.store import read_settings, read_tensors
from elman.settings import from_toml, resolve, to_toml
from elman.text_model import load
from elman.train.checkpoint import Checkpoints
from elman.train.metrics import read_metrics
from tests.command_line import call, make_text
from tests.faults.hostile import unseal, write_counts, write_network
from tests.switches import torch_as_before  # noqa: F401 - autouse

NASTY = [
    b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"=",
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"-Infinity", b"9" * 400, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000,
    b'"a" = 1', b"\\ud800", b"\x1b]52;c;YQ==\x07", b"../../etc/passwd", b"a." * 2000, b"\\end\\", b"-99", b"1099511627776",
]  # fmt: skip

EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["flip", "replace", "insert", "cut", "repeat", "truncate"]),
        st.integers(1, 40),
        st.sampled_from(NASTY) | st.binary(max_size=4),
    ),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, edits: list[tuple[float, str, int, bytes]]) -> bytes:
    """The file after some edits."""
    for place, kind, size, nasty in edits:
        at = int(place * len(content))
        head, middle, tail = content[:at], content[at : at + size], content[at + size :]
        if kind == "flip":
            middle = bytes([middle[0] ^ (1 << size % 8)]) + middle[1:] if middle else b""
        content = {
            "flip": head + middle + tail,
            "replace": head + nasty + tail,
            "insert": head + nasty + middle + tail,
            "cut": head + tail,
            "repeat": head + middle * 2 + tail,
            "truncate": head,
        }[kind]
    return content


# ---- what there is to read -------------------------------------------------------------------------------


def measures() -> Result:
    score = Score(nats=12.5, targets=9, unknown=0, characters=8, bytes=8, words=2, documents=1)
    values = {field.name: 1 for field in dataclasses.fields(Measures)}
    values |= {
        "score": score,
        "document_nats": [12.5],
        "by_position": [[0, 1.5, 1]],
        "curve": [],
        "sample": "é",
    }
    return Result(bits_per_byte=1.5, measures=Measures(**values))


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A sound file of every kind, and models."""
    folder = tmp_path_factory.mktemp("parsers")
    write_network(folder / "network")
    counts = write_counts(folder / "counts")
    assert call("arpa", counts, folder / "words.arpa").code == 0
    arpa = (folder / "words.arpa").read_bytes().splitlines(keepends=True)
    (folder / "small.arpa").write_bytes(b"".join(arpa))
    (folder / "config.toml").write_text(to_toml(PRESETS["chapter"]))
    (folder / "records.jsonl").write_text(
        "".join(json.dumps({"text": f"née {n}", "n": n}) + "\n" for n in range(9))
    )
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n, "loss": n / 3}) + "\n" for n in range(9))
    )
    (folder / "result.json").write_text(measures().to_json())
    bpe = train_tokenizer("bpe", [make_text(40)], vocab_size=280)
    (folder / "tokenizer.json").write_text(bpe.to_json())
    return folder


def read_records(path: Path) -> None:
    for _ in open_corpus(str(path)).pieces():
        pass


def use_tokenizer(path: Path) -> None:
    tokenizer = load_tokenizer(str(path))
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode_batch(["the née 12\n </s>", ""])[0]
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    tokenizer.decode(ids)


def read_result(path: Path) -> None:
    Result.from_json(path.read_text(encoding="utf-8"))


READERS: dict[str, tuple[Callable[[Path], object], tuple[type[Exception], ...]]] = {
    "config.toml": (from_toml, (ConfigError,)),
    "records.jsonl": (read_records, (InputError,)),
    "metrics.jsonl": (read_metrics, (InputError,)),
    "result.json": (read_result, (ValueError,)),
    "small.arpa": (read_arpa, (InputError,)),
    "tokenizer.json": (use_tokenizer, (TokenizerError,)),
}
"""What reads a file, and how it may refuse."""


def sweep(full: bool, quick: int = 60):
    """Settings of a sweep; the examples share folders, which each of them writes anew."""
    return settings(
        max_examples=1500 if full else quick,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def require_one_line(error: BaseException) -> None:
    assert str(error)
    assert len(str(error).splitlines()) == 1, str(error)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(desk, tmp_path, full, count, name):
    read, refusals = READERS[name]
    read(desk / name)
    content = (desk / name).read_bytes()
    tried, refused = [], []

    @sweep(full)
    @given(edits=EDITS)
    def holds(edits):
        path = tmp_path / name
        path.write_bytes(damaged(content, edits))
        tried.append(edits)
        try:
            read(path)
        except refusals as error:
            refused.append(error)
            require_one_line(error)

    holds()
    count(len(tried))
    assert 0 < len(refused) <= len(tried)


def test_damaged_settings_over_a_preset_are_read_or_refused(desk, tmp_path, full):
    @sweep(full)
    @given(edits=EDITS)
    def holds(edits):
        path = tmp_path / "my.toml"
        path.write_bytes(damaged((desk / "config.toml").read_bytes(), edits))
        try:
            resolve(toml=path)
        except ConfigError as error:
            require_one_line(error)

    holds()


# ---- models: read as they were, or refused ---------------------------------------------------------------


@functools.cache
def predictions(folder: Path) -> torch.Tensor:
    return predict(folder)


def predict(folder: Path) -> torch.Tensor:
    model = load(folder).model
    tokens = torch.arange(40)[None]
    return model.log_probs(tokens, model.initial_state(1))[0]


@pytest.mark.parametrize("model", ["network", "counts"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a02_a_damaged_model_is_the_same_or_refused(desk, tmp_path, full, count, model, name):
    """Never another one: every file has its sum, and they are under one."""
    sound, refused = predictions(desk / model), []
    folder = tmp_path / "model"
    shutil.copytree(desk / model, folder)
    content = (folder / name).read_bytes()

    @sweep(full, quick=40)
    @given(edits=EDITS)
    def holds(edits):
        (folder / name).write_bytes(damaged(content, edits))
        try:
            found = predict(folder)
        except ModelError as error:
            refused.append(error)
            require_one_line(error)
        else:
            assert torch.equal(found, sound)

    holds()
    assert refused
    count(len(refused))


def test_a02_no_changed_bit_of_the_weights_is_overlooked(desk, tmp_path, full, count):
    folder = tmp_path / "model"
    shutil.copytree(desk / "network", folder)
    content = (folder / "model.safetensors").read_bytes()
    known = read_settings(folder)["weights_sha256"]
    bits = range(0, 8 * len(content), 1 if full else 997)
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / "model.safetensors").write_bytes(changed)
        with pytest.raises(ModelError):
            read_tensors(folder, None, sha256=known)
    count(len(bits))


@pytest.mark.parametrize("model", ["network", "counts"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a02_without_sums_a_damaged_model_can_be_used_or_is_refused(desk, tmp_path, full, model, name):
    """One that another tool wrote, say: what is loaded may be another model, and it is one."""
    folder = tmp_path / "model"
    shutil.copytree(desk / model, folder)
    unseal(folder)
    content = (folder / name).read_bytes()

    @sweep(full)
    @given(edits=EDITS)
    def holds(edits):
        (folder / name).write_bytes(damaged(content, edits))
        try:
            found = predict(folder)
        except ModelError as error:
            require_one_line(error)
        else:
            assert not found.isnan().any()

    holds()


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "I64", "BF16", "F4", "", "a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner),
    max_leaves=12,
)  # fmt: skip

ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "I64", "BF16", "F8_E4M3", "F4", "BOOL", "C64", "U16"]) | HEADERS,
        "shape": st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64]), max_size=4) | HEADERS,
        "data_offsets": st.lists(st.integers(-8, 64) | st.sampled_from([2**63, 2**64 - 1]), max_size=3) | HEADERS,
    }
)  # fmt: skip


def test_a02_any_header_is_read_or_refused(desk, tmp_path, full):
    folder = tmp_path / "model"
    shutil.copytree(desk / "network", folder)

    @sweep(full, quick=150)
    @given(header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES | HEADERS) | HEADERS,
           data=st.binary(max_size=64), wrong=st.sampled_from([0, 0, 0, 1, -1, 8, 2**40, 2**63]))  # fmt: skip
    def holds(header, data, wrong):
        text = json.dumps(header).encode()
        length = (len(text) + wrong) % 2**64
        (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + text + data)
        for expected in (None, {"a": torch.empty(2, 3)}):
            try:
                found = read_tensors(folder, expected)
            except ModelError as error:
                require_one_line(error)
            else:
                size = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
                assert size <= len(data)

    holds()


def test_a_sound_header_is_read(desk, tmp_path):
    """The sweep above would pass if all were refused."""
    folder = tmp_path / "model"
    shutil.copytree(desk / "network", folder)
    (folder / "model.safetensors").write_bytes(safetensors.torch.save({"a": torch.ones(2, 3)}))
    assert torch.equal(read_tensors(folder, {"a": torch.empty(2, 3)})["a"], torch.ones(2, 3))


def test_s05_a_damaged_file_of_a_checkpoint_is_refused(tmp_path, full, count):
    contents = {
        "model.safetensors": safetensors.torch.save({"a": torch.ones(3)}),
        "trainer.json": b'{"step": 5}\n',
    }
    path = Checkpoints(tmp_path / "checkpoints").write(5, contents, {"config": "0" * 64})
    read = Checkpoints.read(path)
    sound = {name: (path / name).read_bytes() for name in [*contents, "MANIFEST.json"]}
    refused = []

    @sweep(full)
    @given(name=st.sampled_from(list(sound)), edits=EDITS)
    def holds(name, edits):
        content = damaged(sound[name], edits)
        (path / name).write_bytes(content)
        try:
            found = Checkpoints.read(path)
        except ElmanError as error:
            refused.append(error)
            require_one_line(error)
        else:
            assert content == sound[name] or name == "MANIFEST.json"
            assert name != "MANIFEST.json" or found == read or json.loads(content) != json.loads(sound[name])
        finally:
            (path / name).write_bytes(sound[name])

    holds()
    assert refused
    count(len(refused))


def test_a_result_survives_its_file():
    assert asdict(Result.from_json(measures().to_json())) == asdict(measures())
