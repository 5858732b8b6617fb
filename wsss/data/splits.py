"""Choosing held-out ids: by hash of the id, so that nobody chooses, with greedy class coverage."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from wsss.errors import UserError

DEV_SHARE = 0.1


def choose(ids: Sequence[str], tags: Mapping[str, tuple[str, ...]], share: float = DEV_SHARE) -> tuple[str, ...]:
    """Choose a share of `ids` in which every class stands about as often as in all of them.

    Ids are taken in the order of the sha256 of their names. Rare classes go first: of each class, ids are taken until
    it has its share, at least one; then the rest is filled up. A class with a single image is not taken for coverage.

    Args:
        ids: what is chosen from.
        tags: id to the names of the classes in it.
        share: 0 to below 1; the number chosen is `round(share * len(ids))`, at least 1 of two or more ids.

    Returns:
        The chosen ids, in the order of `ids`.

    Raises:
        UserError: a share out of its range.
    """
    if not 0 <= share < 1:
        raise UserError(f"a share of {share} can't be held out; allowed: 0 to below 1")
    wanted = max(round(share * len(ids)), 1 if share and len(ids) > 1 else 0)
    order = sorted(ids, key=lambda id: hashlib.sha256(id.encode()).digest())
    counts = Counter(name for id in ids for name in tags[id])
    chosen: set[str] = set()
    for name, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        having = [id for id in order if name in tags[id]]
        quota = max(1, round(share * count)) if count > 1 else 0
        missing = quota - sum(id in chosen for id in having)
        free = [id for id in having if id not in chosen]
        chosen.update(free[: max(0, min(missing, wanted - len(chosen)))])
    chosen.update([id for id in order if id not in chosen][: wanted - len(chosen)])
    return tuple(id for id in ids if id in chosen)
