"""The command `python -m infra.stack.objects`."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn

from infra.stack.objects.index import Index
from infra.stack.objects.keys import Keys
from infra.stack.objects.server import application


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(description="S3 on a folder, on the loopback address.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--keys", type=Path, required=True, help="identities, as infra/secrets.sh makes them")
    options = parser.parse_args()
    served = application(Index(options.folder), Keys(options.keys))
    # Links have a signature in their address: no access log.
    uvicorn.run(served, host="127.0.0.1", port=options.port, access_log=False, log_level="warning", lifespan="on")


main()
