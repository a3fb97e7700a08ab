"""Descriptions of the models that a server runs."""

from pydantic import Field

from foursight.schema.base import Wire


class ModelCard(Wire):
    """One model, as `GET /v1/models` lists it."""

    task: str
    name: str
    finetuned: bool = Field(
        False,
        description="True for a fine-tuned model, which `?model=NAME` selects. Its parameters and bytes are those that "
        "it does not share with the built-in model.",
    )
    profile: str
    labels: list[str]
    input_size: str = Field(description="Input sizes of the network, in pixels.")
    max_batch: int
    replicas: int = Field(description="Workers that serve it; 0 while the task's worker is restarted.")
    device: str
    dtype: str
    parameters: int
    bytes: int


class ModelCards(Wire):
    """The answer of `GET /v1/models`."""

    models: list[ModelCard]
