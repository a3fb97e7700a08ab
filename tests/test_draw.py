"""Predictions drawn on an image."""

import colorsys
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from skimage import draw as shapes

from foursight.drawing import palette, typefaces
from foursight.drawing.draw import draw
from foursight.drawing.layout import Rect, TagPlacement, TagRequest, overlap, place_tags
from foursight.drawing.text import TextStyle
from foursight.schema import Prediction, rle

GREY = (120, 120, 120)
SIZES = [(1, 1), (2, 40), (64, 64), (96, 128), (640, 480), (3000, 120), (120, 3000)]


def grey(width: int = 320, height: int = 240) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def prediction(label: str = "person", class_id: int = 1, score: float = 0.98, **place: object) -> Prediction:
    return Prediction.model_validate({"label": label, "class_id": class_id, "score": score, **place})


def disc(width: int = 320, height: int = 240, centre: tuple[int, int] = (160, 120), radius: int = 60) -> rle.Mask:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[shapes.disk((centre[1], centre[0]), radius, shape=mask.shape)] = True
    return mask


def changed(before: Image.Image, after: Image.Image) -> rle.Mask:
    return (np.asarray(before.convert("RGB")) != np.asarray(after)).any(axis=2)


def requests(boxes: list[Rect], tag: tuple[int, int] = (60, 14)) -> list[TagRequest]:
    return [TagRequest(box, (tag, (tag[0] // 2, tag[1]))) for box in boxes]


def rects(placements: list[TagPlacement | None]) -> list[Rect]:
    return [placement.rect for placement in placements if placement]


def hue(rgb: palette.Rgb) -> float:
    return 360 * colorsys.rgb_to_hsv(*(side / 255 for side in rgb))[0]


def test_without_predictions_the_image_is_copied_unchanged():
    photo = Image.fromarray(data.chelsea())
    drawn = draw(photo, [])
    assert drawn is not photo
    assert not changed(photo, drawn).any()


def test_the_input_image_is_not_modified():
    photo = grey()
    draw(photo, [prediction(box=(50, 50, 200, 200), mask=rle.encode(disc())), prediction("cat", 17)])
    assert not changed(grey(), photo).any()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_an_image_of_any_mode_becomes_an_rgb_image(mode):
    assert draw(grey().convert(mode), [prediction(box=(50, 50, 200, 200))]).mode == "RGB"


@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_can_be_drawn_on(size):
    width, height = size
    mask = rle.encode(np.ones((height, width), dtype=np.bool_))
    boxed = prediction(box=(0, 0, width, height), mask=mask)
    drawn = draw(grey(*size), [boxed, prediction("cat", 17, 0.4, mask=mask), prediction("dog", 18, 0.3)])
    assert drawn.size == size
    assert draw(grey(*size), [prediction("Egyptian cat", 285), prediction("lynx", 287, 0.01)]).size == size


def test_pixels_far_from_any_object_stay_as_they_are():
    drawn = draw(grey(), [prediction(box=(100, 80, 220, 200), mask=rle.encode(disc(centre=(160, 140))))])
    touched = changed(grey(), drawn)
    touched[50:210, 90:230] = False
    assert not touched.any()


def test_a_mask_tints_its_inside_and_not_its_outside():
    photo, mask = grey(), disc()
    pixels = np.asarray(draw(photo, [prediction(mask=rle.encode(mask))]), dtype=float)
    expected = 0.6 * np.array(GREY) + 0.4 * np.array(palette.colour(1))
    # Below the middle, away from the tag.
    assert np.abs(pixels[150, 160] - expected).max() <= 2
    assert (pixels[230, 160] == GREY).all()
    assert (pixels[150, 20] == GREY).all()


def test_the_contour_of_a_mask_has_the_colour_of_its_class():
    pixels = np.asarray(draw(grey(), [prediction(mask=rle.encode(disc(radius=60)))]), dtype=float)
    across = np.abs(pixels[120, 90:110] - palette.colour(1)).max(axis=1)
    assert across.min() < 25


def test_polygons_and_rle_of_the_same_mask_draw_nearly_the_same():
    mask = np.zeros((240, 320), dtype=np.bool_)
    mask[60:180, 100:250] = True
    outline = [100.0, 60.0, 250.0, 60.0, 250.0, 180.0, 100.0, 180.0]
    box = (100, 60, 250, 180)
    one = draw(grey(), [prediction(box=box, mask=rle.encode(mask))])
    other = draw(grey(), [prediction(box=box, mask=[outline])])
    difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))
    # The outlines differ by a quarter of a pixel.
    assert difference.max() < 50
    assert difference.mean() < 0.5


def test_a_mask_at_the_edge_of_the_image_is_drawn_up_to_the_edge():
    mask = np.zeros((240, 320), dtype=np.bool_)
    mask[100:, 200:] = True
    assert changed(grey(), draw(grey(), [prediction(mask=rle.encode(mask))]))[150:, 230:].all()


def test_a_mask_of_another_size_than_the_image_is_an_error():
    with pytest.raises(ValueError, match="320 x 240"):
        draw(grey(100, 100), [prediction(box=(0, 0, 50, 50), mask=rle.encode(disc()))])


@pytest.mark.parametrize("mask", [rle.encode(np.zeros((240, 320), dtype=np.bool_)), [], [[1.0, 2.0]]])
def test_an_empty_mask_draws_only_its_box(mask):
    box = (60, 60, 200, 200)
    drawn = draw(grey(), [prediction(box=box, mask=mask)])
    assert changed(grey(), drawn)[60:200, 60:62].any()
    assert not changed(grey(), drawn)[100:160, 100:160].any()


def test_boxes_outside_the_image_or_upside_down_are_drawn_inside_it():
    boxes = [(-50.0, -20.0, 900.0, 900.0), (300.0, 200.0, 100.0, 100.0), (500.0, 500.0, 600.0, 600.0)]
    assert draw(grey(), [prediction(box=box) for box in boxes]).size == (320, 240)


def test_a_box_has_the_colour_of_its_class_on_black_and_on_white():
    for ground in ("black", "white"):
        drawn = draw(Image.new("RGB", (320, 240), ground), [prediction(box=(60, 60, 200, 200))])
        assert palette.colour(1) in [drawn.getpixel((x, 130)) for x in range(55, 66)]


def test_labels_without_a_box_are_in_a_panel_in_a_corner():
    photo = Image.fromarray(data.chelsea())
    ranked = [prediction("Egyptian cat", 285, 0.61), prediction("tiger cat", 282, 0.2), prediction("lynx", 287, 0.1)]
    ys, xs = np.nonzero(changed(photo, draw(photo, ranked)))
    assert xs.max() < photo.width / 2
    assert ys.min() > photo.height / 2


def test_several_labels_of_one_box_get_one_tag_and_a_panel():
    box = (150, 40, 400, 200)
    ranked = [prediction(name, index, 0.5 - index / 10, box=box) for index, name in enumerate(("cat", "lynx", "dog"))]
    photo = grey(451, 300)
    alone, together = (changed(photo, draw(photo, found)) for found in (ranked[:1], ranked))
    more = together & ~alone
    assert more.any()
    assert not more[:200, 150:].any()


@pytest.mark.parametrize("label", ["naïve Ελληνικά Привет", "人 🙂", "e\u0301clair", "two\nlines", "", "x" * 500])
def test_any_label_can_be_drawn(label):
    drawn = draw(grey(), [prediction(label, box=(60, 60, 200, 200)), prediction(label, 2)])
    assert changed(grey(), drawn).any()


def test_a_label_that_is_too_long_is_cut_with_an_ellipsis():
    style = TextStyle(14)
    short = style.shorten("German short-haired pointer", 90)
    assert short.endswith("…")
    assert short.startswith("German")
    assert style.width(short) <= 90
    assert style.shorten("cat", 90) == "cat"


def test_tags_do_not_overlap_if_there_is_room():
    boxes = [(x, y, x + 90, y + 80) for x in range(0, 600, 100) for y in range(0, 400, 90)]
    # Three overlapping objects at every place.
    boxes += [(x + 5, y + 5, x2, y2) for x, y, x2, y2 in boxes] + [(x + 9, y + 9, x2, y2) for x, y, x2, y2 in boxes]
    placements = place_tags(requests(boxes, (44, 12)), (700, 500))
    assert all(placements)
    for one, other in itertools.combinations(rects(placements), 2):
        assert not overlap(np.array([one]), np.array([other])).any()


def test_a_tag_is_above_its_box_or_inside_if_there_is_no_room_above():
    above, inside = rects(place_tags(requests([(50, 100, 200, 200), (300, 4, 450, 200)]), (640, 480)))
    assert above == (50, 86, 110, 100)
    assert inside[1] == 0


def test_tags_stay_inside_the_image_and_off_the_panel():
    panel = (0, 200, 100, 240)
    boxes = [(-3, -3, 20, 20), (310, 0, 320, 20), (0, 180, 60, 240), (290, 220, 320, 240), (0, 0, 320, 240)]
    found = rects(place_tags(requests(boxes), (320, 240), [panel]))
    assert len(found) == len(boxes)
    assert all(x1 >= 0 and y1 >= 0 and x2 <= 320 and y2 <= 240 for x1, y1, x2, y2 in found)
    assert not overlap(np.array(found), np.array([panel])).any()


def test_a_tag_does_not_hide_a_small_object_that_it_can_avoid():
    small = (60, 84, 80, 98)
    placements = rects(place_tags(requests([(50, 100, 250, 300), small]), (640, 480)))
    assert not overlap(np.array(placements), np.array([small])).any()


def test_tags_without_a_free_place_are_left_out_but_the_first_stays():
    placements = place_tags(requests([(0, 0, 64, 30)] * 20), (64, 30))
    assert placements[0] is not None
    assert None in placements


def test_a_tag_wider_than_the_image_takes_its_shorter_form():
    (placement,) = place_tags(requests([(0, 0, 40, 40)]), (40, 40))
    assert placement is not None
    assert placement.form == 1
    assert place_tags(requests([(0, 0, 1, 1)]), (1, 1)) == [None]


def test_instances_of_a_class_differ_in_lightness_but_not_in_hue():
    for class_id in range(1, 91):
        colours = [palette.colour(class_id, instance) for instance in range(5)]
        assert len(set(colours)) == 5
        for other in colours[1:]:
            assert abs((hue(other) - hue(colours[0]) + 180) % 360 - 180) < 20


def test_classes_of_neighbouring_ids_differ_clearly():
    for class_id in range(1000):
        for step in (1, 2, 3):
            one, other = palette.colour(class_id), palette.colour(class_id + step)
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 60


def test_text_on_a_tag_has_the_contrast_that_wcag_requires():
    for class_id in range(1000):
        ground = palette.colour(class_id)
        assert palette.contrast(palette.ink(ground), ground) >= 4.5


def test_contrast_is_computed_as_wcag_defines_it():
    assert palette.contrast(palette.BLACK, palette.WHITE) == pytest.approx(21)
    assert palette.contrast((119, 119, 119), palette.WHITE) == pytest.approx(4.48, abs=0.01)


FONT_CONFIG = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>"""


@pytest.fixture
def other_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Let fontconfig know the fonts of one folder only."""

    def use(folder: Path) -> None:
        (tmp_path / "fonts.conf").write_text(FONT_CONFIG.format(fonts=folder, cache=tmp_path / "cache"))
        monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))

    def forget() -> None:
        typefaces._found.clear()
        typefaces._ask_fontconfig.cache_clear()

    forget()
    yield use
    forget()


def tagged(label: str) -> NDArray[np.uint8]:
    one = Prediction(label=label, class_id=17, score=0.9, box=(20, 60, 380, 280))
    return np.asarray(draw(Image.new("RGB", (400, 300), "grey"), [one]))


@pytest.mark.parametrize("label", ["杯子", "カップ", "컵", "كوب", "כוס", "ถ้วย", "कप", "☕"])
def test_a_label_that_no_font_has_is_drawn_as_its_class_id(
    label: str, tmp_path: Path, other_fonts: Callable[[Path], None]
) -> None:
    other_fonts(tmp_path / "nothing")
    assert np.array_equal(tagged(label), tagged("#17"))


def test_emoji_are_left_out_of_a_label(tmp_path: Path, other_fonts: Callable[[Path], None]) -> None:
    other_fonts(tmp_path / "nothing")
    assert np.array_equal(tagged("☕ cup 👩🏽‍🚒"), tagged("cup"))


@pytest.mark.skipif(shutil.which("fc-list") is None, reason="needs fontconfig")
@pytest.mark.parametrize("label", ["كوب القهوة", "ბაბუა", "ⴰⵎⵓⵛ"])
def test_a_font_that_fontconfig_finds_is_used(label: str, other_fonts: Callable[[Path], None]) -> None:
    other_fonts(Path(matplotlib.get_data_path()) / "fonts" / "ttf")
    assert not np.array_equal(tagged(label), tagged("#17"))
    *parts, (_, score) = typefaces.runs(f"{label} 90 %")
    text = "".join(part for _, part in parts)
    face = parts[0][0]
    assert (Path(face[0]).name.startswith("DejaVuSans"), text, score) == (True, label, " 90 %")


def test_a_long_label_in_another_script_is_shortened(other_fonts: Callable[[Path], None]) -> None:
    other_fonts(Path(matplotlib.get_data_path()) / "fonts" / "ttf")
    assert tagged("كوب القهوة " * 30).shape == (300, 400, 3)
