"""Image files and pixel ranges: uint8 in [0, 255] on disk, float32 in [-1, 1] in the networks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from rdm_jax.core.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000
DECODED_PIXELS = 2**20  # larger batches are decoded from latents in slices: the decoder needs the most memory


def decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to RGB: oriented by its EXIF tag, first frame, transparency composited on white.

    Raises:
      ValueError: the bytes are not an image of these formats, are damaged, or contain more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} is more than {MAX_PIXELS} pixels")
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError as error:
        raise ValueError(f"not a readable image: none of {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image: {error}") from error


def read_image(file: str) -> UInt8[np.ndarray, "_ _ 3"]:
    """Returns the pixels of an image file; raises UserError if it cannot be read as an image."""
    try:
        return decode(Path(file).expanduser().read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"cannot read {file} as an image: {reason}") from error


def read_mask(file: str, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Returns a mask in [0, 1], the brightness of an image: 1 where it is white.

    Raises:
      UserError: the file is not an image, or its (height, width) is not `size`.
    """
    pixels = read_image(file)
    if pixels.shape[:2] != size:
        (height, width), (h, w) = size, pixels.shape[:2]
        raise UserError(f"mask {file} is {w}x{h} pixels and its image {width}x{height}; give one of that size")
    return pixels.mean(axis=-1, dtype=np.float32) / 255.0


def encode(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns the bytes of an image as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257.0).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes the shorter side to `size` (bicubic, antialiased) and crops the center to a square."""
    return fit(image, size, size)


def fit(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes an image until it fills height x width (bicubic, antialiased) and crops its center to that size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(ImageOps.fit(Image.fromarray(image), (width, height), method=Image.Resampling.BICUBIC))


def to_float(images: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Maps uint8 [0, 255] to float32 [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(images: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Maps float [-1, 1] to uint8 [0, 255], rounded, values outside clipped."""
    return np.clip(np.round((np.asarray(images, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)
