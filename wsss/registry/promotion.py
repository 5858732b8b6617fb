"""A record of the ledger: what was decided, by whom and why; and what all records together decide."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from wsss.errors import UserError
from wsss.tracking.info import user

PROMOTION, FORCED, TAKEOVER, ROLLBACK = "promotion", "forced", "takeover", "rollback"
REFUSAL, CHALLENGE = "refusal", "challenge"
CANDIDATE_MIOU, CHAMPION_MIOU = "candidate/miou", "champion/miou"
_FORMAT = 2
# Python's names of keys that are words of the language.
_KEYS = {"from_": "from"}
_SINCE_2 = ("challenger", "package", "looks", "rule", "against")


@dataclass(frozen=True)
class PromotionRecord:
    """One act, or one look at the masks that came to nothing.

    Attributes:
        model: the registered model.
        kind: "promotion" (the gate's), "forced", "rollback" or "takeover" (what the alias said before there was a
            ledger), which say who is champion; "refusal" or "challenge" (a candidate became challenger), which don't.
        candidate: what asked: "NAME-candidates/VERSION", or a version of the model itself.
        from_: the version that was champion until then; empty if there was none.
        to: the champion from then on.
        why: the reason, the gate's or the person's.
        dataset, split: what both were compared on.
        masks: sha256 over the split's ids and masks; empty without masks.
        metrics: by name, see `CANDIDATE_MIOU`; only what could be measured.
        evaluations: "candidate" and "champion" to the sha256 of their confusion matrices.
        who: user and machine, and what it went through if that was no command.
        when: ISO 8601, UTC.
        source: where the record was taken over from; empty for one of the ledger's own.
        number: from 1.
        previous: sha256 of the record before; empty for the first.
        challenger: of a challenge, the version that is challenger from then on.
        package: sha256 over the files of the version that it names; empty in records of format 1.
        looks: how often the evaluation set had been looked at, this look included; 0 where nobody looked.
        rule: the settings of the gate.
        against: what the gate held against the candidate, a sentence each.
        format: of the record; those of format 1 lack the five before.
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
    challenger: str = ""
    package: str = ""
    looks: int = 0
    rule: Mapping[str, Any] = field(default_factory=dict)
    against: Sequence[str] = ()
    format: int = _FORMAT

    @property
    def promoted(self) -> bool:
        """Whether a version became champion."""
        return self.kind in (PROMOTION, FORCED, TAKEOVER, ROLLBACK)

    @property
    def asked(self) -> str:
        """What asked, for people."""
        return f"{self.model} version {self.candidate}" if self.candidate.isdecimal() else self.candidate

    @property
    def time(self) -> datetime:
        """When."""
        return datetime.fromisoformat(self.when)

    @property
    def content(self) -> dict[str, Any]:
        """The record as its file holds it."""
        left_out = _SINCE_2 if self.format == 1 else ()
        return {_KEYS.get(key, key): value for key, value in asdict(self).items() if key not in left_out}

    def encode(self) -> bytes:
        """The record as the bytes that are kept and hashed."""
        return (json.dumps(self.content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()


def signed(record: PromotionRecord, through: str = "") -> PromotionRecord:
    """The record with who makes it, through what if it is no command (such as "the dashboard"), and the time."""
    who = f"{os.environ.get('MLFLOW_TRACKING_USERNAME') or user()}@{platform.node()}"
    return replace(record, who=f"{who} (through {through})" if through else who, when=datetime.now(UTC).isoformat())


class Decided(NamedTuple):
    """The versions that a ledger's records name; empty where there is none.

    Attributes:
        champion: the one that serves.
        previous: the one that a rollback makes champion.
        challenger: the one that is compared with the champion in service.
    """

    champion: str
    previous: str
    challenger: str = ""


def decided(records: Sequence[PromotionRecord]) -> Decided:
    """Who is champion, who was before and who is challenger; a rollback takes back the newest promotion there is."""
    line: list[str] = []
    challenger = ""
    for record in records:
        if record.kind == ROLLBACK and len(line) > 1:
            line.pop()
        elif record.promoted:
            # Entries of the version before may lack the promotion of the champion that they name.
            line += [record.from_] * (bool(record.from_) and line[-1:] != [record.from_]) + [record.to]
        elif record.kind == CHALLENGE:
            challenger = record.challenger
        challenger = "" if line[-1:] == [challenger] else challenger
    return Decided(line[-1] if line else "", line[-2] if len(line) > 1 else "", challenger)


def decode(content: bytes, url: str) -> PromotionRecord:
    """The record in a file.

    Args:
        content: of the file.
        url: where it lies, for the error message.

    Raises:
        UserError: it is no record, not as a ledger writes it, or of a newer version of wsss.
    """
    try:
        values = json.loads(content)
        number = values["format"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{url} is damaged: it is no record of a ledger; bring it back from a backup") from None
    if number not in range(1, _FORMAT + 1):
        raise UserError(f"{url} was made by another version of wsss (format {number!r}); use that or a newer one")
    names = {key: name for name, key in _KEYS.items()}
    try:
        record = PromotionRecord(**{names.get(key, key): value for key, value in values.items()})
        if record.encode() != content:
            raise ValueError(url)
    except (TypeError, ValueError):
        raise UserError(f"{url} was changed: it is not as a ledger writes it; bring it back from a backup") from None
    return record
