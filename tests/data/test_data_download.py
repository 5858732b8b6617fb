"""Downloads: resumed, checked, unpacked whole or not at all; from a server on this machine."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from wsss.data.download import Archive, download, fetch, unpack
from wsss.errors import UserError

MEMBERS = {"VOCdevkit/VOC2012/JPEGImages/a.jpg": b"picture" * 3000, "VOCdevkit/readme.txt": b"read me"}


def archive_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, content.as_posix()
                tar.addfile(info)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; with `breaks_after` it hangs up after that many bytes."""

    content = b""
    breaks_after: int | None = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/gone/voc.tar":
            self.send_error(404)
            return
        content, asked = self.server.content, self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.breaks_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    server.content = archive_of(MEMBERS)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def archive(server):
    url = f"http://127.0.0.1:{server.server_port}/voc.tar"
    return Archive(url, hashlib.md5(server.content).hexdigest(), "VOCdevkit/VOC2012")


def test_an_archive_is_fetched_checked_and_unpacked_once(archive, server, tmp_path):
    target = download(archive, tmp_path)
    assert target == tmp_path / "VOCdevkit/VOC2012"
    assert (target / "JPEGImages/a.jpg").read_bytes() == b"picture" * 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VOCdevkit"]
    download(archive, tmp_path)
    assert server.ranges == [None]


def test_a_broken_download_goes_on_where_it_stopped(archive, server, tmp_path):
    server.breaks_after = 8000
    with pytest.raises(UserError, match="broke off after 8,000 of"):
        download(archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["voc.tar.part"]
    server.breaks_after = None
    assert download(archive, tmp_path).is_dir()
    assert server.ranges == [None, "bytes=8000-"]


def test_a_download_killed_after_the_last_byte(archive, server, tmp_path):
    (tmp_path / "voc.tar.part").write_bytes(server.content)
    assert download(archive, tmp_path).is_dir()


def test_a_wrong_checksum_leaves_nothing(archive, server, tmp_path):
    server.content = b"something else"
    with pytest.raises(UserError, match=f"published is {archive.md5}"):
        download(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_fetched_by_hand_is_used_if_it_is_right(archive, server, tmp_path):
    (tmp_path / "voc.tar").write_bytes(server.content)
    assert download(archive, tmp_path).is_dir() and server.ranges == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "voc.tar").write_bytes(b"short")
    with pytest.raises(UserError, match="remove it"):
        download(archive, tmp_path / "other")


def test_no_internet_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="internet connection.*put it at"):
        fetch("http://nowhere.invalid/voc.tar", tmp_path / "voc.tar", "")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_one_sentence(server, tmp_path):
    with pytest.raises(UserError, match="answers 404"):
        fetch(f"http://127.0.0.1:{server.server_port}/gone/voc.tar", tmp_path / "voc.tar", "")


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt"])
def test_an_archive_can_not_write_outside(tmp_path, name):
    file = tmp_path / "folder" / "bad.tar"
    file.parent.mkdir()
    file.write_bytes(archive_of({**MEMBERS, name: b"evil"}))
    with pytest.raises(UserError, match="not to be trusted"):
        unpack(file, "VOCdevkit/VOC2012", file.parent)
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_link_out_of_the_archive_is_refused(tmp_path):
    (tmp_path / "bad.tar").write_bytes(archive_of({**MEMBERS, "VOCdevkit/VOC2012/out": tmp_path / "secret"}))
    with pytest.raises(UserError, match="not to be trusted"):
        unpack(tmp_path / "bad.tar", "VOCdevkit/VOC2012", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]


def test_a_damaged_or_wrong_archive_leaves_nothing(tmp_path):
    file = tmp_path / "bad.tar"
    for content, words in ((archive_of(MEMBERS)[:5000], "is damaged"), (archive_of({"a": b"a"}), "holds no folder")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=words):
            unpack(file, "VOCdevkit/VOC2012", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]
