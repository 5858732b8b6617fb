"""The dev split: a share by hash of the id, with greedy class coverage."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsss.data.splits import choose
from wsss.errors import UserError

NAMES = ("a", "b", "c", "d")
tables = st.dictionaries(
    st.integers(0, 9999).map(lambda n: f"2007_{n:06d}"), st.lists(st.sampled_from(NAMES), unique=True).map(tuple)
)


@given(tables, st.floats(0, 0.9))
def test_the_share_is_exact_and_the_order_of_the_ids_does_not_matter(tags, share):
    chosen = choose(sorted(tags), tags, share)
    assert len(chosen) == max(round(share * len(tags)), 1 if share and len(tags) > 1 else 0)
    assert list(chosen) == sorted(choose(sorted(tags, reverse=True), tags, share))


def test_ten_per_cent_of_voc_train_are_146():
    ids = [f"2007_{n:06d}" for n in range(1464)]
    assert len(choose(ids, dict.fromkeys(ids, ("cat",)))) == 146


def test_every_class_of_two_or_more_images_is_covered_in_proportion():
    common = {f"common{n}": ("person",) for n in range(180)}
    rare = {f"rare{n}": ("boat", "person") if n % 2 else ("boat",) for n in range(18)}
    single = {"single": ("unicorn",), "empty": ()}
    tags = {**common, **rare, **single}
    chosen = choose(list(tags), tags)
    counts = Counter(name for id in chosen for name in tags[id])
    assert len(chosen) == 20
    assert counts["boat"] >= 2
    assert counts["person"] >= 15


def test_an_id_is_chosen_by_its_name_alone():
    ids = [f"id{n}" for n in range(40)]
    tags = dict.fromkeys(ids, ("cat",))
    all_chosen = set(choose(ids, tags, 0.5))
    assert set(choose(ids, tags, 0.25)) < all_chosen


def test_a_share_of_all_is_refused():
    with pytest.raises(UserError, match="0 to below 1"):
        choose(["a"], {"a": ()}, 1.0)
