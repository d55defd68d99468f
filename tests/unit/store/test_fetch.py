"""Downloads resume and are checked; imports copy only what is right."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labtrail.errors import DataError
from labtrail.store import fetch as fetching
from labtrail.store.fetch import Asset, DataSet, download, fetch

CONTENT = bytes(range(256)) * 4000


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at any path; ``cut`` bytes into each answer the connection breaks."""

    cut: int | None = None
    ranges = True
    status = 200
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # ty: ignore[incompatible-mutable-override]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the library's name
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.time, "sleep", lambda _seconds: None)


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/file.csv"


def test_broken_download_is_continued(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "part"
    server.cut = 300_000
    download(url(server), part)
    assert part.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_part_of_an_earlier_process_is_continued(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "part"
    server.cut = 100_000
    with pytest.raises(DataError, match="broke off after 100000 of 1024000 bytes"):
        download(url(server), part, attempts=1)
    server.cut = None
    download(url(server), part)
    assert part.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=100000-"
    download(url(server), part)
    assert part.read_bytes() == CONTENT


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"x" * 500)
    server.ranges = False
    download(url(server), part)
    assert part.read_bytes() == CONTENT


def test_absent_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DataError, match=r"Not Found.*from_file"):
        download(url(server), tmp_path / "part")
    assert len(server.asked) == 1


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only https"):
        download("file:///etc/passwd", tmp_path / "part")


def _blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def data_set(server: Server | None, blob: str | None, check: Callable[[Path], None] = lambda _path: None) -> DataSet:
    asset = Asset("file.csv", "train.csv", url(server) if server else None, blob)
    return DataSet("toy", (asset,), "none", check)


def test_download_is_checked_and_kept(server: Server, tmp_path: Path) -> None:
    dataset = data_set(server, _blob(CONTENT))
    folder = fetch(dataset, None, tmp_path)
    assert (folder / "train.csv").read_bytes() == CONTENT
    fetch(dataset, None, tmp_path)
    assert len(server.asked) == 1
    assert [path.name for path in folder.iterdir()] == ["train.csv"]


def test_wrong_content_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="git blob id"):
        fetch(data_set(server, "0" * 40), None, tmp_path)
    assert list((tmp_path / "toy").iterdir()) == []


def test_import_of_local_files(tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_bytes(CONTENT)
    for place in (tmp_path, tmp_path / "file.csv"):
        root = tmp_path / f"data-{place.name}"
        assert (fetch(data_set(None, _blob(CONTENT)), place, root) / "train.csv").read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"expected file.csv here"):
        fetch(data_set(None, None), tmp_path / "absent", tmp_path / "c")
    with pytest.raises(DataError, match="cannot be downloaded; give its folder"):
        fetch(data_set(None, None), None, tmp_path / "d")


def test_corrected_file_is_imported_again(tmp_path: Path) -> None:
    for content in (b"first", b"corrected"):
        (tmp_path / "file.csv").write_bytes(content)
        folder = fetch(data_set(None, None), tmp_path, tmp_path / "data")
        assert (folder / "train.csv").read_bytes() == content


def test_failed_check_leaves_nothing(tmp_path: Path) -> None:
    def check(path: Path) -> None:
        raise DataError(f"{path}: row 3 is bad")

    (tmp_path / "file.csv").write_bytes(CONTENT)
    with pytest.raises(DataError, match="row 3 is bad"):
        fetch(data_set(None, None, check), tmp_path, tmp_path / "data")
    assert list((tmp_path / "data/toy").iterdir()) == []
