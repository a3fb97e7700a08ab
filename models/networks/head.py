"""The head of a fine-tuned classifier, small enough for little data: pooling, dropout, and a linear layer.

map [N, C, h, w] -> (1 x 1 convolution, ReLU) -> global pooling -> [N, D] -> dropout -> linear -> logits [N, K]
"""

from typing import Annotated, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

Pool = Literal["avg", "max", "l2"]
POOLS: tuple[Pool, ...] = get_args(Pool)
# Keeps the gradient of the square root finite for a channel that is zero in the whole map.
EPSILON = 1e-6


class HeadSpec(BaseModel):
    """Structure of a head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: Annotated[Pool, Field(description="Global pooling: mean, maximum, or generalised mean with p = 2.")] = "avg"
    dropout: Annotated[float, Field(ge=0, lt=1, description="Share of features dropped while training.")] = 0.2
    hidden: Annotated[
        int, Field(ge=0, le=8192, description="Channels of a 1 x 1 convolution before pooling; 0: none.")
    ] = 0


def pool(maps: Tensor, kind: Pool) -> Tensor:
    """Pool float [N, C, h, w] over the spatial dimensions to [N, C].

    "l2" is the generalised mean with p = 2, sqrt(mean(x^2)): Radenovic et al. 2018, equation 2.
    """
    if kind == "avg":
        return maps.mean((2, 3))
    if kind == "max":
        return maps.amax((2, 3))
    return (maps.square().mean((2, 3)) + EPSILON**2).sqrt()


class ClassifierHead(nn.Module):
    """Logits of `classes` classes from a map of `channels` channels."""

    def __init__(self, spec: HeadSpec, channels: int, classes: int) -> None:
        super().__init__()
        self.spec = spec
        # Lin et al., "Network in network", 2013: the same small network at every cell, before pooling.
        self.conv = nn.Conv2d(channels, spec.hidden, 1) if spec.hidden else None
        self.fc = nn.Linear(spec.hidden or channels, classes)

    def respond(self, maps: Tensor) -> Tensor:
        """Map float [N, C, h, w] to the map that is pooled, [N, D, h, w]; unchanged without a convolution."""
        return maps if self.conv is None else F.relu(self.conv(maps))

    def embed(self, maps: Tensor) -> Tensor:
        """Map float [N, C, h, w] to pooled vectors, [N, D]; without a convolution this has no parameters."""
        return pool(self.respond(maps), self.spec.pool)

    def classify(self, vectors: Tensor) -> Tensor:
        """Map vectors [N, D] to logits [N, K]."""
        return torch.as_tensor(self.fc(F.dropout(vectors, self.spec.dropout, self.training)))

    def forward(self, maps: Tensor) -> Tensor:
        """Map float [N, C, h, w] to logits [N, K]."""
        return self.classify(self.embed(maps))
