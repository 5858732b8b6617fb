"""`ray start` with the loopback address for its own: by itself Ray takes one that other machines reach.

    python -m infra.stack.ray_node start --head ...

LOOPBACK in the environment has Ray stay on the loopback address, which it is made for on other systems than this; there
it also refuses a second node. Head, workers and clients have to have it alike.
"""

from __future__ import annotations

import os

VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOOPBACK = {VARIABLE: "0"}


def main() -> None:
    """Run Ray's command line."""
    os.environ.pop(VARIABLE, None)
    from ray._private import services
    from ray.scripts import scripts

    services.resolve_ip_for_localhost = lambda host: host
    os.environ[VARIABLE] = LOOPBACK[VARIABLE]  # for what the node starts
    scripts.main()


if __name__ == "__main__":
    main()
