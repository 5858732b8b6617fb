"""The ledger by itself, in a folder and in a bucket: one of many writers wins, and the chain holds."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest

from wsss.errors import UserError
from wsss.registry import ledger
from wsss.registry.ledger import Ledger
from wsss.registry.promotion import (
    CHALLENGE,
    FORCED,
    PROMOTION,
    REFUSAL,
    ROLLBACK,
    TAKEOVER,
    PromotionRecord,
    decided,
    decode,
    signed,
)
from wsss.storage import bucket as bucket_storage


@pytest.fixture
def bucket(s3: str) -> str:
    return f"{s3}/team"


def promotion(model: str, candidate: str, champion: str) -> PromotionRecord:
    return signed(PromotionRecord(model, PROMOTION, candidate, champion, candidate, "it is better"))


@pytest.mark.parametrize(("place", "rounds"), [("folder", 25), ("bucket", 3)])
def test_of_many_promotions_at_once_one_wins(place: str, rounds: int, request, tmp_path) -> None:
    root = str(tmp_path) if place == "folder" else request.getfixturevalue("bucket")
    records = Ledger("m", root)

    def promote(candidate: str) -> str:
        try:
            return records.append(promotion("m", candidate, champion)).to
        except UserError as error:
            told.append(str(error))
            return ""

    champion, told = "", []
    with ThreadPoolExecutor(4) as pool:
        for turn in range(1, rounds + 1):
            winners = [to for to in pool.map(promote, [f"{turn}{letter}" for letter in "abcd"]) if to]
            assert len(winners) == 1 and decided(records.records()) == (winners[0], champion, "")
            champion = winners[0]
    kept = records.records()
    assert [record.number for record in kept] == list(range(1, 4 * rounds + 1))
    assert len(told) == 3 * rounds and all("meanwhile" in text and "nothing was changed" in text for text in told)
    assert sum(record.promoted for record in kept) == rounds
    assert all(later.previous == earlier.sha256 for earlier, later in pairwise(kept))


def test_a_refusal_between_does_not_cost_a_promotion(tmp_path) -> None:
    records = Ledger("m", str(tmp_path))
    records.append(signed(PromotionRecord("m", REFUSAL, "1", "", "", "it is not better")))
    assert records.append(promotion("m", "2", "")).number == 2
    assert records.append(replace(promotion("m", "3", "2"), kind=FORCED)).number == 3
    assert decided(records.records()) == ("3", "2", "")


def test_a_repeated_request_finds_its_own_record(tmp_path, monkeypatch) -> None:
    """The store kept the record, its answer was lost, and the request was sent again."""
    write = ledger.write_bytes

    def lossy(url: str, data: bytes, if_absent: bool = False) -> bool:
        write(url, data, if_absent)
        return write(url, data, if_absent)

    monkeypatch.setattr(ledger, "write_bytes", lossy)
    assert Ledger("m", str(tmp_path)).append(promotion("m", "1", "")).number == 1


def test_a_store_that_overwrites_is_refused(bucket: str, monkeypatch) -> None:
    write = bucket_storage.write_bytes
    monkeypatch.setattr(bucket_storage, "write_bytes", lambda url, data, if_absent: write(url, data, False))
    with pytest.raises(UserError, match="ignores conditional writes"):
        Ledger("m", f"{bucket}/careless").append(promotion("m", "1", ""))


def test_rollbacks_go_further_back_each_time() -> None:
    def act(kind: str, from_: str, to: str, **more: str) -> PromotionRecord:
        return PromotionRecord("m", kind, to, from_, to, "", **more)

    records = [act(TAKEOVER, "", "1"), act(PROMOTION, "1", "2"), act(FORCED, "2", "1"), act(PROMOTION, "1", "3")]
    assert decided(records) == ("3", "1", "")
    for from_, to, previous in (("3", "1", "2"), ("1", "2", "1"), ("2", "1", "")):
        records.append(act(ROLLBACK, from_, to))
        assert decided(records) == (to, previous, "")
    records += [act(CHALLENGE, "1", "1", challenger="4"), act(REFUSAL, "1", "1")]
    assert decided(records) == ("1", "", "4")
    assert decided([*records, act(PROMOTION, "1", "5")]) == ("5", "1", "4")
    assert decided([*records, act(PROMOTION, "1", "4")]) == ("4", "1", "")


def test_a_rollback_is_of_the_promotion_that_was_seen(tmp_path) -> None:
    records = Ledger("m", str(tmp_path))
    for candidate, champion in (("1", ""), ("2", "1"), ("3", "2")):
        records.append(promotion("m", candidate, champion))
    back = signed(PromotionRecord("m", ROLLBACK, "2", "3", "2", ""))
    assert records.append(back).number == 4
    with pytest.raises(UserError, match=r"meanwhile .* made version 2 champion of m \(record 4\); nothing was changed"):
        records.append(back)
    assert decided(records.records()) == ("2", "1", "")


def test_records_of_the_format_before_keep_their_hashes() -> None:
    """A ledger that was begun by the version before goes on: its bytes are read and hashed as they are."""
    content = b"""{
 "candidate": "1",
 "dataset": "shapes",
 "evaluations": {},
 "format": 1,
 "from": "",
 "kind": "promotion",
 "masks": "m",
 "metrics": {
  "candidate/miou": 0.5
 },
 "model": "m",
 "number": 1,
 "previous": "",
 "source": "",
 "split": "val",
 "to": "1",
 "when": "2026-11-26T10:00:00+00:00",
 "who": "a@b",
 "why": "there was no champion"
}
"""
    record = decode(content, "here")
    assert record.encode() == content and (record.to, record.looks, record.package) == ("1", 0, "")


@pytest.mark.parametrize("model", ["../../x", "..", ".", "a/b", "/etc", "wsss-voc"])
def test_a_name_stays_inside_the_ledger(model: str, tmp_path) -> None:
    root = tmp_path / "deep" / "ledger"
    Ledger(model, str(root)).append(promotion(model, "1", ""))
    assert [path.name for path in tmp_path.iterdir()] == ["deep"] and len(list(root.glob("*/000001.json"))) == 1
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize(
    ("variables", "root"),
    [
        ({}, "work/ledger"),
        ({"WSSS_STORE": "/mnt/team/store"}, "/mnt/team/ledger"),
        ({"WSSS_STORE": "s3://bucket/wsss/store/"}, "s3://bucket/wsss/ledger"),
        ({"WSSS_STORE": "s3://bucket/store"}, "s3://bucket/ledger"),
        ({"WSSS_STORE": "s3://bucket"}, "s3://bucket/ledger"),
        ({"WSSS_STORE": "s3://bucket/store", "WSSS_LEDGER": "s3://other/records"}, "s3://other/records"),
    ],
)
def test_a_team_that_shares_a_store_shares_a_ledger(variables, root: str, monkeypatch) -> None:
    for name in ("WSSS_STORE", "WSSS_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Ledger("m").root == root
