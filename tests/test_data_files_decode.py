"""Decoding: by Pillow in the workers, or JPEG files by the batch on the device, here with the CPU as the device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from repro.data.config import AugmentConfig
from repro.data.files import decode
from repro.data.splits import Splits
from repro.errors import InputError
from tests.image_files import CPU, encode, epoch, make, picture, write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU stand for the GPU."""
    monkeypatch.setattr(decode, "check_device", lambda _: None)


@pytest.mark.parametrize(
    ("mode", "form", "dimensions"),
    [("RGB", "JPEG", 1), ("L", "JPEG", 1), ("CMYK", "JPEG", 3), ("RGB", "PNG", 3), ("P", "PNG", 3)],
)
def test_only_plain_jpeg_files_are_left_to_the_device(mode: str, form: str, dimensions: int) -> None:
    content = encode(picture(5, mode), form)
    sent = decode.encoded(content, "x")
    assert (sent.dtype, sent.ndim) == (torch.uint8, dimensions)
    (pixels,) = decode.decode([sent], CPU)
    expected = decode.open_rgb(content, "x")
    assert pixels.shape == (3, expected.height, expected.width)
    shown = torch.tensor(list(expected.tobytes())).view(expected.height, expected.width, 3).permute(2, 0, 1)
    assert (pixels.double() - shown).abs().mean() < 1.5  # decoders may round colours differently


def test_a_mixed_batch_keeps_its_order() -> None:
    contents = [encode(picture(k), "PNG" if k % 2 else "JPEG") for k in range(5)]
    sizes = [(3, picture(k).height, picture(k).width) for k in range(5)]
    assert [tuple(image.shape) for image in decode.decode([decode.encoded(c, "x") for c in contents], CPU)] == sizes


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("workers", [0, 2])
def test_both_ways_of_decoding_train_on_nearly_the_same_pixels(tree: Path, workers: int) -> None:
    augment = {"crop": "random_resized", "flip": True, "lighting": 0.1, "cutout": 0.25, "mix": {"mixup": 0.2}}
    by_workers: Splits = make(tree, augment=augment)
    by_device = make(tree, augment=augment, decode="gpu", workers=workers)
    for loader in ("train", "val", "test"):
        for first, second in zip(getattr(by_workers, loader), getattr(by_device, loader), strict=True):
            assert first[0].shape == second[0].shape
            assert first[0].stride() == second[0].stride()
            assert (first[0] - second[0]).abs().mean() < 0.05
            assert torch.equal(first[1], second[1])
    assert by_workers.train_transform == by_device.train_transform


@pytest.mark.usefixtures("any_device")
def test_decoding_on_the_device_repeats(tree: Path) -> None:
    first, second = (epoch(make(tree, decode="gpu", rank=1, world=2), 3) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    whole = epoch(make(tree, decode="gpu"), 3)
    assert all(torch.equal(a[0][3:], b[0]) for a, b in zip(whole, first, strict=True))


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_the_device_cannot_decode_is_named(tree: Path, tmp_path: Path, workers: int) -> None:
    write_tree(tmp_path / "copied")
    path = tmp_path / "copied" / "val" / "n02" / "n02_0.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=f"{path}: cannot be read as an image") as caught:
        list(make(tmp_path / "copied", decode="gpu", workers=workers).test)
    assert "\n" not in str(caught.value)


def test_a_gpu_is_needed(tree: Path) -> None:
    message = r"data.decode=gpu needs an NVIDIA GPU \(trainer=gpu\), this run's device is cpu; use data.decode=cpu"
    with pytest.raises(InputError, match=message):
        make(tree, decode="gpu")


def test_a_build_without_nvjpeg_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nmore")

    monkeypatch.setattr(decode, "decode", fail)
    with pytest.raises(InputError, match=r"torchvision cannot decode JPEG files on cuda:0 \(.*nvJPEG support\); use"):
        decode.check_device(torch.device("cuda", 0))


@pytest.mark.parametrize("policy", ["rand_augment", "auto_augment", "trivial_augment"])
def test_policies_need_pillow(tree: Path, policy: str) -> None:
    assert AugmentConfig().policy.name == "none"
    with pytest.raises(InputError, match=f"data.decode=gpu cannot apply recipe.augment.policy.name={policy}"):
        make(tree, decode="gpu", augment={"policy": {"name": policy}})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_a_gpu_decodes_like_the_cpu() -> None:
    device = torch.device("cuda", 0)
    decode.check_device(device)
    sent = [decode.encoded(encode(picture(k)), "x") for k in range(4)]
    for first, second in zip(decode.decode(sent, CPU), decode.decode(sent, device), strict=True):
        assert second.device.type == "cuda"
        assert (first.double() - second.cpu().double()).abs().mean() < 1.5
