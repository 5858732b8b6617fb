"""`wsss restore`: a backup, verified whole, goes into places that are empty; the database that names it all comes last.

Which backup goes where is written down before anything else (`work/restore.json`), so that a restore that was cut off
goes on when it is called again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from wsss import storage
from wsss.backup import databases
from wsss.backup.make import told
from wsss.backup.manifest import DVC, FILES, TRACKING, Backup, Part
from wsss.backup.places import Places
from wsss.backup.trees import listed, put
from wsss.backup.vault import Vault
from wsss.commands import command
from wsss.errors import UserError, masked, unknown
from wsss.progress import say
from wsss.tracking import schema

JOURNAL = "restore.json"


def restore(places: Places, vault: Vault, name: str = "", without: Collection[str] = ()) -> Backup:
    """Put a backup where the places say.

    Args:
        places: where to; each is empty.
        vault: where it lies.
        name: of the backup; the newest by default.
        without: names of parts that stay away.

    Raises:
        UserError: a place is not empty, a piece is missing or damaged, the database is of another kind or a newer
            schema than can be used here: then nothing was written. Or a place can't be written.
    """
    backup = vault.read(name)
    for each in without:
        if backup.part(each) is None:
            raise unknown(f"part of the backup {backup.name}", each, [part.name for part in backup.parts])
    parts = [part for part in backup.parts if part.name not in without]
    targets = {part.name: _target(places, part) for part in parts}
    journal = places.work / JOURNAL
    going_on = _begun(journal) == _entry(vault, backup)
    _check_empty(parts, targets, going_on)
    advice = check_schema(parts)
    vault.verify(parts, lambda total: told("verify", total))
    storage.write_bytes(journal, json.dumps(_entry(vault, backup)).encode())
    # The database that names all the rest comes last: without it there is nothing yet that anybody could use.
    for part in sorted(parts, key=lambda part: (part.kind != FILES, part.name == TRACKING)):
        if part.kind == FILES:
            # DVC's workspace is made where there is none, which nobody does before all is verified.
            target = targets[part.name] or places.target(DVC)
            put(vault, vault.files(part), target, told(f"restore {part.name}", part.files), going_on)
        else:
            say(f"restore {part.name}: {part.kind}")
            load_database(vault, part, targets[part.name])
    journal.unlink()
    if advice:
        upgrade = command("mlflow", "db", "upgrade", masked(targets[TRACKING]))
        say(f"{advice}; before anybody uses it: {upgrade}")
    return backup


def check_schema(parts: Sequence[Part]) -> str:
    """Refuse a database that a newer MLflow made; why one that an older one made has to be upgraded."""
    for part in parts:
        if part.facts.get("schema"):
            return schema.check(part.facts["schema"], "the backup's database")
    return ""


def load_database(vault: Vault, part: Part, uri: str) -> None:
    """Put a database back, from pieces that were verified."""
    with storage.temporary_folder() as folder:
        for file in vault.files(part):
            storage.copy_file(vault.piece(file.sha256), storage.inside(folder, file.name))
        databases.load(folder, uri)


def _target(places: Places, part: Part) -> str:
    """Where a part goes: a place of files (of DVC's contents it is known later), or the address of a database."""
    if part.kind == FILES:
        return "" if part.name == DVC else places.target(part.name)
    uri = places.databases.get(part.name, "")
    without = f"; leave it out with --without {part.name}, or set it"
    if not uri:
        raise UserError(f"the backup has a database of {part.name}, and nothing here says where such a one is{without}")
    kind = databases.kind_of(uri)
    if kind != part.kind:
        raise UserError(f"the backup's database of {part.name} is of {part.kind}, {masked(uri)} is of {kind}{without}")
    return uri


def _check_empty(parts: Sequence[Part], targets: dict[str, str], going_on: bool) -> None:
    """Refuse what is not empty; a restore that goes on finds what it wrote, but never the last database."""
    found = []
    for part in parts:
        target = targets[part.name]
        if part.kind != FILES and (part.name == TRACKING or not going_on):
            if work := databases.work_in(target):
                found.append(f"{part.name}: {masked(target)} has {work}")
        elif part.kind == FILES and part.name != DVC and not going_on:
            first = next(iter(listed(target)), None)
            if first is not None:
                found.append(f"{part.name}: {target} has {first.name}")
    if found:
        raise UserError(
            f"a backup is restored into empty places alone, and these are not ({'; '.join(found)}); move away what is "
            "there, or name other places"
        )


def _entry(vault: Vault, backup: Backup) -> dict[str, str]:
    return {"from": vault.url, "backup": backup.name}


def _begun(journal: Path) -> object:
    with suppress(OSError, ValueError):
        return json.loads(journal.read_bytes())
    return None
