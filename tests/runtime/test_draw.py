from typing import Any

import pytest
from PIL import Image

from florence_edge.regions import Region, RegionShape, Ring
from florence_edge.results.draw import draw, fitted, font_for, wrapped

GREY = (128, 128, 128)
ANY_SCRIPT = ["中新中", "Ж", "مرحبا", "naïve café", "🙂", "a\nb\tc", "\u202e", "\0", "\ud800", "  "]


def region(
    *rings: Ring, label: str = "car", shape: RegionShape = "box", score: float = 0.5
) -> Region:
    return Region(label=label, shape=shape, rings=rings, score=score)


def blank(width: int = 320, height: int = 240) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def changed(picture: Image.Image, x: int, y: int) -> bool:
    return picture.getpixel((x, y)) != GREY


def test_the_picture_that_was_given_stays_as_it_is() -> None:
    picture = blank()
    drawn = draw(picture, [region((10, 60, 200, 200))])
    assert drawn is not picture
    assert picture.tobytes() == blank().tobytes()
    assert draw(picture, []).tobytes() == picture.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_pictures_of_any_mode_are_drawn_in_colour(mode: str) -> None:
    assert draw(blank().convert(mode), [region((10, 60, 200, 200))]).mode == "RGB"


def test_a_box_is_drawn_on_its_edges_and_stays_open_inside() -> None:
    drawn = draw(blank(), [region((40, 80, 200, 200))])
    assert all(changed(drawn, *edge) for edge in [(40, 150), (200, 150), (120, 200)])
    assert not changed(drawn, 120, 150)
    assert not changed(drawn, 230, 150)


def test_what_was_asked_about_is_outlined_in_white_under_the_answer() -> None:
    drawn = draw(blank(), [region((40, 80, 200, 200))], asked=(40, 80, 300, 230))
    assert drawn.getpixel((250, 80)) == drawn.getpixel((300, 150)) == (250, 250, 250)
    assert drawn.getpixel((100, 80)) != (250, 250, 250)  # the answer's edge, on the same line
    assert not changed(drawn, 250, 150)


def test_a_quad_follows_its_corners() -> None:
    diamond = (160, 60, 260, 140, 160, 220, 60, 140)
    drawn = draw(blank(), [region(diamond, shape="quad")])
    assert all(changed(drawn, *corner) for corner in [(210, 100), (210, 180), (110, 180)])
    assert not changed(drawn, 160, 140)


def test_a_polygon_is_tinted_and_the_picture_shines_through() -> None:
    triangle = (40, 200, 280, 200, 160, 60)
    drawn = draw(blank(), [region(triangle, shape="polygon")])
    inside = drawn.getpixel((160, 150))
    on_white = draw(Image.new("RGB", (320, 240), "white"), [region(triangle, shape="polygon")])
    assert inside != GREY
    assert inside != on_white.getpixel((160, 150))
    assert not changed(drawn, 60, 80)


def test_a_label_keeps_its_colour_in_other_company() -> None:
    def colour_of_car(*others: str) -> Any:
        regions = [region((20, 100, 200, 220)), *(region((0, 0, 9, 9), label=o) for o in others)]
        return draw(blank(), regions).getpixel((20, 180))

    assert colour_of_car() == colour_of_car("bus", "tree")


def test_ten_labels_have_ten_colours() -> None:
    regions = [
        region((10, 10 + 60 * row, 300, 60 + 60 * row), label=f"thing {row}") for row in range(10)
    ]
    drawn = draw(blank(320, 640), regions)
    assert len({drawn.getpixel((300, 40 + 60 * row)) for row in range(10)}) == 10


def test_things_without_a_label_are_told_apart() -> None:
    regions = [region((20, 20, 120, 220), label=""), region((180, 20, 300, 220), label="")]
    drawn = draw(blank(), regions)
    assert drawn.getpixel((20, 150)) != drawn.getpixel((180, 150))


@pytest.mark.parametrize("text", ANY_SCRIPT)
@pytest.mark.parametrize("shape", ["box", "polygon"])
def test_any_script_can_be_drawn(text: str, shape: RegionShape) -> None:
    drawn = draw(blank(), [region((10, 60, 200, 200), label=text, shape=shape)], caption=text * 9)
    assert drawn.width == 320


@pytest.mark.parametrize(
    "ring",
    [
        (200, 200, 10, 60),
        (5, 5, 5, 5),
        (-1e9, -1e9, 1e9, 1e9),
        (900, 900, 950, 950),
        (0.4, 0, 3, 0),
    ],
)
@pytest.mark.parametrize("shape", ["box", "quad", "polygon"])
def test_odd_regions_are_drawn_as_far_as_they_go(ring: Ring, shape: RegionShape) -> None:
    assert draw(blank(), [region(ring, shape=shape)]).size == (320, 240)


def test_polygons_with_hardly_a_point_do_no_harm() -> None:
    drawn = draw(blank(), [region((), (3, 4), (5, 6, 7, 8), shape="polygon")])
    assert drawn.size == (320, 240)


@pytest.mark.parametrize("size", [(1, 1), (16, 400), (400, 16), (2000, 1500)])
def test_any_size_of_picture_can_be_drawn_on(size: tuple[int, int]) -> None:
    regions = [region((0, 0, *size), label="a label that is wider than small pictures are")]
    drawn = draw(blank(*size), regions, caption="A caption of several words.")
    assert drawn.width == size[0]
    assert drawn.height > size[1]


def test_lines_and_letters_grow_with_the_picture() -> None:
    def line_of(width: int) -> int:
        drawn = draw(blank(width, width), [region((0, 0, width, width))])
        return next(x for x in range(width) if not changed(drawn, x, width // 2))

    assert line_of(128) < line_of(800) < line_of(3000)


def test_a_caption_stands_under_the_picture_in_lines_that_fit() -> None:
    short = draw(blank(), [], caption="A car.")
    long = draw(blank(), [], caption="A long sentence about a car. " * 6)
    assert short.crop((0, 0, 320, 240)).tobytes() == blank().tobytes()
    assert 240 < short.height < long.height


def test_text_is_wrapped_between_words_and_within_those_that_fit_no_line() -> None:
    font = font_for("", 16)
    text = "one two three four five " + "x" * 50 + "\nnext"
    lines = wrapped(text, font, 90)
    assert all(font.getlength(line) <= 90 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert lines[0].startswith("one two")
    assert lines[-1] == "next"
    assert sum("x" in line for line in lines) > 1


def test_text_that_is_too_wide_ends_in_dots() -> None:
    font = font_for("", 16)
    assert fitted("a  short\nline", font, 500) == "a short line"
    cut = fitted("a line that is much too long", font, 100)
    assert cut.endswith("...")
    assert font.getlength(cut) <= 100


def test_tags_of_neighbours_do_not_hide_each_other() -> None:
    stacked = [
        region((60 - rim, 100 - rim, 160 + rim, 200 + rim), label=f"rim {rim}")
        for rim in (0, 6, 12)
    ]
    together = draw(blank(), stacked)
    for each in stacked:
        alone = draw(blank(), [each])
        colour = alone.getpixel((int(each.box[0]), 150))
        assert pixels_of(colour, together) > 0.6 * pixels_of(colour, alone)


def pixels_of(colour: Any, picture: Image.Image) -> int:
    return sum(count for count, each in picture.getcolors(1 << 20) or [] if each == colour)
