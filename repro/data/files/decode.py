"""From the bytes of an image file to pixels: by Pillow in the workers, or JPEG files by the batch on the device."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from repro.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ON_DEVICE = ("RGB", "L")  # colours of JPEG files that every decoder knows; others, such as CMYK, are left to Pillow


def open_rgb(content: bytes, name: str) -> Image:
    """Decode an RGB image on the CPU. Raises InputError that names a file which is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _quiet(), Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:  # its own message names the buffer
        reason = "empty file" if not content else "unknown format"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: broken PNG files
        reason = str(error)
    raise InputError(f"{name}: cannot be read as an image ({reason})")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back warnings: Pillow's of damaged EXIF data, which are not read, torchvision's of a successor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def encoded(content: bytes, name: str) -> Tensor:
    """Return what the device is sent: bytes uint8 `(n,)` of a JPEG file, else pixels uint8 `(3, H, W)`.

    Raises InputError that names a file which is no image.
    """
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        with _quiet(), Image.open(io.BytesIO(content)) as header:
            on_device = header.format == "JPEG" and header.mode in ON_DEVICE
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        on_device = False  # open_rgb says what is wrong with it
    if on_device:
        return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
    pixels: Tensor = pil_to_tensor(open_rgb(content, name))
    return pixels.contiguous()


def decode(images: list[Tensor], device: torch.device) -> list[Tensor]:
    """Turn what `encoded` returned into pixels uint8 `(3, H, W)` on `device`, the JPEG files in one call.

    Raises RuntimeError where the decoder fails.
    """
    jpegs = iter(_decode_jpegs([image for image in images if image.ndim == 1], device))
    return [next(jpegs) if image.ndim == 1 else image.to(device, non_blocking=True) for image in images]


def _decode_jpegs(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decode by torchvision, on a GPU with nvJPEG."""
    if not files:
        return []
    from torchvision.io import ImageReadMode, decode_jpeg

    with _quiet():
        decoded: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    return decoded


def check_device(device: torch.device) -> None:
    """Raise InputError where JPEG files cannot be decoded on `device`: no NVIDIA GPU, or torchvision without nvJPEG."""
    instead = "use data.decode=cpu"
    if device.type != "cuda":
        raise InputError(f"data.decode=gpu needs an NVIDIA GPU (trainer=gpu), this run's device is {device}; {instead}")
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    try:
        decode([encoded(buffer.getvalue(), "a test image")], device)
    except (RuntimeError, ImportError, AttributeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"data.decode=gpu: torchvision cannot decode JPEG files on {device} ({reason}); {instead}"
        ) from None
