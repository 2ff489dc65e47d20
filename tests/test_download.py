"""Downloads, from a server on this machine: resumed, refused, and weights by name, from the command to the cached file."""

import errno
import hashlib
import http.server
import io
import json
import re
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, SMALL_NETS, picture, write, write_yaml

from basicsr.archs import build_network
from basicsr.engine.weights import store
from basicsr.engine.weights.known import named
from basicsr.utils import download
from basicsr.utils.download import NotDownloaded, fetch

DATA = bytes(range(256)) * 4096  # 1 MiB
ALL = 1 << 24


@dataclass
class Site:
    """A web site of one file. Each word changes what it does; `requests` are the headers that came, by name.

    cut: bytes after which the connection ends, in the first `cuts` answers. length: what is said instead of the true one.
    """

    content: bytes = DATA
    kind: str = "application/octet-stream"
    status: int = 200
    tag: str = '"one"'
    ranges: bool = True
    cut: int | None = None
    cuts: int = 10**9
    length: int | None = None
    location: str = ""
    page: Callable[[dict[str, str]], str | None] = lambda query: None
    silent: float = 0
    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def answer(self, to: http.server.BaseHTTPRequestHandler) -> None:
        path, _, query = to.path.partition("?")
        self.requests.append({**to.headers, "path": to.path})
        page = self.page(dict(urllib.parse.parse_qsl(query)))
        if page is not None:
            return self.send(to, 200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})
        if self.location and path == "/":
            return self.send(to, 302, b"", {"Location": self.location})
        if self.status != 200:
            return self.send(to, self.status, b"no", {"Content-Type": "text/html"})
        headers, start, status = {"Content-Type": self.kind, "ETag": self.tag}, 0, 200
        if self.ranges and "Range" in to.headers and to.headers.get("If-Range") == self.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", to.headers["Range"])[1])
            if start >= len(self.content):
                return self.send(to, 416, b"", {"Content-Range": f"bytes */{len(self.content)}"})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        body = self.content[start:]
        headers["Content-Length"] = str(len(body) if self.length is None else self.length)
        self.cuts -= 1
        return self.send(to, status, body if self.cut is None or self.cuts < 0 else body[: self.cut], headers)

    def send(self, to: http.server.BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        to.send_response(status)
        for name, value in headers.items():
            to.send_header(name, value)
        to.end_headers()
        to.wfile.write(body)
        if self.silent:
            to.wfile.flush()
            self.stopped.wait(self.silent)


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # of clients that hang up
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    yield site
    site.stopped.set()
    server.shutdown()
    server.server_close()


def refused(source: str, part: Path, most: int = ALL) -> str:
    with pytest.raises(NotDownloaded) as caught:
        fetch(source, part, most=most)
    return str(caught.value)


def note(part: Path) -> Path:
    return part.with_name(part.name + ".from")


# One file.


def test_a_file_comes_whole(site, tmp_path):
    fetch(site.url, tmp_path / "x.part", most=ALL)
    assert (tmp_path / "x.part").read_bytes() == DATA
    assert [file.name for file in tmp_path.iterdir()] == ["x.part"]
    (asked,) = site.requests
    assert asked["Accept-Encoding"] == "identity"
    assert "Range" not in asked


def test_a_connection_that_breaks_goes_on_where_it_stopped(site, tmp_path, capsys):
    site.cut, site.cuts = 300_000, 2
    fetch(site.url, tmp_path / "x.part", most=ALL)
    assert (tmp_path / "x.part").read_bytes() == DATA
    assert [asked.get("Range") for asked in site.requests] == [None, "bytes=300000-", "bytes=600000-"]
    assert {asked.get("If-Range") for asked in site.requests[1:]} == {site.tag}
    assert "1.05M/1.05M" in capsys.readouterr().err  # the bar


def test_what_was_interrupted_goes_on_in_the_next_run(site, tmp_path):
    part = tmp_path / "x.part"
    site.cut, site.cuts = 100_000, download.TRIES
    said = refused(site.url, part)
    assert "the connection ended after 400,000 of 1,048,576 bytes" in said
    assert said.endswith("400,000 bytes are kept, and the same command goes on there")
    fetch(site.url, part, most=ALL)
    assert site.requests[-1]["Range"] == "bytes=400000-"
    assert part.read_bytes() == DATA
    assert not note(part).exists()


def test_a_complete_part_is_not_fetched_again(site, tmp_path):
    """Killed between the last byte and what comes after it."""
    part = tmp_path / "x.part"
    part.write_bytes(DATA)
    note(part).write_text(json.dumps({"source": site.url, "validator": site.tag}))
    fetch(site.url, part, most=ALL)
    assert part.read_bytes() == DATA
    assert len(site.requests) == 1


@pytest.mark.parametrize("change", ["tag", "source", "note", "no ranges", "no validator", "shorter", "If-Range unknown"])
def test_it_begins_anew_where_the_rest_may_be_of_another_file(change, site, tmp_path):
    part = tmp_path / "x.part"
    part.write_bytes(b"?" * 500)
    said = {"source": site.url, "validator": site.tag}
    if change == "tag":
        site.tag = '"two"'
    elif change == "source":
        said["source"] = "https://example.org/other"
    elif change == "note":
        said = ["damaged"]
    elif change == "no ranges":
        site.ranges = False
    elif change == "no validator":
        said["validator"] = ""
    elif change == "shorter":
        site.content = DATA[:200]
    else:  # a server that sends the rest whatever it is of
        said["validator"], part_of = '"old"', Site.answer

        def answer(self, to):
            if "Range" in to.headers:
                to.headers.replace_header("If-Range", self.tag)
            part_of(self, to)

        site.answer = answer.__get__(site)
    note(part).write_text(json.dumps(said))
    fetch(site.url, part, most=ALL)
    assert part.read_bytes() == site.content


def test_a_server_without_lengths(site, tmp_path):
    site.send = lambda to, status, body, headers: Site.send(
        site, to, status, body, {name: value for name, value in headers.items() if name != "Content-Length"}
    )
    fetch(site.url, tmp_path / "x.part", most=ALL)
    assert (tmp_path / "x.part").read_bytes() == DATA
    assert refused(site.url, tmp_path / "y.part", most=1000) == "it has more than the 1,000 bytes that such a file can have"


def test_wrong_lengths(site, tmp_path):
    site.length, site.ranges = len(DATA) + 100, False
    assert "the connection ended after 1,048,576 of 1,048,676 bytes" in refused(site.url, tmp_path / "x.part")
    assert refused(site.url, tmp_path / "y.part", most=1000).startswith("it has 1,048,676 bytes, more than the 1,000")
    assert not (tmp_path / "y.part").exists()


def test_silence(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    monkeypatch.setattr(download, "TRIES", 2)
    site.cut, site.silent = 1000, 5
    said = refused(site.url, tmp_path / "x.part")
    assert "the connection broke (timed out); 2,000 bytes are kept" in said


@pytest.mark.parametrize(
    ("status", "says", "asked"),
    [
        (403, "the server does not give it, perhaps since too many have downloaded it lately (403); try again tomorrow", 1),
        (404, "the server has no such file any more (404)", 1),
        (410, "127.0.0.1 answers 410 Gone", 1),
        (429, "the server was asked too often (429); try again later", 1),
        (503, "127.0.0.1 answers 503 Service Unavailable", download.TRIES),
    ],
)
def test_what_servers_refuse(status, says, asked, site, tmp_path):
    site.status = status
    assert refused(site.url, tmp_path / "x.part") == says
    assert len(site.requests) == asked
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("said", [True, False])
def test_a_web_page_instead_of_the_file(said, site, tmp_path):
    site.content = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
    site.kind = "text/html" if said else "application/octet-stream"
    title = ": 'Sign in'" if said else ""
    assert refused(site.url, tmp_path / "x.part") == f"the server sends a web page instead of the file{title}"


def test_redirects(site, tmp_path):
    site.location = f"{site.url}elsewhere"
    fetch(site.url, tmp_path / "x.part", most=ALL)
    assert (tmp_path / "x.part").read_bytes() == DATA
    for unsafe in ("http://example.org/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x"):
        site.location = unsafe
        assert refused(site.url, tmp_path / "y.part") == f"it leads to {unsafe}, which is no https address"
    site.location = site.url
    assert refused(site.url, tmp_path / "y.part") == "127.0.0.1 leads in a circle"
    assert refused("http://example.org/x", tmp_path / "y.part") == "it leads to http://example.org/x, which is no https address"


def test_no_network(site, tmp_path):
    nobody = "http://127.0.0.1:9/x"
    assert refused(nobody, tmp_path / "x.part").startswith("there is no connection to 127.0.0.1 (")


def test_a_network_that_goes_away_keeps_what_came(site, tmp_path, monkeypatch):
    part, made = tmp_path / "x.part", urllib.request.build_opener

    def opener(*handlers):
        if site.requests:
            raise urllib.error.URLError("Name or service not known")
        return made(*handlers)

    monkeypatch.setattr(urllib.request, "build_opener", opener)
    site.cut = 100_000
    said = (
        "there is no connection to 127.0.0.1 (Name or service not known); 100,000 bytes are kept, and the same command goes on"
    )
    assert refused(site.url, part).startswith(said)
    monkeypatch.undo()
    site.cut = None
    fetch(site.url, part, most=ALL)
    assert part.read_bytes() == DATA


@pytest.mark.parametrize(
    ("url", "before", "safe"),
    [
        ("https://example.org/x", "http://127.0.0.1/", True),
        ("http://127.0.0.1/x", None, True),
        ("http://127.0.0.1/x", "http://localhost/", True),
        ("http://127.0.0.1/x", "https://example.org/", False),
        ("http://localhost.example.org/x", None, False),
    ],
)
def test_other_machines_do_not_lead_to_this_one(url, before, safe):
    if safe:
        download._require_safe(url, before)
    else:
        with pytest.raises(NotDownloaded, match="which is no https address"):
            download._require_safe(url, before)


def test_no_space(site, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    assert refused(site.url, tmp_path / "x.part") == f"{tmp_path} has space for 5,000 bytes, but 1,048,576 are needed"
    monkeypatch.undo()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "write_bytes", full)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert refused(site.url, tmp_path / "x.part") == f"{tmp_path}: there is no space left"


# Google Drive.

CONFIRM = (
    '<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body><form id="download-form" '
    'action="{action}" method="get"><input type="submit"/><input type="hidden" name="id" value="ID"/>'
    '<input type="hidden" name="confirm" value="t"/><input type="hidden" name="uuid" value="7"/></form></body></html>'
)


@pytest.fixture
def drive(site, monkeypatch) -> Site:
    monkeypatch.setattr(download, "DRIVE", f"{site.url}download")
    return site


def test_drive_asks_whether_a_large_file_is_wanted(drive, tmp_path):
    drive.page = lambda query: None if query.get("uuid") == "7" else CONFIRM.format(action=f"{drive.url}download")
    drive.cut, drive.cuts = 500_000, 1
    fetch("drive:ID", tmp_path / "x.part", most=ALL)
    assert (tmp_path / "x.part").read_bytes() == DATA
    paths = [asked["path"] for asked in drive.requests]
    assert paths[:2] == ["/download?id=ID&export=download&confirm=t", "/download?id=ID&confirm=t&uuid=7"]
    assert [asked.get("Range") for asked in drive.requests] == [None, None, "bytes=500000-", "bytes=500000-"]


def test_drive_gives_small_files_at_once(drive, tmp_path):
    fetch("drive:ID", tmp_path / "x.part", most=ALL)
    assert len(drive.requests) == 1


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (
            "<html><title>Google Drive - Quota exceeded</title><p>Too many users have viewed or downloaded it</p></html>",
            "too many have downloaded it lately, says Google Drive; try again tomorrow",
        ),
        ("<html><title>Sign in</title></html>", "the server sends a web page instead of the file: 'Sign in'"),
        (CONFIRM.format(action="http://example.org/x"), "it leads to http://example.org/x, which"),
        (CONFIRM.format(action="/download"), "the server sends a web page instead of the file: 'Google Drive - Virus"),
    ],
)
def test_pages_of_drive(page, says, drive, tmp_path):
    drive.page = lambda query: page
    assert refused("drive:ID", tmp_path / "x.part").startswith(says)


# Weights by name.

NAME, ACADEMIC = "NAFNet-GoPro-width32", "Restormer-GoPro"


def weights_file(name: str) -> bytes:
    buffer = io.BytesIO()
    torch.manual_seed(0)
    torch.save({"params": build_network(named(name).net.options).state_dict()}, buffer)
    return buffer.getvalue()


@pytest.fixture
def shelf(site, root, monkeypatch) -> Callable[[str], Site]:
    """Small networks stand in for the published ones, and the site for the places where they are."""

    def put(name: str) -> Site:
        known = named(name)
        kind = known.net.options["type"]
        monkeypatch.setitem(known.net.__dict__, "options", {"type": kind, **SMALL_NETS[kind]})
        monkeypatch.setitem(known.__dict__, "sources", (site.url,))
        site.content = weights_file(name)
        return site

    monkeypatch.setenv("TLC_CACHE", str(root / "cache"))
    return put


def test_weights_by_name(shelf, run, root):
    site = shelf(NAME)
    write(root / "photo.png", picture(0, 40, 48))
    shutil.copytree(REPOSITORY / "options/demo", root / "options/demo")
    words = ("restore", "photo.png", "--weights", NAME, "--output", "out.png")
    end = run(*words)
    assert end.code == 0, end
    assert f"Downloading {NAME} from {site.url} (MIT, https://github.com/megvii-research/NAFNet/blob/main/LICENSE)." in end.out
    assert f"trained on 256x256 (as published: {NAME}), window 384x384" in end.out
    assert (root / "out.png").is_file()
    file = root / "cache/weights" / f"{NAME}.pth"
    assert file.read_bytes() == site.content
    assert (file.with_name(f"{NAME}.pth.sha256")).read_text() == f"{hashlib.sha256(site.content).hexdigest()}  {file.name}\n"
    assert sorted(f.name for f in file.parent.iterdir() if not f.name.startswith(".")) == [file.name, f"{file.name}.sha256"]
    assert "Downloading" not in run(*words).out
    assert len(site.requests) == 1
    assert re.search(rf"^{NAME} .* cached$", run("weights").out, re.MULTILINE)
    end = run("weights", "download", f"{NAME}.pth", NAME.lower())
    assert end.out == f"{file}\n{file}\n"
    assert "as published" in run("convert", "--weights", NAME, "--size", "none").out


def test_options_files_find_what_was_downloaded(shelf, run, root, test_options):
    shelf(NAME)
    for said in (NAME, f"experiments/pretrained_models/{NAME}.pth"):
        network = {"type": "NAFNetLocal", **SMALL_NETS["NAFNet"]}
        file = write_yaml(root / "x.yml", {**test_options, "network_g": network, "path": {"pretrain_network_g": said}})
        end = run("convert", "-opt", file, "--size", "none")
        assert end.code == 2
        assert end.err.endswith(f"do not exist: `tlc weights download {NAME}` fetches them.\n")
        assert run("weights", "download", NAME).code == 0
        assert f"as published: {NAME}" in run("convert", "-opt", file, "--size", "none").out
        (root / f"cache/weights/{NAME}.pth").unlink()


def test_terms_are_accepted_once(shelf, run, root):
    site = shelf(ACADEMIC)
    url = "https://github.com/swz30/Restormer/blob/main/LICENSE.md"
    end = run("convert", "--weights", ACADEMIC, "--size", "none")
    assert (end.code, site.requests) == (2, [])
    assert end.err == (
        f"error: {ACADEMIC} is under the Academic Public License, non-commercial: read {url}, and accept it with "
        "--accept-licence.\n"
    )
    assert run("convert", "--weights", ACADEMIC, "--size", "none", "--accept-licence").code == 0
    assert (root / "cache/weights/accepted-licences.txt").read_text() == f"{url}\n"
    shelf("Restormer-Rain13k")
    assert run("weights", "download", "deraining").code == 0  # under the same terms
    shelf("MPRNet-GoPro")
    assert "https://github.com/swz30/MPRNet/blob/main/LICENSE.md" in run("weights", "download", "MPRNet-GoPro").err


def test_a_file_that_changed(shelf, run, root):
    site = shelf(NAME)
    assert run("weights", "download", NAME).code == 0
    file = root / f"cache/weights/{NAME}.pth"
    file.write_bytes(site.content + b"x")
    end = run("convert", "--weights", NAME, "--size", "none")
    assert end.code == 2
    digests = (hashlib.sha256(content).hexdigest() for content in (site.content + b"x", site.content))
    assert end.err == "error: {} has changed since it was downloaded: its SHA-256 is {}, not {}; {}.\n".format(
        file, *digests, f"delete it to download it again, or {NAME}.pth.sha256 to take it as it is"
    )
    assert re.search(rf"^{NAME} .* changed$", run("weights").out, re.MULTILINE)
    file.unlink()
    site.content, before = weights_file(NAME)[:-1] + b"\x01", site.content
    end = run("weights", "download", NAME)
    assert (end.code, file.exists()) == (2, False)
    assert "another file than before, of SHA-256" in end.err or "no readable checkpoint" in end.err
    site.content, site.tag = before, '"again"'
    assert run("weights", "download", NAME).code == 0


def test_what_a_server_gives_now_is_compared_with_the_first_download(shelf, run, root):
    site = shelf(NAME)
    assert run("weights", "download", NAME).code == 0
    file = root / f"cache/weights/{NAME}.pth"
    file.unlink()
    buffer = io.BytesIO()
    torch.save({"params": build_network(named(NAME).net.options).state_dict()}, buffer)  # other random values
    site.content = buffer.getvalue()
    end = run("weights", "download", NAME)
    assert end.code == 2
    assert f"what {site.url} gives cannot be taken for {NAME}: it is another file than before, of SHA-256" in end.err
    assert end.err.endswith(f"to take it, delete {file}.sha256.\n")
    assert not file.exists()
    file.with_name(f"{file.name}.sha256").unlink()
    assert run("weights", "download", NAME).code == 0
    assert file.read_bytes() == site.content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x" * 1000, "the file is no readable checkpoint"),
        (b"<html><body>Sorry</body></html>", "the server sends a web page instead of the file"),
        ("MPRNet", "of another network"),
        ("none", "these are the weights of none of HINet, MPRNet, NAFNet, Restormer"),
    ],
)
def test_something_else_than_the_weights(content, says, shelf, run, root):
    site = shelf(NAME)
    if isinstance(content, str):
        buffer = io.BytesIO()
        net = build_network({"type": "MPRNet", **SMALL_NETS["MPRNet"]}) if content == "MPRNet" else torch.nn.Linear(2, 2)
        torch.save(net.state_dict(), buffer)
        content = buffer.getvalue()
    site.content = content
    end = run("weights", "download", NAME)
    assert end.code == 2
    assert says in end.err
    assert end.err.count("error: ") == 1
    assert not (root / f"cache/weights/{NAME}.pth").exists()


def test_nothing_in_a_download_is_run(shelf, run, root):
    class Trap:
        def __reduce__(self):
            return Path.touch, (root / "sprung",)

    site = shelf(NAME)
    buffer = io.BytesIO()
    torch.save({"params": Trap()}, buffer)
    site.content = buffer.getvalue()
    end = run("weights", "download", NAME)
    assert end.code == 2
    assert "reading it would run" in end.err
    assert not (root / "sprung").exists()


def test_no_network_says_where_to_put_the_file(shelf, run, root, monkeypatch):
    shelf(NAME)
    monkeypatch.setitem(named(NAME).__dict__, "sources", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    end = run("convert", "--weights", NAME, "--size", "none")
    file = root / f"cache/weights/{NAME}.pth"
    assert end.code == 2
    said = f"{NAME} could not be downloaded from http://127.0.0.1:9/a: there is no connection to 127.0.0.1 ("
    assert end.err.startswith(f"error: {said}")
    assert "; from http://127.0.0.1:9/b: there is no" in end.err
    assert end.err.endswith(f"By hand, put it at {file}.\n")
    file.write_bytes(weights_file(NAME))  # by hand
    assert run("convert", "--weights", NAME, "--size", "none").code == 0
    assert file.with_name(f"{file.name}.sha256").is_file()


def test_another_source_is_tried(shelf, run, monkeypatch):
    site = shelf(NAME)
    monkeypatch.setitem(named(NAME).__dict__, "sources", ("http://127.0.0.1:9/a", site.url))
    assert run("weights", "download", NAME).code == 0


def test_two_at_once_download_it_once(shelf):
    site = shelf(NAME)
    found = []
    threads = [threading.Thread(target=lambda: found.append(store.download(named(NAME)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.requests) == 1
    assert len(set(found)) == 1
    assert len(found) == 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "NAFNet-GoPro-width23",
            "no such file, and no weights of that name. Did you mean `NAFNet-GoPro-width32`? `tlc weights`",
        ),
        ("NAFNet-GoPro", "Did you mean `NAFNet-GoPro-width32`?"),
        ("NAFNet-SampleNois", "Did you mean `NAFNet-SampleNoise`?"),
        ("quite-another-thing", "no weights of that name. `tlc weights` lists them."),
        ("folder/NAFNet-GoPro-width32.pth", "do not exist: `tlc weights download NAFNet-GoPro-width32` fetches them."),
        ("folder/w.pth", "folder/w.pth do not exist; see "),
    ],
)
def test_unknown_names(name, says, run, root):
    shutil.copytree(REPOSITORY / "experiments/pretrained_models", root / store.FOLDER)
    end = run("convert", "--weights", name, "--size", "none")
    assert end.code == 2
    assert says in end.err
    if "/" not in name:
        end = run("weights", "download", name)
        assert (end.code, says in end.err) == (2, True)


def test_bundled_weights_by_name(run, root):
    shutil.copytree(REPOSITORY / "experiments/pretrained_models", root / store.FOLDER)
    for name in ("NAFNet-SampleNoise", "NAFNet-SampleNoise.safetensors"):
        end = run("convert", "--weights", name, "--size", "none")
        assert "trained on 96x96 (from the weights)" in end.out


def test_a_file_is_known_by_its_digest_under_any_name(shelf, run, root):
    site = shelf(NAME)
    (root / "mine.pth").write_bytes(site.content)
    assert "(assumed, as " in run("convert", "--weights", "mine.pth", "--size", "none").out
    assert run("weights", "download", NAME).code == 0
    assert f"(as published: {NAME})" in run("convert", "--weights", "mine.pth", "--size", "none").out
    assert run("weights", "convert", "mine.pth", "mine.safetensors").code == 0
    assert "trained on 256x256 (from the weights)" in run("convert", "--weights", "mine.safetensors", "--size", "none").out
