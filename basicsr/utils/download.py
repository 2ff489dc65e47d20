"""Files from the web, by HTTPS: what was interrupted goes on where it stopped; what is no file is refused, with the reason.

Nothing is sent but the request; nothing that comes is run or unpacked. Proxies are those of the environment (`https_proxy`).
"""

import contextlib
import errno
import html.parser
import http.client
import json
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from basicsr import __version__
from basicsr.utils.files import write_bytes

DRIVE = "https://drive.usercontent.google.com/download"
TIMEOUT = 30  # seconds without a byte
TRIES, PAUSE = 4, 2  # of a connection that breaks; seconds before the second, and twice as many before each further one
BLOCK = 1 << 18
PAGE = 1 << 20  # bytes that are read of a web page
LOCAL = ("localhost", "127.0.0.1", "::1")


class NotDownloaded(Exception):
    """Why there is no file, in words that go on after 'it could not be downloaded from ...: '."""


class _NoConnection(NotDownloaded):
    """Nothing was reached."""


class _Broken(Exception):
    """The connection broke; the next one may go on."""


def web_page(source: str) -> str:
    """The address of a source for people: that of a file on Google Drive is `drive:` and its id, any other is itself."""
    kind, _, identity = source.partition(":")
    return f"https://drive.google.com/file/d/{identity}/view" if kind == "drive" else source


def fetch(source: str, part: Path, *, most: int) -> None:
    """Download into `part`, or go on there; it is complete when this returns.

    What is needed to go on lies beside it, in `part`.from: a server sends the rest of a file only where it is still the same.

    Args:
        source: an https address, or `drive:` and the id of a file on Google Drive. most: bytes that are accepted.

    Raises:
        NotDownloaded: with what came before kept in `part`, where it may be gone on with.
    """
    for number in range(TRIES):
        time.sleep(PAUSE * 2 ** (number - 1) if number else 0)
        try:
            _fetch_once(source, part, most)
        except _Broken as error:
            reason = str(error)
            continue
        _note(part).unlink(missing_ok=True)
        return
    have = f"; {part.stat().st_size:,} bytes are kept, and the same command goes on there" if part.is_file() else ""
    raise NotDownloaded(f"{reason}{have}")


def _fetch_once(source: str, part: Path, most: int) -> None:
    begun, validator = _begun(part, source)
    ranges = {"Range": f"bytes={begun}-", "If-Range": validator} if begun else {}
    try:
        response = _open(source, ranges)
    except _NothingMore as error:
        if begun == error.total:
            return
        _note(part).unlink()
        raise _Broken("the server has another file than before") from None
    except _NoConnection as error:
        if begun:  # there was one
            raise _Broken(str(error)) from None
        raise
    with response:
        start, total = _extent(response, begun)
        if start and _validator(response) not in ("", validator):
            _note(part).unlink()
            raise _Broken("the server has another file than before")
        if total is not None and total > most:
            raise NotDownloaded(f"it has {total:,} bytes, more than the {most:,} that such a file can have")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise NotDownloaded(f"{part.parent} has space for {free:,} bytes, but {total - start:,} are needed")
        with _no_space(part):
            write_bytes(_note(part), json.dumps({"source": source, "validator": _validator(response)}).encode())
        end = _copy(response, part, start, total, most)
    if total is not None and end != total:
        raise _Broken(f"the connection ended after {end:,} of {total:,} bytes")


def _begun(part: Path, source: str) -> tuple[int, str]:
    """Bytes of an earlier download of this source that can be gone on with, and by what the server knows its file."""
    try:
        said = json.loads(_note(part).read_text(encoding="utf-8"))
        if said["source"] == source and isinstance(said["validator"], str) and said["validator"]:
            return part.stat().st_size, said["validator"]
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return 0, ""


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.from")


def _validator(response: http.client.HTTPResponse) -> str:
    """A strong ETag or else the date of the last change; '' where the server tells neither."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _copy(response: http.client.HTTPResponse, part: Path, start: int, total: int | None, most: int) -> int:
    """Write what comes behind the first `start` bytes of `part`; the number of bytes that it has then."""
    end = start
    shown = {"total": total, "initial": start, "desc": part.stem, "unit": "B", "unit_scale": True, "unit_divisor": 1000}
    with _no_space(part), open(part, "r+b" if start else "wb") as file, tqdm(**shown) as bar:
        file.seek(start)
        while block := _read(response):
            if start == end == 0 and block.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith(
                (b"<!doctype html", b"<html")
            ):
                raise NotDownloaded("the server sends a web page instead of the file")
            end += len(block)
            if end > most:
                raise NotDownloaded(f"it has more than the {most:,} bytes that such a file can have")
            file.write(block)
            bar.update(len(block))
        file.truncate()
    return end


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(BLOCK)
    except (OSError, http.client.HTTPException) as error:  # the time is over, the connection was reset, a part is missing
        raise _Broken(f"the connection broke ({error or type(error).__name__})") from None


@contextlib.contextmanager
def _no_space(part: Path):
    try:
        yield
    except OSError as error:
        reason = "there is no space left" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror})"
        raise NotDownloaded(f"{part.parent}: {reason}") from None


# What a server answers.


class _NothingMore(Exception):
    """416: there is nothing behind the place that was asked for. total: bytes of the file."""

    def __init__(self, total: int | None) -> None:
        self.total = total


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_safe(newurl, before=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_safe(url: str, before: str | None = None) -> None:
    """NotDownloaded for what is no https address. This machine may do without it, where it was not another that leads to it."""
    parts = urllib.parse.urlsplit(url)
    local = {urllib.parse.urlsplit(one).hostname in LOCAL for one in (url, before or url)} == {True}
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise NotDownloaded(f"it leads to {url}, which is no https address")


def _open(source: str, ranges: Mapping[str, str]) -> http.client.HTTPResponse:
    """The server's answer; on Google Drive, behind its question whether a file that is too large to be scanned is wanted."""
    kind, _, identity = source.partition(":")
    if kind != "drive":
        return _no_page(_asked(source, ranges))
    response = _asked(f"{DRIVE}?{urllib.parse.urlencode({'id': identity, 'export': 'download', 'confirm': 't'})}", ranges)
    if response.headers.get_content_type() == "text/html":
        page = _page(response)
        if page.fields:
            action = urllib.parse.urljoin(DRIVE, page.action)
            _require_safe(action, before=DRIVE)
            return _no_page(_asked(f"{action}?{urllib.parse.urlencode(page.fields)}", ranges))
        raise _instead(page)
    return response


def _no_page(response: http.client.HTTPResponse) -> http.client.HTTPResponse:
    if response.headers.get_content_type() == "text/html":
        raise _instead(_page(response))
    return response


def _page(response: http.client.HTTPResponse) -> "_Page":
    with response:
        return _Page(response.read(PAGE).decode("utf-8", "replace"))


def _instead(page: "_Page") -> NotDownloaded:
    if "quota" in page.text.lower() or "too many users" in page.text.lower():
        return NotDownloaded("too many have downloaded it lately, says Google Drive; try again tomorrow")
    return NotDownloaded(f"the server sends a web page instead of the file{f': {page.title!r}' if page.title else ''}")


def _asked(url: str, ranges: Mapping[str, str]) -> http.client.HTTPResponse:
    _require_safe(url)
    host = urllib.parse.urlsplit(url).hostname
    headers = {"User-Agent": f"tlc-restoration/{__version__}", "Accept-Encoding": "identity", **ranges}
    try:
        return urllib.request.build_opener(_Redirects).open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(error, host) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise NotDownloaded(f"the certificate of {host} is not valid here ({error.reason.verify_message})") from None
        raise _NoConnection(f"there is no connection to {host} ({error.reason})") from None
    except (OSError, http.client.HTTPException) as error:
        raise _NoConnection(f"there is no connection to {host} ({error or type(error).__name__})") from None


def _refused(error: urllib.error.HTTPError, host: str | None) -> Exception:
    if error.code == 416:
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        return _NothingMore(int(total) if total.isdecimal() else None)
    if error.code in (301, 302, 303, 307, 308):  # which urllib did not follow
        _require_safe(urllib.parse.urljoin(error.url, error.headers.get("Location", "")), before=error.url)
        return NotDownloaded(f"{host} leads in a circle")
    if error.code >= 500:
        return _Broken(f"{host} answers {error.code} {error.reason}")
    known = {
        403: "the server does not give it, perhaps since too many have downloaded it lately (403); try again tomorrow",
        404: "the server has no such file any more (404)",
        429: "the server was asked too often (429); try again later",
    }
    return NotDownloaded(known.get(error.code, f"{host} answers {error.code} {error.reason}"))


def _extent(response: http.client.HTTPResponse, begun: int) -> tuple[int, int | None]:
    """Where in the file the answer begins, and the bytes of the whole file; None: the server does not say."""
    if response.status == 206:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(begun):
            raise NotDownloaded("the server sends another part of the file than was asked for")
        return begun, int(total) if total.isdecimal() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


class _Page(html.parser.HTMLParser):
    """A web page: title, text, and where its first form leads, with its hidden fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title, self.text, self.action, self.fields = "", "", "", {}
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self._in_title = tag == "title"
        if tag == "form" and not self.action:
            self.action = said.get("action") or ""
        elif tag == "input" and said.get("type") == "hidden" and self.action and said.get("name"):
            self.fields[said["name"]] = said.get("value") or ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_title:
            self.title, self._in_title = data.strip()[:60], False
