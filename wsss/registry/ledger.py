"""The ledger: numbered records of who became champion, when and why; what a record says is what counts.

    LEDGER/MODEL/000001.json            a record, created exclusively, with the sha256 of the one before
    LEDGER/MODEL/evaluations/SHA.npz    the confusion matrices that records name by their sha256

LEDGER is WSSS_LEDGER (a folder or s3://bucket/key), else `ledger` beside the store (WSSS_STORE, work/store): a team
that shares a bucket shares the ledger in it. The registered model's tag `wsss.ledger` holds the number, hash and place
of a record that there must be, so that nobody goes on with another ledger or with one that lost its end.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from wsss.errors import UserError
from wsss.registry.promotion import CANDIDATE_MIOU, CHALLENGE, REFUSAL, ROLLBACK, PromotionRecord, decided, decode
from wsss.run.lease import held, lease
from wsss.scores.evaluation import Evaluation, encode
from wsss.storage import (
    check_exclusive_writes,
    is_remote,
    join,
    list_dirs,
    list_files,
    read_bytes,
    store_address,
    write_bytes,
)

HELD = "backup"
"""The lease beside the models under which nothing is added: ledger and registry are being copied."""


class BrokenChainError(UserError):
    """A ledger that was changed or is incomplete.

    Attributes:
        records: those before the break, oldest first.
    """

    def __init__(self, sentence: str, records: Sequence[PromotionRecord]) -> None:
        super().__init__(sentence)
        self.records = records


class Ledger:
    """The records of one registered model.

    Args:
        model: its name.
        root: the folder or s3:// address of the ledger of all models; by default as the module says.
    """

    def __init__(self, model: str, root: str = "") -> None:
        self.model = model
        self.root = root or _root()
        # A name is one folder, whatever it is made of.
        self.url = join(self.root, quote(model, safe="").replace(".", "%2E"))

    def records(self) -> list[PromotionRecord]:
        """All records, oldest first, each checked against the one after it.

        Raises:
            BrokenChainError: one is damaged, was changed or is missing.
            UserError: a newer version of wsss made one.
        """
        # What is there before reading begins has to be found, without a gap.
        last = max((int(name[:6]) for name in list_files(self.url) if re.fullmatch(r"\d{6}\.json", name)), default=0)
        records: list[PromotionRecord] = []
        while True:
            url = self._record(len(records) + 1)
            try:
                content = read_bytes(url)
            except FileNotFoundError:
                if len(records) < last:
                    raise BrokenChainError(
                        f"{url} is missing, though record {last} is there: bring it back from a backup, nothing is "
                        "promoted until then",
                        records,
                    ) from None
                return records
            try:
                record = decode(content, url)
            except UserError as error:
                raise BrokenChainError(str(error), records) from None
            before = records[-1].sha256 if records else ""
            if (record.number, record.model, record.previous) != (len(records) + 1, self.model, before):
                raise BrokenChainError(
                    f"{url} does not follow from the record before it: one of the two was changed or replaced; bring "
                    "both back from a backup, nothing is promoted until then",
                    records[:-1],
                )
            records.append(record)

    def check_evaluations(self, records: Sequence[PromotionRecord]) -> None:
        """Compare the evaluations that are kept with what the records say of them; one may be gone.

        Raises:
            BrokenChainError: one was changed.
        """
        for index, record in enumerate(records):
            for sha256 in record.evaluations.values():
                url = self.evaluation(sha256)
                try:
                    content = read_bytes(url)
                except FileNotFoundError:
                    continue
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise BrokenChainError(
                        f"{url}, of record {record.number}, was changed: it is not what was compared then; bring it "
                        "back from a backup",
                        records[:index],
                    )

    def looks(self, masks: str) -> int:
        """How often the gate has looked at an evaluation set, whatever the model; `masks` as a record has it."""
        count = 0
        for name in list_dirs(self.root):
            try:
                records = Ledger(unquote(name), self.root).records()
            except BrokenChainError as error:
                records = list(error.records)
            count += sum(record.masks == masks and CANDIDATE_MIOU in record.metrics for record in records)
        return count

    def keep(self, evaluations: Mapping[str, Evaluation]) -> dict[str, str]:
        """Keep evaluations beside the records; their sha256, by the same keys."""
        digests = {}
        for who, evaluation in evaluations.items():
            content = encode(evaluation)
            digests[who] = hashlib.sha256(content).hexdigest()
            write_bytes(self.evaluation(digests[who]), content, if_absent=True)
        return digests

    def evaluation(self, sha256: str) -> str:
        """Where an evaluation is kept."""
        return join(self.url, "evaluations", f"{sha256}.npz")

    def add(self, record: PromotionRecord, after: Sequence[PromotionRecord]) -> PromotionRecord | None:
        """Create the record that follows `after`; None if somebody else's does already."""
        self.check_exclusive()
        if HELD in held(self.root):
            with lease(self.root, HELD, "the ledger, of which a backup is made,", wait=True):
                pass
        number, before = len(after) + 1, after[-1].sha256 if after else ""
        record = replace(record, number=number, previous=before)
        content = record.encode()
        if write_bytes(self._record(number), content, if_absent=True):
            return record
        # A request that was repeated because its answer got lost finds its own record.
        return record if read_bytes(self._record(number)) == content else None

    def append(self, record: PromotionRecord) -> PromotionRecord:
        """Add a record at the end, if what it starts from still holds.

        Raises:
            UserError: another version became champion meanwhile; a look is recorded as a refusal.
        """
        while True:
            records = self.records()
            now = decided(records)
            look = replace(record, from_=now.champion, to=now.champion) if record.kind == CHALLENGE else record
            moved = record.kind == ROLLBACK and now.previous != record.to
            lost = record.promoted and (moved or now.champion != record.from_)
            if lost:
                act = next(r for r in reversed(records) if r.promoted)
                why = f"meanwhile {act.who} made version {act.to} champion of {self.model} (record {act.number})"
                if record.kind == ROLLBACK:
                    raise UserError(f"{why}; nothing was changed; to roll that back run the same command again")
                look = replace(record, kind=REFUSAL, to=now.champion, why=why)
            if added := self.add(look, records):
                if lost:
                    raise UserError(f"{look.why}; nothing was changed; to compare with it run the same command again")
                return added

    @property
    def place(self) -> str:
        """Where it is, as somebody on another machine has to be told."""
        return self.url if is_remote(self.url) else f"{platform.node()}:{Path(self.url).absolute()}"

    def _record(self, number: int) -> str:
        return join(self.url, f"{number:06d}.json")

    def check_exclusive(self) -> None:
        """Refuse a store that ignores If-None-Match: there, two promotions could undo each other.

        Raises:
            UserError: it does; or it can't be reached.
        """
        check_exclusive_writes(self.root)


def _root() -> str:
    if ledger := os.environ.get("WSSS_LEDGER", ""):
        return ledger
    store = store_address()
    if not is_remote(store):
        return str(Path(store).parent / "ledger")
    bucket, _, key = store.removeprefix("s3://").strip("/").partition("/")
    return join(f"s3://{bucket}", *key.split("/")[:-1], "ledger")
