"""Whatever images are called and however tags and lists are written: equal in and out, or refused by name."""

import csv
import io
import random
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from wsss.classes import Classes
from wsss.data import layout
from wsss.data.boxes import read_boxes
from wsss.data.ids import files_by_id
from wsss.data.lists import read_ids
from wsss.data.tag_files import read_csv, read_npz
from wsss.data.tags import read_class_list, read_written, write_csv
from wsss.errors import UserError

CLASSES = ("bär", "cat", "potted plant", "猫")
_ODD = st.sampled_from(
    [*" .,;|\t\"'\\#%[]()-_+&\u2028\u2029\x85\x0b\x0c\x1c\x1e\u200b\u0301\n\r", "é", "é", ".jpg", "猫"]
)
_LETTERS = st.characters(exclude_characters="/\0", exclude_categories=("Cs",))
NAMES = st.lists(st.one_of(_ODD, st.sampled_from("ab1"), _LETTERS), min_size=1, max_size=6).map("".join)
SUFFIXES = st.sampled_from([".jpg", ".JPG", ".png", ".jpeg"])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file that every example writes anew."""
    return tmp_path_factory.mktemp("texts") / "tags.csv"


def attempt(read, *arguments):
    """What is read, or None and the sentence with which it is refused."""
    try:
        return read(*arguments), ""
    except UserError as error:
        return None, str(error)


def names_one_of(files, sentence):
    return any(ascii(part)[1:-1] in sentence or part in sentence for file in files for part in (file.name, file.stem))


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.tuples(NAMES, SUFFIXES), min_size=1, max_size=4, unique=True),
    st.booleans(),
    st.sampled_from(",;\t|"),
    ENDS,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.data(),
)
def test_any_name_survives_files_csv_list_and_back(names, by_file_name, delimiter, end, encoding, data):
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch, "photos"), Path(scratch, "dataset")
        folder.mkdir()
        files = [folder / f"{name}{suffix}" for name, suffix in names]
        for file in files:
            file.touch()
        seen = [file for file in files if not file.name.startswith("._")]
        images, refused = attempt(files_by_id, folder)
        if images is None:
            assert names_one_of(files, refused)
            stems = [file.stem for file in seen]
            assert len(set(stems)) < len(stems) or any(
                not stem.strip() or stem in (".", "..") or {*"\n\r"} & {*stem} for stem in stems
            )
            return
        assert sorted(images.values()) == sorted(seen)
        tags = {id: tuple(data.draw(st.lists(st.sampled_from(CLASSES), unique=True))) for id in images}
        text = io.StringIO()
        rows = csv.writer(text, delimiter=delimiter, lineterminator=end)
        rows.writerow(("image", "labels"))
        written = {id: images[id].name if by_file_name else id for id in images}
        rows.writerows((written[id], "|".join(tags[id])) for id in images)
        (folder / "tags.csv").write_bytes(text.getvalue().encode(encoding))
        (folder / "train.txt").write_bytes("".join(written[id] + end for id in images).encode(encoding))
        found, no_tags = attempt(read_csv, folder / "tags.csv", Classes(CLASSES), images)
        listed, no_list = attempt(read_ids, folder / "train.txt", images)
        if found is None or listed is None:
            assert names_one_of(files, no_tags or no_list)
            assert {file.name for file in images.values()} & images.keys()  # one's id is another's file name
            return
        assert {id: set(labels) for id, labels in found.tags.items()} == {
            id: set(labels) for id, labels in tags.items()
        }
        assert listed == tuple(images)
        write_csv(out / layout.TAGS, found.tags, Classes(CLASSES))
        layout.write_list(out, "train", listed)
        assert read_written(out / layout.TAGS, Classes(CLASSES)) == found.tags
        assert layout.read_list(out / layout.LISTS / "train.txt") == listed


_PRINTED = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"))
LABELS = st.text(st.one_of(st.sampled_from("ab +/-_'\"[]"), _PRINTED), min_size=1, max_size=8)
IMAGES = {f"i{n}": Path(f"i{n}.jpg") for n in range(3)}


@settings(max_examples=2000, deadline=None)
@given(
    st.lists(st.lists(LABELS, max_size=3), min_size=3, max_size=3),
    st.sampled_from(",;\t|"),
    st.sampled_from(";|,"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    ENDS,
    st.sampled_from(["", ",", "blank row"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252", "gbk", "shift_jis"]),
)
def test_any_labels_survive_any_dialect(file, labels, delimiter, separator, quoting, end, trailing, encoding):
    text = io.StringIO()
    rows = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)
    rows.writerow(("image", "labels", *([""] if trailing == "," else [])))
    clean = [sorted({tidy(name) for name in names} - {""}) for names in labels]
    for n, names in enumerate(clean):
        rows.writerow((f"i{n}.jpg", separator.join(names), *([""] if trailing == "," else [])))
    if trailing == "blank row":
        rows.writerows([("", ""), (" ", " ")])
    try:
        content = text.getvalue().encode(encoding)
    except UnicodeEncodeError:
        assume(False)
    assume(encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32") or not is_utf8(content, text.getvalue()))
    file.write_bytes(content)
    found, refused = attempt(read_csv, file, None, IMAGES)
    if found is None:
        assert "tags.csv" in refused
        assert not any(clean) or encoding not in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
        return
    assert found.tags == {f"i{n}": tuple(names) for n, names in enumerate(clean)}


def tidy(name):
    """A label as a careful person writes it: no separators, accents composed, no spaces around."""
    name = unicodedata.normalize("NFC", "".join(letter for letter in name if letter not in ";|,")).strip()
    return "" if name.casefold() == "background" else name


def is_utf8(content, text):
    """Whether bytes of another encoding happen to be UTF-8 of another text, which nobody can tell."""
    try:
        return content.decode() != text and b"\0" not in content
    except UnicodeDecodeError:
        return False


@settings(max_examples=1500, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)), st.booleans())
@example(b"\xff\xfe\x00\xd8", False)
def test_any_bytes_are_read_or_refused_by_name(file, content, header):
    file.write_bytes(b"image,labels\n" * header + content)
    for read, *arguments in (
        (read_csv, None, IMAGES),
        (read_ids, IMAGES),
        (read_written, Classes(("cat",))),
        (read_boxes,),
        (read_class_list,),
    ):
        result, refused = attempt(read, file, *arguments)
        assert result is not None or "tags.csv" in refused or "class" in refused


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_file_is_read_or_refused_by_name(file, save):
    path, draw = file.with_suffix(".npz"), random.Random(0)
    save(path, ids=["i0", "i1"], labels=np.eye(2, dtype=np.uint8), classes=["cat", "dog"])
    whole = path.read_bytes()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 8))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        found, refused = attempt(read_npz, path, None, IMAGES)
        assert found is not None or "tags.npz" in refused
