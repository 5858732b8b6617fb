"""Choosing held-out ids: by hash of the id, so that nobody chooses, with greedy class coverage, no group divided."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from wsss.errors import UserError

DEV_SHARE = 0.1


def choose(
    ids: Sequence[str],
    tags: Mapping[str, tuple[str, ...]],
    share: float = DEV_SHARE,
    groups: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Choose a share of `ids` in which every class stands about as often as in all of them.

    Groups are taken in the order of the sha256 of their names, an id without groups being its own. Rare classes go
    first: of each class, groups are taken until it has its share, at least one image; then the rest is filled up. A
    class of a single group is not taken for coverage. A group that is larger than what is left to take is passed over;
    where all are, the smallest is taken.

    Args:
        ids: what is chosen from.
        tags: id to the names of the classes in it.
        share: 0 to below 1; without groups the number chosen is `round(share * len(ids))`, at least 1 of two or more
            ids, and with groups at most about that.
        groups: id to group; None where each image is its own.

    Returns:
        The chosen ids, in the order of `ids`.

    Raises:
        UserError: a share out of its range.
    """
    if not 0 <= share < 1:
        raise UserError(f"a share of {share} can't be held out; allowed: 0 to below 1")
    members: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        members[groups[id] if groups else id].append(id)
    wanted = max(round(share * len(ids)), 1 if share and len(ids) > 1 else 0)
    order = sorted(members, key=lambda group: hashlib.sha256(group.encode()).digest())
    shows: dict[str, Counter[str]] = defaultdict(Counter)
    for group, its in members.items():
        for name in (name for id in its for name in tags[id]):
            shows[name][group] += 1
    chosen: dict[str, None] = {}
    left = wanted

    def take(group: str) -> bool:
        nonlocal left
        if group in chosen or len(members[group]) > left:
            return False
        chosen[group] = None
        left -= len(members[group])
        return True

    for _, having in sorted(shows.items(), key=lambda item: (item[1].total(), item[0])):
        missing = max(1, round(share * having.total())) if len(having) > 1 else 0
        missing -= sum(having[group] for group in chosen)
        for group in (group for group in order if group in having):
            if missing > 0 and take(group):
                missing -= having[group]
    for group in order:
        take(group)
    if wanted and not chosen and len(members) > 1:
        chosen[min(order, key=lambda group: len(members[group]))] = None
    return tuple(id for id in ids if (groups[id] if groups else id) in chosen)


def hold_out(
    ids: Sequence[str],
    masked: Sequence[str],
    tags: Mapping[str, tuple[str, ...]],
    share: float,
    groups: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Choose among the ids that have a mask, and take with them what else is of their groups.

    Args:
        ids: what is divided in two.
        masked: those of them that are chosen from.
        tags, share, groups: see `choose`.

    Returns:
        The ids that are held out, in the order of `ids`; no group of theirs has another id left.
    """
    chosen = choose(masked, tags, share, groups)
    if not groups:
        return chosen
    taken = {groups[id] for id in chosen}
    held_out = tuple(id for id in ids if groups[id] in taken)
    return held_out if len(held_out) < len(ids) else ()
