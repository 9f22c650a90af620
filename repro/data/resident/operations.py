"""Image operations by the batch, each image with an amount of its own; nothing waits for the host.

Images are uint8 `(B, C, H, W)`, square, of one or three channels; amounts are float32 `(B, 1, 1, 1)`; `fill`
`(C, 1, 1)` is the colour, 0 to 255, of what comes into the image from outside. What is about colours leaves images of
one channel as they are. An enhancement blends with a degenerate image as Pillow's ImageEnhance does: 0 gives that
image, 1 changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
Weights = tuple[Tensor | float, Tensor | float, Tensor | float]


def _identity(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return images


def _shear_x(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Shear lines against the top one, by `amounts` pixels for each pixel down."""
    return _warp(images, (1.0, amounts, amounts), (0.0, 1.0, 0.0), fill)


def _shear_y(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return _warp(images, (1.0, 0.0, 0.0), (amounts, 1.0, amounts), fill)


def _translate_x(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Move by `amounts` pixels."""
    return _warp(images, (1.0, 0.0, amounts * (2 / images.shape[-1])), (0.0, 1.0, 0.0), fill)


def _translate_y(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return _warp(images, (1.0, 0.0, 0.0), (0.0, 1.0, amounts * (2 / images.shape[-1])), fill)


def _rotate(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Rotate about the centre by `amounts` degrees."""
    angle = torch.deg2rad(amounts)
    cosine, sine = angle.cos(), angle.sin()
    return _warp(images, (cosine, -sine, 0.0), (sine, cosine, 0.0), fill)


def _warp(images: Tensor, across: Weights, down: Weights, fill: Tensor) -> Tensor:
    """Fill pixel (u, v), from -1 to 1, with what lies at (a u + b v + c, d u + e v + f), bilinearly.

    `across` is (a, b, c) and `down` is (d, e, f). Written out and not left to a matrix product, whose rounding changes
    with the batch and with TF32.
    """
    count, _, size, _ = images.shape
    line = (torch.arange(size, device=images.device) * 2 + 1) / size - 1
    u, v = line, line[:, None]
    places = [(a * u + b * v + c).expand(count, 1, size, size)[:, 0] for a, b, c in (across, down)]
    moved = functional.grid_sample(images - fill, torch.stack(places, -1), align_corners=False)
    return moved.add_(fill).round_().clamp_(0, 255).to(torch.uint8)


def _brightness(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return (images * amounts).clamp_(0, 255).to(torch.uint8)


def _contrast(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return _blend(images, _grey(images).float().mean((1, 2, 3), keepdim=True), amounts)


def _color(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return _blend(images, _grey(images), amounts) if images.shape[1] == 3 else images


def _sharpness(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3x3 filter of weights 1, the centre 5; the border stays as it is."""
    if images.shape[-1] < 3:
        return images
    inner = images[..., 1:-1, 1:-1]
    smooth = images.float()
    smooth[..., 1:-1, 1:-1] = functional.avg_pool2d(smooth, 3, 1).mul_(9).add_(inner, alpha=4).div_(13).round_()
    return _blend(images, smooth, amounts)


def _grey(images: Tensor) -> Tensor:
    return vision.rgb_to_grayscale(images) if images.shape[1] == 3 else images


def _blend(images: Tensor, other: Tensor, amounts: Tensor) -> Tensor:
    return (images * amounts + other * (1 - amounts)).clamp_(0, 255).to(torch.uint8)


def _hue(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Turn the hue by `amounts` of the whole circle; value and saturation (HSV) stay."""
    if images.shape[1] != 3:
        return images
    scaled = images / 255
    value, least = scaled.amax(1, keepdim=True), scaled.amin(1, keepdim=True)
    chroma = value - least
    sixth = _sixth(scaled, value, chroma) + 6 * amounts
    place = (torch.arange(5, 0, -2, device=images.device).view(3, 1, 1) + sixth) % 6  # of red, green and blue
    turned = value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)
    return turned.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _sixth(scaled: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Hue of `(B, 3, H, W)` in sixths of the circle from red, `(B, 1, H, W)`; that of grey is 0."""
    red, green, blue = scaled.chunk(3, 1)
    divisor = torch.where(chroma > 0, chroma, 1)
    otherwise = torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    return torch.where(value == red, (green - blue) / divisor, otherwise)


def _posterize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Keep the `amounts` highest bits of 8."""
    lowest = torch.exp2(8 - amounts)
    return (torch.div(images, lowest, rounding_mode="floor") * lowest).to(torch.uint8)


def _solarize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Invert the values from `amounts` on."""
    return torch.where(images >= amounts, 255 - images, images)


def _solarize_add(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Add `amounts` to the values below 128."""
    return torch.where(images < 128, (images + amounts).clamp_(0, 255).to(torch.uint8), images)


def _auto_contrast(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Stretch each channel to 0 to 255; one without contrast stays."""
    least, most = images.amin((2, 3), keepdim=True).float(), images.amax((2, 3), keepdim=True).float()
    flat = most == least
    gain = torch.where(flat, 1, 255 / (most - least))
    return (images - torch.where(flat, 0, least)).mul_(gain).clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return vision.equalize(images)


def _invert(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return 255 - images


OPERATIONS: dict[str, Operation] = {
    "Identity": _identity,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": _brightness,
    "Contrast": _contrast,
    "Color": _color,
    "Hue": _hue,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
}
NUMBERS = {name: number for number, name in enumerate(OPERATIONS)}
