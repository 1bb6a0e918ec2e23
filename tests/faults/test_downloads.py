"""Downloads that fail, lie, stall or mean harm: the right archive arrives whole, and nothing else arrives."""

import contextlib
import gzip
import hashlib
import io
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.data import corpora, unpack
from elman.data.download import thelmbook
from elman.data.fetch import Patience
from elman.data.unpack import unpack_texts
from elman.errors import InputError
from tests.faults.sweep import cases

pytestmark = pytest.mark.usefixtures("plain_surroundings")

INSPECT = ("data", "inspect")


# --- Downloads ---------------------------------------------------------------------------------------------------


def archive(**texts: str) -> bytes:
    """A gzipped tar of NAME.txt, for each of the names."""
    return packed(*((f"news/{name}.txt", text.encode()) for name, text in texts.items()))


def packed(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                tar.addfile(info(member[0], size=len(member[1])), io.BytesIO(member[1]))
    return buffer.getvalue()


def info(name: str, **fields) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


NEWS = archive(train="".join(f"line {number}, {number**7}\n" for number in range(2000)), test="one\n")
HALF = len(NEWS) // 2

Act = Callable[[BaseHTTPRequestHandler], None]


class Chaos:
    """A server that behaves once as each of its acts says, and from then on as the last."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.acts: list[Act] = []
        self.ranges: list[str | None] = []
        """Of each request."""
        self.over = threading.Event()
        """What hangs goes on when the test is over."""


@pytest.fixture
def chaos(monkeypatch) -> Iterator[Chaos]:
    """A server in the place of the real one, and little patience with it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.ranges.append(self.headers["Range"])
            with contextlib.suppress(OSError):  # the other side gave up
                (server.acts.pop(0) if len(server.acts) > 1 else server.acts[0])(self)

        def log_message(self, *arguments) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = Chaos(f"http://127.0.0.1:{http.server_port}")
        reach(server.url, monkeypatch)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            http.shutdown()
            thread.join()


def reach(url: str, monkeypatch) -> None:
    patience = Patience(attempts=3, pause_seconds=0, timeout_seconds=0.3)
    monkeypatch.setattr(corpora, "thelmbook", partial(thelmbook, base_url=url, patience=patience))


def answer(body: bytes = b"", *, status: int = 200, length: int | None = None, **headers: str) -> Act:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return act


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Half of the file, and then not even a goodbye."""
    answer(NEWS[:HALF], length=len(NEWS), ETag='"1"')(handler)
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def stall(chaos: Chaos, sent: bytes) -> Act:
    """A beginning, and nothing more."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(sent)
        chaos.over.wait()

    return act


def dribble(chaos: Chaos) -> Act:
    """Byte by byte, so that no single wait is long."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        answer(length=len(NEWS))(handler)
        for byte in NEWS:
            handler.wfile.write(bytes([byte]))
            if chaos.over.wait(0.05):
                return

    return act


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


def broken_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n" + NEWS[:16])


CHAOS = {
    "404": (answer(b"<html>", status=404), "404", 1),
    "403": (answer(b"<html>", status=403), "403", 1),
    "500": (answer(status=500), "500", 3),
    "429": (answer(status=429), "429", 3),
    "reset": (reset, "cannot be downloaded", 3),
    "too short": (answer(NEWS[:HALF], length=len(NEWS)), f"closed after {HALF} of {len(NEWS)} bytes", 3),
    "nothing": (answer(), "closed after 0", 3),
    "garbage": (garbage, "cannot be downloaded", 3),
    "broken chunks": (broken_chunks, "cannot be downloaded", 3),
    "endless headers": (answer(NEWS, X="a" * 100_000), "cannot be downloaded", 3),
    "circle": (answer(status=302, Location="/news"), "redirect", 1),
    "to a file": (answer(status=302, Location="file:///etc/passwd"), "cannot be downloaded", 1),
    "to nowhere": (answer(status=302, Location="http://a:b/"), "nonnumeric port", 3),
    "login": (answer(b"\n<!DOCTYPE html><title>Log in</title>"), "a web page, not an archive", 1),
    "other part": (answer(NEWS[5:], status=206, Content_Range="bytes 5-9/10"), "answered 206", 3),
}


def assert_nothing_came(elman, own_cache, part: str) -> None:
    elman(*INSPECT, "thelmbook:news").refuses(1, part, "give the path of train.txt")
    assert list(own_cache.rglob("*")) == [own_cache / "thelmbook"]


@pytest.mark.parametrize("kind", CHAOS)
def test_d19_a_download_that_fails(elman, own_cache, chaos, kind):
    act, part, attempts = CHAOS[kind]
    chaos.acts = [act]
    assert_nothing_came(elman, own_cache, part)
    if kind not in ("circle", "to a file", "to nowhere"):
        assert len(chaos.ranges) == attempts
    if attempts > 1:  # what may pass is tried again
        chaos.acts = [act, answer(NEWS)]
        assert elman(*INSPECT, "thelmbook:news", "--json").document["documents"] == 2000


@cases("sent", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n" + NEWS[:100], None], b"", None)
def test_d19_a_download_that_stalls(elman, own_cache, chaos, sent):
    chaos.acts = [dribble(chaos) if sent is None else stall(chaos, sent)]
    assert_nothing_came(elman, own_cache, "cannot be downloaded: ")
    assert len(chaos.ranges) == 3


def test_d19_a_server_that_cannot_be_reached(elman, own_cache, chaos, monkeypatch):
    reach(chaos.url.replace("http:", "https:"), monkeypatch)
    assert_nothing_came(elman, own_cache, "SSL")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        reach(f"http://127.0.0.1:{closed.getsockname()[1]}", monkeypatch)
        assert_nothing_came(elman, own_cache, "refused")

    def resolve(*arguments, **more):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    reach("http://nowhere.invalid", monkeypatch)
    assert_nothing_came(elman, own_cache, "Name or service not known")


def rest(handler: BaseHTTPRequestHandler) -> None:
    """What was asked for, and no more."""
    begin = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert handler.headers["If-Range"] == '"1"'
    answer(NEWS[begin:], status=206, Content_Range=f"bytes {begin}-{len(NEWS) - 1}/{len(NEWS)}")(handler)


@pytest.mark.parametrize(
    ("after", "attempts"),
    [
        ([rest], 2),  # taken up where it broke off
        ([answer(NEWS, ETag='"2"')], 2),  # changed, or a server that cannot: all of it
        (
            [answer(NEWS[9:], status=206, Content_Range="bytes 9-99/100"), answer(NEWS)],
            3,
        ),  # another part than asked
        ([answer(status=416), rest], 3),
    ],
)
def test_d19_a_download_is_taken_up_again(elman, own_cache, chaos, after, attempts):
    chaos.acts = [answer(NEWS[:HALF], length=len(NEWS), ETag='"1"'), *after]
    assert elman(*INSPECT, "thelmbook:news", "--json").document["documents"] == 2000
    assert chaos.ranges[:2] == [None, f"bytes={HALF}-"]
    assert len(chaos.ranges) == attempts
    home = own_cache / "thelmbook"
    assert (home / "news.sha256").read_text().strip() == hashlib.sha256(NEWS).hexdigest()
    assert {path.name for path in home.iterdir()} == {"news", "news.sha256"}


def test_d19_a_file_without_a_validator_is_never_pieced_together(elman, own_cache, chaos):
    chaos.acts = [answer(NEWS[:HALF], length=len(NEWS), ETag='W/"1"'), answer(NEWS)]
    assert elman(*INSPECT, "thelmbook:news").code == 0
    assert chaos.ranges == [None, None]


def test_d20_another_archive_than_is_known(elman, own_cache, chaos):
    other = archive(train="something else\n")
    sums = [hashlib.sha256(content).hexdigest() for content in (other, NEWS)]
    known, bad = (own_cache / "thelmbook" / f"news.{ending}" for ending in ("sha256", "bad"))
    known.parent.mkdir(parents=True)
    known.write_text(sums[1])
    chaos.acts = [answer(other)]
    elman(*INSPECT, "thelmbook:news").refuses(4, f"SHA-256 {sums[0]}, not {sums[1]}", str(bad))
    assert bad.read_bytes() == other
    assert set(bad.parent.iterdir()) == {known, bad}
    chaos.acts = [answer(NEWS)]
    assert elman(*INSPECT, "thelmbook:news").code == 0


# --- Archives ----------------------------------------------------------------------------------------------------

GOOD = ("news/train.txt", b"good\n")


def sparse(name: str, size: int = 512) -> tarfile.TarInfo:
    """A file of which the archive holds nothing but how large it is."""
    return info(name, type=tarfile.GNUTYPE_SPARSE, size=size)


HOSTILE = {
    "parent": ([GOOD, ("../train.txt", b"bad\n")], "would leave its folder"),
    "parent inside": ([GOOD, ("a/../../test.txt", b"bad\n")], "would leave its folder"),
    "absolute": ([GOOD, ("/tmp/test.txt", b"bad\n")], "would leave its folder"),
    "backslash": ([GOOD, ("..\\test.txt", b"bad\n")], "would leave its folder"),
    "twice": ([GOOD, ("other/train.txt", b"bad\n")], "two files named train.txt"),
    "too many": ([GOOD, *(info(str(number)) for number in range(10_001))], "10,000 files"),
    "too large": ([GOOD, info("a.bin", size=1 << 40)], "decompresses to more than"),
    "a hole": ([sparse("news/train.txt")], "holds no train.txt"),
    "a large hole": ([sparse("news/train.txt", 1 << 40)], "not a whole gzipped tar archive"),
    "a long name": (
        [info("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1 << 30), GOOD],
        "header of more",
    ),
    "long names": ([info("@", type=tarfile.GNUTYPE_LONGNAME, size=0)] * 2000 + [GOOD], "header of more"),
    "long notes": ([info("@", type=tarfile.XHDTYPE, size=1 << 30), GOOD], "header of more"),
    "nothing": ([], "holds no train.txt"),
    "symbolic link": (
        [info("news/train.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        "holds no train.txt",
    ),
    "hard link": ([info("news/train.txt", type=tarfile.LNKTYPE, linkname="../../x")], "holds no train.txt"),
    "device": ([info("news/train.txt", type=tarfile.CHRTYPE, devmajor=1, devminor=5)], "holds no train.txt"),
    "pipe": ([info("news/train.txt", type=tarfile.FIFOTYPE)], "holds no train.txt"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_d21_an_archive_that_means_harm(elman, tmp_path, own_cache, chaos, kind):
    members, part = HOSTILE[kind]
    chaos.acts = [answer(packed(*members))]
    elman(*INSPECT, "thelmbook:news").refuses(4, part)
    assert list(own_cache.rglob("*")) == [own_cache / "thelmbook"]
    assert not list(tmp_path.iterdir())


def test_d21_links_lead_nowhere_and_rights_are_our_own(elman, tmp_path, own_cache, chaos):
    chain = [info(f"{n}", type=tarfile.SYMTYPE, linkname=f"{n + 1}/..") for n in range(20)]
    train = info("0/train.txt", mode=0o6777, uid=0)
    chaos.acts = [answer(packed(*chain, info("0", type=tarfile.SYMTYPE, linkname=str(tmp_path)), train))]
    elman(*INSPECT, "thelmbook:news").refuses(4, "no text in it")  # written, and empty
    written = own_cache / "thelmbook" / "news" / "train.txt"
    assert [path for path in own_cache.rglob("*") if path.is_symlink()] == []
    assert list(written.parent.iterdir()) == [written]
    assert written.stat().st_mode & 0o7133 == 0
    assert not list(tmp_path.iterdir())


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), min_size=1, max_size=8),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_d21_a_damaged_archive_is_unpacked_or_refused(tmp_path_factory, damage, format_):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_, pax_headers={"comment": "é"}) as tar:
        tar.addfile(info("é" * 60 + "/train.txt", size=700), io.BytesIO(b"a" * 700))
        tar.addfile(info("test.txt", size=5), io.BytesIO(b"test\n"))
    content = bytearray(buffer.getvalue())
    for place, value in damage:
        content[place] = value
    for header in range(0, 2048, 512):  # a sum that fits lets more damage through
        block = bytearray(content[header : header + 512])
        block[148:156] = b" " * 8
        content[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    folder = tmp_path_factory.mktemp("texts")
    with contextlib.suppress(InputError):
        unpack_texts(io.BytesIO(gzip.compress(bytes(content))), ("train.txt", "test.txt"), folder, "news")
    assert {path.name for path in folder.iterdir()} <= {"train.txt", "test.txt"}
    assert all(path.stat().st_size <= len(content) for path in folder.iterdir())


def test_d22_a_download_that_unfolds_without_end(elman, own_cache, chaos, monkeypatch):
    monkeypatch.setattr(unpack, "ALWAYS_ALLOWED", 1 << 20)
    chaos.acts = [answer(packed(("news/train.txt", bytes(8 << 20))))]
    elman(*INSPECT, "thelmbook:news").refuses(4, "decompresses to more than")
    assert list(own_cache.rglob("*")) == [own_cache / "thelmbook"]
