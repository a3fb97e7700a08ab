"""Fine-tuned models on disk and in a server: refused files, shared weights, and no request lost while models change."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save

from foursight import models
from foursight.clients.cli.app import main
from foursight.models.errors import ModelError, OptionError, StoreError
from foursight.models.finetuned import store
from foursight.models.networks import backbone
from foursight.models.networks.head import pool
from foursight.models.tasks import classify
from foursight.models.tasks.classify import Classification
from foursight.schema import ModelCards
from foursight.schema.options import ClassifyOptions
from foursight.serving.finetuned import served_models
from foursight.serving.finetuned.loader import ModelLoader
from foursight.serving.settings import Settings
from tests.conftest import kill_worker
from tests.photos import encoded, photo
from tests.shapes import KINDS, write_model
from tests.tuned_models import write_detector

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def task() -> Classification:
    return classify.load("tiny", "cpu")


@pytest.fixture
def hosting(task: Classification, tmp_path: Path) -> Iterator[tuple[Classification, Path]]:
    """The task, and a models folder with three models over its backbone; what a test installs is removed again."""
    write_model(tmp_path / "plain", task.base, seed=1)
    write_model(tmp_path / "wide", task.base, seed=2, labels=("a", "b", "c", "d"), hidden=16, pool="l2")
    write_model(tmp_path / "deep", task.base, seed=3, frozen=8, pool="max")
    yield task, tmp_path
    for card in task.finetuned_cards():
        task.remove(card.name)


def ask(task: Classification, name: str | None, key: str = "coffee", **options: object) -> models.catalogue.Predictions:
    return models.run(task, photo(key), model=name, **options)


def refusal(task: Classification, name: str, folder: Path) -> StoreError:
    with pytest.raises(StoreError) as refused:
        task.install(name, folder / name)
    assert repr(name) in refused.value.detail
    return refused.value


def test_a_model_answers_with_its_own_head_on_the_shared_features(hosting: tuple[Classification, Path]) -> None:
    task, folder = hosting
    task.install("wide", folder / "wide")
    crop = task.prepare(photo("coffee"))
    with torch.inference_mode():
        maps = task.base.network.features(task.base.normalize(torch.from_numpy(crop[None])))
        state = store.read_tensors("wide", folder / "wide", store.read_spec("wide", folder / "wide"))
        hidden = torch.einsum("nchw,dc->ndhw", maps, state["head.conv.weight"].flatten(1))
        hidden = (hidden + state["head.conv.bias"].view(-1, 1, 1)).clamp(min=0)
        logits = pool(hidden, "l2") @ state["head.fc.weight"].T + state["head.fc.bias"]
    found = ask(task, "wide", top_k=4)
    scores = logits.softmax(1)[0].numpy()
    assert found.labels == tuple("abcd"[index] for index in np.argsort(-scores))
    assert found.scores == pytest.approx(np.sort(scores)[::-1], abs=1e-5)
    assert found.wnids is None


def test_one_batch_of_mixed_models_gives_the_lone_answers_in_one_pass_of_the_backbone(
    hosting: tuple[Classification, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, folder = hosting
    for name in ("plain", "wide", "deep"):
        task.install(name, folder / name)
    asked = [("wide", "coffee"), (None, "chelsea"), ("deep", "coffee"), ("plain", "astronaut"), ("wide", "chelsea"),
             ("deep", "chelsea"), (None, "coffee")]  # fmt: skip
    alone = [ask(task, name, key, top_k=1000) for name, key in asked]
    seen = []
    whole = task.features
    monkeypatch.setitem(vars(task), "features", lambda pixels: seen.append(len(pixels)) or whole(pixels))
    requests = [task.resolve(ClassifyOptions(model=name, top_k=1000)) for name, _ in asked]
    outputs = task.predict([(task.prepare(photo(key)), mine) for (_, key), mine in zip(asked, requests, strict=True)])
    # Five requests share one pass of the backbone; the two for "deep" have a separate one.
    assert seen == [5]
    for output, mine, expected in zip(outputs, requests, alone, strict=True):
        found = task.finish(output, mine)
        assert sorted(found.labels) == sorted(expected.labels)
        scores, wanted = (dict(zip(p.class_ids.tolist(), p.scores.tolist(), strict=True)) for p in (found, expected))
        assert scores == pytest.approx(wanted, abs=1e-5)


def test_twenty_heads_share_the_backbone_and_its_stages_are_not_copied(hosting: tuple[Classification, Path]) -> None:
    task, folder = hosting
    for number in range(20):
        shutil.copytree(folder / "plain", folder / f"copy{number}")
        task.install(f"copy{number}", folder / f"copy{number}")
    own = 4 * (1280 * len(KINDS) + len(KINDS))
    assert [card.bytes for card in task.finetuned_cards()] == [own] * 20
    task.install("deep", folder / "deep")
    (deep,) = (card for card in task.finetuned_cards() if card.name == "deep")
    # Only the last convolution and its batch normalisation are added.
    assert deep.bytes == own + 4 * (320 * 1280 + 4 * 1280) + 8


def test_a_request_is_answered_by_the_model_that_it_was_resolved_with(hosting: tuple[Classification, Path]) -> None:
    task, folder = hosting
    task.install("plain", folder / "plain")
    request = task.resolve(ClassifyOptions(model="plain", classes=["disc"]))
    shutil.rmtree(folder / "plain")
    write_model(folder / "plain", task.base, seed=5, labels=("x", "y"))
    task.install("plain", folder / "plain")
    (output,) = task.predict([(task.prepare(photo("coffee")), request)])
    assert task.finish(output, request).labels == ("disc",)
    assert set(ask(task, "plain").labels) == {"x", "y"}
    task.remove("plain")
    (output,) = task.predict([(task.prepare(photo("coffee")), request)])
    assert task.finish(output, request).labels == ("disc",)
    with pytest.raises(OptionError) as refused:
        ask(task, "plain")
    assert refused.value.code == "unknown_model"
    assert "efficientnet-lite0" in refused.value.hint


def test_truncated_swapped_and_foreign_tensors_are_refused_by_name(hosting: tuple[Classification, Path]) -> None:
    task, folder = hosting
    weights = folder / "plain" / store.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "does not have the SHA-256 that model.json names" in refusal(task, "plain", folder).detail
    weights.write_bytes((folder / "wide" / store.WEIGHTS).read_bytes())
    assert refusal(task, "plain", folder).code == "model_corrupt"
    weights.unlink()
    assert refusal(task, "plain", folder).code == "model_corrupt"
    # A matching hash is not enough: the tensors may be another model's, and the bytes may not be tensors.
    spec = store.read_spec("plain", folder / "plain").model_dump()
    for content, code in (
        (save({"head.fc.weight": torch.zeros(3, 7), "head.fc.bias": torch.zeros(3)}), "model_mismatch"),
        (save({"weight": torch.zeros(3)}), "model_mismatch"),
        (b"\x80\x04pickle, perhaps", "model_corrupt"),
    ):
        weights.write_bytes(content)
        digest = store.hashlib.sha256(content).hexdigest()
        (folder / "plain" / store.SPEC).write_text(json.dumps(spec | {"sha256": digest}))
        assert refusal(task, "plain", folder).code == code
    assert task.finetuned_cards() == []


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"format": 2}, "model_corrupt", "format"),
        ({"labels": []}, "model_corrupt", "labels"),
        ({"task": "detect"}, "model_mismatch", "it is for detect"),
        ({"backbone": {"name": "resnet50", "sha256": "0" * 64, "frozen": 5}}, "model_mismatch", "resnet50"),
        ({"head": {"pool": "median"}}, "model_mismatch", "pool"),
        ({"labels": ["one", "two"]}, "model_mismatch", "size mismatch"),
    ],
)
def test_a_model_json_for_something_else_is_refused_by_name(
    hosting: tuple[Classification, Path], change: dict[str, object], code: str, said: str
) -> None:
    task, folder = hosting
    spec = json.loads((folder / "plain" / store.SPEC).read_text())
    (folder / "plain" / store.SPEC).write_text(json.dumps(spec | change))
    refused = refusal(task, "plain", folder)
    assert refused.code == code
    assert said in refused.detail


def test_a_worker_that_starts_later_serves_the_listed_models(hosting: tuple[Classification, Path]) -> None:
    task, folder = hosting
    settings = Settings(models_dir=folder, port=1)
    served_models.write(settings, {name: served_models.inspect(settings, name) for name in ("plain", "wide")})
    first = ModelLoader("classify", task, settings)
    assert first.sync() == {}
    assert [card.name for card in first.cards()] == ["plain", "wide"]
    # A model that is damaged between the check and the load is rejected; its old version and the others stay.
    entries = served_models.read(settings)
    (folder / "plain" / store.WEIGHTS).write_bytes(b"")
    served_models.write(settings, entries | {"plain": served_models.Entry("classify", str(folder / "plain"), "again")})
    code, detail, _ = first.sync()["plain"]
    assert (code, "'plain'" in detail) == ("model_corrupt", True)
    assert {card.name for card in first.cards()} == {"plain", "wide"}
    later = ModelLoader("classify", classify.load("tiny", "cpu"), settings)
    assert later.sync().keys() == {"plain"}
    assert [card.name for card in later.cards()] == ["wide"]
    served_models.write(settings, {})
    assert later.sync() == {}
    assert later.cards() == []
    assert ModelLoader("detect", object(), settings).sync() == {}


def test_workers_return_to_the_same_version_if_one_of_them_rejects_the_next(
    hosting: tuple[Classification, Path],
) -> None:
    task, folder = hosting
    settings = Settings(models_dir=folder, port=1)
    served_models.write(settings, {"plain": served_models.inspect(settings, "plain")})
    tasks = [task, classify.load("tiny", "cpu")]
    workers = [ModelLoader("classify", one, settings) for one in tasks]
    assert [worker.sync() for worker in workers] == [{}, {}]
    before, scores = served_models.read(settings), ask(task, "plain").scores
    # The folder has a new version, which is damaged after the first worker has loaded it.
    shutil.rmtree(folder / "plain")
    write_model(folder / "plain", task.base, seed=5)
    served_models.write(settings, {"plain": served_models.inspect(settings, "plain")})
    assert workers[0].sync() == {}
    assert (ask(task, "plain").scores != scores).any()
    (folder / "plain" / store.WEIGHTS).write_bytes(b"short")
    assert workers[1].sync().keys() == {"plain"}
    served_models.write(settings, before)
    assert [worker.sync() for worker in workers] == [{}, {}]
    assert all((ask(one, "plain").scores == scores).all() for one in tasks)


@pytest.mark.parametrize("name", ["../plain", ".plain", "a/b", "", "x" * 65, "detect", "a\n"])
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="Invalid model name"):
        served_models.inspect(Settings(models_dir=tmp_path, port=1), name)


def test_settings_name_models_outside_the_folder(tmp_path: Path) -> None:
    found = Settings(models=f"a={tmp_path}/x, b=y", models_dir=tmp_path)
    assert found.models == {"a": tmp_path / "x", "b": Path.cwd() / "y"}
    assert served_models.folder_of(found, "a") == tmp_path / "x"
    assert served_models.folder_of(found, "c") == tmp_path / "c"
    for wrong in ("a", "=x", "../a=x", "detect=x"):
        with pytest.raises(ValueError, match=r"NAME=PATH|invalid model name"):
            Settings(models=wrong)


def test_loading_and_dropping_under_eight_clients_loses_no_request(
    server: str, models_dir: Path, task: Classification
) -> None:
    write_model(models_dir / "first", task.base, seed=1)
    write_model(models_dir / "second", task.base, seed=2, frozen=8)
    write_detector(models_dir / "named", ("cup", "vase"))
    body, stop = encoded(photo("coffee").resize((120, 90))), threading.Event()
    answers: list[tuple[str | None, int, str]] = []

    def client(name: str | None) -> None:
        path = "/v1/detect" if name == "named" else "/v1/classify"
        with httpx.Client(base_url=server, timeout=60) as http:
            while not stop.is_set():
                response = http.post(path, content=body, params={"model": name} if name else {})
                answers.append((name, response.status_code, response.json().get("model", response.text)))

    with httpx.Client(base_url=server, timeout=60) as http, ThreadPoolExecutor(8) as pool_of_clients:
        assert [http.put(f"/v1/models/{name}").status_code for name in ("first", "named")] == [200, 200]
        names = (None, "first", None, "first", None, "first", "named", "named")
        clients = [pool_of_clients.submit(client, name) for name in names]
        try:
            rounds = 0
            while rounds < 6 or len(answers) <= 50:
                rounds += 1
                loaded = http.put("/v1/models/second").json()
                assert (loaded["name"], loaded["labels"], loaded["finetuned"]) == ("second", list(KINDS), True)
                # Models in use are reloaded, too.
                assert http.put("/v1/models/first").status_code == 200
                assert http.put("/v1/models/named").status_code == 200
                answer = http.post("/v1/classify", content=body, params={"model": "second"})
                assert answer.json()["model"] == "second"
                assert http.delete("/v1/models/second").status_code == 204
                gone = http.post("/v1/classify", content=body, params={"model": "second"})
                assert (gone.status_code, gone.json()["code"]) == (404, "unknown_model")
        finally:
            stop.set()
        for future in clients:
            future.result()
        assert {(name, status, model) for name, status, model in answers} == {
            (None, 200, "efficientnet-lite0"),
            ("first", 200, "first"),
            ("named", 200, "named"),
        }
        cards = ModelCards.model_validate(http.get("/v1/models").json()).models
        assert {card.name for card in cards if card.finetuned} == {"first", "named"}
        assert [http.delete(f"/v1/models/{name}").status_code for name in ("first", "named")] == [204, 204]


def test_the_network_names_models_and_no_paths(server: str, models_dir: Path, task: Classification) -> None:
    write_model(models_dir.parent / "outside", task.base, seed=1)
    write_model(models_dir / "broken", task.base, seed=1)
    (models_dir / "broken" / store.WEIGHTS).write_bytes(b"short")
    with httpx.Client(base_url=server, timeout=60) as http:
        for name, status, code in (
            ("nothing", 404, "unknown_model"),
            ("%2E%2E%2Foutside", 404, "not_found"),
            (".served", 400, "invalid_model_name"),
            ("detect", 400, "invalid_model_name"),
            ("efficientnet-lite0", 409, "builtin_model"),
            ("broken", 409, "model_corrupt"),
        ):
            response = http.put(f"/v1/models/{name}")
            assert (response.status_code, response.json()["code"]) == (status, code)
            assert str(models_dir) not in response.text
        for name, code in (("broken", "unknown_model"), ("efficientnet-lite0", "builtin_model")):
            assert http.delete(f"/v1/models/{name}").json()["code"] == code
        assert http.get("/v1/models/efficientnet-lite0").json()["task"] == "classify"
        assert http.get("/v1/models/broken").json()["code"] == "unknown_model"
        assert http.post("/v1/models/broken").headers["allow"] == "DELETE, GET, HEAD, PUT"


def test_the_command_line_loads_lists_and_drops(
    server: str, models_dir: Path, task: Classification, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(models_dir / "typed", task.base, seed=1)
    assert main(["models", "load", "typed", "--url", server]) == 0
    assert f"POST {server}/v1/classify?model=typed" in capsys.readouterr().out
    assert main(["models", "--url", server]) == 0
    tuned = {card["name"]: card["finetuned"] for card in json.loads(capsys.readouterr().out)}
    assert tuned["typed"]
    assert not tuned["efficientnet-lite0"]
    assert main(["models", "unload", "typed", "--url", server]) == 0
    assert main(["models", "unload", "typed", "--url", server]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "There is no model 'typed' here." in told
    assert "efficientnet-lite0" in told


def test_a_worker_killed_while_loading_comes_back_with_what_it_served(
    server: str, models_dir: Path, task: Classification
) -> None:
    write_model(models_dir / "kept", task.base, seed=1, frozen=4)
    body, asked, stop = encoded(photo("coffee")), "/v1/classify?model=kept", threading.Event()

    def load_again_and_again() -> None:
        while not stop.is_set():
            httpx.put(f"{server}/v1/models/kept", timeout=60)

    with httpx.Client(base_url=server, timeout=60) as http:
        assert http.put("/v1/models/kept").status_code == 200
        before = http.post(asked, content=body).json()["predictions"]
        loader = threading.Thread(target=load_again_and_again)
        loader.start()
        time.sleep(0.3)
        kill_worker(server, "classify")
        stop.set()
        loader.join()
        deadline = time.monotonic() + 120
        # Each request uses a new connection: HAProxy may close a used one without an answer and leave the retry to the
        # client.
        while (answer := httpx.post(f"{server}{asked}", content=body, timeout=60)).status_code != 200:
            assert answer.status_code in (404, 502, 503, 500)
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert answer.json()["predictions"] == before
        assert http.delete("/v1/models/kept").status_code == 204


@pytest.mark.parametrize("file", [store.SPEC, store.WEIGHTS])
def test_a_file_that_is_no_regular_file_is_not_waited_for(tmp_path: Path, file: str) -> None:
    whole = tmp_path / "birds"
    write_model(whole, backbone.load("tiny"), seed=1)
    (whole / file).unlink()
    os.mkfifo(whole / file)
    with pytest.raises(StoreError, match="not a regular file") as caught:
        store.read_weights("birds", whole, store.read_spec("birds", whole))
    assert caught.value.code == "model_corrupt"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": {"task": "classify"}}', b"\xff"])
def test_a_damaged_list_keeps_what_is_loaded(tmp_path: Path, task: Classification, content: bytes) -> None:
    settings = Settings(models_dir=tmp_path)
    loader = ModelLoader("classify", task, settings)
    assert loader.sync() == {}
    served_models.path(settings).write_bytes(content)
    assert loader.sync() == {}
    with pytest.raises(StoreError) as caught:
        served_models.read(settings)
    assert caught.value.code == "model_list_corrupt"
