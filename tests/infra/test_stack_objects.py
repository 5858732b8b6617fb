"""The stack's S3 server: it keeps its data whatever is killed, keeps conditions and versions, and asks for keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from benchmarks.stack_logging import free_ports
from infra.stack.objects.index import Index, Received
from infra.stack.objects.shelf import Shelf
from infra.stack.processes import wait_until
from wsss import storage
from wsss.cli import doctor
from wsss.errors import UserError

SECRET = "a secret for the test alone"
ACTIONS = {"admin": ["Admin"], "reader": ["Read:bucket", "List:bucket"], "writer": ["Write:bucket", "Read:bucket"]}


class Server:
    """A process of the server, on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_ports()["objects"]
        identities = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": actions}
            for name, actions in ACTIONS.items()
        ]
        (folder / "keys.json").write_text(json.dumps({"identities": identities}))
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["infra.stack.objects", str(self.folder / "data"), "--port", str(self.port)]
        words += ["--keys", str(self.folder / "keys.json")]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", *words], env=environment, stderr=log)
        assert wait_until(self._well, 60), (self.folder / "log").read_text()

    def _well(self) -> bool:
        try:
            return bool(urlopen(f"{self.address}/health", timeout=1).read())
        except OSError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self, name: str = "admin", secret: str = SECRET):
        quick = Config(retries={"max_attempts": 1}, request_checksum_calculation="when_required")
        return boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id=name,
            aws_secret_access_key=secret,
            region_name="eu-central-1",
            config=quick,
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("objects") / "server"
    folder.mkdir()
    started = Server(folder)
    s3 = started.client()
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    s3.create_bucket(Bucket="plain")
    s3.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    yield started
    started.kill()


def refused(call, **words) -> str:
    """The code of a refusal."""
    with pytest.raises(ClientError) as error:
        call(**words)
    return error.value.response["Error"]["Code"]


def test_what_was_answered_is_there_after_a_kill(server):
    s3 = server.client()
    large = os.urandom(9 << 20)
    for body in (b"first", b"second"):
        s3.put_object(Bucket="bucket", Key="a/both", Body=body, Metadata={"who": "me"}, ContentType="text/plain")
    s3.put_object(Bucket="bucket", Key="a", Body=b"a name that is a folder too")
    s3.put_object(Bucket="bucket", Key="gone", Body=b"x")
    s3.delete_object(Bucket="bucket", Key="gone")
    upload = s3.create_multipart_upload(Bucket="bucket", Key="large")["UploadId"]
    which = {"Bucket": "bucket", "Key": "large", "UploadId": upload}
    parts = [
        {"PartNumber": n, "ETag": s3.upload_part(**which, PartNumber=n, Body=part)["ETag"]}
        for n, part in ((1, large[: 5 << 20]), (2, large[5 << 20 :]))
    ]
    s3.complete_multipart_upload(**which, MultipartUpload={"Parts": parts})
    before = s3.list_object_versions(Bucket="bucket")["Versions"]
    server.kill()
    server.start()
    s3 = server.client()
    assert s3.list_object_versions(Bucket="bucket")["Versions"] == before
    got = s3.get_object(Bucket="bucket", Key="a/both")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (b"second", {"who": "me"}, "text/plain")
    (old,) = [v for v in before if v["Key"] == "a/both" and not v["IsLatest"]]
    assert s3.get_object(Bucket="bucket", Key="a/both", VersionId=old["VersionId"])["Body"].read() == b"first"
    assert s3.get_object(Bucket="bucket", Key="large")["Body"].read() == large
    assert s3.get_object(Bucket="bucket", Key="large", Range="bytes=5-9")["Body"].read() == large[5:10]
    assert refused(s3.get_object, Bucket="bucket", Key="gone") == "NoSuchKey"
    assert s3.get_bucket_versioning(Bucket="bucket")["Status"] == "Enabled"


@pytest.mark.parametrize("bucket", ["bucket", "plain"])
def test_of_many_writers_exactly_one_creates_also_where_versions_are_kept(server, bucket):
    def create(number: int) -> str:
        try:
            server.client().put_object(Bucket=bucket, Key="lease", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            return error.response["Error"]["Code"]
        return "created"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == ["PreconditionFailed"] * 7 + ["created"]
    s3 = server.client()
    etag = s3.head_object(Bucket=bucket, Key="lease")["ETag"]
    s3.put_object(Bucket=bucket, Key="lease", Body=b"renewed", IfMatch=etag)
    assert refused(s3.put_object, Bucket=bucket, Key="lease", Body=b"late", IfMatch=etag) == "PreconditionFailed"
    s3.delete_object(Bucket=bucket, Key="lease")
    assert create(9) == "created"


def test_a_key_may_do_what_it_may_and_a_wrong_one_nothing(server):
    reader, writer = server.client("reader"), server.client("writer")
    writer.put_object(Bucket="bucket", Key="mine", Body=b"1")
    assert reader.get_object(Bucket="bucket", Key="mine")["Body"].read() == b"1"
    for call, words in (
        (reader.put_object, {"Bucket": "bucket", "Key": "mine", "Body": b"2"}),
        (reader.delete_object, {"Bucket": "bucket", "Key": "mine"}),
        (reader.get_object, {"Bucket": "plain", "Key": "mine"}),
        (writer.create_bucket, {"Bucket": "another"}),
        (writer.copy_object, {"Bucket": "bucket", "Key": "taken", "CopySource": "plain/lease"}),
        (writer.put_bucket_versioning, {"Bucket": "bucket", "VersioningConfiguration": {"Status": "Suspended"}}),
    ):
        assert refused(call, **words) == "AccessDenied"
    everything = {"Bucket": "bucket", "Key": "mine"}
    assert refused(server.client("nobody").get_object, **everything) == "InvalidAccessKeyId"
    assert refused(server.client("admin", "guessed").get_object, **everything) == "SignatureDoesNotMatch"
    link = reader.generate_presigned_url("get_object", everything, ExpiresIn=60)
    assert urlopen(link).read() == b"1"
    for bad in (
        f"{server.address}/bucket/mine",
        link.replace("mine", "lease"),
        link.replace("Expires=60", "Expires=90"),
    ):
        with pytest.raises(OSError, match="403"):
            urlopen(bad)


def test_odd_names_come_back_and_lists_go_on(server):
    s3 = server.client()
    names = sorted(["o/../x", "o/ä b+c%2F?&=", "o/\u4e2d", "o//double", "o/deep/1", "o/deep/2", "o/.meta.json"])
    for name in names:
        s3.put_object(Bucket="plain", Key=name, Body=name.encode())
        assert s3.get_object(Bucket="plain", Key=name)["Body"].read() == name.encode()
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="plain", Prefix="o/", PaginationConfig={"PageSize": 2})
    assert [each["Key"] for page in pages for each in page.get("Contents", ())] == sorted(names, key=str.encode)
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket="plain", Prefix="o/", Delimiter="/", PaginationConfig={"PageSize": 1}
    )
    folders = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]
    assert folders == ["o/../", "o//", "o/deep/"]
    s3.delete_objects(Bucket="plain", Delete={"Objects": [{"Key": name} for name in names]})
    assert not s3.list_objects_v2(Bucket="plain", Prefix="o/").get("Contents")
    assert not set(server.folder.parent.rglob("x"))


def test_a_full_disk_is_refused_and_nothing_is_lost(tmp_path, monkeypatch):
    shelf = Shelf(Index(tmp_path / "data"))
    shelf.make("bucket")

    def put(body: bytes) -> None:
        (tmp_path / "data/incoming/new").write_bytes(body)
        shelf.put("bucket", "key", Received(tmp_path / "data/incoming/new", len(body), '"1"'), {})

    put(b"before")
    pages = shelf.index.rows("PRAGMA page_count")[0][0]
    shelf.index.database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Exception, match="full"):
        put(b"x" * 60_000)
    assert b"".join(shelf.read(shelf.find("bucket", "key"), 0, 10)) == b"before"


def test_versions_go_when_their_days_are_over(tmp_path):
    shelf = Shelf(Index(tmp_path / "data"))
    shelf.make("bucket")
    shelf.set("bucket", "versioning", "Enabled")
    shelf.set("bucket", "days", 3)
    for size in (70_000, 3):
        (tmp_path / "data/incoming/new").write_bytes(b"x" * size)
        shelf.put("bucket", "key", Received(tmp_path / "data/incoming/new", size, '"1"'), {})
    shelf.expire()
    assert len(shelf.versions("bucket", "", ("", 0), 10)) == 2
    shelf.index.do("UPDATE objects SET replaced = replaced - 4 * 86400")
    shelf.expire()
    assert [each.size for each in shelf.versions("bucket", "", ("", 0), 10)] == [3]
    assert not list((tmp_path / "data/files").iterdir())


def as_somebody(monkeypatch, server: Server, name: str, secret: str, bucket: str) -> None:
    for variable, value in {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ACCESS_KEY_ID": name,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "WSSS_STORE": f"s3://{bucket}/steps",
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    storage.bucket._client.cache_clear()
    storage.bucket.check_exclusive_writes.cache_clear()


def test_doctor_proves_conditions_and_tells_of_versions(server, monkeypatch):
    as_somebody(monkeypatch, server, "admin", SECRET, "bucket")
    assert doctor._store() == (
        "s3://bucket/steps can be written, and keeps conditions (proven by writing twice) and versions",
        "",
    )
    as_somebody(monkeypatch, server, "admin", SECRET, "plain")
    state, advice = doctor._store()
    assert state.endswith("but no versions") and "put-bucket-versioning --bucket plain" in advice


def test_doctor_says_what_is_wrong_with_a_credential(server, monkeypatch):
    for name, secret, bucket, said in (
        ("nobody", SECRET, "bucket", "no such access key"),
        ("admin", "guessed", "bucket", "the secret key is wrong"),
        ("reader", SECRET, "bucket", "may not do that"),
        ("admin", SECRET, "nowhere", "no such bucket"),
    ):
        as_somebody(monkeypatch, server, name, secret, bucket)
        with pytest.raises(UserError, match=said):
            doctor._store()


@pytest.mark.parametrize(
    ("code", "said"),
    [("ExpiredToken", "have expired; log in anew"), ("RequestTimeTooSkewed", "clock is off")],
)
def test_an_expired_credential_is_a_sentence(monkeypatch, code, said):
    answer = {"Error": {"Code": code, "Message": "no"}}
    monkeypatch.setattr(storage.bucket, "_client", lambda *_: None)
    with pytest.raises(UserError, match=said), storage.bucket._errors("s3://bucket/x"):
        raise ClientError(answer, "PutObject")


def test_doctor_refuses_a_bucket_that_ignores_conditions(server, monkeypatch):
    as_somebody(monkeypatch, server, "admin", SECRET, "bucket")
    write = storage.bucket.write_bytes
    monkeypatch.setattr(storage.bucket, "write_bytes", lambda url, data, if_absent: write(url, data, False))
    with pytest.raises(UserError, match="ignores conditional writes"):
        doctor._store()
