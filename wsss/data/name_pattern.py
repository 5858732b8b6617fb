"""What people write into the names of their files, found by a regular expression."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from wsss.data.ids import shown
from wsss.data.parallel import some
from wsss.errors import UserError


def match_names(
    pattern: str, names: Mapping[str, str], wanted_groups: Collection[str], optional: Collection[str] = ()
) -> dict[str, re.Match[str]]:
    """Match each image's file name as a whole, or where that fails for some, each image's path.

    Args:
        pattern: a regular expression of Python with named groups, `(?P<NAME>...)`.
        names: id to the path below the folder of images, with forward slashes.
        wanted_groups: names of groups of which the pattern needs one.
        optional: ids that need not match.

    Returns:
        Id to match; of the optional ids those that match.

    Raises:
        UserError: no regular expression, one without a named group that is known, or names that it does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression ({error}); quote it for the shell") from None
    if wanted_groups and not expression.groupindex.keys() & set(wanted_groups):
        known = " or ".join(f"(?P<{name}>...)" for name in wanted_groups)
        raise UserError(f"the pattern {pattern} needs the named group {known}")
    needed = [id for id in names if id not in set(optional)]
    ways = [{id: name.rpartition("/")[2] for id, name in names.items()}, names]
    found = [{id: match for id, name in way.items() if (match := expression.fullmatch(name))} for way in ways]
    for matches in found:
        if matches and matches.keys() >= set(needed):
            return matches
    best = max(range(2), key=lambda at: len(found[at].keys() & set(needed)))
    strangers = [shown(ways[best][id]) for id in needed if id not in found[best]]
    raise UserError(
        f"the pattern {pattern} matches {len(needed) - len(strangers):,} of {len(needed):,} names, not "
        f"{some(strangers)}; it has to match each whole file name, or each whole path below the folder"
    )
