"""Draws the images of the generated set: a textured shape in front of clutter. Pure numpy; knows no files, no splits.

Nothing but shape x texture tells the class. Position, size, aspect, rotation, colour, background, distractors, the bar
in front and the noise are drawn alike for all classes; all shapes cover the same area, and both textures have the same
mean and the same variance. The object is always brighter than its background: with free contrast polarity and saturated
colours a small network stays at chance on thousands of images.

Coordinates: x to the right and y down, both from -1 to 1 over the image. Per-pixel arithmetic is +, -, *, /, sqrt, min,
max, abs and floor in float32, which every machine rounds alike.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SHAPES = ("disk", "square", "triangle", "plus", "star")
TEXTURES = ("stripes", "checker")
CLASSES = len(SHAPES) * len(TEXTURES)
"""A label is `shape * 2 + texture`, positions in SHAPES and TEXTURES."""

AREA = 2.4  # of every shape in its own coordinates: a disk of radius 0.87
CONTRAST = 0.72  # dark bands are this much darker than bright ones; at 0.55 some seeds never find the textures
NOISE = 0.05  # standard deviation, of a range of 1
DISTRACTORS = 2


def draw(labels: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return one image `(N, 3, size, size)` for each of `labels` `(N,)`; the scenes do not depend on `size`."""
    count = len(labels)
    canvas = _background(count, size, generator)
    canvas = _distractors(canvas, generator)
    centre = _uniform(generator, (count, 2), -0.2, 0.2)
    x, y = _grid(size, centre)
    canvas = _over(canvas, _object(x, y, labels // len(TEXTURES), generator), _surface(x, y, labels, generator))
    canvas = _over(canvas, _bar(x, y, generator), _uniform(generator, (count, 3, 1, 1), 0.0, 0.4))
    canvas += NOISE * generator.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.rint(canvas * 255), 0, 255).astype(np.uint8)


def distance(shape: str, u: Array, v: Array) -> Array:
    """Return how far points lie outside `shape` (negative inside), in its own coordinates; its area is `AREA`."""
    if shape == "disk":
        return np.sqrt(u * u + v * v) - np.float32(math.sqrt(AREA / math.pi))
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - np.float32(math.sqrt(AREA) / 2)
    if shape == "plus":  # arms three times as long as wide
        width = np.float32(math.sqrt(AREA / 20))
        u, v = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(u - 3 * width, v - width), np.maximum(u - width, v - 3 * width))
    if shape == "triangle":
        return _half_planes(u, v, 3)[-1] - np.float32(math.sqrt(AREA / (3 * math.sqrt(3))))
    # A star: inside at least four of the five half-planes whose edges, at distance r, draw a pentagram. Its tips lie at
    # r / cos 72 and its notches at r / cos 36, 36 degrees apart: the area is 5 sin 36 / (cos 72 cos 36) r^2.
    cos72, cos36, sin36 = (f(math.radians(a)) for f, a in ((math.cos, 72), (math.cos, 36), (math.sin, 36)))
    return _half_planes(u, v, 5)[-2] - np.float32(math.sqrt(AREA * cos72 * cos36 / (5 * sin36)))


def _half_planes(u: Array, v: Array, count: int) -> Array:
    """Distances along `count` directions spread evenly over the circle, ascending for each point."""
    angles = [2 * math.pi * k / count for k in range(count)]
    return np.sort(np.stack([np.float32(math.cos(a)) * u + np.float32(math.sin(a)) * v for a in angles]), axis=0)


def _uniform(generator: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Array:
    return (low + (high - low) * generator.random(shape)).astype(np.float32)


def _directions(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Cosine and sine of random angles, each `(N, 1, 1)`."""
    angle = 2 * math.pi * generator.random((count, 1, 1))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _grid(size: int, centre: Array) -> tuple[Array, Array]:
    """Coordinates of the pixels' centres relative to `centre` `(N, 2)`: x `(N, 1, size)` and y `(N, size, 1)`."""
    line = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    return line[None, None, :] - centre[:, :1, None], line[None, :, None] - centre[:, 1:, None]


def _over(canvas: Array, cover: Array, colour: Array) -> Array:
    """Paint `colour` `(N, 3, ...)` over the canvas where `cover` `(N, H, W)` is 1, in proportion where it is less."""
    return canvas + cover[:, None] * (colour - canvas)


def _cover(outside: Array, size: int) -> Array:
    """Turn a distance from an edge into the part of the pixel that is covered."""
    return np.clip(np.float32(0.5) - outside * np.float32(size / 2), 0, 1)


def _background(count: int, size: int, generator: np.random.Generator) -> Array:
    """A dark field of low spatial frequency: 3 x 3 random colours, interpolated linearly."""
    knots = _uniform(generator, (count, 3, 3, 3), 0.0, 0.25)
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(3, dtype=np.float32)), 0, 1)  # (size, 3)
    return np.einsum("hi,ncij,wj->nchw", weights, knots, weights, optimize=True).astype(np.float32)


def _distractors(canvas: Array, generator: np.random.Generator) -> Array:
    """Small dim disks, behind the object."""
    count, size = canvas.shape[0], canvas.shape[-1]
    for _ in range(DISTRACTORS):
        x, y = _grid(size, _uniform(generator, (count, 2), -1.0, 1.0))
        radius = _uniform(generator, (count, 1, 1), 0.1, 0.2)
        colour = _uniform(generator, (count, 3, 1, 1), 0.2, 0.45)
        canvas = _over(canvas, _cover(np.sqrt(x * x + y * y) - radius, size), colour)
    return canvas


def _object(x: Array, y: Array, shapes: NDArray[np.int64], generator: np.random.Generator) -> Array:
    """Cover `(N, H, W)` of the shapes, each rotated, scaled and stretched at random."""
    count, size = len(shapes), x.shape[-1]
    cosine, sine = _directions(generator, count)
    scale = _uniform(generator, (count, 1, 1), 0.6, 0.75)
    stretch = np.sqrt(_uniform(generator, (count, 1, 1), 0.85, 1.18))
    u = (cosine * x + sine * y) / (scale * stretch)
    v = (cosine * y - sine * x) / (scale / stretch)
    outside: Array = np.empty_like(u)
    for index, shape in enumerate(SHAPES):
        chosen = shapes == index
        outside[chosen] = distance(shape, u[chosen], v[chosen])
    return _cover(outside * scale, size)


def _surface(x: Array, y: Array, labels: NDArray[np.int64], generator: np.random.Generator) -> Array:
    """Textured colour `(N, 3, H, W)`: stripes, or the product of two crossed ones, at a random angle and pitch."""
    count = len(labels)
    cosine, sine = _directions(generator, count)
    checker = (labels % len(TEXTURES) == TEXTURES.index("checker"))[:, None, None]
    pitch = _uniform(generator, (count, 1, 1), 0.45, 0.6) * np.where(checker, np.float32(1.25), np.float32(1))
    phase = _uniform(generator, (2, count, 1, 1), 0.0, 1.0)
    # A wave of flank f has the variance 1 - 2 / (3 f). 1.69 for one wave equals 3 for each of two multiplied.
    flank = np.where(checker, np.float32(3), np.float32(1.69))
    first = _wave((cosine * x + sine * y) / pitch + phase[0], flank)
    second = _wave((cosine * y - sine * x) / pitch + phase[1], flank)
    texture = np.where(checker, first * second, first)
    colour = _uniform(generator, (count, 3, 1, 1), 0.55, 1.0)
    return colour * (1 - np.float32(CONTRAST / 2) * (1 - texture))[:, None]


def _wave(turns: Array, flank: Array) -> Array:
    """A trapezoid wave of period 1 between -1 and 1."""
    triangle = 4 * np.abs(turns - np.floor(turns) - np.float32(0.5)) - 1
    return np.clip(triangle * flank, -1, 1)


def _bar(x: Array, y: Array, generator: np.random.Generator) -> Array:
    """Cover `(N, H, W)` of a straight bar in front of the object, across the whole image."""
    count, size = len(x), x.shape[-1]
    cosine, sine = _directions(generator, count)
    offset = _uniform(generator, (count, 1, 1), -0.5, 0.5)
    width = _uniform(generator, (count, 1, 1), 0.06, 0.1)
    return _cover(np.abs(cosine * x + sine * y - offset) - width, size)
