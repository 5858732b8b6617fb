"""A server that follows its alias while it answers: promotions, rollbacks, damaged models, a registry that is away."""

import gc
import io
import threading
import time
import weakref

import httpx
import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from served_examples import save_one_answer
from test_server_faults import ask, running
from test_server_headers import encoded

from wsss.classes import Classes
from wsss.errors import UserError
from wsss.serving import live
from wsss.serving.description import describe
from wsss.serving.formats import describe_step
from wsss.serving.live import Watch, has_alias
from wsss.serving.options import Options, ShadowSettings
from wsss.serving.package import load_package
from wsss.serving.segmenter import Instead
from wsss.serving.server import make_app
from wsss.serving.shadow import Shadow

NAME = "wsss-little"
CLASSES = Classes(("disc", "bar"))
IMAGE = encoded("PNG", np.zeros((40, 50, 3), np.uint8))


def logged(folder, answer):
    """The address of a model that answers one class everywhere; what only other people's tools need is left out."""
    save_one_answer(folder, answer)
    description = describe(describe_step(folder / "model.json"), CLASSES)
    (folder / "model.json").write_text(description.as_json())
    client = MlflowClient()
    model = client.create_logged_model("0", "segmenter", source_run_id=client.create_run("0").info.run_id)
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_uri


@pytest.fixture(scope="module")
def registry(template, tmp_path_factory):
    """A registered model of three versions, which answer 0, 1 and 2; the third one's weights are cut short."""
    import mlflow
    from conftest import empty_store

    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        empty_store(template, folder / "mlflow.db")
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        for answer in range(3):
            uri = logged(tmp_path_factory.mktemp("step"), answer)
            mlflow.register_model(uri, NAME)
        (weights,) = [path for path in folder.rglob("model.safetensors") if uri.rpartition("/")[2] in str(path)]
        weights.write_bytes(weights.read_bytes()[:-100])
        yield folder


@pytest.fixture
def client(registry):
    client = MlflowClient()
    client.set_registered_model_alias(NAME, "champion", "1")
    for alias in ("challenger",):
        client.delete_registered_model_alias(NAME, alias)
    return client


@pytest.fixture
def served(client):
    """A server of the champion that looks at the alias ten times a second: its port and its service."""
    address = f"models:/{NAME}@champion"
    config = running(load_package(address), Options(address=address, every=0.1))
    with config as port:
        yield port, config.service


def asked(port):
    """The class that is answered, and the version that says so."""
    status, headers, body = ask(port, "POST", "/segment", IMAGE, content_type="image/png")
    assert status == 200, body
    with Image.open(io.BytesIO(body)) as mask:
        return np.unique(np.array(mask)).tolist()[0], headers["x-model-version"]


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_promotion_and_a_rollback_are_taken_up_without_a_failed_request(served, client):
    port, service = served
    before = weakref.ref(service.current.segmenter.module)
    answers, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            answers.append(asked(port))

    asking = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in asking:
        thread.start()
    for number in ("2", "1", "2"):
        client.set_registered_model_alias(NAME, "champion", number)
        until(lambda number=number: answers and answers[-1][1] == f"models:/{NAME}/{number}")
    stop.set()
    for thread in asking:
        thread.join()
    assert set(answers) == {(0, f"models:/{NAME}/1"), (1, f"models:/{NAME}/2")}
    assert "wsss_model_swaps_total 3.0" in ask(port, "GET", "/metrics")[2].decode()
    gc.collect()
    assert before() is None, "what was swapped out is still held"


def test_a_damaged_model_is_refused_and_said_so_once(served, client, caplog):
    port, _ = served
    client.set_registered_model_alias(NAME, "champion", "3")
    until(lambda: "wsss_model_refused_total 1.0" in ask(port, "GET", "/metrics")[2].decode())
    time.sleep(0.4)
    assert asked(port) == (0, f"models:/{NAME}/1")
    refusals = [record.message for record in caplog.records if "is refused" in record.message]
    assert len(refusals) == 1 and f"models:/{NAME}/3" in refusals[0]
    client.set_registered_model_alias(NAME, "champion", "2")
    until(lambda: asked(port)[0] == 1)


def test_a_registry_that_is_away_changes_nothing(served, client, monkeypatch, caplog):
    port, _ = served
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def away(address):
        raise ConnectionError("no route to http://user:secret@host")

    with monkeypatch.context() as patch:
        patch.setattr(live, "version_of_alias", away)
        until(lambda: "wsss_registry_up 0.0" in ask(port, "GET", "/metrics")[2].decode())
        assert asked(port)[0] == 0
    client.set_registered_model_alias(NAME, "champion", "2")
    until(lambda: asked(port)[0] == 1)
    said = [record.message for record in caplog.records if "can't be looked up" in record.message]
    assert len(said) == 1 and "secret" not in said[0]


def test_an_alias_follows_the_ledger_now_and_then(client):
    settled, taken = [], []
    address = f"models:/{NAME}@champion"
    watch = Watch(address, f"models:/{NAME}/1", taken.append, 5, torch.device("cpu"), settle=lambda: settled.append(1))
    for _ in range(2 * live.SETTLE_EVERY):
        watch.look()
    assert len(settled) == 2 and not taken
    assert has_alias(address) and not has_alias(f"models:/{NAME}/1") and not has_alias("a@b")


def test_a_challenger_answers_too_and_its_disagreement_is_counted(client):
    client.set_registered_model_alias(NAME, "challenger", "2")
    address = f"models:/{NAME}@champion"
    options = Options(address=address, every=0.1, shadow=ShadowSettings.parse("challenger:1", address))
    with running(load_package(address), options) as port:

        def report():
            return httpx.get(f"http://127.0.0.1:{port}/shadow").json()

        until(lambda: asked(port) and report()["images"] >= 3)
        told = report()
        assert told["champion"] == f"models:/{NAME}/1" and told["challenger"] == f"models:/{NAME}/2"
        assert told["disagreement"] == 1 and told["pixels"] == 2000 * told["images"]
        assert [entry["champion_pixels"] > 0 for entry in told["classes"]] == [True, False, False]
        assert [entry["challenger_pixels"] > 0 for entry in told["classes"]] == [False, True, False]
        text = ask(port, "GET", "/metrics")[2].decode()
        assert 'wsss_shadow_disagreeing_pixels_total{label="background"}' in text
        client.set_registered_model_alias(NAME, "challenger", "1")
        until(lambda: asked(port) and report()["challenger"] == f"models:/{NAME}/1")
        assert report()["disagreement"] == 0


def test_a_challenger_pauses_while_a_request_is_there(client):
    """Before its next layer, and its image is dropped when that takes too long."""
    from wsss.serving import shadow as module
    from wsss.serving.live import Served
    from wsss.serving.metrics import Metrics

    busy, metrics = [False], Metrics()
    shadow = Shadow(1.0, lambda: busy[0], metrics)
    champion, challenger = (load_package(f"models:/{NAME}/{number}") for number in (1, 2))
    layers = []
    for layer in challenger.module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda *_: (layers.append(1), busy.__setitem__(0, True)))
    shadow.take(challenger)
    offer = module.Offer(np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8), Served.of(champion))
    shadow.take_offer(offer)
    until(lambda: layers)
    time.sleep(0.2)
    assert len(layers) == 1 and shadow.report()["images"] == 0
    shadow._until = 0.0
    until(lambda: metrics.registry.get_sample_value("wsss_shadow_dropped_total") == 1)
    for _ in range(module.MOST_IMAGES + 5):
        shadow.take_offer(offer)
    assert metrics.registry.get_sample_value("wsss_shadow_dropped_total") >= 5
    shadow.close()
    busy[0] = False


@pytest.mark.parametrize(
    "text", ["challenger", "challenger:0", "challenger:1.5", ":0.1", "challenger:x", "challenger:nan"]
)
def test_what_is_no_shadow_is_a_sentence(text):
    from wsss.errors import UserError

    with pytest.raises(UserError, match="challenger:0.1"):
        ShadowSettings.parse(text, "models:/a@champion")


def test_a_shadow_is_an_alias_of_the_same_model_or_an_address():
    from wsss.errors import UserError

    assert ShadowSettings.parse("challenger:0.1", "models:/a/3") == ShadowSettings("models:/a@challenger", 0.1)
    assert ShadowSettings.parse("models:/b/2:1", "folder") == ShadowSettings("models:/b/2", 1.0)
    with pytest.raises(UserError, match="folder is no registered model"):
        ShadowSettings.parse("challenger:0.1", "folder")


@pytest.mark.parametrize(
    ("seconds", "every"),
    [(4, 0.5), pytest.param(600, 30, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
def test_promotions_under_load_fail_no_request_and_hold_no_memory(served, client, seconds, every):
    soak(served[0], client, seconds, every)


def soak(port, client, seconds, every):
    answers, failures, stop = [0], [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            try:
                asked(port)
                answers[0] += 1
            except Exception as error:
                failures.append(error)

    asking = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in asking:
        thread.start()
    process, held = psutil.Process(), []
    end, number = time.monotonic() + seconds, 1
    while time.monotonic() < end:
        number = 3 - number
        client.set_registered_model_alias(NAME, "champion", str(number))
        time.sleep(every)
        gc.collect()
        held.append(process.memory_info().rss)
    stop.set()
    for thread in asking:
        thread.join()
    assert not failures and answers[0] > 10
    assert held[-1] - held[len(held) // 3] < 60 * 2**20, [size >> 20 for size in held]


def test_the_faster_network_serves_what_takes_its_place_too(client):
    """`wsss serve --runtime fused`; by default the answers are those of everywhere, bit for bit."""
    first, second = (load_package(f"models:/{NAME}/{number}") for number in (1, 2))
    assert not isinstance(make_app(first).state.service.current.segmenter.module.net, Instead)
    service = make_app(first, Options(runtime="fused")).state.service
    for model in (first, second):
        service.take(model)
        served = service.current.segmenter
        assert isinstance(served.module.net, Instead) and served.version == model.version
        image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
        assert (served(image) == model(image)).mean() >= 0.9999
    service.close()
    with pytest.raises(UserError, match="unknown runtime 'fast'; choose from fused, torch"):
        Options(runtime="fast")
