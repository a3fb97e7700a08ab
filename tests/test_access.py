"""API keys and HTTPS: the file of keys, and a real server that requires them."""

import json
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from playwright.sync_api import expect

from foursight import Client
from foursight.clients.sdk.errors import CannotConnect, Rejected
from foursight.serving import api_keys, web
from foursight.serving.api_keys import KeysError, Scope
from tests.browsers import chromium
from tests.conftest import Running, free_port, log_of

PHOTO = web.FOLDER / "samples" / "cat.jpg"
FORM = "Bearer {}"


class Site:
    """A server with HTTPS that requires keys, and the files that it follows."""

    def __init__(self, folder: Path) -> None:
        self.keys = folder / "keys.json"
        self.certificate = folder / "cert.pem"
        self.private = folder / "key.pem"
        self.authorities = folder / "authorities.pem"
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(self.authorities)
        self.issue()
        scopes: dict[str, tuple[Scope, ...]] = {"all": api_keys.SCOPES} | {one: (one,) for one in api_keys.SCOPES}
        self.key = {name: api_keys.create(self.keys, name, some) for name, some in scopes.items()}
        self.key["slow"] = api_keys.create(self.keys, "slow", ["infer"], rate=3)
        self.key["wrong"] = "fsk_" + "x" * 43
        self.url = ""

    def issue(self) -> None:
        """Write a new certificate."""
        issued = self.authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(self.private)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self.certificate.write_bytes(chain)

    def client(self, key: str | None = None) -> httpx.Client:
        """An HTTP client that trusts the server."""
        headers = {"Authorization": FORM.format(self.key[key])} if key else {}
        trusted = ssl.create_default_context(cafile=self.authorities)
        return httpx.Client(base_url=self.url, headers=headers, verify=trusted, timeout=60, trust_env=False)

    def says(self, text: str) -> None:
        """Wait until the server has printed a message."""
        until(lambda: text in log_of(self.url))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    site = Site(folder)
    options = ("--tasks", "classify", "--auth", "keys", "--keys-file", site.keys)
    tls = ("--tls-cert", site.certificate, "--tls-key", site.private)
    with Running(free_port(), folder / "log", *map(str, options + tls), scheme="https") as running:
        site.url = running.url
        yield site


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


LOAD = ("PUT", "/v1/models/nothing")
CLASSIFY = ("POST", "/v1/classify")
OPEN = ["/", "/page/main.js", "/docs", "/openapi.json", "/healthz", "/readyz"]


@pytest.mark.parametrize(
    ("key", "request_", "status", "code"),
    [
        *((None, ("GET", path), 200, None) for path in OPEN),
        ("wrong", ("GET", "/healthz"), 200, None),
        (None, CLASSIFY, 401, "missing_key"),
        (None, ("GET", "/v1/models"), 401, "missing_key"),
        (None, ("GET", "/nowhere"), 401, "missing_key"),
        (None, ("GET", "/page/../v1/models"), 401, "missing_key"),
        ("wrong", CLASSIFY, 401, "invalid_key"),
        ("wrong", ("GET", "/metrics"), 401, "invalid_key"),
        ("infer", CLASSIFY, 200, None),
        ("infer", ("GET", "/v1/models/classify/layers"), 200, None),
        ("infer", ("GET", "/v1/models"), 200, None),
        ("infer", ("GET", "/metrics"), 403, "insufficient_scope"),
        ("infer", ("GET", "/metrics/"), 403, "insufficient_scope"),
        ("infer", ("GET", "/%6detrics"), 403, "insufficient_scope"),
        ("infer", LOAD, 403, "insufficient_scope"),
        ("infer", ("DELETE", "/v1/%6dodels/nothing"), 403, "insufficient_scope"),
        ("models", LOAD, 404, "unknown_model"),
        ("models", ("GET", "/v1/limits"), 200, None),
        ("models", CLASSIFY, 403, "insufficient_scope"),
        ("models", ("GET", "/metrics"), 403, "insufficient_scope"),
        ("models", ("GET", "/v1/models/classify/layers"), 403, "insufficient_scope"),
        ("metrics", ("GET", "/metrics"), 200, None),
        ("metrics", ("POST", "/v1/analyze"), 403, "insufficient_scope"),
        ("all", ("GET", "/metrics"), 200, None),
        ("all", LOAD, 404, "unknown_model"),
    ],
)
def test_a_key_allows_what_its_scopes_say(
    site: Site, key: str | None, request_: tuple[str, str], status: int, code: str | None
) -> None:
    method, path = request_
    with site.client(key) as client:
        # Sent as it is: httpx would resolve `..`.
        url = httpx.URL(site.url, raw_path=path.encode())
        response = client.request(method, url, content=PHOTO.read_bytes() if request_ == CLASSIFY else None)
    assert response.status_code == status
    if status in (401, 403):
        problem = response.json()
        assert (problem["code"], problem["status"]) == (code, status)
        assert response.headers["Content-Type"] == "application/problem+json"
        challenge = response.headers["WWW-Authenticate"]
        assert challenge.startswith('Bearer realm="Foursight"')
        assert ('error="invalid_token"' in challenge) == (code == "invalid_key")
        assert ('error="insufficient_scope"' in challenge) == (status == 403)
    elif code:
        assert response.json()["code"] == code


@pytest.mark.parametrize("header", ["Basic {}", "Bearer  {} x", "{}", "Bearer", "Bearer \xe9"])
def test_another_form_of_the_header_is_not_a_key(site: Site, header: str) -> None:
    with site.client() as client:
        value = header.format(site.key["all"]).encode("latin-1")
        response = client.get("/v1/models", headers={"Authorization": value})
    assert (response.status_code, response.json()["code"]) == (401, "invalid_key")


def test_a_large_upload_without_a_key_gets_the_reason(site: Site) -> None:
    with site.client() as client:
        response = client.post("/v1/classify", content=bytes(8_000_000))
    assert response.json()["code"] == "missing_key"


def test_the_log_has_the_name_of_the_key_and_never_a_key(site: Site) -> None:
    with site.client("infer") as client:
        client.get("/v1/limits", headers={"X-Request-ID": "named", "X-Foursight-Key": "somebody"})
    until(lambda: '"id": "named"' in log_of(site.url))
    (line,) = [json.loads(one) for one in log_of(site.url).splitlines() if '"id": "named"' in one]
    assert line["key"] == "infer"
    with site.client("wrong") as client:
        client.get("/v1/limits", headers={"X-Request-ID": "refused"})
    until(lambda: '"id": "refused"' in log_of(site.url))
    (line,) = [json.loads(one) for one in log_of(site.url).splitlines() if '"id": "refused"' in one]
    assert (line["task"], line["status"], line["code"]) == ("router", 401, "invalid_key")
    assert not any(key in log_of(site.url) for key in site.key.values())


def test_a_key_has_its_rate(site: Site) -> None:
    with site.client("slow") as client, ThreadPoolExecutor(20) as threads:
        responses = list(threads.map(lambda _: client.get("/v1/limits"), range(40)))
        refused = next(one for one in responses if one.status_code == 429)
        assert {one.status_code for one in responses} == {200, 429}
        assert refused.json()["code"] == "rate_limited"
        # Then it is let in again, as the client of Python expects.
        time.sleep(float(refused.headers["Retry-After"]))
        until(lambda: client.get("/v1/limits").status_code == 200)
    with site.client("infer") as other:
        assert other.get("/v1/limits").status_code == 200


def test_keys_change_without_a_restart_and_without_a_failed_request(site: Site) -> None:
    results: list[int] = []
    done = False

    def ask() -> None:
        with site.client("infer") as client:
            while not done:
                results.append(client.get("/v1/limits").status_code)
                time.sleep(0.01)

    asking = Thread(target=ask)
    asking.start()
    site.key["next"] = api_keys.create(site.keys, "next", ["infer"])
    with site.client("next") as client:
        until(lambda: client.get("/v1/limits").status_code == 200)
        api_keys.revoke(site.keys, "next")
        until(lambda: client.get("/v1/limits").status_code == 401)
    done = True
    asking.join()
    assert set(results) == {200}


def test_a_damaged_file_of_keys_is_reported_and_changes_nothing(site: Site) -> None:
    before = site.keys.read_text()
    site.keys.write_text(before[:-20])
    site.says("is not a file of API keys")
    with site.client("infer") as client:
        assert client.get("/v1/limits").status_code == 200
    site.keys.write_text(before)


def test_a_new_certificate_takes_effect_and_a_wrong_one_does_not(site: Site) -> None:
    parts = urlsplit(site.url)
    at = parts.hostname or "", parts.port or 0

    def presented() -> str:
        return ssl.get_server_certificate(at)

    old = presented()
    good = site.certificate.read_text()
    site.certificate.write_text(good.replace("MII", "XXX"))
    site.says("cannot be used")
    assert presented() == old
    site.issue()
    until(lambda: presented() != old)
    with site.client("infer") as client:
        assert client.get("/v1/limits").status_code == 200


def test_the_clients_of_python_and_the_command_line_send_a_key(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CannotConnect, match="certificate"), Client(site.url, site.key["infer"], retries=0) as client:
        client.models()
    monkeypatch.setenv("SSL_CERT_FILE", str(site.authorities))
    with Client(site.url, site.key["infer"]) as client:
        assert client.classify(PHOTO).predictions[0].label == "Egyptian cat"
    with pytest.raises(Rejected) as wrong, Client(site.url, site.key["wrong"]) as client:
        client.classify(PHOTO)
    assert wrong.value.code == "invalid_key"
    monkeypatch.setenv("FOURSIGHT_URL", site.url)
    for command in (["classify", str(PHOTO)], ["models"], ["benchmark", "--seconds", "1", "--connections", "1"]):
        run = [sys.executable, "-m", "foursight", *command]
        assert subprocess.run(run, check=False).returncode != 0
        capfd.readouterr()
        monkeypatch.setenv("FOURSIGHT_API_KEY", site.key["infer"])
        assert subprocess.run(run, check=False).returncode == 0, capfd.readouterr().err
        monkeypatch.delenv("FOURSIGHT_API_KEY")


def test_the_documentation_names_the_address_with_https(site: Site) -> None:
    with site.client() as client:
        assert site.url in client.get("/docs").text


def test_the_page_asks_for_a_key_and_keeps_it_for_the_tab(site: Site) -> None:
    with chromium() as browser:
        context = browser.new_context(base_url=site.url, ignore_https_errors=True)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.goto("/")
        dialog = page.locator("#key-dialog")
        expect(dialog).to_contain_text("This server needs an API key.")
        page.get_by_label("Key", exact=True).fill(site.key["wrong"])
        page.get_by_label("Key", exact=True).press("Enter")
        expect(dialog).to_contain_text("The API key is not valid.")
        page.get_by_label("Key", exact=True).fill(site.key["infer"])
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#models > div").first).to_be_visible()
        page.set_input_files("#file", PHOTO)
        expect(page.locator("#rows")).to_contain_text("Egyptian cat")
        expect(page.locator("#code-text")).to_contain_text('curl -H "Authorization: Bearer $FOURSIGHT_API_KEY" ')
        assert site.key["infer"] not in page.content()
        page.reload()
        expect(page.locator("#models > div").first).to_be_visible()
        expect(dialog).to_be_hidden()
        # Another tab asks again; cancelling leaves a page that says what is missing.
        other = context.new_page()
        other.goto("/")
        other.get_by_role("button", name="Cancel").click()
        expect(other.locator("#models")).to_contain_text("This server needs an API key.")


def serve_error(*options: str) -> str:
    """What `foursight serve` prints if it does not start."""
    run = [sys.executable, "-m", "foursight", "serve", *options]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    return done.stderr


def test_a_server_off_loopback_does_not_start_without_keys(tmp_path: Path) -> None:
    none = str(tmp_path / "keys.json")
    assert f"needs API keys, and {none} has none." in serve_error("--host", "0.0.0.0", "--keys-file", none)
    assert f"--auth keys needs API keys, and {none} has none." in serve_error("--auth", "keys", "--keys-file", none)
    (tmp_path / "keys.json").write_text("{")
    assert "is not a file of API keys" in serve_error("--auth", "keys", "--keys-file", none)


def test_a_server_does_not_start_with_a_certificate_that_it_cannot_use(tmp_path: Path) -> None:
    authority = trustme.CA()
    first, second = (authority.issue_cert("localhost") for _ in range(2))
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first.cert_chain_pems[0].write_to_path(certificate)
    assert f"{key} cannot be read" in serve_error("--tls-cert", str(certificate), "--tls-key", str(key))
    second.private_key_pem.write_to_path(key)
    assert "cannot be used: KEY_VALUES_MISMATCH" in serve_error("--tls-cert", str(certificate), "--tls-key", str(key))
    key.write_bytes(b"\x30\x82\xff")
    assert "is not in PEM" in serve_error("--tls-cert", str(certificate), "--tls-key", str(key))
    assert "--tls-key needs --tls-cert" in serve_error("--tls-key", str(key))


def test_the_file_has_hashes_that_only_its_owner_reads(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys.json"
    key = api_keys.create(file, "camera", ["infer", "metrics"], 5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    (stored,) = api_keys.load(file)
    assert (stored.name, stored.scopes, stored.rate) == ("camera", ("infer", "metrics"), 5)
    assert list(file.parent.iterdir()) == [file]


def test_keys_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(lambda number: api_keys.create(file, f"key-{number}", ["infer"]), range(40)))
    assert len(made) == len(api_keys.load(file)) == 40


def test_what_is_wrong_with_a_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    api_keys.create(file, "camera", ["infer"])
    with pytest.raises(KeysError, match="A key named 'camera' exists"):
        api_keys.create(file, "camera", ["infer"])
    with pytest.raises(KeysError, match=r"There is no key named 'kamera' in .* Its keys: camera"):
        api_keys.revoke(file, "kamera")
    for name in ("", "a b", "../x", "a|b", "x" * 65):
        with pytest.raises(KeysError, match="is not valid as a name"):
            api_keys.create(file, name, ["infer"])


def test_the_command_creates_lists_and_revokes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURSIGHT_KEYS_FILE", str(tmp_path / "keys.json"))

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        run = [sys.executable, "-m", "foursight", "keys", *arguments]
        return subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)

    created = keys("create", "camera", "--scopes", "metrics,infer", "--rate", "20")
    # Nothing else, so that a script can keep it.
    assert created.stdout.startswith("fsk_")
    assert created.stdout.count("\n") == 1
    (listed,) = json.loads(keys().stdout)
    assert (listed["name"], listed["scopes"], listed["rate"]) == ("camera", ["infer", "metrics"], 20)
    assert "sha256" not in listed
    assert "Scopes: infer, models, metrics." in keys("create", "other", "--scopes", "admin").stderr
    assert keys("revoke", "camera").stdout == "camera is revoked.\n"
    assert json.loads(keys().stdout) == []
