"""FCN-MIL, claim by claim (Pathak et al., ICLR workshop 2015)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import MobileNet_V2_Weights

from wsss.classes import VOC
from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError
from wsss.methods.fcn_mil import chosen_score_map, network
from wsss.methods.fcn_mil.network import FcnMil, best_cells, hand_over, inside, mil_loss, transplant_rows
from wsss.methods.fcn_mil.synsets import SYNSETS
from wsss.progress import ConsoleReporter
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.stages.cam import CamSettings, image_maps
from wsss.stages.localize import Classifier
from wsss.stages.outputs import load_model
from wsss.stages.refine import argmax_labels, foreground_maps

REPORT = ConsoleReporter("test")
EVERYWHERE = torch.ones(2, 4, 5, dtype=torch.bool)
TAGS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def tiny_net(classes: int = 3) -> FcnMil:
    torch.manual_seed(0)
    return FcnMil(classes, "tiny", "none", 8, 0.0).eval()


def loss_of(scores: torch.Tensor, tags: torch.Tensor = TAGS, allowed: torch.Tensor = EVERYWHERE) -> torch.Tensor:
    return mil_loss(best_cells(scores.log_softmax(1), allowed), tags)


def test_the_loss_written_out() -> None:
    scores = torch.randn(2, 4, 4, 5, dtype=torch.float64)
    losses = []
    for image, tags in zip(scores.tolist(), TAGS.tolist(), strict=True):
        bag = [0] + [c + 1 for c in range(3) if tags[c]]
        total = 0.0
        for label in bag:
            best = 0.0
            for y in range(4):
                for x in range(5):
                    exponentials = [math.exp(image[c][y][x]) for c in range(4)]
                    best = max(best, exponentials[label] / sum(exponentials))
            total += math.log(best)
        losses.append(-total / len(bag))
    assert loss_of(scores).item() == pytest.approx(sum(losses) / 2)


def test_a_network_that_knows_nothing_pays_the_logarithm_of_the_number_of_channels() -> None:
    assert loss_of(torch.zeros(2, 4, 4, 5)).item() == pytest.approx(math.log(4))


def test_the_gradient_is_that_of_finite_differences_and_reaches_one_cell_for_each_label() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss_of, (scores,))
    loss_of(scores).backward()
    assert scores.grad is not None
    touched = (scores.grad != 0).any(1).flatten(1).sum(1).tolist()
    cells = scores.softmax(1).flatten(2).argmax(2)
    assert touched == [len(set(cells[0, [0, 1, 3]].tolist())), 1]
    flat = scores.grad.flatten(2)
    assert (flat[1, 0, cells[1, 0]] < 0) and (flat[1, 1:, cells[1, 0]] > 0).all()


def test_an_image_without_tags_teaches_the_background_alone() -> None:
    scores = torch.randn(1, 4, 4, 5)
    found = loss_of(scores, torch.zeros(1, 3), EVERYWHERE[:1])
    assert found.item() == pytest.approx(-scores.log_softmax(1)[0, 0].max().item())


def test_the_best_cell_is_never_in_the_padding() -> None:
    images = torch.full((2, 3, 33, 41), -1.0)
    images[0, :, 20:] = 0
    allowed = inside(images, 8)
    assert allowed[0].any(1).tolist() == [True, True, True, False, False] and allowed[1].all()
    maps = torch.zeros(2, 1, 5, 6)
    maps[:, 0, 4, 2], maps[:, 0, 1, 3] = 5.0, 3.0
    assert best_cells(maps, allowed)[:, 0].tolist() == [3.0, 5.0]


def test_an_image_smaller_than_a_cell_uses_every_cell() -> None:
    images = torch.zeros(1, 3, 33, 33)
    images[:, :, 9:12, 9:12] = 1
    assert inside(images, 8).all()
    assert torch.isfinite(tiny_net()(images)).all()


def test_the_network_gives_probabilities_and_a_background_row_of_zero() -> None:
    model = tiny_net()
    assert (model.head.weight[0] == 0).all()
    assert model.head.weight[1:].std().item() == pytest.approx(0.01, rel=0.2)
    images = torch.randn(2, 3, 33, 41)
    with torch.inference_mode():
        maps = model.maps(images)
        assert maps.shape == (2, 4, 5, 6)
        assert torch.allclose(maps.sum(1), torch.ones(2, 5, 6), atol=1e-5)
        assert torch.allclose(model(images).exp(), maps.flatten(2).amax(2), atol=1e-5)


def test_a_mirrored_image_gives_mirrored_maps() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 81, 3), dtype=np.uint8)
    settings, cpu = CamSettings(scales=(0.5, 1.0), precision="float32"), torch.device("cpu")
    plain = image_maps(tiny_net(), [image], settings, cpu)
    mirrored = image_maps(tiny_net(), [np.ascontiguousarray(image[:, ::-1])], settings, cpu)
    assert plain.std() > 0
    assert torch.allclose(plain, mirrored.flip(3), atol=1e-5)


def test_maps_are_made_for_the_background_and_the_tagged_classes() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.6, 0.1])[:, None, None].expand(4, 2, 2)
    tagged = chosen_score_map(probabilities, np.array([True, False, False]), (9, 9))
    assert tagged.classes.tolist() == [0, 1]
    assert (argmax_labels(tagged) == 1).all()
    everything = chosen_score_map(probabilities, np.array([True, True, True]), (9, 9))
    assert (argmax_labels(everything) == 2).all()
    untagged = chosen_score_map(probabilities, np.zeros(3, bool), (9, 9))
    assert (argmax_labels(untagged) == 0).all()
    assert foreground_maps(tagged).classes.tolist() == [1]


@pytest.mark.parametrize("layer", ["fc", "classifier.1", "classifier.6"])
def test_a_class_begins_as_the_mean_of_its_synsets_rows(layer: str) -> None:
    state = {f"{layer}.weight": torch.arange(1000.0)[:, None].repeat(1, 8), f"{layer}.bias": torch.arange(1000.0) / 10}
    head = nn.Conv2d(8, 5, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    assert transplant_rows(head, state, ("cat", "person", "unicorn", "sheep")) == 2
    # tabby, tiger cat, Persian, Siamese, Egyptian: 281..285; ram and bighorn: 348, 349
    assert head.weight[:, :, 0, 0].mean(1).tolist() == pytest.approx([0, 283, 0, 0, 348.5])
    assert head.bias is not None
    assert head.bias.tolist() == pytest.approx([0, 28.3, 0, 0, 34.85])


def test_weights_without_the_thousand_rows_cannot_be_transplanted() -> None:
    for state in ({}, {"fc.weight": torch.zeros(1000, 9), "fc.bias": torch.zeros(1000)}):
        with pytest.raises(UserError, match=r"1000 rows of 8 numbers.*transplant=false"):
            transplant_rows(nn.Conv2d(8, 3, 1), state, ("cat", "dog"))


def test_the_table_of_synsets_names_what_it_means() -> None:
    names = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    assert set(SYNSETS) == set(VOC) - {"person"}
    every = [i for indices in SYNSETS.values() for i in indices]
    assert len(every) == len(set(every))
    assert len(SYNSETS["bird"]) == 59
    assert len(SYNSETS["dog"]) == 118
    expected = {
        "aeroplane": "airliner, warplane",
        "bicycle": "bicycle-built-for-two, mountain bike, tricycle, unicycle",
        "boat": "aircraft carrier, canoe, catamaran, container ship, fireboat, gondola, lifeboat, liner, pirate, "
        "schooner, speedboat, trimaran, yawl",
        "bottle": "beer bottle, pill bottle, pop bottle, water bottle, wine bottle",
        "bus": "minibus, school bus, trolleybus",
        "car": "beach wagon, cab, convertible, jeep, limousine, minivan, Model T, racer, sports car",
        "cat": "tabby, tiger cat, Persian cat, Siamese cat, Egyptian cat",
        "chair": "barber chair, folding chair, rocking chair, throne",
        "cow": "ox",
        "diningtable": "dining table",
        "horse": "sorrel",
        "motorbike": "moped, motor scooter",
        "pottedplant": "pot",
        "sheep": "ram, bighorn",
        "sofa": "studio couch",
        "train": "bullet train, electric locomotive, freight car, passenger car, steam locomotive",
        "tvmonitor": "monitor, screen, television",
    }
    for voc, listed in expected.items():
        assert ", ".join(names[i] for i in SYNSETS[voc]) == listed
    assert [names[SYNSETS["bird"][k]] for k in (0, 17, 18, 38, 39, 58)] == [
        "cock", "great grey owl", "black grouse", "black swan", "white stork", "albatross",
    ]  # fmt: skip
    assert (names[SYNSETS["dog"][0]], names[SYNSETS["dog"][-1]]) == ("Chihuahua", "Mexican hairless")


def test_the_docs_page_lists_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods" / "fcn_mil.md").read_text()
    for name, indices in SYNSETS.items():
        runs = [[indices[0], indices[0]]]
        for index in indices[1:]:
            if index == runs[-1][1] + 1 and name in ("bird", "dog"):
                runs[-1][1] = index
            else:
                runs.append([index, index])
        listed = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
        assert f"| {name} | {listed} |" in page


def test_vggs_fc6_looks_at_the_pixels_that_it_saw_at_stride_32(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of fc6, of channel 3 at row 1, column 5 of its 7 x 7 window, two cells apart at stride 16."""
    fc6 = torch.zeros(4096, 512 * 49)
    fc6[7, 3 * 49 + 1 * 7 + 5] = 1
    fc7 = torch.zeros(4096, 4096)
    state = {"classifier.0.weight": fc6, "classifier.0.bias": torch.zeros(4096)}
    monkeypatch.setattr(network, "read_weights", lambda name, weights: state)
    with pytest.raises(UserError, match=r"lack classifier.0 and classifier.3"):
        network._fully_connected("file", 2, 0.5)
    state |= {"classifier.3.weight": fc7, "classifier.3.bias": torch.zeros(4096)}
    conv = network._fully_connected("file", 2, 0.5)[1]
    assert isinstance(conv, nn.Conv2d)
    features = torch.zeros(1, 512, 5, 5)
    features[0, 3, 0, 4] = 1
    found = F.conv2d(features, conv.weight[7:8], padding=conv.padding, dilation=conv.dilation)[0, 0]
    assert found.shape == (5, 5)
    assert found.nonzero().tolist() == [[4, 0]]


def test_a_tag_classifier_is_handed_over_with_a_background_of_zero() -> None:
    torch.manual_seed(1)
    classifier, model = Classifier(3, "tiny", "none", 8, 0.0).eval(), tiny_net()
    nn.init.ones_(model.head.weight)
    hand_over(classifier, model)
    images = torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        scores = classifier.head(classifier.backbone(images)[-1])
        expected = torch.cat([torch.zeros_like(scores[:, :1]), scores], 1).log_softmax(1)
        assert torch.allclose(model.log_probabilities(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"transplant": "true"}, "transplant=true takes rows of pretrained weights, but weights=none"),
        ({"backbone": "vgg16"}, "pretrain_epochs = 16 stands in for pretrained weights"),
        ({"epochs": "0"}, "epochs = 0 is out of range"),
        ({"scale_low": "2"}, "scale_low = 2.0 is above scale_high"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_any_work(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        planned = make_plan("fcn_mil", "demo", {f"localize.train.{k}": v for k, v in settings.items()}).steps[0]
        planned.check()


@pytest.mark.parametrize("preset", ["demo", "small", "medium", "paper"])
def test_the_presets_are_accepted(preset: str) -> None:
    for planned in make_plan("fcn_mil", preset, {}).steps:
        planned.check()


class Killed(ConsoleReporter):
    """Stops the step at a loss that it reports."""

    def __init__(self, at: int) -> None:
        super().__init__("test")
        self.left = at

    def metrics(self, values: object, step: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_from_tags_to_labels_with_a_kill_untagged_images_and_an_absent_class(
    tmp_path: Path, tiny_shapes: Dataset
) -> None:
    bare = set(tiny_shapes.splits["train"][:5])
    tags = {i: t & np.array([i not in bare, True, False]) & (i not in bare) for i, t in tiny_shapes._tags.items()}
    dataset = replace(tiny_shapes, _tags=tags)
    overrides = {"epochs": 2, "pretrain_epochs": 1, "crop": 65}
    plan = make_plan("fcn_mil", "demo", {f"localize.train.{k}": v for k, v in overrides.items()})
    runner = StepRunner(dataset, 3, torch.device("cpu"), tmp_path / "a")
    for planned in plan.steps:
        if planned.stage in ("localize", "refine"):
            runner.run(planned, REPORT)
    trained = runner.results["localize.train"]
    assert sorted(f.name for f in trained.folder.iterdir()) == [
        "manifest.json", "metrics.json", "model.json", "model.safetensors",
    ]  # fmt: skip
    assert {"pretrain/loss", "train/loss"} <= trained.metrics.keys()
    maps = ScoreMaps(runner.results["localize.infer"].folder / "cam")
    assert set(maps.ids) == {*dataset.splits["train"], *dataset.splits["dev"]}
    for image_id in maps.ids:
        assert maps.read(image_id).classes.tolist() == [0, *(np.flatnonzero(tags[image_id]) + 1)]
    labels = LabelMaps(runner.results["refine.crf"].folder / "labels_crf")
    assert all((labels.read(i) == 0).all() for i in bare)
    direct = LabelMaps(runner.results["localize.predict"].folder / "direct_crf")
    assert set(direct.ids) == {*dataset.splits["dev"], *dataset.splits["val"]}

    cut = StepRunner(dataset, 3, torch.device("cpu"), tmp_path / "b")
    for at in (2, 3):  # in the tag classifier's second batch, then in the network's second epoch
        with pytest.raises(KeyboardInterrupt):
            cut.run(plan.steps[0], Killed(at))
    continued = cut.run(plan.steps[0], REPORT)
    weights = [load_model(r.folder, FcnMil).state_dict() for r in (trained, continued)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
