"""Downloads, from a server of crafted answers: the right archive arrives whole, and nothing else arrives."""

import gzip
import hashlib
import io
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import elman.files
from elman.data import download, unpack
from elman.data.download import cache_dir, thelmbook
from elman.data.fetch import Patience
from elman.errors import InputError, NetworkError, ResourceError
from tests.faults.cuts import RecordingDisk


def archive(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A gzipped tar of files (name, content) and of members without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = archive(("news/train.txt", b"one\ntwo\n"), ("news/test.txt", b"three\n"))


class Server:
    """Answers requests one after the other from a list; the last answer is repeated."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[dict] = []
        self.requests: list[str] = []

    def answer(self, body: bytes = b"", *, status: int = 200, length: int | None = None) -> None:
        self.answers.append({"body": body, "status": status, "length": length})


@contextmanager
def serving():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.path)
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            self.send_response(answer["status"])
            length = len(answer["body"]) if answer["length"] is None else answer["length"]
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *arguments) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_port}/data")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


def fetch(server: Server, cache: Path) -> Path:
    return thelmbook("news", base_url=server.url, cache=cache, patience=Patience(attempts=3, pause_seconds=0))


def refused(server: Server, cache: Path, *parts: str, kept: tuple[str, ...] = ()) -> None:
    """Nothing but the error comes of it: no text, and no scratch file; only what is `kept` on purpose."""
    before = everything(cache.parent)
    with pytest.raises((InputError, NetworkError)) as caught:
        fetch(server, cache)
    message = str(caught.value)
    assert message.startswith(f"{server.url}/news: ")
    assert "\n" not in message
    for part in parts:
        assert part in message
    home = cache / "thelmbook"
    assert everything(cache.parent) - before <= {cache, home, *(home / name for name in kept)}


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_it_is_fetched_once(server, tmp_path):
    server.answer(GOOD)
    folder = fetch(server, tmp_path)
    assert fetch(server, tmp_path) == folder == tmp_path / "thelmbook" / "news"
    assert server.requests == ["/data/news"]
    assert (folder / "train.txt").read_bytes() == b"one\ntwo\n"
    assert (folder / "test.txt").read_bytes() == b"three\n"
    record = tmp_path / "thelmbook" / "news.sha256"
    assert record.read_text().strip() == hashlib.sha256(GOOD).hexdigest()
    assert set((tmp_path / "thelmbook").iterdir()) == {folder, record}


class Cuts(RecordingDisk):
    """Folders that are made elsewhere are there when something is done in them."""

    def _folder(self, path):
        folder = self._top
        for part in path.relative_to(self._root).parts:
            folder = folder.entries.setdefault(part, type(folder)())
        return folder


def test_a_power_cut_leaves_no_part_of_it(server, tmp_path, monkeypatch):
    server.answer(GOOD)
    (tmp_path / "recorded").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(elman.files, "disk", disk := Cuts(tmp_path / "recorded"))
        fetch(server, tmp_path / "recorded")
    assert any("rename texts news" in told for told, _ in disk.states)
    again = 0
    for number, (told, make) in enumerate(disk.states):
        cache = tmp_path / f"cut-{number}"
        make(cache)
        before = len(server.requests)
        folder = fetch(server, cache)
        assert (folder / "train.txt").read_bytes() == b"one\ntwo\n", told
        assert (folder / "test.txt").read_bytes() == b"three\n", told
        again += len(server.requests) > before
    assert 0 < again < len(disk.states)


@pytest.mark.parametrize("name", ["../train.txt", "a/../../train.txt", "/tmp/train.txt", "..\\train.txt"])
def test_a_name_that_leaves_the_folder_is_refused(server, tmp_path, name):
    server.answer(archive(("train.txt", b"good\n"), (name, b"bad\n")))
    refused(server, tmp_path / "cache", "would leave its folder")


@pytest.mark.parametrize(
    "member",
    [
        special("train.txt", tarfile.SYMTYPE, "/etc/passwd"),
        special("train.txt", tarfile.LNKTYPE, "other.txt"),
        special("train.txt", tarfile.CHRTYPE),
        special("train.txt", tarfile.BLKTYPE),
        special("train.txt", tarfile.FIFOTYPE),
        special("train.txt", tarfile.DIRTYPE),
        special("._train.txt", tarfile.REGTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}",
)
def test_what_is_no_regular_file_is_not_written(server, tmp_path, member):
    server.answer(archive(("other.txt", b"text\n"), member))
    refused(server, tmp_path / "cache", "holds no train.txt")


def test_only_texts_are_written(server, tmp_path):
    server.answer(archive(("news/train.txt", b"text\n"), ("news/run.sh", b"rm\n"), ("news/.x.txt", b"x")))
    assert [path.name for path in fetch(server, tmp_path).iterdir()] == ["train.txt"]


def test_two_texts_of_one_name_are_refused(server, tmp_path):
    server.answer(archive(("a/train.txt", b"one\n"), ("b/train.txt", b"two\n")))
    refused(server, tmp_path / "cache", "two files named train.txt")


@pytest.mark.parametrize(
    ("module", "cap", "value"),
    [(unpack, "MAX_MEMBERS", 1), (unpack, "MAX_TEXT_BYTES", 10), (download, "MAX_ARCHIVE_BYTES", 10)],
)
def test_the_caps_hold(server, tmp_path, monkeypatch, module, cap, value):
    monkeypatch.setattr(module, cap, value)
    server.answer(GOOD)
    refused(server, tmp_path / "cache", str(value))


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"<!DOCTYPE html><title>Log in</title>", "a web page, not an archive"),
        (b"\n <html>", "a web page, not an archive"),
        (b"train", "something else, not an archive"),
        (gzip.compress(b"not a tar" * 1000), "not a whole gzipped tar"),
        (GOOD[: len(GOOD) // 2], "not a whole gzipped tar"),
        (GOOD[:20] + bytes(20) + GOOD[40:], "not a whole gzipped tar"),
        (archive(("readme.md", b"no text")), "holds no train.txt"),
    ],
    ids=["page", "indented page", "text", "no tar", "short", "damaged", "no train.txt"],
)
def test_what_is_not_the_archive_is_refused_at_once(server, tmp_path, body, part):
    server.answer(body)
    refused(server, tmp_path / "cache", part)
    assert len(server.requests) == 1


def test_a_missing_page_is_not_asked_for_again(server, tmp_path):
    server.answer(b"<html>", status=404)
    refused(server, tmp_path / "cache", "404", "give the path of train.txt")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("failure", "part"),
    [
        ({"body": GOOD[:50], "length": len(GOOD)}, f"closed after 50 of {len(GOOD)} bytes"),
        ({"body": b"", "status": 503}, "503"),
        ({"body": b""}, "closed after 0"),
    ],
    ids=["truncated", "busy", "empty"],
)
class TestFailuresThatMayPass:
    def test_are_tried_again(self, server, tmp_path, failure, part):
        server.answer(**failure)
        server.answer(GOOD)
        assert (fetch(server, tmp_path) / "train.txt").read_bytes() == b"one\ntwo\n"
        assert len(server.requests) == 2

    def test_are_reported_in_the_end(self, server, tmp_path, failure, part):
        server.answer(**failure)
        refused(server, tmp_path / "cache", part, "give the path of train.txt")
        assert len(server.requests) == 3


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as gone:
        pass
    refused(gone, tmp_path / "cache", "cannot be downloaded", "download it elsewhere", "give the path")


def test_another_archive_than_the_first_is_refused(server, tmp_path):
    server.answer(GOOD)
    folder = fetch(server, tmp_path)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    server.answers = []
    server.answer(archive(("train.txt", b"something new\n")))
    refused(server, tmp_path, "not the archive that is known", "delete", kept=("news.bad",))
    (tmp_path / "thelmbook" / "news.sha256").unlink()
    assert (fetch(server, tmp_path) / "train.txt").read_bytes() == b"something new\n"


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    server.answer(GOOD)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match=r"file.*set ELMAN_CACHE"):
        fetch(server, tmp_path / "file")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ELMAN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "elman"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/elman")
    monkeypatch.setenv("ELMAN_CACHE", "/own")
    assert cache_dir() == Path("/own")
