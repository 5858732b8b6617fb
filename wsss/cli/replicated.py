"""`wsss serve --ray` for a cluster that is told what to serve by a file, such as KubeRay's RayService."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def application(args: Mapping[str, str]) -> Any:
    """What the `import_path` of a Ray Serve configuration names; its `args` are `wsss serve`'s options.

    Args:
        args: `model`; and if need be `replicas` (1-4), `device` (auto), `api_keys` (a file) and `watch` (5 seconds).

    Raises:
        UserError: an argument means nothing, or no machine has what a replica needs.
    """
    from wsss.errors import unknown
    from wsss.registry.standing import settle_address
    from wsss.serving.keys import ApiKeys
    from wsss.serving.options import Options
    from wsss.serving.ray_serve import deployment, replicas_of

    known = ("model", "replicas", "device", "api_keys", "watch")
    for name in args:
        if name not in known:
            raise unknown("argument", name, known)
    model, keys = args["model"], args.get("api_keys")
    options = Options(
        keys=ApiKeys.read(Path(keys)) if keys else None,
        address=model,
        every=float(args.get("watch", 5)),
        settle=lambda: settle_address(model),
    )
    return deployment(model, options, replicas_of(args.get("replicas", "1-4")), args.get("device", "auto"))
