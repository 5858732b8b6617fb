"""API keys: who may ask for masks. What is held of a key is its hash."""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from pathlib import Path

from fastapi import HTTPException
from starlette.requests import Request

from wsss.errors import UserError

SHORTEST = 16
"""Characters of a key; fewer can be guessed."""
OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
"""Paths that need no key: they tell nothing of images, and a load balancer has none."""


class ApiKeys:
    """Keys that a request may bring, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

    Args:
        keys: at least one.
    """

    def __init__(self, keys: list[str]) -> None:
        self._salt = secrets.token_bytes(16)
        self._hashes = [self._hash(key.encode()) for key in keys]

    @classmethod
    def read(cls, file: Path) -> ApiKeys:
        """The keys of a text file: one a line; empty lines and what begins with # are left out.

        Raises:
            UserError: the file can't be read, holds no key, or one of fewer than `SHORTEST` characters or with blanks.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise UserError(f"the API keys in {file} can't be read: {reason}; write one a line") from None
        keys = []
        for number, line in enumerate(lines, 1):
            key = line.strip()
            if not key or key.startswith("#"):
                continue
            if len(key) < SHORTEST or len(key.split()) > 1 or not key.isascii():
                raise UserError(
                    f"line {number} of {file} is no API key: one has {SHORTEST} ASCII characters or more, no blanks; "
                    "`openssl rand -hex 32` makes one"
                )
            keys.append(key)
        if not keys:
            raise UserError(f"{file} holds no API key; write one a line, `openssl rand -hex 32` makes one")
        return cls(keys)

    def check(self, request: Request) -> None:
        """Let a request pass that brings a key, or asks for a path in `OPEN`.

        Raises:
            HTTPException: 401, it brings none of the keys.
        """
        if request.url.path in OPEN:
            return
        if not self.holds(self.brought(request)):
            raise HTTPException(
                401,
                "this server asks for a key: send Authorization: Bearer KEY, or X-API-Key: KEY",
                {"WWW-Authenticate": "Bearer"},
            )

    @staticmethod
    def brought(request: Request) -> str:
        """The key that a request brings in its headers; empty for none."""
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        return bearer.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key", "")

    def holds(self, key: str) -> bool:
        """Whether a key is one of these."""
        found = self._hash(key.encode())
        # All are compared, so that the time tells nothing of which.
        return bool(sum(hmac.compare_digest(found, known) for known in self._hashes))

    def _hash(self, key: bytes) -> bytes:
        return sha256(self._salt + key).digest()
