"""Who is champion: the ledger says so, and the aliases of the registry follow it."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsss.commands import command
from wsss.errors import UserError, unknown
from wsss.registry import legacy
from wsss.registry.ledger import BrokenChainError, Ledger
from wsss.registry.models import CHALLENGER, CHAMPION, PREVIOUS, candidates
from wsss.registry.promotion import CHALLENGE, TAKEOVER, Decided, PromotionRecord, decided, signed
from wsss.storage import is_remote
from wsss.tracking.connection import mlflow_client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel

HEAD = "wsss.ledger"


@dataclass(frozen=True)
class Standing:
    """What the ledger of a registered model says.

    Attributes:
        records: all of them, oldest first.
        decided: who is champion, previous and challenger.
    """

    records: Sequence[PromotionRecord]
    decided: Decided

    @property
    def champion(self) -> str:
        return self.decided.champion

    @property
    def previous(self) -> str:
        return self.decided.previous


def enter_name(name: str) -> None:
    """Make a registered model if there is none of that name.

    Raises:
        UserError: MLflow refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        mlflow_client().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise UserError(f"the registered model {name} can't be made: {' '.join(str(error).split())}") from None


def read(ledger: Ledger) -> Standing:
    """What a model's ledger says, old entries included; nothing is written, and no alias is put right.

    Raises:
        UserError: the ledger is damaged, or is not the one that the registry knows.
    """
    registered = _find_registered(ledger.model)
    records = _checked(ledger, registered) if registered else ledger.records()
    if registered:
        records = [*records, *_pending(ledger, registered, records)]
    return Standing(records, decided(records))


def settle(ledger: Ledger, take_over: bool = False) -> Standing:
    """Read and verify a model's ledger and make its aliases follow; a promotion that was cut short is finished.

    Args:
        ledger: of the model.
        take_over: begin the ledger if there is none, with the entries of the version before and an alias that has no
            record. Only who promotes does: reading must not decide where a team's ledger lies.

    Raises:
        UserError: there is no such registered model; the ledger is damaged, or is not the one that the registry knows.
    """
    records = _complete(ledger) if take_over else _checked(ledger, registered_model(ledger.model))
    while True:
        standing = Standing(records, decided(records))
        if records and (take_over or not records[-1].source):
            _follow(ledger, standing)
        # Whoever promotes at the same time may have set the aliases between our reading and our writing.
        newer = ledger.records()
        if len(newer) == len(records):
            return standing
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
        registered_model(name)
        try:
            settle(Ledger(name))
        except UserError as error:
            return str(error)
    return ""


def history(model: str) -> list[PromotionRecord]:
    """The records of a registered model, newest first, from a verified chain; the evaluations are verified too.

    Of a model whose ledger is not begun, the entries of the version before (number 0).

    Raises:
        BrokenChainError: the ledger was changed or is incomplete; has the records before the break.
        UserError: as `settle`.
    """
    ledger = Ledger(model)
    records = settle(ledger).records
    ledger.check_evaluations(records)
    return list(reversed(records or legacy.entries(model)))


def _find_registered(name: str) -> RegisteredModel | None:
    from mlflow.exceptions import MlflowException

    try:
        return mlflow_client().get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def registered_model(name: str) -> RegisteredModel:
    """What the registry says of a registered model.

    Raises:
        UserError: there is none of that name.
    """
    if found := _find_registered(name):
        return found
    known = [model.name for model in mlflow_client().search_registered_models()]
    if not known:
        raise UserError(f"there is no registered model {name}, nor any other; `{command('wsss', 'run')}` registers one")
    if candidates(name) in known:
        raise UserError(
            f"there is no registered model {name} yet, as none of its candidates was promoted; "
            f"`{command('wsss', 'promote', f'models:/{candidates(name)}/1')}` promotes the first of them"
        )
    raise unknown("registered model", name, known)


def _complete(ledger: Ledger) -> list[PromotionRecord]:
    """The records, after what was before the ledger is in it."""
    while True:
        registered = registered_model(ledger.model)
        records = _checked(ledger, registered)
        if records and not records[-1].source:
            return records
        for entry in _pending(ledger, registered, records):
            added = ledger.add(entry, records)
            if added is None:
                break
            records.append(added)
        else:
            return records


def _pending(ledger: Ledger, registered: RegisteredModel, records: Sequence[PromotionRecord]) -> list[PromotionRecord]:
    """What was before the ledger and is not in it yet: entries of the version before, and an alias that none explains.

    Nothing once the ledger has a record of its own.
    """
    if records and not records[-1].source:
        return []
    known = {record.source for record in records}
    pending = [entry for entry in legacy.entries(ledger.model) if entry.source not in known]
    champion = decided([*records, *pending]).champion
    alias = str(registered.aliases.get(CHAMPION, ""))
    if alias and alias != champion:
        why = "was champion when the ledger began"
        pending.append(
            signed(PromotionRecord(ledger.model, TAKEOVER, alias, champion, alias, why, source=f"alias:{alias}"))
        )
    return pending


def _checked(ledger: Ledger, registered: RegisteredModel) -> list[PromotionRecord]:
    """The records, among them the one that the registry knows."""
    records = ledger.records()
    head = registered.tags.get(HEAD, "")
    if not head:
        return records
    number, sha256, place = head.split(" ", 2)
    if len(records) < int(number):
        raise BrokenChainError(
            f"the ledger {ledger.root} has {len(records)} records of {ledger.model}, the registry knows of {number}, "
            f"in {place}: {_mending(ledger, place)}",
            records,
        )
    if records[int(number) - 1].sha256 != sha256:
        raise BrokenChainError(
            f"record {number} of {ledger.model} in the ledger {ledger.root} is not the one that the registry knows "
            f"(from {place}), so it or one before it was replaced: {_mending(ledger, place)}",
            [],
        )
    return records


def _mending(ledger: Ledger, place: str) -> str:
    """How a command comes to the ledger that the registry knows."""
    there = place.rsplit("/", 1)[0]
    if place == ledger.place:
        return "bring back from a backup what is missing or was changed"
    if is_remote(there):
        return f"it is there; use it with: export WSSS_LEDGER={shlex.quote(there)}"
    machine, _, folder = there.partition(":")
    if machine == platform.node():
        return f"it is there; use it with: export WSSS_LEDGER={shlex.quote(folder)}"
    return (
        f"that folder is on the machine {machine} alone; copy it to a bucket or a folder that all who promote can "
        "write (such as `aws s3 cp --recursive`), and set WSSS_LEDGER to it on both machines"
    )


def _follow(ledger: Ledger, standing: Standing) -> None:
    from mlflow.exceptions import MlflowException

    client = mlflow_client()
    registered = registered_model(ledger.model)
    champion, previous, challenger = standing.decided
    aliases = {PREVIOUS: previous, CHAMPION: champion}
    if any(record.kind == CHALLENGE for record in standing.records):
        aliases[CHALLENGER] = challenger
    try:
        for alias, number in aliases.items():
            held = str(registered.aliases.get(alias, ""))
            if number and held != number:
                try:
                    client.set_registered_model_alias(ledger.model, alias, number)
                except MlflowException as error:
                    # A version that was deleted from the registry has no alias.
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
            elif held and not number:
                client.delete_registered_model_alias(ledger.model, alias)
        last = standing.records[-1]
        head = f"{last.number} {last.sha256} {ledger.place}"
        if registered.tags.get(HEAD) != head:
            client.set_registered_model_tag(ledger.model, HEAD, head)
    except MlflowException as error:
        raise UserError(
            f"the ledger says that version {champion} is champion of {ledger.model}, but the registry refuses to "
            f"follow ({' '.join(str(error).split())}); `{command('wsss', 'history', ledger.model)}` tries again"
        ) from error
