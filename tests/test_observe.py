"""Alert rules and the dashboard, with a real Prometheus that scrapes the server."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import free_port
from tests.photos import encoded, photo

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "foursight.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.mark.parametrize(
    "words", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts.test.yml"]
)
def test_the_configuration_and_the_alerts_are_right(words: str) -> None:
    done = subprocess.run(
        ["promtool", *words.split()], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def prometheus(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prometheus with our configuration that scrapes the server every second, while it answers."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    text = text.replace("server:8000", server.removeprefix("http://")).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(text.replace("alerts.yml", str(DEPLOY / "prometheus" / "alerts.yml")))
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(4):
                for task in ("classify", "localize", "detect", "segment"):
                    httpx.post(f"{server}/v1/{task}", content=encoded(photo("coffee")), timeout=60)
                httpx.post(f"{server}/v1/classify", content=b"no image", timeout=60)
                time.sleep(1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def ask(prometheus: str, query: str) -> list[dict]:
    """Return a query's result once it has one: Prometheus needs two samples for a rate."""
    deadline = time.monotonic() + 60
    while True:
        try:
            found = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=10).json()
            assert found["status"] == "success", found
            if found["data"]["result"] or time.monotonic() > deadline:
                return found["data"]["result"]
        except httpx.TransportError:
            assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_dashboard_has_a_result(prometheus: str, query: str) -> None:
    result = ask(prometheus, query.replace("$__rate_interval", "1m"))
    assert result, query
    assert {"classify", "detect"} & {series["metric"]["task"] for series in result}


def test_the_queries_and_alerts_name_only_metrics_of_the_server(server: str, prometheus: str) -> None:
    families = list(text_string_to_metric_families(httpx.get(f"{server}/metrics", timeout=60).text))
    known = {sample.name for family in families for sample in family.samples} | {family.name for family in families}
    named = re.findall(r"foursight_\w+", " ".join(QUERIES) + (DEPLOY / "prometheus" / "alerts.yml").read_text())
    assert len(set(named)) > 10
    assert set(named) - known == set()


def test_samples_have_no_times_of_creation(server: str) -> None:
    assert "_created" not in httpx.get(f"{server}/metrics", timeout=60).text
