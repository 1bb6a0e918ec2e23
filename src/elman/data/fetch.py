"""One file over HTTP, whole: a transfer that breaks off is resumed, and one that stalls is given up in time.

    first attempt     GET                                       200: from its beginning
    further ones      GET, Range: bytes=N-, If-Range: validator 206: from byte N on; 200: from its beginning again

A server that changed the file between two attempts answers 200, since the validator (its ETag, or the time of
its last change) no longer holds; one that gives no validator is asked for everything again.
"""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import BinaryIO

from elman.errors import InputError, NetworkError

_BLOCK_BYTES = 1 << 20

_LEAST_BYTES_PER_SECOND = 1024
"""A slower connection has stalled, even if it brings a byte now and then."""

_RETRYABLE = (408, 416, 425, 429)
"""Answers after which to try again, beside those from 500 on."""

_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a network may take to recover."""

    attempts: int = 4
    """Connections, the first included."""
    pause_seconds: float = 1.0
    """Before the second attempt; twice as long before each further one."""
    timeout_seconds: float = 30.0
    """Without a byte, or with fewer than _LEAST_BYTES_PER_SECOND."""


PATIENCE = Patience()


def fetch(url: str, file: BinaryIO, *, begins: bytes, at_most: int, way_out: str, patience: Patience) -> None:
    """Write what `url` answers into `file`, which is empty and open for writing; if this raises, it may hold a part.

    Args:
        url: Of http or https.
        file: Where it is written.
        begins: First bytes of what is expected; anything else, a login page for instance, is refused at once.
        at_most: Bytes; a longer answer is refused.
        way_out: What messages advise to do instead.
        patience: With the network.

    Raises:
        NetworkError: It did not come, or not whole, or something else did.
        OSError: It cannot be written.
    """
    transfer = _Transfer(url, file, begins, at_most, way_out)
    failure: Exception
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(patience.pause_seconds * 2 ** (attempt - 1))
        try:
            transfer.go_on(patience.timeout_seconds)
            return
        except _NETWORK_ERRORS as error:
            failure = error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if not _is_retryable(error):
                break
        except ValueError as error:  # an address that is none, where a redirection leads
            failure = error
            break
    # "HTTP Error 404: Not Found" says more than its reason; "<urlopen error ...>" says less
    reason = failure if isinstance(failure, urllib.error.HTTPError) else getattr(failure, "reason", failure)
    said = " ".join(str(reason).split()) or type(reason).__name__
    raise NetworkError(f"{url}: cannot be downloaded: {said}; {way_out}") from failure


def _is_retryable(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in _RETRYABLE
    return not isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError)


@dataclass(slots=True)
class _Transfer:
    """What is left of a download when its connection is gone."""

    url: str
    file: BinaryIO
    begins: bytes
    at_most: int
    way_out: str
    validator: str = ""
    """ETag or date of the version that `file` holds the beginning of, for `If-Range`; empty where there is none."""

    def go_on(self, timeout: float) -> None:
        """From where `file` ends, if the server can, to the end of what it sends."""
        held = self.file.tell()
        headers = {"User-Agent": "elman", "Accept-Encoding": "identity"}
        if held and self.validator:
            headers |= {"Range": f"bytes={held}-", "If-Range": self.validator}
        request = urllib.request.Request(self.url, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            resumed = response.status == 206 and (response.headers["Content-Range"] or "").startswith(
                f"bytes {held}-"
            )
            if not resumed:
                held = 0
                self.file.seek(0)
                self.file.truncate()
                etag = response.headers["ETag"] or ""
                # A weak one stands for the same meaning, not the same bytes.
                self.validator = (
                    etag if etag and not etag.startswith("W/") else response.headers["Last-Modified"] or ""
                )
                if response.status != 200:
                    raise ConnectionError(f"answered {response.status}, with another part than was asked for")
            expected = None if response.length is None else held + response.length
            if expected is not None and expected > self.at_most:
                self._refuse_size()
            self._receive(response, held, timeout)
        received = self.file.tell()  # read1() says nothing of a connection that closes early
        if not received or expected not in (None, received):
            raise ConnectionError(f"the connection closed after {received} of {expected or 'some'} bytes")

    def _receive(self, response: http.client.HTTPResponse, held: int, timeout: float) -> None:
        began, before = time.monotonic(), held
        while block := _read(response):
            if not held and not block.startswith(self.begins[: len(block)]):
                kind = "a web page" if block.lstrip()[:1] == b"<" else "something else"
                raise NetworkError(
                    f"{self.url}: answered with {kind}, not an archive (a login on the way?); {self.way_out}"
                )
            self.file.write(block)
            held += len(block)
            if held > self.at_most:
                self._refuse_size()
            elapsed = time.monotonic() - began
            if elapsed > timeout and held - before < elapsed * _LEAST_BYTES_PER_SECOND:
                raise TimeoutError(f"only {held - before} bytes in {elapsed:.0f} seconds")

    def _refuse_size(self) -> None:
        raise InputError(f"{self.url}: larger than {self.at_most:,} bytes, so not the corpus")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What there is, at once: a full block may be an hour in coming."""
    try:
        return response.read1(_BLOCK_BYTES)
    except OSError as error:  # of whatever kind, it is no trouble with the disk
        raise ConnectionError(error.strerror or str(error)) from error
