"""Groups: what belongs together is in one split, and drawn as one."""

import csv
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsss.data import Dataset
from wsss.data.assemble import write_dev
from wsss.data.folder import add_folder
from wsss.data.palette_png import write_palette_png
from wsss.data.shapes import make_shapes
from wsss.data.splits import choose, hold_out
from wsss.data.voc import add_voc
from wsss.errors import UserError
from wsss.scores import Evaluation
from wsss.scores.bootstrap import bootstrap, paired_bootstrap
from wsss.scores.evaluation import decode, encode

SLIDES = [f"s{number % 7}_{number:02d}" for number in range(42)]


@pytest.fixture
def slides(tmp_path, monkeypatch):
    """42 patches of seven slides, with tags and masks; the table also says of which patient each is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    (tmp_path / "masks").mkdir()
    rows = []
    for number, id in enumerate(SLIDES):
        Image.new("RGB", (6, 6), (number, 0, 0)).save(tmp_path / "slides" / f"{id}.png")
        write_palette_png(tmp_path / "masks" / f"{id}.png", np.full((6, 6), 1 + number % 2, np.uint8))
        rows.append((f"{id}.png", ("tumour", "stroma")[number % 2], f"patient {number % 7 // 2}"))
    write(tmp_path / "tags.csv", ("image", "labels", "patient"), rows)
    (tmp_path / "classes.txt").write_text("tumour\nstroma\n")
    return tmp_path / "slides"


def write(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *rows[1]])


def add(slides, name="mine", **options):
    given = {"tags": "tags.csv", "class_list": slides.parent / "classes.txt", "masks": slides.parent / "masks"}
    return add_folder(slides, name, **{**given, **options})


def places_of(dataset):
    """Group to the splits that hold an image of it."""
    found = defaultdict(set)
    for split in ("train", "dev", "val"):
        for _, group in zip(dataset.splits[split], dataset.groups_of(dataset.splits[split]), strict=True):
            found[group].add(split)
    return found


@pytest.mark.parametrize(
    ("choice", "number", "group"),
    [
        (r"name:(?P<group>[^_]+)_.*", 7, "s3"),
        ("column:patient", 4, "patient 1"),
        ("slides.csv", 7, "slide 3"),
    ],
)
def test_groups_come_from_a_pattern_a_column_or_a_file(slides, choice, number, group):
    write(slides.parent / "slides.csv", ("id", "slide"), [(id, f"slide {id[1]}") for id in SLIDES])
    dataset = add(slides, groups=choice)
    assert dataset.groups["s3_03"] == group and len(set(dataset.groups.values())) == number
    assert all(len(splits) == 1 for splits in places_of(dataset).values())
    assert all(dataset.splits[split] for split in ("train", "dev", "val"))
    again = Dataset.open(dataset.root)
    assert again.groups == dataset.groups and again.digest == dataset.digest
    assert again.check(thorough=True) == ""


def test_without_groups_each_image_is_its_own_and_nothing_is_written(slides):
    dataset = add(slides)
    assert not dataset.grouped and dataset.groups["s3_03"] == "s3_03" and dataset.groups_of(SLIDES) == ()
    assert not (dataset.root / "groups.csv").exists()


def test_a_dataset_that_was_made_before_reads_as_before(tmp_path):
    make_shapes(tmp_path / "s", images=12, val_images=4, size=32, classes=3)
    dataset = Dataset.open(tmp_path / "s")
    assert dataset.digest == "e15e5e496fbbba0e176c9fb797513703d3ff8d9c9a36beaf26f2ea63528f48d8"
    assert not dataset.grouped and dataset.groups["train_000000"] == "train_000000"


def test_groups_are_part_of_what_a_dataset_is(slides):
    lists = slides.parent
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("\n".join(id for id in SLIDES if (id[1] in "012") == (split == "val")))
    options = {"lists": lists, "dev_list": None, "masks": None}
    plain, grouped = add(slides, "a", **options), add(slides, "b", groups=r"name:(?P<group>..).*", **options)
    assert plain.splits == grouped.splits and plain.digest != grouped.digest


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=10),
    st.binary(min_size=90, max_size=90),
    st.lists(st.sampled_from((0.0, 0.05, 0.1, 0.2, 0.35, 0.6)), min_size=2, max_size=2),
)
def test_no_group_is_ever_in_two_splits(sizes, drawn, shares):
    """A thousand random structures: sizes, masks, tags and shares as they fall; a byte says of an image what it is."""
    groups = {f"{n}-{group}": f"g{group}" for group, size in enumerate(sizes) for n in range(size)}
    ids = sorted(groups)
    of_image = dict(zip(ids, drawn, strict=False))
    masked = [id for id in ids if of_image[id] & 1]
    tags = {id: tuple(name for bit, name in enumerate("abc", 1) if of_image[id] >> bit & 1) for id in ids}
    val = hold_out(ids, masked or ids, tags, shares[0], groups)
    train = [id for id in ids if id not in set(val)]
    dev = hold_out(train, [id for id in masked if id in set(train)], tags, shares[1], groups)
    left = set(train) - set(dev)
    of = [{groups[id] for id in part} for part in (left, dev, val)]
    assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2]
    assert left and {*left, *dev, *val} == set(ids)


def test_a_group_of_one_is_chosen_as_an_image_is():
    tags = {id: ("a",) if number % 3 else () for number, id in enumerate(SLIDES)}
    assert choose(SLIDES, tags, 0.3) == choose(SLIDES, tags, 0.3, {id: id for id in SLIDES})


def test_dev_takes_whole_groups_also_those_images_without_a_mask(slides):
    for id in SLIDES[::2]:
        (slides.parent / "masks" / f"{id}.png").unlink()
    dataset = add(slides, groups=r"name:(?P<group>[^_]+)_.*")
    assert all(len(splits) == 1 for splits in places_of(dataset).values())
    assert all(len(splits) == 1 for splits in places_of(write_dev(dataset, share=0.3)).values())


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            r"name:(?P<group>s[0-4])_.*",
            r"matches 30 of 42 names, not s5_05.png, s5_12.png, .* and 2 more; it has to match",
        ),
        (r"name:(?P<slide>s.)_.*", r"needs the named group \(\?P<group>"),
        ("name:(?P<group>", "is no regular expression"),
        ("column:slide", "unknown column of tags.csv: .*slide.*image, labels, patient"),
        ("gaps.csv", "says nothing of 2 of 42 images: s0_00, s1_01"),
        ("nowhere.csv", r"no file of groups nowhere.csv; allowed: .*column:NAME.*name:REGEX"),
    ],
)
def test_bad_groups_are_refused_in_one_sentence_and_nothing_is_left(slides, choice, words):
    write(
        slides.parent / "gaps.csv",
        ("image", "group"),
        [(id, " " if number < 2 else id[:2]) for number, id in enumerate(SLIDES)],
    )
    with pytest.raises(UserError, match=words):
        add(slides, groups=choice)
    assert not (slides.parent / "data").exists()


def test_given_splits_that_share_groups_are_refused_with_all_of_them(slides):
    (slides.parent / "train.txt").write_text("\n".join(SLIDES[:30]))
    (slides.parent / "val.txt").write_text("\n".join(SLIDES[30:]))
    with pytest.raises(
        UserError, match=r"7 of 7 groups are in more than one split: s0 \(.*in train, .*in val\), s1 .*--splits none"
    ):
        add(slides, lists=slides.parent, groups=r"name:(?P<group>[^_]+)_.*")


def test_a_dev_list_that_divides_a_group_is_refused(slides):
    (slides.parent / "dev.csv").write_text("s0_00\n")
    with pytest.raises(UserError, match=r"1 of 7 groups are in more than one split: s0 \(5 in train, 1 in dev\)"):
        add(slides, val_share=0, dev_list=slides.parent / "dev.csv", groups=r"name:(?P<group>[^_]+)_.*")


def matrices(shares):
    """Confusion matrices of images of 100 pixels, half of each class, of which a share is right."""
    right = np.rint(50 * np.asarray(shares)).astype(np.int32)
    return np.stack([np.stack([right, 50 - right], 1), np.stack([50 - right, right], 1)], 1)


def test_the_bootstrap_over_groups_is_wider_where_groups_are_alike_inside():
    """Ten slides, each good or bad as a whole: a hundred patches of them are ten looks, not a hundred."""
    rng = np.random.default_rng(0)
    alike, groups = matrices(np.repeat(rng.uniform(0.3, 0.95, 10), 10)), np.repeat([f"s{n}" for n in range(10)], 10)
    own, whole = (np.diff(bootstrap(alike, groups=its))[0] for its in ((), groups))
    assert whole > 2 * own
    mixed = rng.permutation(groups)  # groups that say nothing: no wider
    assert np.diff(bootstrap(alike, groups=mixed))[0] < 1.3 * own
    assert bootstrap(alike, groups=[*map(str, range(100))]) == pytest.approx(bootstrap(alike), abs=0.02)
    other = matrices(np.repeat(rng.uniform(0.3, 0.95, 10), 10))
    pairs = [np.diff(paired_bootstrap(alike, other, groups=its))[0] for its in ((), groups)]
    assert pairs[1] > 2 * pairs[0]


def test_a_record_keeps_the_groups_and_an_older_one_reads_as_before():
    one = matrices(np.linspace(0.3, 0.9, 12))
    record = Evaluation("val", "pred", tuple("abcdefghijkl"), ("background", "cat"), one, groups=tuple("aaaabbbbcccc"))
    again = decode(encode(record), "here")
    assert again.groups == record.groups and again.interval == bootstrap(one, groups=record.groups)
    plain = decode(encode(replace(record, groups=())), "here")
    assert plain.groups == () and plain.interval == bootstrap(one)


def test_shapes_of_places_leak_where_groups_are_divided(tmp_path):
    """Whoever knows the ground knows the tags of other scenes of the place, and nothing of another place's."""
    make_shapes(tmp_path / "g", images=120, val_images=0, size=32, classes=4, group_size=6)
    dataset = Dataset.open(tmp_path / "g")
    assert len(set(dataset.groups.values())) == 20
    assert all(len(splits) == 1 for splits in places_of(dataset).values())
    ids = [*dataset.splits["train"], *dataset.splits["dev"]]
    looks = np.stack([np.asarray(Image.fromarray(dataset.image(id)).resize((1, 1))).ravel() for id in ids]).astype(
        float
    )
    tags, groups = np.stack([dataset.tags(id) for id in ids]), np.array(dataset.groups_of(ids))
    apart = np.abs(looks[:, None] - looks[None]).sum(-1)
    np.fill_diagonal(apart, np.inf)

    def right(distance):
        nearest = distance.argmin(1)
        return (tags & tags[nearest]).any(1)[tags.any(1)].mean()

    leaking, honest = right(apart), right(np.where(groups[:, None] == groups[None], np.inf, apart))
    assert leaking > honest + 0.1


def test_a_voc_folder_has_groups_too(slides, tmp_path):
    root = tmp_path / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "JPEGImages").symlink_to(slides)
    for split in ("train", "val"):
        ids = [id for id in SLIDES if (id[1] in "0123") == (split == "train")]
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(ids))
    options = {"tags": "tags.csv", "class_list": slides.parent / "classes.txt", "groups": "name:(?P<group>..).*"}
    dataset = add_voc(root, "voc", **options)
    assert dataset.groups["s3_03"] == "s3" and all(len(splits) == 1 for splits in places_of(dataset).values())
