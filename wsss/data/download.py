"""Fetching PASCAL VOC 2012 and SBD: resumed where it broke off, checked against the published checksum, unpacked."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from wsss.errors import UserError
from wsss.storage import disk_errors, inside

TIMEOUT_S = 60
CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A published tar archive.

    Attributes:
        url: where it is.
        md5: its published checksum, in hexadecimal.
        holds: the folder in it that is wanted.
    """

    url: str
    md5: str
    holds: str


ARCHIVES = {
    "voc": Archive(
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        md5="6cd6e144f989b92b3379bac3b3de84fd",
        holds="VOCdevkit/VOC2012",
    ),
    "sbd": Archive(
        url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        md5="82b4d87ceb2ed10f6038a1cba92111cb",
        holds="benchmark_RELEASE",
    ),
}


def download(archive: Archive, folder: Path) -> Path:
    """Fetch and unpack an archive into `folder`; what is there already is not done again.

    An archive that was put into the folder by hand is used. It is removed once it is unpacked.

    Returns:
        The unpacked folder, `folder / archive.holds`.

    Raises:
        UserError: the server can't be reached or breaks off, a wrong checksum, an archive that is damaged or would
            write outside of the folder, a full disk.
    """
    target = folder / archive.holds
    if target.exists():
        return target
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / Path(urllib.parse.urlsplit(archive.url).path).name
        if not file.exists():
            fetch(archive.url, file, archive.md5)
        elif (found := _md5(file)) != archive.md5:
            raise UserError(f"{file} has the md5 {found}, published is {archive.md5}; remove it to fetch it again")
        unpack(file, archive.holds, folder)
        file.unlink()
    return target


def fetch(url: str, file: Path, md5: str) -> None:
    """Fetch a file; until its checksum is right it is called `<file>.part`, from which a later call goes on.

    Raises:
        UserError: the server can't be reached, refuses or breaks off, or the checksum is wrong.
    """
    part = file.with_name(file.name + ".part")
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            _receive(response, part, done if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0)
    except urllib.error.HTTPError as error:
        if not (done and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            answer = f"{error.code} {error.reason}"
            raise UserError(f"{url} answers {answer}; fetch it elsewhere and put it at {file}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{url} can't be fetched ({reason}); is there an internet connection? The same command goes on where it "
            f"broke off, or fetch the file elsewhere and put it at {file}"
        ) from None
    if (found := _md5(part)) != md5:
        part.unlink()
        raise UserError(f"{url} has the md5 {found}, published is {md5}; it was removed, try again or another mirror")
    os.replace(part, file)


def unpack(file: Path, holds: str, folder: Path) -> None:
    """Unpack the folder `holds` of a tar archive into `folder`; it appears there when it is whole.

    Raises:
        UserError: a damaged archive, a member that would land outside of it, or no such folder in it.
    """
    partial = folder / f".{file.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(file) as tar:
            for member in tqdm(tar, desc=f"unpacking {file.name}", unit=" files", disable=None):
                if member.isdir():
                    continue
                if not member.isfile():
                    raise UserError(f"{file} is not to be trusted: {member.name} is a link; nothing was unpacked")
                target = inside(partial, member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None
                with target.open("wb") as out:
                    shutil.copyfileobj(content, out)
        if not (partial / holds).is_dir():
            raise UserError(f"{file} holds no folder {holds}")
        (folder / holds).parent.mkdir(parents=True, exist_ok=True)
        os.rename(partial / holds, folder / holds)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it to fetch it again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _receive(response: http.client.HTTPResponse, part: Path, start: int) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    with (
        part.open("ab" if start else "wb") as out,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
    ):
        while chunk := response.read(CHUNK):
            out.write(chunk)
            bar.update(len(chunk))
        if total is not None and out.tell() < total:
            raise ConnectionError(f"broke off after {out.tell():,} of {total:,} bytes")


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
