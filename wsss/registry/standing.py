"""Who is champion: the ledger says so, and the aliases of the registry follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsss.commands import command
from wsss.errors import UserError, unknown
from wsss.registry import legacy
from wsss.registry.ledger import TAKEOVER, Ledger, PromotionRecord, decided, signed
from wsss.registry.models import CHAMPION, PREVIOUS
from wsss.tracking.connection import mlflow_client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel

HEAD = "wsss.ledger"


@dataclass(frozen=True)
class Standing:
    """What the ledger of a registered model says.

    Attributes:
        records: all of them, oldest first.
        champion, previous: version numbers; empty where there is none.
    """

    records: Sequence[PromotionRecord]
    champion: str
    previous: str


def settle(ledger: Ledger, take_over: bool = False) -> Standing:
    """Read and verify a model's ledger and make its aliases follow; a promotion that was cut short is finished.

    Args:
        ledger: of the model.
        take_over: begin the ledger if there is none, with the entries of the version before and an alias that has no
            record. Only who promotes does: reading must not decide where a team's ledger lies.

    Raises:
        UserError: there is no such registered model; the ledger is damaged, or is not the one that the registry knows.
    """
    records = _complete(ledger) if take_over else _checked(ledger, _registered(ledger.model))
    while True:
        champion, previous = decided(records)
        if records and (take_over or not records[-1].source):
            _follow(ledger, records, champion, previous)
        # Whoever promotes at the same time may have set the aliases between our reading and our writing.
        newer = ledger.records()
        if len(newer) == len(records):
            return Standing(records, champion, previous)
        records = newer


def settle_address(address: str) -> str:
    """Settle the model of an address `models:/NAME@ALIAS` before it is read.

    Returns:
        Why its ledger can't be used from here, so that the alias may not be what was decided; else empty.

    Raises:
        UserError: there is no such registered model.
    """
    name, at, _ = address.removeprefix("models:/").partition("@")
    if address.startswith("models:/") and at:
        _registered(name)
        try:
            settle(Ledger(name))
        except UserError as error:
            return str(error)
    return ""


def history(model: str) -> list[PromotionRecord]:
    """The records of a registered model, newest first, from a verified chain.

    Of a model whose ledger is not begun, the entries of the version before (number 0).

    Raises:
        UserError: as `settle`.
    """
    return list(reversed(settle(Ledger(model)).records or legacy.entries(model)))


def _registered(name: str) -> RegisteredModel:
    from mlflow.exceptions import MlflowException

    client = mlflow_client()
    try:
        return client.get_registered_model(name)
    except MlflowException:
        known = [model.name for model in client.search_registered_models()]
        if not known:
            raise UserError(
                f"there is no registered model {name}, nor any other; `{command('wsss', 'run')}` registers one"
            ) from None
        raise unknown("registered model", name, known) from None


def _complete(ledger: Ledger) -> list[PromotionRecord]:
    """The records, after what was before the ledger is in it."""
    while True:
        registered = _registered(ledger.model)
        records = _checked(ledger, registered)
        if records and not records[-1].source:
            return records
        known = {record.source for record in records}
        pending = [entry for entry in legacy.entries(ledger.model) if entry.source not in known]
        champion, _ = decided([*records, *pending])
        alias = str(registered.aliases.get(CHAMPION, ""))
        if alias and alias != champion:
            why = "was champion when the ledger began"
            held = PromotionRecord(ledger.model, TAKEOVER, alias, champion, alias, why, source=f"alias:{alias}")
            pending.append(signed(held))
        for entry in pending:
            added = ledger.add(entry, records)
            if added is None:
                break
            records.append(added)
        else:
            return records


def _checked(ledger: Ledger, registered: RegisteredModel) -> list[PromotionRecord]:
    """The records, among them the one that the registry knows."""
    records = ledger.records()
    head = registered.tags.get(HEAD, "")
    if not head:
        return records
    number, sha256, place = head.split(" ", 2)
    if len(records) < int(number):
        raise UserError(
            f"the ledger {ledger.root} has {len(records)} records of {ledger.model}, the registry knows of {number}, "
            f"in {place}: set WSSS_LEDGER to where the ledger is, or bring back what is missing"
        )
    if records[int(number) - 1].sha256 != sha256:
        raise UserError(
            f"record {number} of {ledger.model} in the ledger {ledger.root} is not the one that the registry knows "
            f"(from {place}): set WSSS_LEDGER to where the ledger is, or bring the record back from a backup"
        )
    return records


def _follow(ledger: Ledger, records: Sequence[PromotionRecord], champion: str, previous: str) -> None:
    from mlflow.exceptions import MlflowException

    client = mlflow_client()
    registered = _registered(ledger.model)
    for alias, number in ((PREVIOUS, previous), (CHAMPION, champion)):
        if number and str(registered.aliases.get(alias, "")) != number:
            try:
                client.set_registered_model_alias(ledger.model, alias, number)
            except MlflowException as error:
                # A version that was deleted from the registry has no alias.
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise UserError(
                        f"the ledger says that version {number} is {alias} of {ledger.model}, but the registry refuses "
                        f"to set the alias ({' '.join(str(error).split())}); "
                        f"`{command('wsss', 'history', ledger.model)}` tries again"
                    ) from error
    if records:
        head = f"{len(records)} {records[-1].sha256} {ledger.place}"
        if registered.tags.get(HEAD) != head:
            client.set_registered_model_tag(ledger.model, HEAD, head)
