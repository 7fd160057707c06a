"""Image files and pixel ranges: uint8 in [0, 255] on disk, float32 in [-1, 1] in the networks.

This is the one file that opens images of others. Their decoder may raise anything on a damaged or hostile file; here
that becomes a ValueError with a reason, which concerns this file and no other.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from rdm_jax.core import paths, svg
from rdm_jax.core.errors import UserError

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "QOI", "ICO"),
    "TGA",  # the last one: its files have no signature
)
MAX_PIXELS = 100_000_000
DECODED_PIXELS = 2**20  # larger batches are decoded from latents in slices: the decoder needs the most memory
ORIENTATION = 0x0112  # the EXIF tag
FAINT = 1.0 / 64.0  # of the range of a mask: one that is brighter nowhere is most likely stored as 0 and 1
SVG_SIDE = 256  # of the square to which an SVG file is rendered
MARGIN = 1.0 / 32.0  # the least one around what an SVG file shows, as a fraction of the square's side
LABEL_MODES = ("1", "L", "P", "I", "I;16")  # Pillow's, whose values are numbers and no colors
BLANK = 250  # an image without a darker pixel shows nothing

_SVG = re.compile(rb"(\xef\xbb\xbf)?\s*<")  # no other format begins so

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned for each value of the EXIF tag `ORIENTATION`."""


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the suffixes of image files, in lower case, each with its dot."""
    readable = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats())
    return readable | {".svg"}


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns those of `FORMATS` that this build of Pillow reads; SVG files are read besides."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to sRGB: oriented by its EXIF tag, first frame, transparency composited on white.

    Colors of another space are converted by the file's ICC profile; a profile that is damaged, or does not fit the
    pixels, is ignored, as browsers do. 16 bits are scaled to 8; floating-point pixels lie in [0, 1]. An SVG file is
    rendered on a white square, in the ink "#111111" where it leaves its color to the page.

    Raises:
      ValueError: the bytes are not an image of these formats, are damaged, contain more than `MAX_PIXELS` pixels, or
        pixels whose range is unknown; or an SVG file that `render_svg` rejects.
    """
    return render_svg(data) if _SVG.match(data) else _opened(data, _to_rgb)


def render_svg(data: bytes, side: int = SVG_SIDE) -> UInt8[np.ndarray, "side side 3"]:
    """Renders an SVG file on a white square: centered, as large as fits, with a margin of `MARGIN` unless it has one.

    Raises:
      ValueError: the document is damaged, nothing of it is visible on white, or `svg.checked` rejects it.
    """
    document = svg.checked(data, pixel_count)
    margin = round(side * MARGIN)
    square = _on_square(svg.to_png(document, side), side)
    if (square[margin : side - margin, margin : side - margin] < 255).sum() < (square < 255).sum():
        square = _on_square(svg.to_png(document, side - 2 * margin), side)
    if square.min() >= BLANK:
        raise ValueError("an SVG file of which nothing is visible on white")
    return square


def _on_square(png: bytes, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Returns an image in the center of a white square that is not smaller."""
    image = _opened(png, _to_rgb)
    height, width = image.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), 255, np.uint8)
    square[top : top + height, left : left + width] = image
    return square


def pixel_count(data: bytes) -> int:
    """Returns the number of pixels of an image file, which is not decoded; raises ValueError as `decode`."""
    return _opened(data, lambda image: image.width * image.height, load=False)


def decode_mask(data: bytes) -> Float[np.ndarray, "h w"]:
    """Decodes an image file to a mask in [0, 1]: what is painted.

    Opaque pixels are painted as far as they are bright: by their largest channel, so that red paint counts as white.
    Transparent pixels are not painted.

    Raises:
      ValueError: as of `decode`.
    """
    return _opened(data, _to_mask)


def _opened(data: bytes, read: Callable[[Image.Image], Any], load: bool = True) -> Any:
    """Returns what `read` makes of an image file, oriented if it is loaded; every failure is a ValueError."""
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} is more than {MAX_PIXELS} pixels")
            if not load:
                return read(image)
            image.load()
            return read(_oriented(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"not a readable image: none of {', '.join((*formats(), 'SVG'))}") from error
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"not a readable image: {' '.join(str(error).split()) or type(error).__name__}") from error


def _oriented(image: Image.Image) -> Image.Image:
    """Returns an image as its EXIF tag says; a tag that cannot be read says nothing."""
    try:
        turn = _TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow's parser raises anything on damaged tags
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    color, alpha = _color_and_alpha(image)
    if alpha is None:
        return np.asarray(color)
    ground = Image.new("RGBA", color.size, (255, 255, 255, 255))
    color.putalpha(alpha)
    return np.asarray(Image.alpha_composite(ground, color).convert("RGB"))


def _to_mask(image: Image.Image) -> Float[np.ndarray, "h w"]:
    color, alpha = _color_and_alpha(image)
    painted = np.asarray(color).max(axis=-1).astype(np.float32) / 255.0
    return painted if alpha is None else painted * np.asarray(alpha, np.float32) / 255.0


def _color_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Returns the colors, in sRGB, and the alpha channel, mode "L"; None where all is opaque."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_numbers(image)
    alpha = None
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        if image.mode in ("RGB", "L") and _is_16_bit(image):
            raise ValueError("a 16-bit image with a transparent color; save it with an alpha channel")
        rgba = image.convert("RGBA")
        # In the mode that an ICC profile of the file describes.
        alpha, image = rgba.getchannel("A"), rgba.convert("L" if image.mode in ("LA", "L") else "RGB")
    return _to_srgb(image), alpha


def _is_16_bit(image: Image.Image) -> bool:
    """Says whether the transparent color of a PNG is one of 16 bits, while Pillow keeps 8 of each pixel."""
    color = image.info.get("transparency")
    values = color if isinstance(color, tuple) else (color,)
    return any(isinstance(value, int) and value > 255 for value in values)


def _from_numbers(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Returns a gray image of 16-bit integers or of floats in [0, 1], and its alpha channel."""
    values = np.asarray(image)
    least, most = float(values.min()), float(values.max())
    limit = 1.0 if image.mode == "F" else 65535.0
    if not (least >= 0.0 and most <= limit):  # NaN neither
        raise ValueError(f"pixels from {least:g} to {most:g}, beyond 0 to {limit:g}; save it with 8 or 16 bits")
    gray = Image.fromarray(np.round(values.astype(np.float64) * (255.0 / limit)).astype(np.uint8))
    clear = image.info.get("transparency")
    alpha = None if clear is None else Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return gray.convert("RGB"), alpha


def _to_srgb(image: Image.Image) -> Image.Image:
    """Returns an image without alpha in sRGB, by its ICC profile if it has one."""
    if image.mode == "LAB":
        return _by_profile(image, ImageCms.createProfile("LAB"))
    if image.mode in ("1", "P", "HSV", "YCbCr"):
        image = image.convert("RGB")
    profile = image.info.get("icc_profile")
    if profile:
        try:
            return _by_profile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # damaged, or of another kind of pixels
    return image.convert("RGB")


def _by_profile(image: Image.Image, profile: Any) -> Image.Image:
    converted = ImageCms.profileToProfile(image, profile, _srgb(), outputMode="RGB")
    assert converted is not None
    return converted


@functools.cache
def _srgb() -> Any:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def read_bytes(file: str | Path) -> bytes:
    """Returns the bytes of a file that the user named; raises UserError if it cannot be read."""
    try:
        return paths.local(file).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; check the path") from error


def read_image(file: str | Path) -> UInt8[np.ndarray, "_ _ 3"]:
    """Returns the pixels of an image file; raises UserError if it cannot be read as an image."""
    data = read_bytes(file)
    try:
        return decode(data)
    except ValueError as error:
        raise UserError(f"cannot read {file} as an image: {error}") from error


def read_mask(file: str | Path, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Returns a mask in [0, 1]: see `decode_mask`.

    Raises:
      UserError: the file is not an image, its (height, width) is not `size`, or it paints nothing.
    """
    data = read_bytes(file)
    try:
        mask = decode_mask(data)
    except ValueError as error:
        raise UserError(f"cannot read {file} as a mask: {error}") from error
    if mask.shape != size:
        (height, width), (h, w) = size, mask.shape
        raise UserError(f"mask {file} is {w}x{h} pixels and its image {width}x{height}; give one of that size")
    if mask.max() <= FAINT:
        most = round(float(mask.max()) * 255.0)
        hint = "what is to be generated is white, the largest value that the file can store"
        raise UserError(f"mask {file} paints nothing: its brightest pixel is {most} of 255; {hint}")
    return mask


def read_labels(file: str | Path) -> Int[np.ndarray, "h w"]:
    """Returns the label of each pixel of an image file: its gray value as stored, or its index into the palette.

    Raises:
      UserError: the file is not an image, or its pixels are colors.
    """
    data = read_bytes(file)
    try:
        return _opened(data, _to_labels)
    except ValueError as error:
        raise UserError(f"cannot read {file} as labels: {error}") from error


def _to_labels(image: Image.Image) -> Int[np.ndarray, "h w"]:
    if image.mode not in LABEL_MODES:
        raise ValueError(f"its pixels are colors ({image.mode}); save the labels as a gray or indexed PNG")
    return np.asarray(image).astype(np.int32)


def fit_labels(labels: Int[np.ndarray, "h w"], height: int, width: int) -> Int[np.ndarray, "height width"]:
    """Resizes labels until they fill height x width, each pixel that of its nearest, and crops the center."""
    if labels.shape == (height, width):
        return labels
    scale = max(height / labels.shape[0], width / labels.shape[1])
    rows, columns = (
        (np.arange(side) + 0.5 - side / 2) / scale + own / 2
        for side, own in zip((height, width), labels.shape, strict=True)
    )
    nearest = [
        np.clip(places.astype(np.int64), 0, own - 1) for places, own in zip((rows, columns), labels.shape, strict=True)
    ]
    return labels[np.ix_(*nearest)]


def encode(image: UInt8[np.ndarray, "h w c"], texts: Mapping[str, str] | None = None) -> bytes:
    """Returns the bytes of an image as a PNG file.

    Args:
      image: the image, of 3 channels, or 4 with alpha.
      texts: to store in chunks of these names.
    """
    info = PngImagePlugin.PngInfo()
    for name, text in (texts or {}).items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def decode_png(data: bytes) -> tuple[UInt8[np.ndarray, "h w c"], dict[str, str]]:
    """Returns the pixels of a PNG file as they are stored, and its texts by name; raises ValueError as `decode`.

    There are 3 channels, or 4 with alpha.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("RGBA" if image.mode == "RGBA" else "RGB"))
            return pixels, {name: str(text) for name, text in getattr(image, "text", {}).items()}
    except UnidentifiedImageError as error:
        raise ValueError("not a PNG file") from error
    except Exception as error:
        raise ValueError(f"a damaged PNG file: {' '.join(str(error).split())}") from error


def resize_and_crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes the shorter side to `size` (bicubic, antialiased) and crops the center to a square."""
    return fit(image, size, size)


def fit(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes an image until it fills height x width (bicubic, antialiased) and crops its center to that size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(ImageOps.fit(Image.fromarray(image), (width, height), method=Image.Resampling.BICUBIC))


def pad(image: Shaped[np.ndarray, "h w c"], height: int, width: int) -> Shaped[np.ndarray, "height width c"]:
    """Pads an image below and to the right to height x width; its last row and column are repeated."""
    missing = (height - image.shape[0], width - image.shape[1])
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else image


def to_float(images: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Maps uint8 [0, 255] to float32 [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(images: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Maps float [-1, 1] to uint8 [0, 255], rounded, values outside clipped."""
    return np.clip(np.round((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)
