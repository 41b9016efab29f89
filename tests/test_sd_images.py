"""sd.feedback.images: every file is decoded rightly, or refused with one exception."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image, features

from sd.feedback.images import UNREADABLE, UnreadableImage, open_image, read_image, to_unit

RAMP = np.arange(0, 65536, 257)[None].repeat(2, 0)  # 0, 257, ... 65535: each byte twice


@pytest.fixture
def reopen(tmp_path):
    """Saves an image in a format of PIL and opens it: its array."""

    def save(image, kind="png", **options):
        image.save(tmp_path / f"a.{kind}", **options)
        return np.array(open_image(tmp_path / f"a.{kind}"))

    return save


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP.astype(np.uint16), "png"),
        (RAMP.astype(np.uint16), "tiff"),
        (RAMP.astype(np.int32), "tiff"),
        ((RAMP / 65535).astype(np.float32), "tiff"),
    ],
)
def test_gray_values_of_more_than_8_bits_are_scaled(reopen, values, kind):
    pixels = reopen(Image.fromarray(values), kind)
    assert (pixels == np.arange(256)[None, :, None]).all() and pixels.shape == (2, 256, 3)


@pytest.mark.parametrize(
    "values", [RAMP.astype(np.float32), RAMP.astype(np.int32) - 1, RAMP * np.float32(np.nan)]
)
def test_gray_values_whose_range_is_unclear_are_refused(reopen, values):
    with pytest.raises(UnreadableImage, match="gray values must be between 0 and"):
        reopen(Image.fromarray(values), "tiff")


def test_what_is_transparent_shows_white(reopen):
    red = Image.new("RGBA", (3, 1), (255, 0, 0, 0))
    red.putpixel((1, 0), (255, 0, 0, 255))
    red.putpixel((2, 0), (255, 0, 0, 51))
    expected = [[255, 255, 255], [255, 0, 0], [255, 204, 204]]
    assert reopen(red)[0].tolist() == expected
    assert reopen(red, "webp", lossless=True, exact=True)[0].tolist() == expected
    gray = Image.new("LA", (1, 1), (0, 0))
    palette = Image.new("P", (1, 1))
    palette.putpalette([0, 0, 255])
    assert reopen(gray).min() == 255 and reopen(palette, "gif", transparency=0).min() == 255
    assert reopen(palette, transparency=b"\x00").min() == 255 and reopen(palette)[0, 0].tolist() == [
        0,
        0,
        255,
    ]
    assert reopen(Image.new("RGB", (1, 1), "blue"), transparency=(0, 0, 255)).min() == 255


def test_cmyk_becomes_rgb(reopen):
    assert reopen(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "tiff")[0, 0].tolist() == [0, 255, 255]


def photo(orientation, kind, exif=None):
    """A file with one white pixel, at the upper left of what is stored."""
    image, file = Image.new("L", (16, 24)), io.BytesIO()
    image.paste(255, (0, 0, 8, 8))
    if exif is None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif = exif.tobytes()
    image.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
def test_a_photo_is_turned_upright(tmp_path, kind):
    corners = [(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)]
    for orientation, corner in enumerate(corners, 1):
        (tmp_path / "a").write_bytes(photo(orientation, kind))
        pixels = np.array(open_image(tmp_path / "a"))
        assert pixels.shape == ((24, 16, 3) if orientation < 5 else (16, 24, 3))
        assert pixels[corner].min() > 250, orientation


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01", b"odd"]
)
def test_an_image_with_damaged_exif_stays_as_it_is_stored(tmp_path, kind, exif):
    (tmp_path / "a").write_bytes(photo(1, kind, exif))
    assert np.array(open_image(tmp_path / "a"))[0, 0].min() > 250


def seeds():
    """A small file of each kind, with EXIF where it may have one."""
    files = {kind: photo(6, kind) for kind in ("png", "jpeg", "webp", "tiff")}
    files["gif"] = photo(6, "gif")
    if features.check("avif"):
        files["avif"] = photo(6, "avif")
    return files


def test_a_file_of_any_bytes_is_an_image_or_unreadable(tmp_path):
    set_hypothesis_home_dir(tmp_path)  # or it would leave a folder here
    files, path = seeds(), tmp_path / "a"
    kinds = set()

    @settings(derandomize=True, deadline=None, max_examples=1200, database=None)
    @given(
        st.sampled_from(sorted(files)),
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
        st.none() | st.floats(0, 1),
    )
    def check(kind, changes, end):
        content = bytearray(files[kind])
        for place, byte in changes:
            content[int(place * len(content))] = byte
        path.write_bytes(content[: None if end is None else int(end * len(content))])
        try:
            image = open_image(path)
        except UNREADABLE:
            kinds.add((kind, "unreadable"))
        else:
            assert image.mode == "RGB" and min(image.size) > 0
            kinds.add((kind, "image"))

    check()
    assert kinds == {(kind, word) for kind in files for word in ("image", "unreadable")}


def test_an_image_that_is_too_large_is_refused_and_a_large_one_needs_no_warning(tmp_path, monkeypatch):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)  # PIL warns above this, and refuses above twice this
    assert open_image(tmp_path / "a.png").size == (30, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        open_image(tmp_path / "a.png")


def test_a_thin_image_costs_no_more_than_what_is_shown(tmp_path):
    Image.linear_gradient("L").resize((300_000, 1)).save(tmp_path / "a.png")
    pixels, sizes = read_image(tmp_path / "a.png", 512)
    assert pixels.shape == (3, 512, 512) and sizes == [1, 300_000, 0, 76_799_744, 512, 512]


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (61, 61)])
@pytest.mark.parametrize("resolution", [24, 128])
def test_cropping_before_resizing_gives_the_same_pixels(tmp_path, size, resolution):
    noise = np.random.default_rng(0).integers(60, 200, (5, 5, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    pixels, (*_, top, left, _, _) = read_image(tmp_path / "a.png", resolution)
    wide, high = (round(side * resolution / min(size)) for side in size)
    whole = np.array(image.resize((wide, high), Image.Resampling.LANCZOS))
    part = torch.tensor(whole[top : top + resolution, left : left + resolution]).permute(2, 0, 1)
    assert (pixels.int() - part.int()).abs().max() <= (0 if wide == high else 1)


def test_pixels_are_bytes_that_become_floats_from_minus_1_to_1(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).resize((8, 8), Image.Resampling.NEAREST).save(
        tmp_path / "a.png"
    )
    pixels, _ = read_image(tmp_path / "a.png", 8)
    assert pixels.dtype == torch.uint8 and to_unit(pixels).unique().tolist() == [-1, 1]
