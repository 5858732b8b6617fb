"""Who asks, and what he may: the signature of a request (AWS Signature Version 4) and the keys' rights.

The keys are those of `infra/secrets.sh`, a file in SeaweedFS's format: identities with names, keys and actions, such as
"Read:wsss-store". `Admin` may do everything.
"""

from __future__ import annotations

import hmac
import json
import time
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

SKEW_S = 900
"""How far a client's clock may be off, as at AWS."""
LONGEST_S = 604_800
"""How long a link may be good for, as at AWS."""
_DATE = "%Y%m%dT%H%M%SZ"


class RefusedError(Exception):
    """An answer that is an error, with S3's own code.

    Attributes:
        status: of HTTP.
        code: S3's, which boto3 knows it by.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Identity:
    """A key and what it may do."""

    name: str
    secret: str
    actions: frozenset[str]

    def check(self, action: str, bucket: str) -> None:
        """Refuse what the key may not do: an action of `Read`, `List`, `Write` and `Admin` on a bucket ("" for all)."""
        if not self.actions & {"Admin", action, f"{action}:{bucket}"}:
            raise RefusedError(
                403, "AccessDenied", f"the key of {self.name} may not {action.lower()} {bucket or 'buckets'}"
            )


class Keys:
    """The keys of a stack.

    Args:
        file: the identities, JSON.
    """

    def __init__(self, file: Path) -> None:
        listed = json.loads(file.read_text(encoding="utf-8"))["identities"]
        self._identities = {
            key["accessKey"]: Identity(each["name"], key["secretKey"], frozenset(each["actions"]))
            for each in listed
            for key in each["credentials"]
        }

    def who(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> Identity:
        """Whose key signed a request.

        Args:
            method: such as "GET".
            path: as it was sent, with its quotes.
            query: as it was sent, without the question mark.
            headers: by their names in small letters.

        Raises:
            RefusedError: nobody's, or it is too old.
        """
        words = dict(parse_qsl(query, keep_blank_values=True))
        linked = "X-Amz-Signature" in words
        if linked:
            query = "&".join(part for part in query.split("&") if not part.startswith("X-Amz-Signature="))
            stated = {name: words.get(f"X-Amz-{name}", "") for name in ("Credential", "SignedHeaders", "Signature")}
        else:
            scheme, _, rest = headers.get("authorization", "").partition(" ")
            if scheme != "AWS4-HMAC-SHA256":
                raise RefusedError(403, "AccessDenied", "the request is not signed")
            stated = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        date = words.get("X-Amz-Date", "") if linked else headers.get("x-amz-date", "")
        key, _, scope = stated.get("Credential", "").partition("/")
        region, service = [*scope.split("/"), "", "", ""][1:3]
        identity = self._identities.get(key)
        if identity is None or service != "s3":
            raise RefusedError(403, "InvalidAccessKeyId", "there is no such access key")
        request = AWSRequest(method, f"http://objects{path}{'?' if query else ''}{query}")
        for name in stated.get("SignedHeaders", "").split(";"):
            request.headers[name] = headers.get(name, "")
        request.context["timestamp"] = date
        signer = _Signer(Credentials(key, identity.secret), "s3", region)
        signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        if not hmac.compare_digest(signature, stated.get("Signature", "")):
            raise RefusedError(403, "SignatureDoesNotMatch", "the signature is not that of this key's secret")
        _check_date(date, words.get("X-Amz-Expires") if linked else None)
        return identity


class _Signer(S3SigV4Auth):
    """botocore's, for requests whose bytes are hashed where they are received."""

    def payload(self, request: AWSRequest) -> str:
        return "UNSIGNED-PAYLOAD"


def _check_date(date: str, expires: str | None) -> None:
    try:
        age = time.time() - timegm(time.strptime(date, _DATE))
        limit = SKEW_S if expires is None else min(int(expires), LONGEST_S)
    except ValueError:
        raise RefusedError(403, "AccessDenied", "the request's date can't be read") from None
    if age < -SKEW_S or (age > limit and expires is None):
        raise RefusedError(403, "RequestTimeTooSkewed", "the request's date is too far from this machine's clock")
    if age > limit:
        raise RefusedError(403, "AccessDenied", "the link has expired")
