"""Ray's private parts: each is checked at the start, and one that has changed is named."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from foursight.serving.preflight import LaunchError
from foursight.serving.ray_internals import checks, environment
from foursight.serving.ray_internals.checks import Internal

INTERNALS = list(checks.internals())


@pytest.fixture
def ray(tmp_path: Path) -> Path:
    """A copy of the files of Ray that are checked, for the tests to break."""
    spec = find_spec("ray")
    assert spec
    assert spec.origin
    for file in {internal.file for internal in INTERNALS}:
        copy = tmp_path / "ray" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(Path(spec.origin).parent / file)
    return tmp_path / "ray"


def break_(internal: Internal, ray: Path) -> None:
    """Replace an internal's text in the copy with something of the same length."""
    file = ray / internal.file
    content = file.read_bytes()
    text = internal.text.encode()
    assert text in content
    file.unlink()
    file.write_bytes(content.replace(text, b"?" * len(text)))


def test_the_installed_ray_has_everything() -> None:
    checks.check()


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: internal.name)
def test_what_no_longer_holds_is_named_in_one_line(ray: Path, internal: Internal) -> None:
    checks.check(ray)
    break_(internal, ray)
    with pytest.raises(LaunchError) as refused:
        checks.check(ray)
    message = str(refused.value)
    assert "\n" not in message
    assert internal.name in message
    assert "Use Ray 2.60." in message
    shutil.rmtree(ray)


def test_the_purpose_is_in_the_message(ray: Path) -> None:
    break_(INTERNALS[0], ray)
    with pytest.raises(
        LaunchError,
        match=r"^Ray [\d.]+ has no serve\._private\.replica\.add_port_to_grpc_server: "
        r"Foursight cannot bind replicas to loopback\. Use Ray 2\.60\.$",
    ):
        checks.check(ray)


def test_a_file_that_is_gone_is_an_error_too(ray: Path) -> None:
    (ray / "serve/_private/constants.py").unlink()
    with pytest.raises(LaunchError, match="RAY_SERVE_ENABLE_HA_PROXY"):
        checks.check(ray)


def test_all_variables_of_the_environment_are_checked() -> None:
    names = {internal.name for internal in INTERNALS}
    assert {f"variable {name}" for name in environment.variables(Path("/x"), 2, 3)} <= names


def test_a_program_that_was_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(LaunchError, match=rf"{tmp_path}/bin/foursight-haproxy is missing"):
        checks.check()


def test_ray_is_on_loopback_whatever_the_server_listens_on() -> None:
    assert environment.variables(Path("/x"), 1, 1)["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert environment.init_arguments(Path("/x"))["_node_ip_address"] == "127.0.0.1"


def test_token_authentication_does_not_depend_on_the_callers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert environment.variables(Path("/x"), 1, 1)["RAY_AUTH_MODE"] == "token"
