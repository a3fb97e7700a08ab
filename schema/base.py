"""The base of all wire types."""

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """Immutable. Unknown fields are ignored, so that an older client can read a newer server's answers."""

    model_config = ConfigDict(frozen=True, extra="ignore")
