"""`wsss backup`: the ledger, the databases, then what they refer to, so that nothing refers to what is missing.

`wsss gc` waits until all is copied, who promotes until ledger and databases are. Everybody else works on: what they
write after the database was copied may be in the backup or not, and nothing in the database refers to it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wsss import storage
from wsss.backup import databases
from wsss.backup.manifest import DVC, FILES, LEDGER, STORE, TRACKING, Backup, File, Part, encode_files
from wsss.backup.places import Places, is_content
from wsss.backup.trees import Progress, Seen, copy, listed
from wsss.backup.vault import Vault, private
from wsss.errors import UserError
from wsss.git import VERSION
from wsss.progress import ConsoleReporter, say
from wsss.registry.ledger import HELD
from wsss.run.lease import lease
from wsss.run.store import MANIFEST, parse
from wsss.tracking.beside import database, settle_addresses


def back_up(places: Places, vault: Vault, keep: int = 0) -> Backup:
    """Make a backup; until its last write there is none, and what it copied by then the next one need not copy.

    Args:
        places: of what is backed up.
        vault: where to.
        keep: how many of the newest backups stay there, this one among them; 0 for all.

    Raises:
        UserError: something can't be read or written, another backup is being made there, or gc or another backup of
            the same places does not end.
    """
    uri = places.databases[TRACKING]
    # Before anything is written: whether all can be copied.
    databases.addresses_in(uri)
    if database(uri):
        settle_addresses(uri)
    artifacts = places.artifacts(databases.addresses_in(uri))
    _check_apart(vault.url, [places.ledger, places.store.url, *artifacts.values(), *places.contents()])
    with private(), lease(vault.url, "backup", f"a backup to {vault.url}", wait=False):
        vault.tidy()
        with lease(places.store.url, "gc", "what gc removes or a backup keeps", wait=True):
            backup = _Making(places, vault).all()
            vault.write(backup)
        if keep:
            vault.prune(keep)
    return backup


def told(name: str, total: int) -> Progress:
    """What shows progress on the console, called from several threads."""
    report, lock, done, size = ConsoleReporter(name), threading.Lock(), 0, 0

    def progress(each: int) -> None:
        nonlocal done, size
        with lock:
            done, size = done + 1, size + each
            report.progress(done, total, "files", f"{size / 1e6:,.1f} MB")

    return progress


@dataclass
class _Making:
    """A backup that is being made."""

    places: Places
    vault: Vault
    new: int = 0
    parts: list[Part] = field(default_factory=list)

    def all(self) -> Backup:
        """Copy everything, in the order in which nothing can refer to what is missing."""
        began = time.time()
        self._known, self._since = self.vault.known()
        with lease(self.places.ledger, HELD, "the ledger, of which a backup is made,", wait=True):
            self._decisions()
        for part, uri in self.places.databases.items():
            if part != TRACKING and not _is_absent(uri):
                self.parts.append(self._database(part, uri))
        tracking = next(part for part in self.parts if part.name == TRACKING)
        for part, place in self.places.artifacts(tracking.facts["addresses"]).items():
            self._files(part, place, list(listed(place)))
        self._steps()
        self._versions()
        name = self._name(began)
        return Backup(name, began, VERSION, self.new, tuple(self.parts))

    def _decisions(self) -> None:
        """The ledger and the database whose aliases follow it: of one moment.

        Who promotes waits; but whoever had begun before may still have written a record. Then both are copied again.
        """
        place = self.places.ledger
        while True:
            seen = list(listed(place))
            self._files(LEDGER, place, seen)
            tracking = self._database(TRACKING, self.places.databases[TRACKING])
            if {each.name for each in listed(place)} <= {each.name for each in seen}:
                self.parts.append(tracking)
                return
            self.parts.pop()

    def _database(self, part: str, uri: str) -> Part:
        say(f"backup {part}: copying {databases.kind_of(uri)}")
        files = []
        with storage.temporary_folder() as folder:
            facts = databases.dump(uri, folder / "dump")
            for path in sorted((folder / "dump").iterdir()):
                digest, new = self.vault.add(path)
                self.new += new
                files.append(File(path.name, path.stat().st_size, digest, ""))
        return self._part(part, databases.kind_of(uri), files, facts)

    def _files(self, part: str, place: str, seen: list[Seen], keep: Callable[[list[File]], list[File]] = list) -> None:
        known = self._known.get(part, {})
        progress = told(f"backup {part}", len(seen))
        files, new = copy(place, seen, self.vault, known, self._since, progress)
        self.new += new
        self.parts.append(self._part(part, FILES, keep(files)))

    def _steps(self) -> None:
        """The outputs of steps that are whole."""
        place = self.places.store.url
        self._files(STORE, place, [each for each in listed(place) if each.name.count("/") > 1], self._whole)

    def _whole(self, files: list[File]) -> list[File]:
        """The files of outputs whose manifest is there, with all that it names as it names it."""
        outputs: dict[str, dict[str, File]] = defaultdict(dict)
        for file in files:
            step, fingerprint, rest = file.name.split("/", 2)
            outputs[f"{step}/{fingerprint}"][rest] = file
        kept: list[File] = []
        for name, output in outputs.items():
            if MANIFEST in output:
                content = storage.read_bytes(self.vault.piece(output[MANIFEST].sha256))
                manifest = parse(content, storage.join(self.places.store.url, name, MANIFEST))
                if manifest is None:  # of the first format, which `wsss migrate` reads
                    kept += output.values()
                    continue
                folder = f"{manifest['folder']}/" if manifest["folder"] else ""
                named = {f"{folder}{file}": facts["sha256"] for file, facts in manifest["files"].items()}
                if all(file in output and output[file].sha256 == digest for file, digest in named.items()):
                    kept += [output[MANIFEST], *(output[file] for file in named)]
                else:
                    say(f"backup {STORE}: {name} is damaged or being removed; it is not in this backup")
        return kept

    def _versions(self) -> None:
        """DVC's contents: those of the cache, and of the remote those that the cache does not have."""
        files: dict[str, File] = {}
        known = self._known.get(DVC, {})
        for place in self.places.contents():
            seen = [each for each in listed(place) if is_content(each.name) and each.name not in files]
            taken, new = copy(place, seen, self.vault, known, self._since, told(f"backup {DVC}", len(seen)))
            files |= {file.name: file for file in taken}
            self.new += new
        if files:
            self.parts.append(self._part(DVC, FILES, files.values()))

    def _part(self, name: str, kind: str, files: Iterable[File], facts: dict[str, object] | None = None) -> Part:
        files = list(files)
        digest, new = self.vault.add(encode_files(files))
        self.new += new
        return Part(name, kind, len(files), sum(file.size for file in files), digest, facts or {})

    def _name(self, began: float) -> str:
        """A name that no backup has, and that sorts behind all that there are."""
        name, names = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began)), self.vault.names()
        while names and name <= names[-1]:
            began += 1
            name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began))
        return name


def _is_absent(uri: str) -> bool:
    file: Path | None = database(uri)
    return file is not None and not file.exists()


def _check_apart(to: str, places: Iterable[str]) -> None:
    """Refuse a place of backups that is, or lies in, what is backed up, or has some of that in it."""
    for place in places:
        one, other = (url if storage.is_remote(url) else os.path.abspath(url) for url in (to, place))
        if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
            raise UserError(f"{to} and {place}, which is backed up, lie in one another; name another place for backups")
