"""The server's settings, read once at the start: FOURSIGHT_* in the environment, or options of `foursight serve`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foursight.models.catalogue import Device
from foursight.models.engines.precision import Precision, PrecisionConfig
from foursight.models.finetuned import store
from foursight.models.image import MAX_PIXELS
from foursight.models.results import Profile
from foursight.schema.suggest import close_matches
from foursight.schema.tasks import TASKS
from foursight.serving import api_keys
from foursight.serving.logs import Level, LogFormat
from foursight.serving.ray_internals import loopback

PREFIX = "FOURSIGHT_"
Auth = Literal["auto", "keys", "off"]
# Variables of the SDK and the command line.
CLIENT_VARIABLES = {"FOURSIGHT_URL", "FOURSIGHT_API_KEY"}
# Names in earlier versions, and those that replaced them.
RENAMED = {
    "FOURSIGHT_MAX_BYTES": "FOURSIGHT_MAX_UPLOAD_BYTES",
    "FOURSIGHT_MAX_PIXELS": "FOURSIGHT_MAX_IMAGE_PIXELS",
    "FOURSIGHT_ANSWER_CACHE": "FOURSIGHT_ANSWER_CACHE_MIB",
    "FOURSIGHT_CALIBRATION": "FOURSIGHT_CALIBRATION_DIR",
}
# Kubernetes sets these in every container of a namespace with a Service named "foursight".
KUBERNETES_VARIABLE = re.compile(r"FOURSIGHT_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_\w+)?")

# As browsers send it (RFC 6454): in lower case and without a slash at the end.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+")
# An IPv6 address is in brackets, as in the header Host.
HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]")


class Settings(BaseSettings):
    """Every default works on a laptop. The descriptions are the help texts of `foursight serve`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 or :: for all interfaces.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Other names that Host may have, comma-separated; * for all. By default all, if not on loopback.",
    )
    auth: Auth = Field(
        "auto", description="Who may send requests: keys (with an API key), off (all), auto (off on loopback)."
    )
    keys_file: Path = Field(api_keys.default_file(), description="File of API keys, written by `foursight keys`.")
    tls_cert: Path | None = Field(None, description="Certificate chain in PEM, for HTTPS.")
    tls_key: Path | None = Field(None, description="Its private key, if it is in another file.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on, 1 to 65535.")
    profile: Profile = Field("tiny", description="Weights: tiny (built in) or standard (torchvision's, downloaded).")
    tasks: Annotated[tuple[str, ...], NoDecode] = Field(
        tuple(TASKS), description=f"Tasks to serve, comma-separated: {', '.join(TASKS)}."
    )
    device: Device = Field("auto", description="Where networks run: cpu, cuda, or auto (a GPU if there is one).")
    precision: Precision = Field("float32", description="Number format on a CPU: float32, bfloat16 or int8.")
    calibration_dir: Path | None = Field(
        None, description="Folder of sample images, from which int8 takes its value ranges."
    )
    replicas: int = Field(1, ge=1, le=64, description="Worker processes per task, 1 to 64.")
    max_batch: int = Field(8, ge=1, le=256, description="Largest number of images in one batch, 1 to 256.")
    max_queue: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Images that may wait per worker, 1 to 10000; beyond it, or for a wait over 60 s, it answers 503.",
    )
    max_upload_bytes: int = Field(
        32 * 2**20, ge=1024, le=2**30, description="Largest upload in bytes, 1024 to 1073741824."
    )
    max_image_pixels: int = Field(
        MAX_PIXELS, ge=1, le=10**9, description="Largest image in pixels (width x height), 1 to 1000000000."
    )
    max_uploads_mib: int = Field(
        512, ge=1, le=2**20, description="Memory for uploads in flight per worker in MiB, 1 to 1048576."
    )
    max_client_connections: int = Field(
        1024, ge=0, le=65_535, description="Connections of one address, 0 (no limit) to 65535."
    )
    request_timeout_s: int = Field(
        100, ge=1, le=110, description="Time limit for answering a request in seconds, 1 to 110."
    )
    decode_timeout_s: int = Field(
        10, ge=1, le=3600, description="Time limit for decoding one image in seconds, 1 to 3600."
    )
    answer_cache_mib: int = Field(
        0, ge=0, le=2**20, description="Memory for cached answers per worker in MiB, 0 (no cache) to 1048576."
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose web pages may call the server, comma-separated; * for all."
    )
    log_level: Level = Field("info", description="Lines of the log to print: debug, info, warning or error.")
    log_format: LogFormat = Field(
        "auto", description="Format of the log: json, text, or auto (text on a terminal, else json)."
    )
    start_timeout_s: int = Field(
        300, ge=1, le=86_400, description="Time limit for the start in seconds, without downloads, 1 to 86400."
    )
    stop_timeout_s: int = Field(
        30, ge=0, le=3600, description="Time limit for answering what is in flight at the stop in seconds, 0 to 3600."
    )
    models: Annotated[dict[str, Path], NoDecode] = Field(
        {},
        description="Fine-tuned models outside the models folder, as NAME=PATH; repeat it or separate with commas.",
    )
    models_dir: Path = Field(store.default_folder(), description="Models folder, with one folder per fine-tuned model.")

    @model_validator(mode="before")
    @classmethod
    def _check_environment(cls, values: Any) -> Any:
        known = {f"{PREFIX}{name}".upper() for name in cls.model_fields} | CLIENT_VARIABLES
        for variable in unknown_variables(os.environ, known):
            raise PydanticCustomError("unknown_variable", "{message}", {"message": _unknown(variable, known)})
        return values

    @field_validator("tasks", "allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = next((one for one in value if one != "*" and not ORIGIN.fullmatch(one)), None)
        if wrong:
            raise PydanticCustomError(
                "invalid_origin",
                "{wrong} is not an origin; an origin is a scheme, a host and perhaps a port, as in https://example.org",
                {"wrong": repr(wrong)},
            )
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = next((one for one in value if one != "*" and not HOST.fullmatch(one)), None)
        if wrong:
            raise PydanticCustomError(
                "invalid_host",
                "{wrong} is not the name of a host; a name has no scheme and no port, as in vision.example.org",
                {"wrong": repr(wrong)},
            )
        return tuple(one.lower() for one in value)

    @field_validator("tasks")
    @classmethod
    def _check_tasks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in TASKS]
        if unknown or not value:
            problem = f"unknown task {', '.join(map(repr, unknown))}" if unknown else "must not be empty"
            raise PydanticCustomError(
                "unknown_task",
                "{problem}; valid tasks: {tasks}",
                {"problem": problem, "tasks": ", ".join(TASKS)},
            )
        return tuple(dict.fromkeys(value))

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, value: object) -> object:
        words = value.split(",") if isinstance(value, str) else value
        if not isinstance(words, list):
            return value
        pairs = [word.partition("=") for word in words if word.strip()]
        for name, _, path in pairs:
            if not (name.strip() and path.strip()):
                raise PydanticCustomError("invalid_model", "must be NAME=PATH, not {value}", {"value": repr(name)})
        return {name.strip(): path.strip() for name, _, path in pairs}

    @field_validator("models")
    @classmethod
    def _check_models(cls, value: dict[str, Path]) -> dict[str, Path]:
        for name in value:
            if store.NAME.fullmatch(name) is None or name in TASKS:
                raise PydanticCustomError(
                    "invalid_model",
                    "invalid model name {name}; a name has 1 to 64 letters, digits, '.', '_' or '-', starts with a "
                    "letter or digit, and is not the name of a task",
                    {"name": repr(name)},
                )
        # Absolute, because workers run in another working directory.
        return {name: path.expanduser().absolute() for name, path in value.items()}

    @field_validator("models_dir", "calibration_dir", "keys_file", "tls_cert", "tls_key")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @model_validator(mode="after")
    def _check_certificate(self) -> Self:
        if self.tls_key and not self.tls_cert:
            raise PydanticCustomError("no_certificate", "--tls-key needs --tls-cert")
        return self

    @field_validator("*", mode="wrap")
    @classmethod
    def _name_valid_values(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Replace pydantic's message, which names one bound, with one that names all valid values."""
        try:
            return validate(value)
        except ValidationError:
            valid = valid_values(cls.model_fields[info.field_name or ""])
            if not valid:
                raise
            raise PydanticCustomError(
                "invalid_value", "must be {valid}, not {value}", {"valid": valid, "value": repr(value)}
            ) from None

    @property
    def needs_keys(self) -> bool:
        """Whether requests need an API key."""
        return self.auth == "keys" or (self.auth == "auto" and not loopback.is_loopback(self.host))

    @property
    def precision_config(self) -> PrecisionConfig:
        """The number format that networks are computed in."""
        return PrecisionConfig(self.precision, self.calibration_dir)


def valid_values(field: FieldInfo) -> str | None:
    """Return the valid values of a setting as text, if it is a number or a choice: "an integer from 1 to 64"."""
    if get_origin(field.annotation) is Literal:
        *others, last = get_args(field.annotation)
        return f"{', '.join(others)} or {last}"
    if field.annotation is not int:
        return None
    low = next(bound.ge for bound in field.metadata if hasattr(bound, "ge"))
    high = next(bound.le for bound in field.metadata if hasattr(bound, "le"))
    return f"an integer from {low} to {high}"


def unknown_variables(environment: Mapping[str, str], known: set[str]) -> list[str]:
    """Return the FOURSIGHT_* variables that are not in `known`."""
    return [
        name
        for name in environment
        if name.upper().startswith(PREFIX)
        and name.upper() not in known
        and not KUBERNETES_VARIABLE.fullmatch(name.upper())
    ]


def _unknown(variable: str, known: set[str]) -> str:
    new = RENAMED.get(variable.upper())
    if new:
        return f"the environment variable {variable} is now {new}"
    # Without the prefix, which makes all names look alike.
    closest = close_matches(variable.upper().removeprefix(PREFIX), [name.removeprefix(PREFIX) for name in known], 1)
    hint = f"did you mean {PREFIX}{closest[0]}?" if closest else f"valid names: {', '.join(sorted(known))}"
    return f"unknown environment variable {variable}; {hint}"
