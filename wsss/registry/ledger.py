"""The ledger: numbered records of who became champion, when and why; what a record says is what counts.

    LEDGER/MODEL/000001.json            a record, created exclusively, with the sha256 of the one before
    LEDGER/MODEL/evaluations/SHA.npz    the confusion matrices that records name by their sha256

LEDGER is WSSS_LEDGER (a folder or s3://bucket/key), else `ledger` beside the store (WSSS_STORE, work/store): a team
that shares a bucket shares the ledger in it. The registered model's tag `wsss.ledger` holds the number, hash and place
of a record that there must be, so that nobody goes on with another ledger or with one that lost its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsss.errors import UserError
from wsss.scores.evaluation import Evaluation, encode
from wsss.storage import is_remote, join, read_bytes, store_address, write_bytes
from wsss.tracking.info import user

PROMOTION, FORCED, REFUSAL, TAKEOVER = "promotion", "forced", "refusal", "takeover"
CANDIDATE_MIOU, CHAMPION_MIOU = "candidate/miou", "champion/miou"
_FORMAT = 1
# Python's names of keys that are words of the language.
_KEYS = {"from_": "from"}


@dataclass(frozen=True)
class PromotionRecord:
    """One act, or one look at the masks that came to nothing.

    Attributes:
        model: the registered model.
        kind: "promotion" (the gate's), "forced", "refusal", or "takeover" (what the alias said before there was a
            ledger).
        candidate: the version that asked.
        from_: the version that was champion until then; empty if there was none.
        to: the champion from then on.
        why: the reason, the gate's or the person's.
        dataset, split: what both were compared on.
        masks: sha256 over the split's ids and masks; empty without masks.
        metrics: by name, see `CANDIDATE_MIOU`; only what could be measured.
        evaluations: "candidate" and "champion" to the sha256 of their confusion matrices.
        who: user and machine.
        when: ISO 8601, UTC.
        source: where the record was taken over from; empty for one of the ledger's own.
        number: from 1.
        previous: sha256 of the record before; empty for the first.
    """

    model: str
    kind: str
    candidate: str
    from_: str
    to: str
    why: str
    dataset: str = ""
    split: str = ""
    masks: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluations: Mapping[str, str] = field(default_factory=dict)
    who: str = ""
    when: str = ""
    source: str = ""
    number: int = 0
    previous: str = ""

    @property
    def promoted(self) -> bool:
        """Whether the candidate became champion."""
        return self.kind != REFUSAL

    @property
    def time(self) -> datetime:
        """When."""
        return datetime.fromisoformat(self.when)

    @property
    def content(self) -> dict[str, Any]:
        """The record as its file holds it."""
        return {"format": _FORMAT} | {_KEYS.get(key, key): value for key, value in asdict(self).items()}

    def encode(self) -> bytes:
        """The record as the bytes that are kept and hashed."""
        return (json.dumps(self.content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()


def signed(record: PromotionRecord) -> PromotionRecord:
    """The record with who makes it and the time."""
    who = os.environ.get("MLFLOW_TRACKING_USERNAME") or user()
    return replace(record, who=f"{who}@{platform.node()}", when=datetime.now(UTC).isoformat())


def decided(records: Sequence[PromotionRecord]) -> tuple[str, str]:
    """The champion and the one before it; empty where there is none."""
    acts = [record for record in records if record.promoted]
    return (acts[-1].to, acts[-1].from_) if acts else ("", "")


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
            UserError: one is damaged or was changed, or a newer version of wsss made it.
        """
        records: list[PromotionRecord] = []
        while True:
            url = self._record(len(records) + 1)
            try:
                content = read_bytes(url)
            except FileNotFoundError:
                return records
            record = _decode(content, url)
            before = records[-1].sha256 if records else ""
            if (record.number, record.model, record.previous) != (len(records) + 1, self.model, before):
                raise UserError(
                    f"{url} does not follow from the record before it: one of the two was changed or replaced; bring "
                    "both back from a backup, nothing is promoted until then"
                )
            records.append(record)

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
        self._check_exclusive()
        number, before = len(after) + 1, after[-1].sha256 if after else ""
        record = replace(record, number=number, previous=before)
        content = record.encode()
        if write_bytes(self._record(number), content, if_absent=True):
            return record
        # A request that was repeated because its answer got lost finds its own record.
        return record if read_bytes(self._record(number)) == content else None

    def append(self, record: PromotionRecord) -> PromotionRecord:
        """Add a record at the end, if its champion is still champion.

        Raises:
            UserError: another version became champion meanwhile; the look is recorded as a refusal.
        """
        while True:
            records = self.records()
            champion, _ = decided(records)
            lost = record.promoted and champion != record.from_
            look = record
            if lost:
                act = next(r for r in reversed(records) if r.promoted)
                why = f"meanwhile {act.who} made version {act.to} champion of {self.model} (record {act.number})"
                look = replace(record, kind=REFUSAL, to=champion, why=why)
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

    def _check_exclusive(self) -> None:
        if not is_remote(self.root):
            return
        probe = join(self.root, "probe")
        if write_bytes(probe, b"", if_absent=True) and write_bytes(probe, b"", if_absent=True):
            raise UserError(
                f"{self.root}: the store overwrites what must be created only once (it ignores If-None-Match), so two "
                "promotions could undo each other; set WSSS_LEDGER to another bucket or to a folder"
            )


def _root() -> str:
    if ledger := os.environ.get("WSSS_LEDGER", ""):
        return ledger
    store = store_address()
    if not is_remote(store):
        return str(Path(store).parent / "ledger")
    bucket, _, key = store.removeprefix("s3://").strip("/").partition("/")
    return join(f"s3://{bucket}", *key.split("/")[:-1], "ledger")


def _decode(content: bytes, url: str) -> PromotionRecord:
    try:
        values = json.loads(content)
        number = values.pop("format")
    except (ValueError, AttributeError, KeyError, TypeError):
        raise UserError(f"{url} is damaged: it is no record of a ledger; bring it back from a backup") from None
    if number != _FORMAT:
        raise UserError(f"{url} was made by another version of wsss (format {number!r}); use that or a newer one")
    names = {key: name for name, key in _KEYS.items()}
    try:
        record = PromotionRecord(**{names.get(key, key): value for key, value in values.items()})
        if record.encode() != content:
            raise ValueError(url)
    except (TypeError, ValueError):
        raise UserError(f"{url} was changed: it is not as a ledger writes it; bring it back from a backup") from None
    return record
