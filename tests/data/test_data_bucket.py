"""A dataset whose images lie in a bucket: added, trained on and checked as a local one, through a bounded cache."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import command

from wsss import storage
from wsss.data import Dataset, bucket_folder, bucket_images, open_dataset
from wsss.data.folder import add_folder
from wsss.data.shapes import make_shapes
from wsss.data.travel import fetch_dataset, send_dataset
from wsss.errors import UserError
from wsss.run.method import run_method

QUICK = {"localize.train.epochs": "1", "localize.train.crop": "33"}


@pytest.fixture(scope="module")
def photos(s3: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Twelve drawings with masks below an address, img/, mask/ and tags.csv, and the same as a folder."""
    root = tmp_path_factory.mktemp("bucket")
    make_shapes(root / "drawn", images=12, val_images=4, size=40, classes=2)
    folder = root / "photos"
    folder.mkdir()
    (root / "drawn" / "JPEGImages").rename(folder / "img")
    (root / "drawn" / "SegmentationClass").rename(folder / "mask")
    (root / "drawn" / "tags.csv").rename(folder / "tags.csv")
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(storage.join(s3, "photos", path.relative_to(folder).as_posix()), path.read_bytes())
    return f"{s3}/photos", folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WSSS_DATA_CACHE_FOLDER", str(tmp_path / "cache"))
    monkeypatch.setenv("WSSS_DATA_CACHE", "1MB")
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.glob("??/*") if path.is_file()]


def test_a_training_on_a_bucket_gives_the_bytes_of_one_on_a_folder(photos, cache, monkeypatch):
    address, folder = photos
    there, here = add_folder(address, "there"), add_folder(folder, "here")
    assert there.digest == here.digest and there.address == address
    assert not (there.root / "JPEGImages").exists() and len(list(there.root.glob("SegmentationClass/*.png"))) == 16
    for path in kept(cache):
        path.unlink()
    models = []
    for name in ("there", "here"):
        monkeypatch.setenv("WSSS_STORE", f"store-{name}")
        run_method("cam", "demo", name, overrides=QUICK, until="localize", device="cpu", offline=Path(f"out-{name}"))
        files = [path for path in Path(f"store-{name}").rglob("*") if path.suffix in (".safetensors", ".tar")]
        models.append({str(p.relative_to(f"store-{name}")): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert models[0] == models[1] and len(models[0]) >= 2
    assert 0 < len(kept(cache)) <= 16


def test_what_a_user_types_and_sees(photos, cache, monkeypatch):
    address, _ = photos
    monkeypatch.setenv("WSSS_DATA_CACHE", "lots")
    refused = command(Path.cwd(), "data", "add", "folder", address, "--no-dvc", check=False)
    assert refused.returncode == 2 and "WSSS_DATA_CACHE is 'lots'" in refused.stderr
    assert "Traceback" not in refused.stderr
    monkeypatch.setenv("WSSS_DATA_CACHE", "20GB")
    assert not Path("data/photos").exists()
    added = command(Path.cwd(), "data", "add", "folder", address, "--tags", f"{address}/tags.csv", "--no-dvc")
    assert f"recognised in {address}: 16 images" in added.stderr and "16 masks in mask" in added.stderr
    assert f"images stay in {address}" in added.stdout and str(Path.cwd()) not in added.stderr
    assert "are sound" in command(Path.cwd(), "data", "check", "photos").stdout
    assert command(Path.cwd(), "data", "show", "photos", "--html", "page.html").returncode == 0


def test_objects_that_changed_or_vanished_are_named(photos, cache, s3):
    _, folder = photos
    for name in ("a.png", "b.png", "c.png"):
        data = sorted((folder / "img").iterdir())["abc".index(name[0])].read_bytes()
        storage.write_bytes(f"{s3}/other/{name}", data)
    storage.write_bytes(f"{s3}/other/tags.csv", b"image,labels\na.png,x\nb.png,y\nc.png,x\n")
    dataset = add_folder(f"{s3}/other", "other")
    for path in kept(cache):
        path.unlink()
    storage.write_bytes(f"{s3}/other/a.png", b"another")
    storage.remove(f"{s3}/other/b.png")
    with pytest.raises(UserError, match=rf"{s3}/other/a.png is not the object that was added \(7 bytes"):
        dataset.image("a")
    with pytest.raises(UserError, match=rf"{s3}/other/b.png is no longer there; put the object back"):
        dataset.image("b")
    with pytest.raises(UserError) as both:
        dataset.check(thorough=True)
    assert "a.png is not the object" in str(both.value) and "b.png is no longer there" in str(both.value)


def test_a_bucket_that_changes_while_it_is_read_is_refused(photos, cache, s3, monkeypatch):
    address, _ = photos
    look = bucket_folder.BucketFolder._look

    def look_and_write(self, path):
        storage.write_bytes(f"{address}/img/new.png", b"x")
        return look(self, path)

    monkeypatch.setattr(bucket_folder.BucketFolder, "_look", look_and_write)
    try:
        with pytest.raises(UserError, match=rf"1 objects in {address} changed, .*img/new\.png"):
            add_folder(address, "photos")
    finally:
        storage.remove(f"{address}/img/new.png")
    assert [path for path in Path("data").iterdir() if path.name != ".adding"] == []


def test_an_attempt_that_broke_off_goes_on(photos, cache, monkeypatch, capsys):
    address, _ = photos
    read: list[str] = []
    fetch = bucket_images.fetch

    def broken(url):
        if url.endswith(".png"):
            read.append(url)
            if len(read) == 25:  # 16 masks, then images
                raise UserError(f"{url}: the store refused")
        return fetch(url)

    monkeypatch.setattr("wsss.data.attempts._EVERY_S", 0)
    monkeypatch.setattr(bucket_folder, "_THREADS", 1)
    monkeypatch.setattr(bucket_folder, "fetch", broken)
    with pytest.raises(UserError, match="the store refused"):
        add_folder(address, "photos")
    before = len(read)
    add_folder(address, "photos")
    again = [url for url in read[before:] if "/img/" in url]
    assert len(again) == 8 and "had read 8 of the 16 images" in capsys.readouterr().err


def test_a_credential_that_is_wrong_is_one_sentence(photos, cache, s3):
    code = (
        "from unittest.mock import patch; from botocore.exceptions import ClientError; import botocore.client\n"
        "error = ClientError({'Error': {'Code': 'InvalidAccessKeyId', 'Message': 'does not exist in our records'},"
        " 'ResponseMetadata': {'HTTPStatusCode': 403}}, 'ListObjectsV2')\n"
        "import sys; from wsss.cli import main\n"
        f"sys.argv = ['wsss', 'data', 'add', 'folder', '{s3}/photos']\n"
        "with patch.object(botocore.client.BaseClient, '_make_api_call', side_effect=error): main()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "the store refuses (InvalidAccessKeyId): it knows no such access key" in run.stderr
    assert "Traceback" not in run.stderr and len(run.stderr.strip().splitlines()) == 1


def test_a_bucket_that_refuses_for_some_time_is_asked_again(monkeypatch):
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(503 if len(asked) < 3 else 200)
            body = b"" if len(asked) < 3 else b"an image"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    try:
        assert bucket_images.fetch("s3://bucket/a.jpg") == b"an image" and len(asked) == 3
        asked.clear()
        monkeypatch.setattr(bucket_images, "PATIENCE_S", 0.6)
        monkeypatch.setattr("wsss.data.bucket_images.storage.read_bytes", lambda url: (_ for _ in ()).throw(
            storage.UnreachableError(f"{url}: the store is busy")))  # fmt: skip
        with pytest.raises(UserError, match="the store is busy"):
            bucket_images.fetch("s3://bucket/a.jpg")
    finally:
        server.shutdown()


def test_it_travels_without_its_images(photos, cache, tmp_path):
    dataset = add_folder(photos[0], "photos")
    key = send_dataset(dataset, str(tmp_path / "store"), ("dev",))
    fetched = fetch_dataset(str(tmp_path / "store"), key, ("dev",), tmp_path / "elsewhere")
    id = fetched.splits["train"][0]
    assert fetched.digest == dataset.digest and (fetched.image(id) == dataset.image(id)).all()


def test_workers_that_read_together_get_whole_images(photos, cache, monkeypatch):
    monkeypatch.setenv("WSSS_DATA_CACHE", "0.003MB")  # of some 40 kB: nearly each read makes room
    dataset = add_folder(photos[0], "photos")
    local = Dataset.open(add_folder(photos[1], "local").root)
    ids = [*dataset.splits["train"], *dataset.splits["val"]] * 3
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda id: (dataset.image(id) == local.image(id)).all(), ids))
    assert open_dataset("photos").check() == ""
    assert sum(path.stat().st_size for path in kept(cache)) <= 3000


def test_the_example_of_the_docs_works(photos, cache, s3, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    [example] = re.findall(r'```sh title="images in a bucket"\n(.*?)```', page, re.S)
    for path in photos[1].rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{s3}/pets/{path.relative_to(photos[1]).as_posix()}", path.read_bytes())
    lines = [line.partition("#")[0].split() for line in example.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["wsss"]]
    assert [command(tmp_path, *words).returncode for words in commands] == [0, 0]
    assert Dataset.open(tmp_path / "data" / "pets").address == f"{s3}/pets"


def test_lists_classes_and_a_dev_list_are_read_from_wherever_they_lie(photos, cache, s3, tmp_path):
    address, folder = photos
    ids = sorted(path.stem for path in (folder / "img").iterdir())
    texts = {
        "lists/train.txt": ids[:12],
        "lists/val.txt": ids[12:],
        "dev.txt": ids[:2],
        "classes.names": ["ring", "disc"],
    }
    tags = (folder / "tags.csv").read_text(encoding="utf-8").replace("disc-eyes", "disc").replace("square-ring", "ring")
    contents = {name: "".join(f"{line}\n" for line in lines) for name, lines in texts.items()} | {"own.csv": tags}
    for place in ("photos", "elsewhere"):
        for name, text in contents.items():
            storage.write_bytes(f"{s3}/{place}/{name}", text.encode())
    for name, text in contents.items():
        storage.write_bytes(tmp_path / "local" / name, text.encode())

    def add(name: str, images: str, place: str) -> Dataset:
        files = {"tags": "own.csv", "lists": "lists", "dev_list": "dev.txt", "class_list": "classes.names"}
        options = {option: f"{place}/{file}" for option, file in files.items()}
        if name != "beside":
            return add_folder(images, name, max_disagreement=1, **options)
        options["classes"] = options.pop("class_list")
        words = [word for option, file in options.items() for word in (f"--{option.replace('_', '-')}", file)]
        command(
            tmp_path, "data", "add", "folder", images, "--name", name, "--max-disagreement", "1", *words, "--no-dvc"
        )
        return open_dataset(name)

    try:
        expected = add("here", str(folder), str(tmp_path / "local"))
        assert len(expected.splits["dev"]) == 2 and expected.classes.names == ("ring", "disc")
        for name, images, place in (
            ("below", address, address),
            ("beside", address, f"{s3}/elsewhere"),
            ("only", str(folder), f"{s3}/elsewhere"),
        ):
            dataset = add(name, images, place)
            assert dataset.digest == expected.digest and dataset.settings == expected.settings
    finally:
        for name in contents:
            storage.remove(f"{s3}/photos/{name}")


def test_what_an_address_of_a_list_does_not_hold_is_said_by_its_address(photos, cache, s3):
    storage.write_bytes(f"{s3}/wrong/train.txt", b"a-stranger\n")
    for option, name, sentence in (
        ("lists", "wrong", f"{s3}/wrong/train.txt, line 1: there is no image file for a-stranger"),
        ("dev_list", "nowhere.txt", f"neither a file {s3}/nowhere.txt nor a folder of that name"),
        ("class_list", "photos/nowhere.txt", f"neither a file {s3}/photos/nowhere.txt nor a folder"),
        ("masks", "wrong", f"--masks {s3}/wrong does not lie below"),
    ):
        with pytest.raises(UserError) as refused:
            add_folder(photos[0], "refused", **{option: f"{s3}/{name}"})
        assert sentence in str(refused.value) and "/tmp" not in str(refused.value)
    assert [path for path in Path("data").iterdir() if path.name != ".adding"] == []
