"""What people pass to the SDK as images and options: it means what the path means, or the error says why not."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foursight import Client, Failed, UnreadableImage
from foursight.clients.sdk.images import load
from foursight.models.image import decode
from foursight.schema.names import join_names, split_names
from tests import twins
from tests.photos import encoded, photo
from tests.scripted import Scripted
from tests.test_client_protocol import GOOD, PHOTO

CAT = photo("chelsea").resize((90, 60))
RAMP = np.linspace(0, 65535, 90 * 60).reshape(60, 90)
MODES: dict[str, Image.Image] = {
    "I;16": Image.fromarray(RAMP.astype("<u2")),
    "I;16B": Image.frombytes("I;16B", (90, 60), RAMP.astype(">u2").tobytes()),
    "I;16L": Image.frombytes("I;16L", (90, 60), RAMP.astype("<u2").tobytes()),
    "I in 0..255": CAT.convert("I"),
    "I in 32 bits": Image.fromarray((RAMP * 1000).astype(np.int32)),
    "F in 0..1": Image.fromarray((RAMP / 65535).astype(np.float32)),
    "La": CAT.convert("LA").convert("La"),
    "RGBa": CAT.convert("RGBA").convert("RGBa"),
    "PA": CAT.quantize(16).convert("PA"),
    "CMYK": CAT.convert("CMYK"),
    "HSV": CAT.convert("HSV"),
    "1": CAT.convert("1"),
}


def pixels(content: bytes) -> Any:
    return np.asarray(decode(content)).astype(int)


@pytest.mark.parametrize("mode", MODES)
def test_a_pil_image_of_any_mode_is_sent_with_its_pixels(mode: str) -> None:
    image = MODES[mode]
    expected = {
        "I;16": RAMP // 256,
        "I;16B": RAMP // 256,
        "I;16L": RAMP // 256,
        "I in 0..255": np.asarray(CAT.convert("L")),
        "I in 32 bits": RAMP / 65535 * 255,
        "F in 0..1": RAMP / 65535 * 255,
    }
    # The other modes are Pillow's own conversions.
    right = (
        expected[mode][..., None]
        if mode in expected
        else np.asarray(image.convert("LA" if mode == "La" else "RGBA").convert("RGB"))
    )
    assert np.abs(pixels(load(image).content) - right).max() <= 1


@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 5, 6, 8, 9, 255])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_opened_image_and_a_shrunk_file_are_as_upright_as_the_file(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo("chelsea"), kind, exif=exif)
    upright = decode(data)
    assert decode(load(Image.open(io.BytesIO(data))).content).size == upright.size
    upload = load(data, max_side=100)
    assert upload.size == upright.size
    small = decode(upload.content)
    assert np.abs(np.asarray(small).astype(float) - np.asarray(upright.resize(small.size))).mean() < 6


def test_a_data_url_is_an_image() -> None:
    assert load("data:image/png;base64," + base64.b64encode(PHOTO).decode()).content == PHOTO
    for wrong in ("data:image/png,abc", "data:image/png;base64,###"):
        with pytest.raises(UnreadableImage):
            load(wrong)


def closed_file(folder: Path) -> io.BytesIO:
    file = io.BytesIO(PHOTO)
    file.close()
    return file


def closed_image(folder: Path) -> Image.Image:
    (folder / "a.png").write_bytes(PHOTO)
    with Image.open(folder / "a.png") as image:
        pass
    return image


def truncated_image(folder: Path) -> Image.Image:
    return Image.open(io.BytesIO(encoded(CAT, "JPEG")[:900]))


UNREADABLE: dict[str, Callable[[Path], Any]] = {
    "closed file": closed_file,
    "closed image": closed_image,
    "truncated image": truncated_image,
    "empty crop": lambda folder: CAT.crop((5, 5, 5, 30)),
    "empty array": lambda folder: np.zeros((0, 5, 3), np.uint8),
    "nothing": lambda folder: None,
    "name with a null": lambda folder: "a\0b.jpg",
    "folder": lambda folder: folder,
}


@pytest.mark.parametrize("max_side", [None, 4])
@pytest.mark.parametrize("kind", twins.KINDS)
def test_an_unreadable_image_among_many_is_a_failure_in_its_place(
    kind: str, max_side: int | None, tmp_path: Path
) -> None:
    images = [make(tmp_path) for make in UNREADABLE.values()]
    with Scripted(lambda _: GOOD) as server, twins.make(kind, server.url) as asking:
        outcomes = list(asking.detect_many([PHOTO, *images, PHOTO], max_side=max_side))
        assert len(server.asked) == 2
    assert [isinstance(one, Failed) for one in outcomes] == [False, *(True for _ in images), False]
    assert all(isinstance(one.error, UnreadableImage) for one in outcomes[1:-1])


@pytest.mark.parametrize("single", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), CAT, io.BytesIO(PHOTO)])
@pytest.mark.parametrize("kind", twins.KINDS)
def test_one_image_where_many_are_expected_is_an_error(kind: str, single: Any) -> None:
    with twins.make(kind, "http://127.0.0.1:9") as asking, pytest.raises(TypeError, match="list"):
        list(asking.classify_many(single))


def test_an_array_of_images_is_many_images() -> None:
    with Scripted(lambda _: GOOD) as server, Client(server.url) as asking:
        assert len(list(asking.classify_many(np.zeros((3, 6, 8, 3), np.uint8)))) == 3


@pytest.mark.parametrize(
    ("classes", "sent"),
    [
        (["cat", "dog"], "cat,dog"),
        ({"dog", "cat"}, "cat,dog"),
        (np.array(["cat", "dog"]), "cat,dog"),
        ((name for name in ("cat", "dog")), "cat,dog"),
        ({"cat": 1}.keys(), "cat"),
        (["mug, blue", 'a 5" disk'], '"mug, blue","a 5"" disk"'),
        ("cat,dog", "cat,dog"),
    ],
)
def test_classes_may_be_any_collection(classes: Any, sent: str) -> None:
    with Scripted(lambda _: GOOD) as server, Client(server.url) as asking:
        asking.detect(PHOTO, classes=classes)
        assert server.asked[0].query == {"classes": sent}


@pytest.mark.parametrize("classes", [b"cat", {"cat": 1}])
def test_what_cannot_be_classes_is_a_type_error(classes: Any) -> None:
    with Client("http://127.0.0.1:9") as asking, pytest.raises(TypeError, match="list of names"):
        asking.detect(PHOTO, classes=classes)


@pytest.mark.parametrize("names", [["cat"], ["a, b", "c"], ['5" disk', 'say "hi"', "x"], ["émile", "犬"], [""]])
def test_names_survive_as_text(names: list[str]) -> None:
    assert split_names(join_names(names)) == names


def test_names_are_separated_by_commas_and_quoted() -> None:
    assert split_names(' cat , "mug, blue",5" disk') == ["cat", "mug, blue", '5" disk']
    with pytest.raises(ValueError, match="list of names"):
        split_names('"mug, blue')
