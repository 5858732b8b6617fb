"""What there is of registered models, for who looks at it: nothing is written, and no alias is put right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from wsss.errors import UserError, one_line, unknown
from wsss.registry.ledger import BrokenChainError, Ledger
from wsss.registry.models import CANDIDATES, ModelVersion, candidates
from wsss.registry.promotion import CANDIDATE_MIOU, CHALLENGE, Decided, PromotionRecord, decided
from wsss.registry.standing import read
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import PAGE, every


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, or of its candidates.

    Attributes:
        version: which.
        made: when it was registered.
        copied_into: the version of the model that a candidate was copied into; empty for none.
    """

    version: ModelVersion
    made: datetime
    copied_into: str = ""


@dataclass(frozen=True)
class Overview:
    """A registered model.

    Attributes:
        name: its name.
        versions: of the model, newest first.
        candidates: of its candidates, newest first.
        records: of its ledger, newest first; of a broken one, those before the break.
        decided: who is champion, previous and challenger by those records.
        aliases: what the registry says of them now.
        broken: why the ledger can't be believed; empty where its chain is whole.
        looks: how often the gate has looked at the evaluation set of the newest look, whatever the model.
    """

    name: str
    versions: Sequence[Registered]
    candidates: Sequence[Registered]
    records: Sequence[PromotionRecord]
    decided: Decided
    aliases: Mapping[str, str]
    broken: str
    looks: int

    @property
    def looked(self) -> PromotionRecord | None:
        """The newest record with a look at an evaluation set."""
        return next((record for record in self.records if CANDIDATE_MIOU in record.metrics), None)

    def acts(self, number: str) -> list[PromotionRecord]:
        """The records that made a version champion or challenger, newest first."""
        return [
            record
            for record in self.records
            if (record.promoted and record.to == number) or (record.kind == CHALLENGE and record.challenger == number)
        ]


def registered_names() -> list[str]:
    """The names of the registered models, sorted; one that has candidates alone is among them.

    Raises:
        UserError: the registry can't be used.
    """
    from mlflow.exceptions import MlflowException

    client = mlflow_client()
    try:
        models = list(every(lambda page: client.search_registered_models(max_results=PAGE, page_token=page)))
    except MlflowException as error:
        raise UserError(f"the registry can't be read: {one_line(error)}") from None
    return sorted({model.name.removesuffix(CANDIDATES) for model in models})


def overview(name: str) -> Overview:
    """What there is of a registered model.

    Raises:
        UserError: there is no such registered model, or the registry or the ledger can't be used; a broken ledger is no
            error here.
    """
    if name not in (known := registered_names()):
        raise unknown("registered model", name, known)
    versions, of_candidates = _versions(name), _versions(candidates(name))
    own = {each.version.source: each.version.number for each in versions}
    copied = [
        Registered(each.version, each.made, own.get(each.version.address) or own.get(each.version.source, ""))
        for each in of_candidates
    ]
    ledger = Ledger(name)
    records, broken = _records(ledger)
    masks = next((record.masks for record in reversed(records) if CANDIDATE_MIOU in record.metrics), "")
    return Overview(
        name=name,
        versions=versions,
        candidates=copied,
        records=list(reversed(records)),
        decided=decided(records),
        aliases=_aliases(name),
        broken=broken,
        looks=ledger.looks(masks) if masks else 0,
    )


def _records(ledger: Ledger) -> tuple[Sequence[PromotionRecord], str]:
    try:
        records = read(ledger).records
        ledger.check_evaluations(records)
    except BrokenChainError as error:
        return error.records, str(error)
    return records, ""


def _versions(name: str) -> list[Registered]:
    client = mlflow_client()
    quoted = f'"{name}"' if "'" in name else f"'{name}'"
    versions = every(lambda page: client.search_model_versions(f"name = {quoted}", page_token=page))
    made = [
        Registered(
            ModelVersion(found.name, str(found.version), found.run_id or "", found.source or ""),
            datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        )
        for found in versions
    ]
    return sorted(made, key=lambda each: int(each.version.number), reverse=True)


def _aliases(name: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow_client().get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise UserError(f"the registry can't be read: {one_line(error)}") from None
        return {}
    return {alias: str(number) for alias, number in found.aliases.items()}
