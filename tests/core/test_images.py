"""Images of others: every kind of file that Pillow writes is decoded as a reference says, or refused with a reason."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from rdm_jax.core import images
from rdm_jax.core.errors import UserError

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F")
EXACT = ("PNG", "TIFF", "BMP", "DIB", "TGA", "PPM", "QOI", "ICO", "GIF", "WEBP")
LOSSY = ("JPEG", "AVIF", "JPEG2000")
OTHERS = ("PDF", "EPS", "SGI", "PCX", "IM", "DDS", "ICNS", "SPIDER", "BLP", "MSP", "XBM", "PALM")
OPTIONS = {
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100},
}


def smooth(mode: str, seed: int, height: int, width: int) -> Image.Image:
    """Returns an image of a mode without hard edges, which lossy formats keep."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:height, :width] / (max(height, width) + 1.0)
    bands = {"LA": 2, "PA": 2, "RGBA": 4, "CMYK": 4}.get(mode, 3 if mode in ("RGB", "YCbCr", "LAB", "HSV") else 1)
    corners = rng.uniform(0.15, 0.85, (3, bands))
    values = (corners[0] + (corners[1] - corners[0]) * x[..., None]) * 0.5 + (corners[2] * y[..., None] + 0.1) * 0.5
    if mode in ("I", "I;16", "I;16B"):
        return (
            Image.fromarray((values[..., 0] * 65535).astype(np.uint16)).convert(mode)
            if mode != "I"
            else Image.fromarray((values[..., 0] * 65535).astype(np.int32))
        )
    if mode == "F":
        return Image.fromarray(values[..., 0].astype(np.float32))
    pixels = (values * 255).astype(np.uint8)
    if mode == "1":
        return Image.fromarray(pixels[..., 0] > 128)
    if mode in ("P", "PA"):
        color = Image.fromarray((np.stack([values[..., 0]] * 3, -1) * 255).astype(np.uint8)).convert("P")
        if mode == "P":
            return color
        paletted = color.convert("PA")
        paletted.putalpha(Image.fromarray(pixels[..., 1]))
        return paletted
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def reference(image: Image.Image) -> np.ndarray:
    """Returns the colors of an image in [0, 255] by the definition of its mode; Pillow gives the stored numbers."""
    mode, raw = image.mode, np.asarray(image).astype(np.float64)
    if mode in ("1", "F"):
        gray = raw * 255.0
    elif mode.startswith("I"):
        gray = raw / 257.0
    elif mode in ("L", "LA"):
        gray = raw if mode == "L" else raw[..., 0]
    else:
        return composite(_colors(image, raw), raw[..., -1] if mode in ("RGBA", "PA") else None)
    return composite(np.stack([gray] * 3, -1), raw[..., 1] if mode == "LA" else None)


def _colors(image: Image.Image, raw: np.ndarray) -> np.ndarray:
    if image.mode in ("P", "PA"):
        indices = raw if image.mode == "P" else raw[..., 0]
        return np.asarray(image.getpalette("RGB"), np.float64).reshape(-1, 3)[indices.astype(int)]
    if image.mode == "CMYK":
        return (255.0 - raw[..., :3]) * (255.0 - raw[..., 3:]) / 255.0
    if image.mode == "YCbCr":  # ITU-T T.871
        y, cb, cr = raw[..., 0], raw[..., 1] - 128.0, raw[..., 2] - 128.0
        return np.clip(np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1), 0, 255)
    return raw[..., :3]


def composite(color: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Returns colors over white."""
    if alpha is None:
        return color
    return color * alpha[..., None] / 255.0 + 255.0 - alpha[..., None]


def saved(image: Image.Image, name: str, **options) -> bytes:
    """Returns an image file; skips the example where Pillow cannot write such a one."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, name, **OPTIONS.get(name, {}), **options)
    except (OSError, ValueError, KeyError, TypeError, SystemError, SyntaxError):
        assume(False)
    return buffer.getvalue()


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(st.sampled_from(MODES), st.sampled_from(EXACT + LOSSY + OTHERS), st.integers(0, 99), SIZES)
def test_every_file_that_pillow_writes_is_decoded_or_refused(mode, name, seed, size):
    image = smooth(mode, seed, *size)
    data = saved(image, name)
    try:
        decoded = images.decode(data)
    except ValueError as error:
        assert "not a readable image" in str(error) or "pixels from" in str(error)
        assert name in OTHERS or name == "ICO" or mode in ("LAB", "HSV")
        return
    if name in OTHERS or mode in ("LAB", "HSV"):
        return  # read, as another format is; no reference is at hand
    with Image.open(io.BytesIO(data)) as stored:  # GIF stores other modes as palettes, JPEG others as RGB
        stored.load()
        expected = reference(stored)
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).max() <= 2.0
    if name == "ICO":  # it stores sizes of its own
        return
    if (name in EXACT and stored.mode == mode) or (name == "JPEG" and mode in ("L", "RGB")):
        assert np.abs(decoded - reference(image)).max() <= (2.0 if name in EXACT else 12.0)


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""By EXIF's definition: what is shown for the stored rows and columns."""


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation_is_applied(turn, name):
    image = smooth("RGB", 1, 20, 12)
    exif = Image.Exif()
    exif[images.ORIENTATION] = turn
    data = saved(image, name, exif=exif)
    tolerance = 12 if name == "JPEG" else 0
    assert np.abs(images.decode(data).astype(int) - TURNS[turn](np.asarray(image))).max() <= tolerance


def tiff_directory(entries: list[tuple[int, int, int, int]], rest: bytes) -> bytes:
    """Returns an EXIF block of tags, each (number, type, count, value or offset)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + rest


WORDS, TAGS = st.integers(0, 2**32 - 1), st.sampled_from([0x0112, 0x010F, 0x8769, 0x8825, 0x9286])
DAMAGED_EXIF = st.binary(max_size=64) | st.builds(
    tiff_directory, st.lists(st.tuples(TAGS, st.integers(0, 20), WORDS, WORDS), max_size=4), st.binary(max_size=16)
)
"""EXIF blocks of random bytes, or with tags of wrong types, counts and offsets."""


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow reads the tags when it writes them, too
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "AVIF"]), DAMAGED_EXIF, st.binary(max_size=40), st.integers(0, 9))
def test_damaged_metadata_changes_no_pixel(name, exif, icc, seed):
    """Metadata that cannot be read says nothing; the image is that of the file without it, turned at most."""
    image = smooth("RGB", seed, 9, 16)
    plain = images.decode(saved(image, name))
    blocks = {"exif": b"Exif\0\0" + exif} | ({"icc_profile": icc} if icc else {})
    try:
        decoded = images.decode(saved(image, name, **blocks))
    except ValueError as error:
        assert "not a readable image" in str(error)
        return
    assert any(np.array_equal(decoded, turn(plain)) for turn in TURNS.values())


SHARE = st.floats(0, 1, exclude_max=True)


@given(
    st.sampled_from(EXACT + LOSSY),
    st.integers(0, 9),
    st.lists(st.tuples(SHARE, st.integers(0, 255)), max_size=4),
    SHARE,
)
def test_a_damaged_file_is_an_image_or_a_reason(name, seed, damage, cut):
    whole = bytearray(saved(smooth("RGB", seed, 12, 12), name))
    for place, value in damage:
        whole[int(place * len(whole))] = value
    for content in (bytes(whole), bytes(whole[: int(cut * len(whole))])):
        try:
            decoded = images.decode(content)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert decoded.dtype == np.uint8 and decoded.shape[2] == 3


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError):
        images.decode(data)


def icc_profile(order: tuple[int, int, int], gamma: float) -> bytes:
    """Returns a minimal ICC profile: the primaries of sRGB in another order, and a power curve (ICC.1:2001-04)."""
    primaries = [(0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)]
    xyz = [b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in primaries[i])) for i in order]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    text = b"text\0\0\0\0test\0\0\0\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * (4 + 4 + 2 + 1 + 67 + 2)
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz, strict=True))
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"wtpt": white, b"cprt": text, b"desc": desc}
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    size = struct.pack(">I", offset + len(body))
    header = size + b"\0" * 4 + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 28
    header += struct.pack(">3i", 63190, 65536, 54061) + b"\0" * 48
    return header + table + body


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors_are_converted_by_the_profile(name, order, mode):
    """The closed form: the power curve, then sRGB's own curve, with the channels where the profile has them."""
    if name == "JPEG" and mode == "RGBA":
        pytest.skip("JPEG has no alpha")
    image = smooth(mode, 5, 16, 16)
    data = saved(image, name, icc_profile=icc_profile(order, 1.8))
    raw = np.asarray(image).astype(np.float64)
    linear = (raw[..., :3] / 255.0) ** 1.8
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)[..., list(order)]
    expected = composite(255.0 * srgb, raw[..., 3] if mode == "RGBA" else None)
    assert np.abs(images.decode(data) - expected).max() <= (14 if name == "JPEG" else 4)


def test_lab_is_converted():
    """Neutral colors: luminance by CIE 1976, then sRGB's curve."""
    lightness = np.linspace(20, 100, 9)
    raw = np.stack([lightness * 2.55, np.zeros(9), np.zeros(9)], -1)[None].round().astype(np.uint8)
    luminance = ((lightness + 16) / 116) ** 3
    expected = 255 * (1.055 * luminance ** (1 / 2.4) - 0.055)
    decoded = images.decode(saved(Image.frombytes("LAB", (9, 1), raw.tobytes()), "TIFF"))
    assert np.abs(decoded[0] - expected[:, None]).max() <= 2


def test_transparent_colors_of_16_bits():
    values = np.array([[0, 30000], [65535, 30000]], np.uint16)
    data = saved(Image.fromarray(values), "PNG", transparency=30000)
    assert images.decode(data)[..., 0].tolist() == [[0, 255], [255, 255]]
    rgb = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(rgb, "PNG", transparency=(300, 0, 0))
    with pytest.raises(ValueError, match="transparent color"):
        images.decode(rgb.getvalue())


@pytest.mark.parametrize("values", [[-0.5, 1.0], [0.0, 300.0], [np.nan, 0.5], [np.inf, 0.0]])
def test_floats_beyond_0_to_1_are_refused_with_their_range(values):
    data = saved(Image.fromarray(np.array([values], np.float32)), "TIFF")
    with pytest.raises(ValueError, match="beyond 0 to 1; save it with 8 or 16 bits"):
        images.decode(data)


def write(tmp_path, pixels, mode=None):
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.filterwarnings("ignore:'mode' parameter")
@pytest.mark.parametrize(
    ("pixels", "painted"),
    [
        ([[0, 255, 128]], [0.0, 1.0, 128 / 255]),
        ([[[0, 0, 0], [255, 0, 0], [0, 0, 64]]], [0.0, 1.0, 64 / 255]),  # red and blue strokes on black
        ([[[255, 255, 255, 0], [255, 255, 255, 255], [255, 0, 0, 128]]], [0.0, 1.0, 128 / 255]),
        ([[[0, 0, 0, 255], [0, 0, 0, 0], [9, 200, 9, 255]]], [0.0, 0.0, 200 / 255]),
    ],
)
def test_a_mask_is_what_is_painted(tmp_path, pixels, painted):
    np.testing.assert_allclose(images.read_mask(write(tmp_path, pixels), (1, 3)), [painted], atol=1 / 255)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ([[0, 0, 0]], "paints nothing: its brightest pixel is 0 of 255; what is to be generated is white"),
        (
            [[0, 1, 1]],
            "its brightest pixel is 1 of 255; what is to be generated is white, the largest value",
        ),
        ([[[255, 255, 255, 0]] * 3], "paints nothing"),
        ([[255, 255]], "is 2x1 pixels and its image 3x1"),
    ],
)
def test_a_mask_that_paints_nothing_is_refused(tmp_path, pixels, message):
    with pytest.raises(UserError, match=message):
        images.read_mask(write(tmp_path, pixels), (1, 3))


def test_pillow_reads_every_suffix_of_the_list():
    registered = Image.registered_extensions()
    assert {
        ".jpg",
        ".jfif",
        ".jpe",
        ".png",
        ".webp",
        ".tif",
        ".gif",
        ".bmp",
        ".avif",
        ".tga",
        ".jp2",
    } <= images.suffixes()
    assert all(registered[suffix] in images.formats() for suffix in images.suffixes() - {".svg"})
