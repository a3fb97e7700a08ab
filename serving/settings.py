"""The settings of the server: FOURSIGHT_* in the environment, or the options of `foursight serve`."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foursight.models.catalogue import TASKS, Device
from foursight.models.image import MAX_PIXELS
from foursight.models.results import Profile


class Settings(BaseSettings):
    """Every default works on a laptop."""

    model_config = SettingsConfigDict(env_prefix="FOURSIGHT_", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    profile: Profile = Field("tiny", description="Which weights: tiny (embedded) or standard (torchvision's).")
    tasks: Annotated[tuple[str, ...], NoDecode] = Field(tuple(TASKS), description="Tasks to serve, comma-separated.")
    device: Device = Field("auto", description="auto, cpu or cuda.")
    replicas: int = Field(1, ge=1, le=64, description="Workers for each task.")
    max_batch: int = Field(8, ge=1, le=256, description="At most so many photos are computed together.")
    max_queue: int = Field(64, ge=1, le=10_000, description="Photos that may wait for a worker; beyond that: 503.")
    max_bytes: int = Field(32 * 2**20, ge=1024, description="Largest upload in bytes.")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="Largest photo in pixels.")

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
