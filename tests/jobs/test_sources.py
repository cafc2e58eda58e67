"""Inputs of jobs: from the job file, this machine and HTTP; all or nothing, and within limits."""

from __future__ import annotations

import base64
import gzip
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from wasmsr.jobs.description.job import InputSource
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.sources.order import AllowedPath
from wasmsr.jobs.sources.staging import StagedInput, stage, unstage


def staged(tmp_path: Path, *sources: InputSource, **settings: Any) -> list[StagedInput]:
    settings.setdefault("base", tmp_path)
    return stage(sources, tmp_path / "staged", **settings)


def refused(tmp_path: Path, *sources: InputSource, **settings: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        staged(tmp_path, *sources, **settings)
    assert not (tmp_path / "staged").exists(), "nothing is left"
    return caught.value


def inline(data: bytes, kind: str = "", target: str = "/in") -> InputSource:
    address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return InputSource("inline", {"URL": address}, target)


def archive(*entries: tuple[str, bytes], mode: str = "w:gz") -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as tape:  # type: ignore[call-overload]
        for name, data in entries:
            item = tarfile.TarInfo(name)
            item.size = len(data)
            tape.addfile(item, io.BytesIO(data))
    return held.getvalue()


@pytest.mark.parametrize(
    ("address", "data"),
    [
        ("data:,a%20b%00c", b"a b\0c"),
        ("data:text/plain;charset=utf-8,x,y", b"x,y"),
        ("data:;base64,aGk=", b"hi"),
        ("data:;base64,aGk", b"hi"),
        ("data:application/octet-stream;base64,_-8=", b"\xff\xef"),
        ("DATA:text/plain;BASE64,aG%6b%3D", b"hi"),
        ("data:,", b""),
    ],
)
def test_data_urls(address: str, data: bytes, tmp_path: Path) -> None:
    (one,) = staged(tmp_path, InputSource("inline", {"URL": address}, "/in"))
    assert one.source.read_bytes() == data
    assert (one.target, one.read_only) == ("/in", True)
    unstage(tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("address", ["http://x/", "data:;base64", "data:;base64,a$", "x", "data"])
def test_what_is_no_data_url(address: str, tmp_path: Path) -> None:
    assert refused(tmp_path, InputSource("inline", {"URL": address}, "/in")).code == (
        "InputConfigError"
    )


@pytest.mark.parametrize(
    ("kind", "mode"), [("application/gzip", "w:gz"), ("application/x-tar", "w")]
)
def test_archives_are_unpacked(kind: str, mode: str, tmp_path: Path) -> None:
    data = archive(("a", b"1"), ("b/c", b"2"), mode=mode)
    (one,) = staged(tmp_path, inline(data, kind))
    assert (one.source / "a").read_bytes() == b"1"
    assert (one.source / "b" / "c").read_bytes() == b"2"
    assert sorted(path.name for path in (tmp_path / "staged").iterdir()) == ["0"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no archive", "is no tar archive"),
        (gzip.compress(b"no archive" * 100), "neither a directory nor an archive"),
        (archive(("a", b"1" * 9999))[:60], "archive"),
        (archive(("../a", b"1")), "leads out of it"),
        (archive(("/a", b"1")), "leads out of it"),
        (archive(("a", bytes(2 << 20))), "holds more than 1048571 bytes"),
    ],
    # An archive has the time in it, and all processes of a run need the same names.
    ids=["none", "no-tar", "cut", "above", "absolute", "large"],
)
def test_hostile_archives(data: bytes, said: str, tmp_path: Path) -> None:
    """The hint is about the disk only if that is the reason."""
    first = inline(b"kept?", target="/first")
    error = refused(tmp_path, first, inline(data, "application/gzip"), limit=1 << 20)
    assert error.code == "InputConfigError"
    assert said in error.message and str(tmp_path) not in error.message
    assert error.hint is not None and ("Resources.Disk" in error.hint) == ("holds more" in said)


def test_a_link_of_an_archive_leads_nowhere_here(tmp_path: Path) -> None:
    held = io.BytesIO()
    (tmp_path / "victim").mkdir()
    with tarfile.open(fileobj=held, mode="w") as tape:
        link = tarfile.TarInfo("d")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "victim")
        tape.addfile(link)
        below = tarfile.TarInfo("d/file")
        tape.addfile(below, io.BytesIO())
    refused(tmp_path, inline(held.getvalue(), "application/x-tar"))
    assert not list((tmp_path / "victim").iterdir())


def test_the_limit_is_for_all_inputs(tmp_path: Path) -> None:
    half = bytes(600)
    staged(tmp_path, inline(half), limit=1000)
    error = refused(tmp_path, inline(half), inline(half), limit=1000)
    assert "1000 bytes" in error.message and error.hint == "Resources.Disk sets the limit"


def local(path: Path | str, kind: str = "localDirectory", **more: Any) -> InputSource:
    return InputSource(kind, {"SourcePath": str(path), **more}, "/in")


def test_a_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    allowed = [AllowedPath.parse(f"{tmp_path}/data")]
    (one,) = staged(tmp_path, local(tmp_path / "data"), allowed=allowed)
    assert one == StagedInput((tmp_path / "data").resolve(), "/in", True)
    (tmp_path / "data" / "x").write_text("x")
    (one,) = staged(tmp_path, local("data/x", "local"), allowed=allowed)
    assert one.source == (tmp_path / "data" / "x").resolve()
    unstage(tmp_path / "staged")
    assert (tmp_path / "data" / "x").exists(), "what is used where it is stays"


def test_paths_that_are_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "database").mkdir()
    (tmp_path / "data" / "out").symlink_to(tmp_path / "database")
    (tmp_path / "data" / "in").symlink_to(tmp_path / "data")
    allowed = [AllowedPath.parse(f"{tmp_path}/data:ro")]
    for path in ("/etc", tmp_path, tmp_path / "database", tmp_path / "data" / "..", "data/out"):
        error = refused(tmp_path, local(path), allowed=allowed)
        assert error.code == "InputConfigError" and "not below an allowed one" in error.message
        assert "--allow-path" in str(error.hint)
    refused(tmp_path, local(tmp_path / "data"))
    staged(tmp_path, local("data/in"), allowed=allowed)
    error = refused(tmp_path, local("data/none"), allowed=allowed)
    assert "there is no" in error.message
    os.mkfifo(tmp_path / "data" / "pipe")
    error = refused(tmp_path, local("data/pipe"), allowed=allowed)
    assert "neither a file nor a folder" in error.message


def test_writing_is_allowed_apart(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    read = [AllowedPath.parse(f"{tmp_path}/data")]
    write = [AllowedPath.parse(f"{tmp_path}/data:rw")]
    error = refused(tmp_path, local("data", ReadWrite=True), allowed=read)
    assert "may only be read" in error.message
    (one,) = staged(tmp_path, local("data", ReadWrite=True), allowed=write)
    assert not one.read_only
    refused(tmp_path, local("data/new", CreateAs="dir"), allowed=write)
    staged(tmp_path, local("data/a/new", ReadWrite=True, CreateAs="dir"), allowed=write)
    staged(tmp_path, local("data/b/file", ReadWrite=True, CreateAs="file"), allowed=write)
    assert (tmp_path / "data/a/new").is_dir() and (tmp_path / "data/b/file").is_file()


class Server(BaseHTTPRequestHandler):
    """A server with good and bad answers."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path == "/file/data.bin":
            self._answer(b"x" * 5000)
        elif path == "/moved":
            self._redirect("/file/data.bin")
        elif path == "/to-file":
            self._redirect("file:///etc/passwd")
        elif path == "/round":
            self._redirect("/round")
        elif path == "/flaky" and self.asked.count("/flaky") > 2:
            self._answer(b"at last")
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(bytes(10_000))
        elif path == "/bomb":
            self._answer(gzip.compress(bytes(1 << 22)), ("Content-Encoding", "gzip"))
        elif path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"x")
        elif path == "/slow":
            threading.Event().wait(1.5)
            self._answer(b"slow")
        else:
            self.send_error(503 if path == "/flaky" else 404)

    def _answer(self, data: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(200)
        for name, value in (("Content-Length", str(len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that went away
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def url(address: str, kind: str = "url") -> InputSource:
    return InputSource(kind, {"URL": address}, "/in")


def test_a_file_by_http(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.jobs.sources.remote_files.PAUSE", 0.01)
    (one,) = staged(tmp_path, url(f"{site}/moved"), limit=5000)
    assert one.source.read_bytes() == b"x" * 5000
    (one,) = staged(tmp_path, url(f"{site}/file/data.bin?v=1", "urlDownload"))
    assert [path.name for path in one.source.iterdir()] == ["data.bin"]
    (one,) = staged(tmp_path, url(f"{site}/flaky"))
    assert one.source.read_bytes() == b"at last"
    (one,) = staged(tmp_path, url(f"{site}/bomb"), limit=10_000)
    assert one.source.stat().st_size < 10_000, "what is compressed stays so"


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/nothing", "InputConfigError", "there is no http"),
        ("/to-file", "FilesystemError", "cannot fetch"),
        ("/round", "FilesystemError", "cannot fetch"),
        ("/endless", "InputConfigError", "may have 60000 bytes"),
        ("/short", "FilesystemError", "cannot fetch"),
        ("/slow", "FilesystemError", "did not answer within 0.5 s"),
    ],
)
def test_bad_answers(
    path: str, code: str, said: str, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wasmsr.jobs.sources.remote_files.TRIES", 1)
    error = refused(tmp_path, url(site + path), limit=60_000, seconds=0.5 if "slow" in path else 60)
    assert error.code in (code, "InputConfigError") and said in error.message, error.message


def test_what_is_announced_is_checked_first(site: str, tmp_path: Path) -> None:
    error = refused(tmp_path, url(f"{site}/file/data.bin"), limit=4999)
    assert "may have 4999 bytes" in error.message


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", "http://", "http://x:port/", ""]
)
def test_addresses_of_other_kinds(address: str, tmp_path: Path) -> None:
    error = refused(tmp_path, url(address))
    assert "is no address of HTTP" in error.message


def test_a_server_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("wasmsr.jobs.sources.remote_files.PAUSE", 0.01)
    error = refused(tmp_path, url("http://user:secret@127.0.0.1:1/x"))
    assert error.code == "FilesystemError" and error.retryable
    assert "secret" not in error.message
