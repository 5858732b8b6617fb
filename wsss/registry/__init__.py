"""Registered models, the gate that a candidate passes to become champion, and the ledger of its looks at val."""
