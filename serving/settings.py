"""The settings of the server: FOURSIGHT_* in the environment, or the options of `foursight serve`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foursight.models.catalogue import Device
from foursight.models.engines.precision import Precision, PrecisionConfig
from foursight.models.finetuned import store
from foursight.models.image import MAX_PIXELS
from foursight.models.results import Profile
from foursight.schema.tasks import TASKS


class Settings(BaseSettings):
    """Every default works on a laptop."""

    model_config = SettingsConfigDict(env_prefix="FOURSIGHT_", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    profile: Profile = Field("tiny", description="Which weights: tiny (embedded) or standard (torchvision's).")
    tasks: Annotated[tuple[str, ...], NoDecode] = Field(tuple(TASKS), description="Tasks to serve, comma-separated.")
    device: Device = Field("auto", description="auto, cpu or cuda.")
    precision: Precision = Field("float32", description="What a CPU computes in: float32, bfloat16 or int8.")
    calibration: Path | None = Field(None, description="Folder of photos that int8 takes its ranges from.")
    replicas: int = Field(1, ge=1, le=64, description="Workers for each task.")
    max_batch: int = Field(8, ge=1, le=256, description="At most so many photos are computed together.")
    max_queue: int = Field(64, ge=1, le=10_000, description="Photos that may wait for a worker; beyond that: 503.")
    max_bytes: int = Field(32 * 2**20, ge=1024, description="Largest upload in bytes.")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="Largest photo in pixels.")
    answer_cache: int = Field(0, ge=0, description="MiB of answers that each worker keeps for repeated photos; 0: off.")

    models: Annotated[dict[str, Path], NoDecode] = Field(
        {}, description="Fine-tuned models outside the models folder, NAME=PATH; several times, or comma-separated."
    )
    models_dir: Path = Field(store.default_folder(), description="Models folder: a fine-tuned model in each folder.")

    @field_validator("models", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        words = value.split(",") if isinstance(value, str) else value
        if not isinstance(words, list):
            return value
        pairs = [word.partition("=") for word in words if word.strip()]
        if not all(name and path for name, _, path in pairs):
            raise ValueError("write NAME=PATH")
        return {name.strip(): path.strip() for name, _, path in pairs}

    @field_validator("models")
    @classmethod
    def _absolute(cls, value: dict[str, Path]) -> dict[str, Path]:
        # A worker has a working folder of its own.
        for name in value:
            if store.NAME.fullmatch(name) is None or name in TASKS:
                raise ValueError(f"{name!r} is no name for a model")
        return {name: path.expanduser().absolute() for name, path in value.items()}

    @field_validator("models_dir", "calibration")
    @classmethod
    def _absolute_dir(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @property
    def precision_config(self) -> PrecisionConfig:
        """What networks are computed in."""
        return PrecisionConfig(self.precision, self.calibration)

    @field_validator("tasks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in TASKS]
        if unknown or not value:
            raise ValueError(f"unknown task {', '.join(unknown) or '(none given)'}; there are {', '.join(TASKS)}")
        return tuple(dict.fromkeys(value))
