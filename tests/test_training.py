"""The training loop: schedule, groups, accumulation, continuing after a kill, a loss that is no number."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsss.batches import Samples, batches_of, groups_by_class, in_turn, shuffled
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.progress import ConsoleReporter
from wsss.training import TrainingSettings, fit, parameter_groups, poly

IDS = [f"image{i}" for i in range(10)]
SETTINGS = TrainingSettings(epochs=3, batch_size=4, lr=0.1, head_lr=10, weight_decay=0.01)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))


def sample(image_id: str, draw: np.random.Generator) -> dict[str, torch.Tensor]:
    return {"image": torch.from_numpy(draw.normal(size=(3, 2, 2)).astype(np.float32))}


def train(folder: Path, dataset: Dataset, settings: TrainingSettings = SETTINGS, stop_at: int = 10**9) -> nn.Module:
    """Train the small model; `stop_at` stops it with an error at that call of the loss, as a kill would."""
    folder.mkdir(exist_ok=True)
    model, calls = make_model(), iter(range(10**9))

    def loss(batch: dict) -> tuple[torch.Tensor, dict[str, float]]:
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return (model(batch["image"]) ** 2).mean(), {}

    context = StepContext(settings, dataset, 7, torch.device("cpu"), folder, {}, ConsoleReporter("test"))
    fit(model, parameter_groups(model[0], [model[2]], settings), IDS, sample, loss, context)
    return model


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_class_aware_sampling_shows_rare_classes_as_often_as_frequent_ones() -> None:
    """One image of class 1 among ninety-nine of class 0, and one without a tag."""
    tags = np.zeros((101, 3), bool)
    tags[:99, 0], tags[99, 1] = True, True
    groups = groups_by_class(tags)  # no image has class 2
    assert [len(group) for group in groups] == [99, 1, 1]
    places = [place for batch in shuffled(101, 16, 0, range(2), groups) for place in batch]
    assert len(places) == 202
    assert len(set(places)) == 202  # what comes twice in an epoch is drawn from random numbers of its own
    for epoch in (0, 1):
        seen = [index for number, index, _ in places if number == epoch]
        assert sum(index < 99 for index in seen) in (33, 34)
        assert len({index for index in seen if index < 99}) == sum(index < 99 for index in seen)
        assert seen.count(99) in (33, 34)
    assert places == [place for batch in shuffled(101, 16, 0, range(2), groups) for place in batch]


def test_every_group_gives_one_in_each_turn() -> None:
    groups = [np.array([0, 1]), np.array([2]), np.array([1, 3, 4])]
    order = in_turn(groups, 9, np.random.default_rng(0)).reshape(3, 3)
    for turn in order:
        assert 2 in turn
        assert any(set(turn[[place for place in range(3) if place != skip]]) for skip in range(3))
    assert sorted(order.ravel().tolist()).count(2) == 3
    assert {3, 4} <= set(order.ravel().tolist())


def test_sampling_by_class_without_tags_is_refused(tmp_path: Path, tiny_shapes: Dataset) -> None:
    bare = replace(tiny_shapes, _tags={i: np.zeros(3, bool) for i in IDS})
    with pytest.raises(UserError, match="sampling = class-aware .* none of the 10 training images of shapes has one"):
        train(tmp_path, bare, replace(SETTINGS, sampling="class-aware"))
    assert not list(tmp_path.iterdir())


def test_sampling_by_class_continues_to_the_same_weights(tmp_path: Path, tiny_shapes: Dataset) -> None:
    tagged = replace(tiny_shapes, _tags={i: np.array([n == 0, n != 0, False]) for n, i in enumerate(IDS)})
    aware = replace(SETTINGS, sampling="class-aware", lr=0.01)
    whole = train(tmp_path / "whole", tagged, aware)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", tagged, aware, stop_at=4)
    assert torch.equal(weights(train(tmp_path / "broken", tagged, aware)), weights(whole))
    assert not torch.equal(weights(train(tmp_path / "plain", tagged, replace(SETTINGS, lr=0.01))), weights(whole))


def test_the_poly_schedule() -> None:
    assert poly(0, 10) == 1
    assert poly(5, 10) == pytest.approx(0.5**0.9)


def test_four_groups_as_in_the_released_code() -> None:
    model = make_model()
    groups = parameter_groups(model[0], [model[2]], SETTINGS)
    rates = sorted((g["lr"], g["weight_decay"]) for g in groups)
    assert rates == [(0.1, 0.01), (0.2, 0.0), (1.0, 0.01), (2.0, 0.0)]
    assert sum(p.numel() for g in groups for p in g["params"]) == weights(model).numel()


def test_one_rng_gives_one_result(tmp_path: Path, tiny_shapes: Dataset) -> None:
    assert weights(train(tmp_path / "a", tiny_shapes)).equal(weights(train(tmp_path / "b", tiny_shapes)))


@pytest.mark.parametrize("stop_at", [1, 3, 7, 8])
def test_an_interrupted_training_continues_to_the_same_weights(
    tmp_path: Path, tiny_shapes: Dataset, stop_at: int
) -> None:
    whole = weights(train(tmp_path / "whole", tiny_shapes))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", tiny_shapes, stop_at=stop_at)
    assert weights(train(tmp_path / "cut", tiny_shapes)).equal(whole)


def test_a_checkpoint_of_another_device_is_loaded_to_the_cpu(
    tmp_path: Path, tiny_shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, tiny_shapes)
    places: list[object] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (places.append(k.get("map_location")), load(*a, **k))[1])
    train(tmp_path, tiny_shapes)
    assert places and set(places) == {"cpu"}


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path, tiny_shapes: Dataset) -> None:
    large = replace(SETTINGS, batch_size=5, epochs=1)
    small = replace(SETTINGS, batch_size=1, accumulate=5, epochs=1)

    def run(settings: TrainingSettings, folder: Path) -> torch.Tensor:
        folder.mkdir()
        model = nn.Conv2d(3, 1, 1)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        context = StepContext(settings, tiny_shapes, 7, torch.device("cpu"), folder, {}, ConsoleReporter("test"))
        fit(
            model,
            parameter_groups(model, [], settings),
            IDS,
            sample,
            lambda batch: ((model(batch["image"]) ** 2).mean(), {}),
            context,
        )
        return weights(model)

    assert torch.allclose(run(large, tmp_path / "a"), run(small, tmp_path / "b"), atol=1e-6)


def test_a_loss_that_is_no_number_names_the_iteration_and_the_images(tmp_path: Path, tiny_shapes: Dataset) -> None:
    model = nn.Conv2d(3, 1, 1)
    settings = replace(SETTINGS, batch_size=2)
    context = StepContext(settings, tiny_shapes, 7, torch.device("cpu"), tmp_path, {}, ConsoleReporter("test"))
    with pytest.raises(UserError, match=r"became nan at iteration 0 of 15, on the images image\d, image\d"):
        fit(
            model,
            parameter_groups(model, [], settings),
            IDS,
            sample,
            lambda batch: (model(batch["image"]).mean() * float("nan"), {}),
            context,
        )


def test_samples_are_made_while_the_network_works(tmp_path: Path, tiny_shapes: Dataset) -> None:
    """The first batch's loss waits for a sample of the second batch, and the last one's for one of the next epoch."""
    seen, more = set(), threading.Condition()
    settings = replace(SETTINGS, epochs=2)
    model = nn.Conv2d(3, 1, 1)

    def watched(image_id: str, draw: np.random.Generator) -> dict[str, torch.Tensor]:
        made = sample(image_id, draw)
        with more:
            seen.add(float(made["image"].sum()))
            more.notify()
        return made

    def loss(batch: dict) -> tuple[torch.Tensor, dict[str, float]]:
        images = len(IDS) * batch["epoch"] + (len(IDS) if len(batch["id"]) == 2 else 4)
        with more:
            assert more.wait_for(lambda: len(seen) > images or len(seen) == 2 * len(IDS), timeout=20)
        return (model(batch["image"]) ** 2).mean(), {}

    context = StepContext(settings, tiny_shapes, 7, torch.device("cpu"), tmp_path, {}, ConsoleReporter("test"))
    found = fit(model, parameter_groups(model, [], settings), IDS, watched, loss, context)
    assert len(seen) == 2 * len(IDS) and 0 <= found["loader_wait"] <= 1


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_threads_and_processes_make_the_samebatches_of() -> None:
    made = {}
    for device in ("cpu", "cuda"):
        places = shuffled(len(IDS), 4, 7, range(1, 3))
        made[device] = list(batches_of(Samples(IDS, sample, 7), places, torch.device(device)))
    assert [batch["id"] for batch in made["cpu"]] == [batch["id"] for batch in made["cuda"]]
    assert [len(batch["id"]) for batch in made["cpu"]] == [4, 4, 2] * 2
    for ours, theirs in zip(*made.values(), strict=True):
        assert ours["image"].equal(theirs["image"])


@pytest.mark.parametrize(("limit", "epochs"), [(None, 3), (30, 3), (25, 2), (5, 1)])
def test_the_image_limit_takes_epochs_away_but_leaves_one(
    tmp_path: Path, tiny_shapes: Dataset, limit: int | None, epochs: int
) -> None:
    limited = train(tmp_path / "limited", tiny_shapes, replace(SETTINGS, image_limit=limit))
    assert weights(limited).equal(weights(train(tmp_path / "plain", tiny_shapes, replace(SETTINGS, epochs=epochs))))


def train_with_little_memory(folder: Path, dataset: Dataset, fits: int, accumulate: int = 1) -> tuple[nn.Module, list]:
    """Train a linear model on a device that has memory for so many images at once; the sizes of what went through."""
    settings = replace(SETTINGS, batch_size=5, epochs=1, accumulate=accumulate)
    folder.mkdir()
    model = nn.Conv2d(3, 1, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    sizes: list[int] = []

    def loss(batch: dict) -> tuple[torch.Tensor, dict[str, float]]:
        sizes.append(len(batch["id"]))
        assert len(batch["image"]) == len(batch["id"])
        value = (model(batch["image"]) ** 2).mean()
        if len(sizes) > 1 and sizes[-1] > fits:  # the second batch, when there are gradients of the first
            value.backward(retain_graph=True)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return value, {}

    context = StepContext(settings, dataset, 7, torch.device("cpu"), folder, {}, ConsoleReporter("test"))
    fit(model, parameter_groups(model, [], settings), IDS, sample, loss, context)
    return model, sizes


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_memory_is_too_little_for_is_split_and_the_update_stays(
    tmp_path: Path, tiny_shapes: Dataset, capsys: pytest.CaptureFixture[str], accumulate: int
) -> None:
    whole, sizes = train_with_little_memory(tmp_path / "whole", tiny_shapes, 5, accumulate)
    assert sizes == [5, 5]
    in_parts, sizes = train_with_little_memory(tmp_path / "parts", tiny_shapes, 2, accumulate)
    again = [2, 1, 2] * accumulate
    assert sizes == [5, 5, 2, 3, *again], "all batches of the update go through once more, with no gradient left over"
    assert torch.allclose(weights(in_parts), weights(whole), atol=1e-6)
    assert capsys.readouterr().err.count("the GPU's memory is too little for 5 images in training at once") == 1


def test_memory_that_is_too_little_for_one_image_is_a_users_to_mend(tmp_path: Path, tiny_shapes: Dataset) -> None:
    with pytest.raises(UserError, match=r"too little for one of the images in training \(CUDA out of memory\)"):
        train_with_little_memory(tmp_path / "a", tiny_shapes, 0)
