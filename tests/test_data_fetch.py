"""Fetching CIFAR from a server on this machine: once, whole or not at all, and what goes wrong is said in one line."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from repro.data import cifar, prepare
from repro.data import fetch as fetching
from repro.data.fetch import fetch
from repro.errors import InputError
from tests.test_data_cifar import FILES, ROWS, batch, config, write

SOURCES = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def archive(name: str) -> bytes:
    """The published archive in miniature: the same names, fewer images."""
    folder, files, _ = FILES[name]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for number, file in enumerate([*files, "batches.meta"]):
            data = batch(name, number)
            entry = tarfile.TarInfo(f"{folder}/{file}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one archive and counts how often it was fetched whole."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = b""
        self.status = 200
        self.fetched = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/archive.tar.gz"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        if self.headers["Method"] != "HEAD":  # torchvision first asks for redirections
            self.server.fetched += 1
            self.wfile.write(self.server.content)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of this test's own."""
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def serve(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Server]:
    """Serve the archive of a data set, and have torchvision look for it there."""

    def start(name: str) -> Server:
        server.content = archive(name)
        monkeypatch.setattr(SOURCES[name], "url", server.url)
        monkeypatch.setattr(SOURCES[name], "tgz_md5", hashlib.md5(server.content).hexdigest())
        return server

    return start


def left(root: Path) -> list[str]:
    """What lies under a folder, without the lock."""
    return sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_what_is_missing_is_fetched_once(name: str, tmp_path: Path, serve: Callable[[str], Server]) -> None:
    server = serve(name)
    wanted = config(tmp_path / "new" / "root", name)
    for _ in range(3):
        prepare(wanted)
    assert server.fetched == 1
    assert left(tmp_path / "new" / "root") == [FILES[name][0]]
    assert cifar.load_arrays(wanted).sizes["test"] == ROWS


def test_without_download_nothing_is_fetched(tmp_path: Path, serve: Callable[[str], Server]) -> None:
    server = serve("cifar10")
    with pytest.raises(InputError, match=r"set data.root=/path, or data.download=true to have it fetched"):
        prepare(config(tmp_path).model_copy(update={"download": False}))
    assert (server.fetched, left(tmp_path)) == (0, [])


def test_two_processes_at_once_fetch_once(tmp_path: Path, serve: Callable[[str], Server]) -> None:
    server = serve("cifar10")
    context = multiprocessing.get_context("fork")  # the children keep the address that was set here
    both = [context.Process(target=fetch, args=(config(tmp_path),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert server.fetched == 1
    assert left(tmp_path) == ["cifar-10-batches-py"]


def test_who_waited_looks_again(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    looked, missing = context.Event(), fetching._missing
    monkeypatch.setattr(fetching, "_missing", lambda *given: (missing(*given), looked.set())[0])
    monkeypatch.setattr(CIFAR10, "url", server.url)
    with fetching._alone(tmp_path / f".{CIFAR10.filename}.lock"):
        waiting = context.Process(target=fetch, args=(config(tmp_path),))
        waiting.start()
        assert looked.wait(60)
        write(tmp_path, "cifar10")
    waiting.join(60)
    assert (waiting.exitcode, server.fetched) == (0, 0)


def test_an_archive_that_lies_there_is_not_fetched_again(tmp_path: Path, serve: Callable[[str], Server]) -> None:
    server = serve("cifar10")
    (tmp_path / CIFAR10.filename).write_bytes(server.content)
    prepare(config(tmp_path))
    assert server.fetched == 0
    assert left(tmp_path) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_files_that_lie_there_are_left_alone(tmp_path: Path, serve: Callable[[str], Server]) -> None:
    serve("cifar10")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_2").write_bytes(batch("cifar10", 99))
    prepare(config(tmp_path))
    assert (folder / "data_batch_2").read_bytes() == batch("cifar10", 99)
    assert (folder / "data_batch_3").read_bytes() == batch("cifar10", 2)


def test_a_wrong_checksum_is_named_and_nothing_is_left(tmp_path: Path, serve: Callable[[str], Server]) -> None:
    server = serve("cifar10")
    server.content = server.content[:-100]
    found, expected = hashlib.md5(server.content).hexdigest(), CIFAR10.tgz_md5
    with pytest.raises(InputError) as caught:
        prepare(config(tmp_path))
    assert str(caught.value) == (
        f"cifar-10-python.tar.gz from {server.url}: MD5 is {found}, expected {expected}; found "
        f"{len(server.content):,} bytes; try again, or put the archive into {tmp_path}"
    )
    assert left(tmp_path) == []


def test_a_server_that_refuses_is_named(tmp_path: Path, serve: Callable[[str], Server]) -> None:
    serve("cifar10").status = 404
    with pytest.raises(InputError) as caught:
        prepare(config(tmp_path))
    assert str(caught.value) == (
        f"cifar-10-python.tar.gz cannot be fetched from {CIFAR10.url} (HTTP Error 404: Not Found); put it (MD5 "
        f"{CIFAR10.tgz_md5}) or cifar-10-batches-py/ into {tmp_path}, or set data.root=/path"
    )
    assert left(tmp_path) == []


def test_a_server_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as closed:
        port = closed.server_address[1]
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/archive.tar.gz")
    with pytest.raises(InputError, match=r"cifar-10-python.tar.gz cannot be fetched from http://127.0.0.1.*refused"):
        prepare(config(tmp_path))
    assert left(tmp_path) == []


def test_an_archive_without_the_files_is_refused(
    tmp_path: Path, serve: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("cifar10")
    server.content = archive("cifar100")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(server.content).hexdigest())
    with pytest.raises(InputError, match=r"cifar10 cannot be put there \(No such file or directory\)"):
        prepare(config(tmp_path))
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, serve: Callable[[str], Server]) -> None:
    serve("cifar10")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(InputError, match=r"file/root: cifar10 cannot be put there \(Not a directory\)"):
        prepare(config(tmp_path / "file" / "root"))
