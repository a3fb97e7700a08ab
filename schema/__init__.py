"""The wire types, shared by the server and its clients. They need only pydantic."""

from foursight.schema.answers import Analysis, Answer, Answers, Box, ImageSize, Polygons, Prediction, Rle
from foursight.schema.base import Wire
from foursight.schema.errors import Failure, Problem
from foursight.schema.layers import Layer, LayerTable, Stage
from foursight.schema.models import ModelCard, ModelCards

__all__ = [
    "Analysis",
    "Answer",
    "Answers",
    "Box",
    "Failure",
    "ImageSize",
    "Layer",
    "LayerTable",
    "ModelCard",
    "ModelCards",
    "Polygons",
    "Prediction",
    "Problem",
    "Rle",
    "Stage",
    "Wire",
]
