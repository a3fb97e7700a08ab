"""The container files, checked without Docker against the Compose schema, the Makefile and the settings."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError

from foursight.serving.settings import Settings
from tests.stubs import Stub

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]
SERVER, LOAD = SERVICES["server"], SERVICES["load"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")


def validate(compose: str) -> None:
    """Raise ValidationError where the schema of the Compose specification is not met."""
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    Draft7Validator(schema).validate(yaml.safe_load(compose))


def stage(name: str) -> str:
    """Return the lines of a stage of the Dockerfile."""
    found = re.search(rf"(?ms)^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", DOCKERFILE)
    assert found, f"no stage {name}"
    return found[1]


def make_targets(name: str) -> list[str]:
    """Return the targets that a stage of the Dockerfile makes."""
    return [target for line in re.findall(r"(?m)^RUN .*\bmake (\S.*)$", stage(name)) for target in line.split()]


def would_run(target: str, folder: Path = ROOT) -> list[str]:
    """Return the commands that make would run for a target from scratch."""
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_compose_file_meets_the_specification() -> None:
    validate(COMPOSE)


def test_the_line_for_a_gpu_meets_it_too() -> None:
    with_gpu = COMPOSE.replace("    # deploy:", "    deploy:")
    (device,) = yaml.safe_load(with_gpu)["services"]["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    validate(with_gpu)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "healthchecks:"),
        ("condition: service_healthy", "condition: service_ready"),
        ("interval: 10s", "interval: [10s]"),
        ("services:", "service:"),
        ("volumes:\n  weights:", "volumes:\n  weights: /srv"),
    ],
)
def test_a_broken_compose_file_is_rejected(right: str, wrong: str) -> None:
    assert right in COMPOSE
    with pytest.raises(ValidationError):
        validate(COMPOSE.replace(right, wrong))


def test_ports_are_published_on_loopback_only() -> None:
    assert SERVER["ports"] == ["127.0.0.1:${FOURSIGHT_PORT:-8000}:8000"]
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert "network_mode" not in service


def test_every_foursight_variable_is_a_setting_of_the_server() -> None:
    named = set(re.findall(r"FOURSIGHT_(\w+)", COMPOSE + DOCKERFILE))
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_every_setting_is_passed_through_and_no_default_is_repeated() -> None:
    # Entries are only names; an entry with "=" would repeat a default in compose. One differs from the default: the
    # server cannot know that its port is published on loopback only, where no keys are needed.
    entries = [one.replace("AUTH=${FOURSIGHT_AUTH:-off}", "AUTH") for one in SERVER["environment"]]
    passed = {entry.removeprefix("FOURSIGHT_").lower() for entry in entries if not entry.startswith("OTEL_")}
    # The container listens on all its interfaces, at the default port, which compose publishes.
    assert "ENV FOURSIGHT_HOST=0.0.0.0" in stage("server")
    assert Settings.model_fields["port"].default == 8000
    # These are files, which would have to be mounted.
    files = {"calibration_dir", "models", "models_dir", "keys_file", "tls_cert", "tls_key"}
    assert passed == set(Settings.model_fields) - {"host", "port"} - files


@pytest.mark.parametrize("variable", ["TORCH_HOME", "FOURSIGHT_MODELS_DIR", "FOURSIGHT_KEYS_FILE"])
def test_what_the_server_writes_lies_on_volumes_that_it_may_write_on(variable: str) -> None:
    (folder,) = re.findall(rf"(?m)^ENV {variable}=(\S+)$", stage("server"))
    folder = folder.removesuffix("/keys.json")
    (source,) = [volume.rpartition(":")[0] for volume in SERVER["volumes"] if volume.endswith(f":{folder}")]
    # A new volume gets the owner of the folder that it covers; a missing folder would belong to root.
    assert re.search(rf"install --directory --owner foursight .*{folder}( |$)", stage("base"), re.MULTILINE)
    named = re.sub(r"^\$\{FOURSIGHT_MODELS_DIR:-(.*)\}$", r"\1", source)
    assert named in yaml.safe_load(COMPOSE)["volumes"]


def test_a_folder_of_this_machine_takes_the_place_of_the_volume_of_models() -> None:
    assert "${FOURSIGHT_MODELS_DIR:-models}:/srv/models" in SERVER["volumes"]
    validate(COMPOSE.replace("${FOURSIGHT_MODELS_DIR:-models}", "/home/me/models"))


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_readyz_and_believes_its_status(status: int, healthy: bool) -> None:
    kind, python, *arguments = SERVER["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python3")
    with Stub(status=status) as stub:
        command = [text.replace("127.0.0.1:8000", f"127.0.0.1:{stub.port}") for text in arguments]
        checked = subprocess.run([sys.executable, *command], capture_output=True, check=False)
    assert stub.requests == ["/readyz"]
    assert (checked.returncode == 0) is healthy


def test_the_image_is_installed_and_started_as_make_run_does_it() -> None:
    target, traces = make_targets("server")
    assert any("'.[otel]'" in line for line in would_run(traces))
    *installation, start = would_run("run")
    assert would_run(target) == installation
    assert any("pip install" in line and "'.[server]'" in line for line in installation)
    command = re.search(r"(?m)^CMD (\[.*\])$", stage("server"))
    assert command
    assert json.loads(command[1]) == shlex.split(start)


def test_the_image_of_the_load_test_is_installed_by_the_makefile_too() -> None:
    (target,) = make_targets("load")
    assert any("pip install" in line and "'.[load]'" in line for line in would_run(target))


@pytest.mark.parametrize("name", ["server", "load"])
def test_what_the_ignore_file_lets_through_is_enough_to_install(name: str, tmp_path: Path) -> None:
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, copied = ROOT / line[1:], tmp_path / line[1:]
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, copied, symlinks=True) if source.is_dir() else shutil.copy(source, copied)
    rooms = [member for member in (tmp_path / "src" / "foursight").iterdir() if member.is_symlink()]
    assert rooms
    assert all(room.is_dir() for room in rooms)
    for target in make_targets(name):
        assert would_run(target, tmp_path) == would_run(target)


def test_the_server_does_not_run_as_root() -> None:
    users = re.findall(r"(?m)^USER (\S+)$", DOCKERFILE)
    assert users
    assert not {"root", "0"} & set(users)


def test_the_stages_that_compose_builds_are_there() -> None:
    for service in SERVICES.values():
        if "build" in service:
            assert stage(service["build"]["target"])


def test_the_load_waits_for_a_healthy_server_and_is_asked_for_by_name() -> None:
    assert LOAD["profiles"] == ["load"]
    assert "profiles" not in SERVER
    assert LOAD["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert "--host http://server:8000" in LOAD["command"]
    assert "--run-time 2m" in LOAD["command"]
