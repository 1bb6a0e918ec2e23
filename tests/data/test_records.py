"""Records: the texts in order, and an error that names the record wherever there is none."""

import gzip
import json
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.data.readers import ReadOptions
from elman.data.records import read_hub, read_jsonl, read_parquet
from elman.errors import InputError, MissingExtraError

TEXTS = ["one\ntwo", "", "naïve", "  "]


def refused(reader, path, *parts: str, **settings) -> None:
    with pytest.raises(InputError) as caught:
        list(reader(path, path.name, ReadOptions(**settings)))
    message = str(caught.value)
    assert message.startswith(path.name)
    assert "\n" not in message
    for part in parts:
        assert part in message


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))), st.booleans())
def test_jsonl_gives_back_its_texts(tmp_path_factory, texts, ascii_only):
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    path.write_text(
        "".join(f"{json.dumps({'text': t}, ensure_ascii=ascii_only)}\n\n" for t in texts), "utf-8"
    )
    assert list(read_jsonl(path, "a.jsonl", ReadOptions())) == texts


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"text": "a"', ["not valid JSON", "column"]),
        ("plain", ["not valid JSON", "column 1"]),
        (
            '{"id": 1, "texts": "a"}',
            ["no field 'text'", "did you mean 'texts'?", "id, texts", "--text-field"],
        ),
        ("{}", ["no field 'text'", "none"]),
        ('{"text": null}', ["is null, not a string"]),
        ('{"text": 3}', ["is a number, not a string"]),
        ('{"text": ["a"]}', ["is a list, not a string"]),
        ('["text"]', ["a list, not an object"]),
        ("[" * 200_000, ["nested too deeply"]),
        ('{"text": "a", "n": ' + "1" * 5000 + "}", ["not usable JSON"]),
        ('{"text": "\\ud800"}', ["surrogate", "--encoding-errors replace"]),
    ],
    ids=range(11),
)
def test_a_bad_line_of_json_is_named_by_its_number(tmp_path, line, parts):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n")
    refused(read_jsonl, path, "line 3", *parts)


def test_half_a_surrogate_pair_can_be_replaced(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b\\ud83d\\ude00\\udc00"}\n{"text": "\\ud800"}\n')
    options = ReadOptions(encoding_errors="replace")
    assert list(read_jsonl(path, "a.jsonl", options)) == ["a\ufffdb😀\ufffd", "\ufffd"]
    assert options.notes == ["a.jsonl: halves of surrogate pairs replaced by U+FFFD"]


def test_ends_of_lines_inside_records_are_lf(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\r\\nb\\rc"}')
    options = ReadOptions()
    assert list(read_jsonl(path, "a.jsonl", options)) == ["a\nb\nc"]
    assert options.notes == ["a.jsonl: CR and CRLF read as LF"]


def test_another_field_can_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": 1, "body": "here"}')
    assert list(read_jsonl(path, "a.jsonl", ReadOptions(text_field="body"))) == ["here"]


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary("int8", "string")]
)
def test_parquet_gives_back_its_texts(tmp_path, kind):
    path = tmp_path / "a.parquet"
    texts = TEXTS * 300  # several batches, several row groups
    table = pyarrow.table({"id": range(len(texts)), "text": pyarrow.array(texts).cast(kind)})
    pyarrow.parquet.write_table(table, path, row_group_size=500)
    assert list(read_parquet(path, "a.parquet", ReadOptions())) == texts
    packed = tmp_path / "a.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_parquet(packed, "a.parquet.gz", ReadOptions())) == texts


def test_parquet_names_columns_and_rows(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"texts": ["a", None], "id": [1, 2]}), path)
    refused(read_parquet, path, "no field 'text'", "did you mean 'texts'?", "texts, id", "--text-field")
    refused(read_parquet, path, "row 2", "is null, not a string", text_field="texts")
    refused(read_parquet, path, "row 1", "is a number, not a string", text_field="id")


@pytest.mark.parametrize("kept", [0, 3, 0.5])
def test_damaged_parquet_is_refused(tmp_path, kept):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    refused(read_parquet, path, "cannot be read as parquet")


def test_parquet_with_bytes_that_are_not_utf8_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    column = pyarrow.array([b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    refused(read_parquet, path, "cannot be read as parquet")


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"reading \.parquet needs .*elman\[data\]"):
        list(read_parquet(tmp_path / "a.parquet", "a.parquet", ReadOptions()))


class TestHub:
    """Against a stand-in for `datasets` with the one function that is used."""

    @pytest.fixture
    def hub(self, monkeypatch):
        asked = []

        def load_dataset(*names, **settings):
            asked.append((names, settings))
            if names[0] == "unreachable":
                raise ConnectionError("no route to the hub\nand a long story")
            return [{"text": "a"}, {"text": "b"}]

        module = types.ModuleType("datasets")
        module.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", module)
        return asked

    @pytest.mark.parametrize(
        ("name", "names", "split"),
        [
            ("owner/name", ("owner/name",), "train"),
            ("name:test", ("name",), "test"),
            ("name:config:test", ("name", "config"), "test"),
        ],
    )
    def test_a_name_may_carry_a_configuration_and_a_split(self, hub, name, names, split):
        assert list(read_hub(name, ReadOptions())) == ["a", "b"]
        assert hub == [(names, {"split": split, "streaming": True})]

    @pytest.mark.parametrize("name", ["", ":train", "name:", "a:b:c:d"])
    def test_a_name_that_is_none_is_refused(self, hub, name):
        with pytest.raises(InputError, match="write hf:NAME"):
            list(read_hub(name, ReadOptions()))

    def test_a_failure_says_what_to_do_instead(self, hub):
        with pytest.raises(InputError, match=r"^hf:unreachable: no route to the hub; .*give its path$"):
            list(read_hub("unreachable", ReadOptions()))

    def test_a_missing_field_names_the_record(self, hub):
        with pytest.raises(InputError, match=r"hf:name, record 1: no field 'body'.*there are: text"):
            list(read_hub("name", ReadOptions(text_field="body")))

    def test_without_the_package_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingExtraError, match=r"elman\[data\]"):
            list(read_hub("name", ReadOptions()))
