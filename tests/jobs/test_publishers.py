"""Results of jobs: published whole or not at all, under a name of their own, and got back."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.s3 import s3_server
from wasmsr.jobs.description.job import InputSource, Publisher
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.publishers import trees
from wasmsr.jobs.publishers.publication import Publication
from wasmsr.jobs.publishers.publishing import publish, retrieve
from wasmsr.jobs.sources.staging import stage
from wasmsr.wasi.filesystem import tree_walk

FILES = {"stdout": b"hello\n", "stderr": b"", "exitCode": b"0", "out/deep/er/file": bytes(70_000)}


def results(tmp_path: Path, **settings: Any) -> Publication:
    folder = tmp_path / "execution" / "results"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "empty").mkdir(exist_ok=True)
    return Publication("j-1", "e-1", folder, tmp_path / "published", 1e9, **settings)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_local(tmp_path: Path) -> None:
    first = publish(Publisher("local"), results(tmp_path))
    assert first.where == str(tmp_path / "published" / "e-1")
    assert content(Path(first.where)) == FILES and not (tmp_path / "execution/results").exists()
    again = Publication("j-1", "e-1", tmp_path / "execution/results", tmp_path / "published", 1e9)
    assert publish(Publisher("local"), again) == first, "a process was killed before it was noted"
    newer = publish(Publisher("local"), results(tmp_path, epoch=2))
    assert newer.where.endswith("/e-1-e2")
    assert sorted(os.listdir(tmp_path / "published")) == ["e-1", "e-1-e2"]
    retrieve(first, tmp_path / "got", "the results")
    assert content(tmp_path / "got") == FILES and (tmp_path / "got/empty").is_dir()
    with pytest.raises(JobError, match="it is there already"):
        retrieve(first, tmp_path / "got", "the results")


def test_local_on_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def stat(path: Any, **settings: Any) -> Any:
        found = real(path, **settings)
        if str(path).endswith("published"):
            return os.stat_result((*found[:2], found.st_dev + 1, *found[3:]))
        return found

    publication = results(tmp_path)
    monkeypatch.setattr("wasmsr.jobs.publishers.local.os.stat", stat)
    published = publish(Publisher("local"), publication)
    assert content(Path(published.where)) == FILES

    def fail(source: Path, target: Path) -> None:
        target.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trees, "copy", fail)
    with pytest.raises(JobError, match="No space left") as caught:
        publish(Publisher("local"), results(tmp_path))
    assert caught.value.retryable
    assert os.listdir(tmp_path / "published") == ["e-1"]
    assert content(Path(published.where)) == FILES, "what was published stays"


def test_links_are_not_followed(tmp_path: Path) -> None:
    publication = results(tmp_path)
    (publication.results / "out" / "link").symlink_to("/etc/passwd")
    (publication.results / "out" / "folder").symlink_to("/etc")
    trees.copy(publication.results, tmp_path / "copy")
    assert content(tmp_path / "copy") == FILES
    assert os.readlink(tmp_path / "copy/out/link") == "/etc/passwd"
    trees.pack(publication.results, tmp_path / "packed.tar.gz")
    with tarfile.open(tmp_path / "packed.tar.gz") as tape:
        kinds = {item.name: item.type for item in tape}
    assert kinds["out/link"] == kinds["out/folder"] == tarfile.SYMTYPE
    assert not any(name.startswith("out/folder/") for name in kinds)


def test_a_tree_deeper_than_a_path(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: tree_walk.remove(tmp_path / "tree"))  # pytest cannot
    request.addfinalizer(lambda: tree_walk.remove(tmp_path / "copy"))
    (tmp_path / "tree").mkdir()
    here = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(600):
        os.mkdir("x" * 10, dir_fd=here)
        below = os.open("x" * 10, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    trees.copy(tmp_path / "tree", tmp_path / "copy")
    seen = []
    root = trees.folder_of(tmp_path / "copy")
    tree_walk.each(root, lambda parts, directory, status: seen.append(len(parts)))
    os.close(root)
    assert seen == list(range(1, 601))
    trees.pack(tmp_path / "tree", tmp_path / "packed.tar.gz")


def test_noop(tmp_path: Path) -> None:
    published = publish(Publisher("noop"), results(tmp_path))
    assert not (tmp_path / "execution/results").exists()
    with pytest.raises(JobError, match="keeps no results"):
        retrieve(published, tmp_path / "got", "the results")


BUCKET = "results"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, dict[str, str]]]:
    """The file system of an empty bucket, and what a job says of it."""
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    files = s3fs.S3FileSystem(use_listings_cache=False, endpoint_url=endpoint)
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    yield files, {"Bucket": BUCKET, "Endpoint": endpoint, "Region": "us-east-1"}


def fetched(tmp_path: Path, **params: str) -> dict[str, bytes]:
    one = InputSource("s3", params, "/in")
    (found,) = stage([one], tmp_path / "staged", base=tmp_path, limit=100_000)
    return content(found.source)


@pytest.mark.full
def test_inputs_from_s3(s3: tuple[Any, dict[str, str]], tmp_path: Path) -> None:
    files, settings = s3
    for name in ("a/one.txt", "a/two.bin", "a/b/three.txt", "ab.txt", "a/big"):
        data = bytes(200_000) if name == "a/big" else name.encode()
        files.pipe_file(f"{BUCKET}/{name}", data)
    assert fetched(tmp_path, Key="a/one.txt", **settings) == {"one.txt": b"a/one.txt"}
    few = fetched(tmp_path, Key="a/", Filter=r"\.txt$", **settings)
    assert few == {"one.txt": b"a/one.txt", "b/three.txt": b"a/b/three.txt"}
    assert fetched(tmp_path, Key="ab*", **settings) == {"ab.txt": b"ab.txt"}
    for params, said in (
        ({"Key": "none"}, "there is no s3://results/none"),
        ({"Key": "a/"}, "may have 100000 bytes"),
        ({"Key": "a/", "Filter": "("}, "no regular expression"),
        ({"Key": "a/one.txt", "ChecksumSHA256": "AAAA"}, "its SHA-256 is"),
        ({"Key": "x", "Bucket": "absent"}, "there is no s3://absent/x"),
    ):
        with pytest.raises(JobError) as caught:
            fetched(tmp_path, **{**settings, **params})
        assert said in caught.value.message and caught.value.code == "InputConfigError"
        assert not (tmp_path / "staged").exists()


def test_a_key_that_leads_out(s3: tuple[Any, dict[str, str]], tmp_path: Path) -> None:
    files, settings = s3
    files.pipe_file(f"{BUCKET}/a/../../x", b"x")
    with pytest.raises(JobError, match="is no path of a file"):
        fetched(tmp_path, Key="a/", **settings)


@pytest.mark.full
@pytest.mark.parametrize("encoding", ["gzip", "plain"])
def test_results_to_s3_and_back(
    encoding: str, s3: tuple[Any, dict[str, str]], tmp_path: Path
) -> None:
    files, settings = s3
    params = {**settings, "Key": "r/{jobID}/{executionID}", "Encoding": encoding}
    published = publish(Publisher("s3", params), results(tmp_path, epoch=3))
    ending = {"gzip": ".tar.gz", "plain": "/"}[encoding]
    assert published.where == f"s3://{BUCKET}/r/j-1/e-1-e3{ending}"
    assert "Endpoint" in published.params
    retrieve(published, tmp_path / "got", "the results")
    assert content(tmp_path / "got") == FILES
    assert os.listdir(tmp_path / "execution") == ["results"], "the archive is removed"
    assert publish(Publisher("s3", params), results(tmp_path, epoch=3)) == published
    files.rm(f"{BUCKET}/r", recursive=True)
    with pytest.raises(JobError, match="there is no"):
        retrieve(published, tmp_path / "again", "the results")
    assert not (tmp_path / "again").exists()


def test_publishing_to_s3_is_all_or_nothing(
    s3: tuple[Any, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasmsr.jobs.publishers import s3 as publisher

    files, settings = s3
    real, count = publisher._put, []

    def put(files: Any, name: str, directory: int, file: bytes) -> None:
        count.append(name)
        real(files, name, directory, file)
        if len(count) >= 3:
            raise PermissionError("no more")

    monkeypatch.setattr(publisher, "_put", put)
    params = {**settings, "Key": "r/{executionID}", "Encoding": "plain"}
    with pytest.raises(JobError, match="no more"):
        publish(Publisher("s3", params), results(tmp_path))
    assert len(count) == 3 and files.find(BUCKET) == []
    params = {**settings, "Key": "x", "Bucket": "absent"}
    with pytest.raises(JobError) as caught:
        publish(Publisher("s3", params), results(tmp_path))
    assert caught.value.code == "OutputConfigError"
    assert content(tmp_path / "execution/results") == FILES, "the results stay"


def test_an_archive_without_an_id_has_the_epoch(tmp_path: Path) -> None:
    from wasmsr.jobs.publishers.s3 import key_of

    one = results(tmp_path, epoch=4)
    assert key_of("all.tar.gz", one, ".tar.gz") == "all-e4.tar.gz"
    assert key_of("{date}/{executionID}", one, "/").endswith("/e-1-e4/")
    assert key_of("{jobID}", results(tmp_path), "/") == "j-1/"
