"""Back to the champion before, and further back each time."""

from __future__ import annotations

from wsss.commands import command
from wsss.errors import UserError
from wsss.registry.ledger import Ledger
from wsss.registry.packages import package_files
from wsss.registry.promotion import ROLLBACK, PromotionRecord, signed
from wsss.registry.standing import Standing, registered_model, settle
from wsss.serving.package import load_package


def roll_back(name: str, why: str = "", through: str = "") -> PromotionRecord:
    """Make the champion before the present one champion again; what comes to be `previous` is the one before that.

    Args:
        name: the registered model.
        why: for the ledger.
        through: what it was asked through, as in `signed`.

    Raises:
        UserError: there is no such registered model or no champion before, its files are gone or were changed, or
            another version became champion meanwhile.
    """
    registered_model(name)
    ledger = Ledger(name)
    ledger.check_exclusive()
    standing = settle(ledger, take_over=True)
    champion, target, _ = standing.decided
    if not target:
        held = f"version {champion} is the first champion there was" if champion else "it has no champion"
        raise UserError(f"{name} can't be rolled back: {held}")
    address = f"models:/{name}/{target}"
    try:
        load_package(address)
        sha256 = package_files(address).sha256
        before = _promoted_files(standing, target)
        if before not in ("", sha256):
            raise UserError(f"the files of {address} are not those that were promoted; bring them back from a backup")
    except UserError as error:
        other = command("wsss", "promote", f"models:/{name}/VERSION", "--force", "WHY")
        raise UserError(
            f"{name} is not rolled back to version {target}, version {champion} stays champion: {error}; "
            f"`{other}` makes any other version champion"
        ) from None
    record = PromotionRecord(name, ROLLBACK, target, champion, target, why, package=sha256)
    record = ledger.append(signed(record, through))
    settle(ledger)
    return record


def _promoted_files(standing: Standing, number: str) -> str:
    """The sha256 of a version's files when it became champion; empty where no record says."""
    known = [record.package for record in standing.records if record.promoted and record.to == number]
    return next(filter(None, reversed(known)), "")
