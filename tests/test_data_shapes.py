"""The generated set: repeatable, balanced, cached safely, and told apart by nothing but shape and texture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repro.data import shapes
from repro.data.config import ShapesConfig
from repro.data.scenes import AREA, CLASSES, SHAPES, distance, draw

SMALL = ShapesConfig(size=12, train=60, val=20, test=30)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    return tmp_path


@settings(deadline=None, max_examples=10)
@given(few=st.integers(1, 450), more=st.integers(0, 300), seed=st.integers(0, 99))
def test_a_larger_set_begins_with_the_smaller_one(few: int, more: int, seed: int) -> None:
    small, large = (shapes.generate(seed, "train", count, 12) for count in (few, few + more))
    assert len(small) == few
    assert np.array_equal(small.images, large.images[:few])
    assert np.array_equal(small.labels, large.labels[:few])


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 450))
def test_any_beginning_is_balanced(count: int) -> None:
    counts = np.bincount(shapes.generate(0, "val", count, 12).labels, minlength=CLASSES)
    assert counts.max() - counts.min() <= 1


def test_splits_seeds_and_sizes_have_streams_of_their_own() -> None:
    sets = [
        shapes.generate(seed, split, 50, size).images.tobytes()
        for seed in (0, 1)
        for split in ("train", "val", "test")
        for size in (12, 16)
    ]
    assert len(set(sets)) == len(sets)
    pixels = [row.tobytes() for split in ("train", "val", "test") for row in shapes.generate(0, split, 400, 12).images]
    assert len(set(pixels)) == 1200


@pytest.mark.parametrize("size", [12, 16, 32, 45])
def test_images_have_the_size_asked_for(size: int) -> None:
    images = shapes.generate(0, "train", 30, size).images
    assert images.shape == (30, 3, size, size)
    assert images.dtype == np.uint8


def test_a_scene_is_the_same_at_any_size() -> None:
    """The same stream draws the same scene; its noise and sampling differ, its coarse look does not."""
    labels = np.arange(CLASSES).repeat(4)
    coarse = [_blocks(draw(labels, size, np.random.default_rng(0)), size // 8) for size in (16, 32, 64)]
    for larger in coarse[1:]:
        assert np.corrcoef(coarse[0].ravel(), larger.ravel())[0, 1] > 0.95


def _blocks(images: NDArray[np.uint8], width: int) -> NDArray[np.float64]:
    count, channels, size, _ = images.shape
    cells = images.reshape(count, channels, size // width, width, size // width, width)
    return np.asarray(cells.mean((3, 5)))


@pytest.mark.parametrize("shape", SHAPES)
def test_all_shapes_cover_the_same_area(shape: str) -> None:
    line = np.linspace(-2, 2, 801, dtype=np.float32)
    u, v = np.meshgrid(line, line)
    assert float((distance(shape, u, v) <= 0).mean()) * 16.02 == pytest.approx(AREA, rel=0.01)


def test_classes_differ_in_the_object_alone() -> None:
    """With one stream, images of two classes agree wherever neither has its object."""
    first, second = (draw(np.full(200, label), 16, np.random.default_rng(0)) for label in (0, 9))
    differs = (first != second).any(1)
    assert 0.05 < differs.mean() < 0.5
    assert differs[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean() < 0.02


def features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean and standard deviation of each channel over an image."""
    return np.concatenate([images.mean((2, 3)), images.std((2, 3))], axis=1)


def test_colour_and_brightness_tell_nothing_of_the_class() -> None:
    train, test = (shapes.generate(0, split, 2000, 16) for split in ("train", "test"))
    known, asked = features(train.images), features(test.images)
    centre, spread = known.mean(0), known.std(0)
    means = np.stack([((known - centre) / spread)[train.labels == label].mean(0) for label in range(CLASSES)])
    guess = (((asked - centre) / spread)[:, None] - means).__pow__(2).sum(2).argmin(1)
    assert (guess == test.labels).mean() < 0.14  # chance is 0.10, its standard error 0.007


def test_pixels_do_not_tell_the_class_linearly() -> None:
    train, test = (shapes.generate(0, split, 2000, 16) for split in ("train", "test"))
    known, asked = (split.images.reshape(2000, -1) / 255 - 0.3 for split in (train, test))
    weights = np.linalg.solve(known.T @ known + 100 * np.eye(known.shape[1]), known.T @ np.eye(CLASSES)[train.labels])
    assert ((asked @ weights).argmax(1) == test.labels).mean() < 0.25


def test_the_second_load_reads_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shapes.load_arrays(SMALL)
    assert [path.name for path in cache.glob("shapes/*")] == [shapes.cache_file(SMALL).name]
    monkeypatch.setattr(shapes, "generate", None)  # drawing again would fail
    second = shapes.load_arrays(SMALL)
    assert second.sizes == {"train": 60, "val": 20, "test": 30}
    assert second.fingerprint == first.fingerprint


def _flip_a_pixel(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"not an archive",
        _flip_a_pixel,
    ],
    ids=["truncated", "empty", "garbage", "one bit"],
)
def test_a_damaged_cache_file_is_replaced(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    expected, path = shapes.load_arrays(SMALL).fingerprint, shapes.cache_file(SMALL)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert shapes.load_arrays(SMALL).fingerprint == expected
    assert path.read_bytes() == whole


def test_a_cache_file_of_another_set_is_replaced(cache: Path) -> None:
    other = SMALL.model_copy(update={"train": 70})
    shapes.load_arrays(other)
    shapes.cache_file(other).rename(shapes.cache_file(SMALL))
    assert shapes.load_arrays(SMALL).sizes["train"] == 60


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "file"))
    assert len(shapes.load_arrays(SMALL).train) == 60


def test_a_full_disk_leaves_no_part_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert len(shapes.load_arrays(SMALL).train) == 60
    assert list(cache.glob("shapes/*")) == []


def test_the_cache_is_named_by_what_is_drawn(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = shapes.cache_file(SMALL)
    assert shapes.cache_file(SMALL.model_copy(update={"mirror": False})) == base
    assert shapes.cache_file(SMALL.model_copy(update={"seed": 1})) != base
    monkeypatch.setattr(shapes, "VERSION", shapes.VERSION + 1)
    assert shapes.cache_file(SMALL) != base
