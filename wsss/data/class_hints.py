"""What in a list of class names looks like a slip: said, not refused, since any of it may be meant."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from wsss.data.parallel import some

_NO_LABEL = frozenset({"nan", "none", "null", "nil", "na", "n/a", "#n/a", "-", "--", "?", "undefined", "unlabeled"})
_LISTED = re.compile(r"""[\[({].*|.*[\])}]|["'].*|.*["']""", re.DOTALL)
_JOINED = re.compile(r"\w{2}\s*[+/&\t]\s*\w{2}")


def class_hints(names: Sequence[str]) -> list[str]:
    """A sentence for each kind of slip, naming the classes (the first ten).

    Args:
        names: of the classes, foreground only.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_alike(name)].append(name)
    known = set(names)
    groups = [" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1]
    empty = [repr(name) for name in names if name.casefold() in _NO_LABEL]
    listed = [repr(name) for name in names if _LISTED.fullmatch(name)]
    joined = [repr(name) for name in names if _JOINED.search(name) and name.casefold() not in _NO_LABEL]
    joined += [repr(name) for name in names if len(words := name.split()) > 1 and known.issuperset(words)]
    sentences = {
        "these are classes of their own, and differ in writing alone: {}": groups,
        "classes called {}: if that means no label, leave the cell empty": empty,
        "classes called {}: if these are lists, write the names alone, separated by ';'": listed,
        "classes called {}: if these are several labels, separate them by ';'": joined,
    }
    return [sentence.format(some(found)) for sentence, found in sentences.items() if found]


def _alike(name: str) -> str:
    """A name without what the eye overlooks: case, forms of Unicode, spaces, joiners, what is not printed."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    kept = "".join(letter for letter in plain if unicodedata.category(letter) not in ("Cf", "Zs", "Pd", "Pc"))
    return kept or name
