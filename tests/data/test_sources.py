"""Which files a path stands for: regular, visible, of a known suffix, inside the folder, in order."""

import os
import socket
from pathlib import Path

import pytest

from elman.data.corpora import KNOWN_CORPORA
from elman.data.readers import ReadOptions
from elman.data.sources import find_files, format_of
from elman.errors import InputError


def find(source) -> tuple[list[Path], list[str]]:
    options = ReadOptions()
    return find_files(str(source), KNOWN_CORPORA, options), options.notes


def refused(source, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        find(source)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def write(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    return paths


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.jsonl", "jsonl"),
        ("a.NDJSON.gz", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.parquet.zst", "parquet"),
        ("a.txt", "text"),
        ("a.log", "text"),
        ("a", "text"),
        ("jsonl.gz", "text"),
    ],
)
def test_the_suffix_under_a_compression_decides(name, format_):
    assert format_of(Path(name)) == format_


def test_a_file_stands_for_itself_whatever_its_name(tmp_path):
    (path,) = write(tmp_path, ".strange.suffix")
    assert find(path) == ([path], [])


def test_a_folder_stands_for_its_texts_in_order(tmp_path):
    wanted = write(tmp_path, "a.txt", "b/a.md", "b/c.parquet", "b.jsonl.gz", "c.TXT.zst", "z.rst")
    write(tmp_path, ".hidden.txt", ".git/a.txt", "b/.cache/a.txt", ".hidden.png")
    assert find(tmp_path) == (sorted(wanted), [])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["data.csv"], "1 file (.csv)"),
        (["a.PNG", "b/program", "archive.tar.gz", "b/c.png"], "4 files (.png, no suffix, .tar.gz)"),
        ([f"{number}.csv" for number in range(1200)], "1,200 files (.csv)"),
        (
            [f"a.suffix{number}" for number in range(20)],
            "20 files (.suffix0, .suffix1, .suffix10, .suffix11, .suffix12, ...)",
        ),
        (["a.two\nlines"], "1 file (.two lines)"),
    ],
)
def test_what_is_left_out_of_a_folder_is_told(tmp_path, names, told):
    wanted = write(tmp_path, "a.txt")
    write(tmp_path, *names)
    (tmp_path / "link.csv").symlink_to(tmp_path / names[0])
    assert find(tmp_path) == (wanted, [f"{tmp_path}: left out: {told}"])


def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    write(outside, "secret.txt")
    folder = tmp_path / "folder"
    (kept,) = write(folder, "a.txt")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "broken.txt").symlink_to(outside / "gone.txt")
    (folder / "away").symlink_to(outside)
    (folder / "circle").symlink_to(folder)
    assert find(folder) == ([kept], [f"{folder}: 4 symbolic links not followed"])


def test_a_folder_named_through_a_link_is_read(tmp_path):
    write(tmp_path / "folder", "a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert find(tmp_path / "link")[0] == [tmp_path / "link" / "a.txt"]


def test_a_folder_without_texts_lists_what_would_be_read(tmp_path):
    write(tmp_path, "picture.png")
    refused(tmp_path, str(tmp_path), "no text in this folder", ".txt", ".jsonl", ".parquet", ".gz", ".zst")


def test_special_files_are_refused_and_passed_over(tmp_path):
    fifo = tmp_path / "fifo.txt"
    os.mkfifo(fifo)
    refused(fifo, "neither a regular file nor a folder", "give -")
    refused("/dev/zero", "neither a regular file nor a folder")
    (kept,) = write(tmp_path, "a.txt")
    assert find(tmp_path) == ([kept], [])


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.txt")
        refused("s.txt", "neither a regular file nor a folder")


@pytest.mark.parametrize(
    ("given_", "meant"),
    [
        ("python-doc", "python-docs"),
        ("thelmbook:new", "thelmbook:news"),
        ("thelmbok:brown", "thelmbook:brown"),
    ],
)
def test_a_misspelt_name_is_corrected(given_, meant):
    refused(given_, given_, f"did you mean {meant!r}?")


def test_a_missing_path_is_named_without_a_guess(tmp_path):
    refused(tmp_path / "python-doc", "no such file, folder or corpus")
    with pytest.raises(InputError) as caught:
        find(tmp_path / "python-doc")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("source", ["", "a\x00b", "a" * 5000, "/dev/null/a.txt"])
def test_a_name_that_can_be_no_path_is_refused(source):
    refused(source)


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path, monkeypatch):
    # not by chmod: who runs the tests may be allowed everything
    write(tmp_path, "a.txt", "closed/b.txt")
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    refused(tmp_path, "closed: cannot be listed: Permission denied")
