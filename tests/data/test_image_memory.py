"""Decoded images in memory: read once, shared with forked processes, never more than the limit, the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wsss.data import Dataset, dataset
from wsss.data.image_memory import ImageMemory, memory_for_images
from wsss.errors import UserError
from wsss.progress import ConsoleReporter
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded in this process."""
    names: list[str] = []
    read = dataset.read_image
    monkeypatch.setattr(dataset, "read_image", lambda path, *how: (names.append(Path(path).stem), read(path, *how))[1])
    return names


def test_an_image_is_decoded_once_and_whoever_changes_it_changes_a_copy(tiny_shapes: Dataset, reads: list[str]) -> None:
    kept = tiny_shapes.in_memory(10**7)
    for image_id in (*tiny_shapes.splits["train"], *tiny_shapes.splits["val"]) * 2:
        image = kept.image(image_id)
        image[:] = 0
    assert len(reads) == len(set(reads)) == len({*tiny_shapes.splits["train"], *tiny_shapes.splits["val"]})
    assert all((kept.image(i) == tiny_shapes.image(i)).all() for i in tiny_shapes.splits["train"])


def test_what_does_not_fit_is_read_again(tiny_shapes: Dataset, reads: list[str]) -> None:
    ids = tiny_shapes.splits["train"]
    kept = tiny_shapes.in_memory(3 * 64 * 64 * 3 + 1)
    for _ in range(2):
        assert all(kept.image(i).shape == (64, 64, 3) for i in ids)
    assert [reads.count(i) for i in ids] == [1] * 3 + [2] * (len(ids) - 3)


def test_processes_share_what_any_of_them_read(tiny_shapes: Dataset, reads: list[str]) -> None:
    ids = list(tiny_shapes.splits["train"])
    kept = tiny_shapes.in_memory(10**7)

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(ids)

        def __getitem__(self, place: int) -> np.ndarray:
            return kept.image(ids[place])

    loaded = np.concatenate(list(DataLoader(Images(), batch_size=6, num_workers=2, multiprocessing_context="fork")))
    assert (loaded == np.stack([kept.image(i) for i in ids])).all()
    assert reads == [], "this process decoded none"


def test_a_lock_that_a_killed_process_held_stops_nobody(tiny_shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsss.data.image_memory.PATIENCE_S", 0.05)
    memory = ImageMemory(["a"], 1000)
    memory._lock.acquire()
    image = np.ones((2, 2, 3), np.uint8)
    assert memory.image("a", lambda: image) is image


def test_the_epochs_and_the_steps_of_a_run_share_the_images(
    tiny_shapes: Dataset, tmp_path: Path, reads: list[str]
) -> None:
    runner = StepRunner(tiny_shapes, 0, torch.device("cpu"), tmp_path)
    train, infer, *_ = make_plan("cam", "demo", {"localize.train.epochs": 2, "localize.train.crop": 33}).steps
    for planned in (train, infer):
        runner.run(planned, ConsoleReporter(planned.key))
    assert [reads.count(i) for i in tiny_shapes.splits["train"]] == [1] * len(tiny_shapes.splits["train"])


def test_the_limit_is_a_quarter_of_what_is_free_or_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < memory_for_images() < 10**12
    monkeypatch.setenv("WSSS_IMAGE_MEMORY", "2.5")
    assert memory_for_images() == 2_500_000
    monkeypatch.setenv("WSSS_IMAGE_MEMORY", "much")
    with pytest.raises(UserError, match="WSSS_IMAGE_MEMORY is 'much'"):
        memory_for_images()
