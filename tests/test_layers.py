"""The table of layers, against torch's shapes and FLOP counter, gradients, and published figures."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import httpx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import alexnet
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import cfgs, make_layers

from foursight.clients.cli.app import app
from foursight.models.finetuned import detector, networks, store
from foursight.models.finetuned.classifier import TunedNetwork
from foursight.models.inspection import summary
from foursight.models.inspection.geometry import Window, same_padding
from foursight.models.inspection.layer import Layer
from foursight.models.inspection.recorder import Part, record
from foursight.models.networks import backbone, lite0
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.schema import LayerTable, Problem
from tests.shapes import write_model
from tests.tuned_models import write, write_detector, write_localizer

torch.set_num_threads(1)

# Odd sizes, so that "same" padding is lopsided; detection rounds them up.
NETWORKS = [
    ("tiny", "classify", (97, 130)),
    ("tiny", "localize", (160, 160)),
    ("tiny", "segment", (90, 128)),
    ("standard", "classify", (97, 130)),
    ("standard", "localize", (96, 96)),
    ("standard", "detect", (64, 96)),
    ("standard", "segment", (64, 96)),
]


def layers_of(network: nn.Module, height: int, width: int) -> list[Layer]:
    def parts(watched: nn.Module, pixels: Tensor) -> Iterator[Part]:
        yield Part(lambda: watched(pixels))

    return record(network, (height, width), parts)


@pytest.mark.parametrize("seed", range(200))
def test_output_sizes_are_those_of_torch(seed: int) -> None:
    pick = random.Random(seed)
    kernel, stride, dilation = pick.randint(1, 7), pick.randint(1, 4), pick.randint(1, 3)
    padding, size = pick.randint(0, kernel // 2), pick.randint(24, 60)
    extra = pick.randrange(max(stride, dilation))
    x = torch.empty(1, 1, size, device="meta")
    weight = torch.empty(1, 1, kernel, device="meta")
    window = Window(kernel, stride, padding, padding, dilation)
    assert window.output(size) == F.conv1d(x, weight, None, stride, padding, dilation).shape[2]
    pooled = F.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode=True)
    assert window.output(size, ceil=True) == pooled.shape[2]
    spread = F.conv_transpose1d(x, weight, None, stride, padding, extra, 1, dilation)
    assert window.transposed_output(size, extra) == spread.shape[2]
    before, after = same_padding(size, kernel, stride, dilation)
    same = Window(kernel, stride, before, after, dilation)
    assert same.output(size) == -(-size // stride)
    assert after - before in (0, 1)
    # The padding is not more than needed.
    assert after == 0 or Window(kernel, stride, before, after - 1, dilation).output(size) < -(-size // stride)


@cache
def summarized(profile: str, task: str, size: tuple[int, int]) -> tuple[nn.Module, summary.NetworkSummary]:
    network = summary.build(task, profile)
    return network, summary.summarize(network, size)


@pytest.mark.parametrize(("profile", "task", "size"), NETWORKS)
def test_every_layer_has_the_output_size_of_its_formula(profile: str, task: str, size: tuple[int, int]) -> None:
    _, found = summarized(profile, task, size)
    layers = [layer for stage in found.stages for layer in stage.layers]
    assert [layer for layer in layers if layer.output != layer.observed] == []


@pytest.mark.parametrize(("profile", "task", "size"), NETWORKS)
def test_modules_sizes_and_costs_are_those_that_torch_sees(profile: str, task: str, size: tuple[int, int]) -> None:
    network, found = summarized(profile, task, size)
    check_by_torch(network, found)
    # A module's parameters are counted once, however often it is used.
    assert found.unused_parameters == 0


def check_by_torch(network: nn.Module, found: summary.NetworkSummary) -> None:
    """Compare sizes with torch's hooks, and costs with its FLOP counter."""
    layers = [layer for stage in found.stages for layer in stage.layers]
    seen: dict[str, list[tuple[int, ...]]] = {}

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: seen.setdefault(name, []).append(tuple(output.shape[1:]))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.GroupNorm)
    named = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
    hooks = [module.register_forward_hook(watch(name)) for name, module in named]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for part in summary.parts(network, torch.zeros(1, 3, *found.size)):
            part.run()
    for hook in hooks:
        hook.remove()
    told: dict[str, list[tuple[int, ...]]] = {}
    for layer in layers:
        if layer.name in seen:
            told.setdefault(layer.name, []).append(layer.observed)
    assert told == seen
    assert len(seen) > 50
    assert 2 * sum(layer.multiply_adds for layer in layers) == counter.get_total_flops()
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned models of all kinds."""
    root = tmp_path_factory.mktemp("tuned")
    write_model(root / "plain", backbone.load("tiny"), seed=1)
    write_model(root / "deep", backbone.load("tiny"), seed=1, frozen=8, pool="l2", hidden=16, dropout=0.3)
    write_localizer(root / "main", ("espresso", "tiger cat"))
    write_detector(root / "named", ("cup", "vase"))
    shared = ssd_rcnn.shared_weights(summary.build("segment", "tiny"))
    assert shared is not None
    own = detector.build(2, "labels and masks")
    write(
        root / "heads",
        store.pack(own.state_dict(), detector.spec_of("segment", "labels and masks", shared, ("cup", "vase"))),
    )
    return root


@pytest.mark.parametrize("name", ["plain", "deep", "main", "named", "heads"])
def test_fine_tuned_networks_are_described_from_the_pixels_to_their_own_labels(tuned: Path, name: str) -> None:
    network = networks.load(name, tuned / name)
    found = summary.summarize(network, (96, 130))
    layers = [layer for stage in found.stages for layer in stage.layers]
    assert [layer for layer in layers if layer.output != layer.observed] == []
    check_by_torch(network, found)
    linear = [layer.output for layer in layers if layer.kind == "linear"]
    assert ((3,) if name in ("plain", "deep") else (2,)) in linear or name == "named"


def test_stages_say_whether_they_are_frozen(tuned: Path) -> None:
    network = networks.load("deep", tuned / "deep")
    assert isinstance(network, TunedNetwork)
    found = summary.summarize(network)
    assert found.size == (224, 224)
    assert [stage.name for stage in found.stages] == [
        *(f"stage {number}, frozen" for number in range(1, 9)), "stage 9, trained", "head",
    ]  # fmt: skip
    assert [(row.kind, row.output, row.dropout) for row in found.stages[-1].layers if row.kind != "activation"] == [
        ("convolution", (16, 7, 7), None),
        ("global L2 pooling", (16,), None),
        ("dropout", (16,), 0.3),
        ("linear", (3,), None),
    ]
    assert found.unused_parameters == 0


def test_resnet_50_costs_what_torchvision_publishes() -> None:
    found = summary.summarize(summary.build("classify", "standard"))
    published = summary.backbone.PUBLISHED.meta
    assert found.size == (224, 224)
    assert found.multiply_adds / 1e9 == pytest.approx(published["_ops"], abs=0.001)
    assert found.parameters == published["num_params"]


def test_receptive_fields_are_those_of_the_paper() -> None:
    # Araujo, Norris and Sim 2019 list AlexNet with 195 and VGG-16 with 212 pixels, both with stride 32.
    alex = layers_of(alexnet().features, 227, 227)[-1]
    vgg = layers_of(make_layers(cfgs["D"]), 224, 224)[-1]
    assert (alex.kind, alex.receptive_field, alex.field_stride) == ("max pooling", (195, 195), (32, 32))
    assert (vgg.kind, vgg.receptive_field, vgg.field_stride) == ("max pooling", (212, 212), (32, 32))


def slim_resnet() -> nn.Module:
    """A narrow ResNet-50 with average pooling, because the gradient of a maximum reaches one cell of its window."""
    network = ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=2)
    network.maxpool = nn.AvgPool2d(3, 2, 1)
    return network


def chain() -> nn.Module:
    """Padding on two sides only, dilation, strides, and both kinds of upsampling."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 1, 0)),
        nn.Conv2d(3, 2, 5, 3),
        nn.Conv2d(2, 2, 3, padding=2, dilation=2),
        nn.ConvTranspose2d(2, 1, 4, 2, 1),
        nn.AvgPool2d(2),
        nn.Upsample(scale_factor=3, mode="bilinear"),
        nn.ConvTranspose2d(1, 1, 3, 2, 1, 1),
        nn.Conv2d(1, 1, 3, 4),
    )


class Pyramid(nn.Module):
    """Two levels: the coarse one upsampled and added to the fine one, and a convolution over the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 1, 3, 2, 1)
        self.coarse = nn.Conv2d(1, 1, 5, 2, 2)
        self.enlarge = nn.Upsample(scale_factor=2)
        self.smooth = nn.Conv2d(1, 1, 3, 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        fine = self.fine(pixels)
        total: Tensor = self.smooth(fine + self.enlarge(self.coarse(fine)))
        return total


# Side of the input, modules whose cells all see windows of one size at one distance, and those for which only the
# widest window is reported, as after upsampling.
GRADIENTS: dict[str, tuple[Callable[[], nn.Module], int, list[str], list[str]]] = {
    "lite0": (lite0.EfficientNetLite0, 224, ["_conv_stem", "_blocks.2", "_blocks.4", "_blocks.7"], []),
    "resnet": (slim_resnet, 144, ["conv1", "layer1.2", "layer2.3"], []),
    "chain": (chain, 120, ["1", "2", "4"], ["3", "5", "6", "7"]),
    "pyramid": (Pyramid, 96, ["fine", "coarse"], ["enlarge", "smooth"]),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_receptive_fields_are_where_the_gradient_is(case: str) -> None:
    build, side, even, uneven = GRADIENTS[case]
    network = build().eval()
    layers = layers_of(network, side, side - 8)
    maps: dict[str, Tensor] = {}
    for name in even + uneven:
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: maps.update({name: out}))
    with torch.no_grad():
        for parameter in network.parameters():
            # Positive weights, so that every path counts: nothing cancels, and no activation is saturated.
            parameter.fill_(1 / parameter[0].numel() if parameter.dim() > 1 else 0)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)
    pixels = torch.full((1, 3, side, side - 8), 1e-4, dtype=torch.float64, requires_grad=True)
    network.double()(pixels)
    for name, output in maps.items():
        row = [layer for layer in layers if layer.name == name and layer.kind not in ("batch norm", "activation")][-1]
        height, width = output.shape[-2:]
        cells = [(height // 2 + step, width // 2 + step) for step in range(6 if name in uneven else 1)]
        extents = []
        for cell in cells:
            (gradient,) = torch.autograd.grad(output[0, 0, cell[0], cell[1]], pixels, retain_graph=True)
            places = gradient[0].sum(0).nonzero()
            low, high = places.amin(0), places.amax(0) + 1
            extents.append((high - low).tolist())
            centre = [c + i * s for c, i, s in zip(row.field_centre, cell, row.field_stride, strict=True)]
            assert name in uneven or ((low + high) / 2).tolist() == centre
        assert tuple(map(max, zip(*extents, strict=True))) == row.receptive_field


class Odds(nn.Module):
    """Operations that the table must distinguish."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding="same", groups=1, dilation=2)
        self.grouped = nn.Conv2d(8, 8, 3, 2, groups=4)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
        self.l2 = nn.LPPool2d(2, 2)
        self.adaptive = nn.AdaptiveAvgPool2d((3, 2))
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(8, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.hardswish(self.conv(pixels))
        x = F.gelu(self.up(self.pool(self.grouped(x))))
        self.adaptive(x)
        x = self.l2(x)
        self.drop(x.amax((2, 3)))
        return self.fc(F.dropout(x.pow(2).mean((2, 3)).sqrt(), 0.1, self.training))


def test_kinds_and_options_are_distinguished() -> None:
    rows = layers_of(Odds(), 31, 24)
    assert [(row.kind, row.observed) for row in rows if row.kind != "activation"] == [
        ("convolution", (8, 31, 24)),
        ("grouped convolution", (8, 15, 11)),
        ("max pooling", (8, 7, 5)),
        ("transposed convolution", (8, 14, 10)),
        ("adaptive average pooling", (8, 3, 2)),
        ("L2 pooling", (8, 7, 5)),
        ("global max pooling", (8,)),
        ("dropout", (8,)),
        ("global L2 pooling", (8,)),
        ("dropout", (8,)),
        ("linear", (5,)),
    ]
    assert all(row.output == row.observed for row in rows)
    assert [row.activation for row in rows if row.kind == "convolution"] == ["hard swish"]
    assert [row.activation for row in rows if row.kind == "transposed convolution"] == ["GELU"]
    assert [row.dropout for row in rows if row.kind == "dropout"] == [0.3, 0.1]
    assert [row.padding for row in rows if row.kind == "convolution"] == [(2, 2, 2, 2)]
    assert [row.groups for row in rows if row.kind == "grouped convolution"] == [4]
    assert [row.output_padding for row in rows if row.kind == "transposed convolution"] == [(1, 1)]


def test_the_padding_of_lite0_is_asymmetric_for_some_sizes() -> None:
    stem = layers_of(lite0.EfficientNetLite0(), 224, 225)[0]
    assert (stem.padding, stem.input, stem.output) == ((0, 1, 1, 1), (3, 224, 225), (32, 112, 113))


def test_layers_on_regions_have_no_receptive_field() -> None:
    _, found = summarized("standard", "segment", (64, 96))
    stages = {stage.name: stage.layers for stage in found.stages}
    assert all(layer.receptive_field for layer in stages["feature pyramid"])
    assert not any(layer.receptive_field for layer in (*stages["box head"], *stages["mask head"]))
    assert {layer.times for layer in stages["box head"]} == {1000}
    assert {layer.times for layer in stages["mask head"]} == {100}


def test_the_tiny_segmenter_has_one_size() -> None:
    _, found = summarized("tiny", "segment", (90, 128))
    assert found.size == (480, 480)
    stages = [f"stage {number}" for number in range(1, 8)]
    assert [stage.name for stage in found.stages] == [
        *("stem", *stages, "head", "extra layers"),
        *("stem", *stages[:6], "gates", "projection", "region proposals", "mask head"),
    ]


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=120) as client:
        yield client


def test_the_server_returns_the_same_table_by_task_and_by_name(client: httpx.Client) -> None:
    expected = {"model": "efficientnet-lite0", **asdict(summary.summarize(lite0.load(), (64, 97)))}
    for name in ("classify", "efficientnet-lite0"):
        response = client.get(f"/v1/models/{name}/layers?size=97x64")
        assert LayerTable.model_validate_json(response.content) == LayerTable.model_validate(expected)
    segment = LayerTable.model_validate_json(client.get("/v1/models/segment/layers").content)
    assert (segment.model, segment.size) == ("mask-rcnn-ssd-mobilenet-v2", (480, 480))


def test_the_server_describes_a_fine_tuned_model_while_it_serves_it(
    client: httpx.Client, tuned: Path, models_dir: Path
) -> None:
    for name in ("deep", "named"):
        expected = {"model": "own"} | asdict(summary.summarize(networks.load(name, tuned / name), (64, 97)))
        shutil.copytree(tuned / name, models_dir / "own")
        assert client.get("/v1/models/own/layers").status_code == 404
        client.put("/v1/models/own").raise_for_status()
        response = client.get("/v1/models/own/layers?size=97x64")
        assert LayerTable.model_validate_json(response.content) == LayerTable.model_validate(expected)
        client.delete("/v1/models/own").raise_for_status()
        gone = client.get("/v1/models/own/layers?size=97x64")
        assert (gone.status_code, gone.json()["code"]) == (404, "unknown_model")
        shutil.rmtree(models_dir / "own")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("nothing/layers", 404, "unknown_model"),
        ("classify/layers?size=31", 400, "invalid_parameter"),
        ("classify/layers?size=224x5000", 400, "invalid_parameter"),
        ("classify/layers?size=wide", 400, "invalid_parameter"),
        ("classify/layers?size=", 400, "invalid_parameter"),
        ("classify/layers?width=224", 400, "unknown_parameter"),
        ("classify/weights", 404, "not_found"),
    ],
)
def test_the_server_refuses_what_it_cannot_describe(client: httpx.Client, path: str, status: int, code: str) -> None:
    response = client.get(f"/v1/models/{path}")
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    problem = Problem.model_validate_json(response.content)
    assert problem.code == code
    assert problem.hint


def test_the_command_prints_a_table_of_a_hundred_columns() -> None:
    result = CliRunner().invoke(app, ["describe", "segment"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    (stem,) = [line.split() for line in lines if "stem.conv" in line]
    assert stem[1:] == ["conv", "3x3/2", "0+1", "3>32", "300>150", "6/3.2@2.5", "928", "19.4M", "BN", "ReLU6"]


def test_the_command_prints_json_and_refuses_wrong_arguments() -> None:
    table = json.loads(CliRunner().invoke(app, ["describe", "classify", "--size", "97x64", "--json"]).stdout)
    assert table["size"] == [64, 97]
    assert table["stages"][0]["layers"][0]["output"] == [32, 32, 49]
    for words in (["describe"], ["describe", "nothing"], ["describe", "classify", "--size", "9"]):
        assert CliRunner().invoke(app, words).exit_code == 2


def test_the_command_describes_a_fine_tuned_model_by_its_name_or_path(tuned: Path) -> None:
    for words in (["deep", "--models-dir", str(tuned)], [str(tuned / "deep")]):
        result = CliRunner().invoke(app, ["describe", *words])
        assert result.exit_code == 0, result.output
        for said in ("deep (classify)", "stage 8, frozen", "stage 9, trained", "global L2", "dropout .3"):
            assert said in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("224 7 2 3", 0, ["+ 1 = 112", "not fit evenly: 1 cell", "padding only", "2 before and 3 after"]),
        ("224 3 2 0+1", 0, ["+ 1 = 112", "fits evenly", 'This is "same" padding']),
        ("10 3 4 0", 0, ["+ 1 = 2", "3 cells at the end are left over, of the input"]),
        (
            "5 9 1 1",
            1,
            ["does not fit", "covers 9 cells, and the padded input has 7", "with P = 4 or more, both ends together"],
        ),
        ("14 2 2 0 --transposed", 0, ["= 28"]),
        ("14 3 1 same --dilation 2", 0, ["2 x 2 + 1 = 5", "+ 1 = 14"]),
        ("14 0 1 0", 2, []),
        ("14 3 1 wide", 2, []),
    ],
)
def test_the_command_answers_one_convolution(words: str, status: int, said: list[str]) -> None:
    result = CliRunner().invoke(app, ["describe", "--conv", *words.split()])
    assert result.exit_code == status
    assert [text for text in said if text not in result.stdout] == []
