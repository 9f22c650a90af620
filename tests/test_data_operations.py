"""Operations by the batch agree with torchvision's on one image; policies draw what timm and torchvision define."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, TrivialAugmentWide
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from repro.data.config import PolicyConfig
from repro.data.resident.grouped import Grouped
from repro.data.resident.operations import NUMBERS, OPERATIONS
from repro.data.spaces import INCREASING, LEARNED, RANDOM, WIDE, Amount, draw_jitter, draw_policy

NAMES = list(OPERATIONS)
COUNT = 24
BLACK = torch.zeros(3, 1, 1)
Reference = Callable[[Tensor, float], Tensor]


def noise(channels: int = 3, size: int = 11) -> Tensor:
    """Images of noise; the first has no contrast, the second little, the third no colour."""
    stream = torch.Generator().manual_seed(channels)
    images = torch.randint(256, (COUNT, channels, size, size), generator=stream, dtype=torch.uint8)
    images[0], images[1] = 7, images[1] // 4 + 50
    images[2] = images[2, :1]
    return images


def smooth() -> Tensor:
    """Images without edges, in which places that differ by rounding look alike."""
    coarse = torch.rand(COUNT, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, size=16, mode="bilinear").mul(255).round().to(torch.uint8)


def affine(**changes: Callable[[float], object]) -> Reference:
    """Return torchvision's affine map with the parameters that an amount gives."""

    def apply(image: Tensor, amount: float) -> Tensor:
        given = {"angle": 0.0, "translate": [0.0, 0.0], "scale": 1.0, "shear": [0.0, 0.0]}
        given |= {name: change(amount) for name, change in changes.items()}
        centre = [0.0, 0.0] if "shear" in changes else None
        return vision.affine(image, **given, interpolation=InterpolationMode.BILINEAR, center=centre)

    return apply


def degrees(slope: float) -> float:
    return float(torch.rad2deg(torch.atan(torch.tensor(slope, dtype=torch.float64))))


factors = torch.linspace(0, 1.9, COUNT)
slopes = torch.linspace(-0.9, 0.9, COUNT)
pixels = torch.arange(COUNT) - 11.5
CASES: dict[str, tuple[Tensor, Reference]] = {
    "Identity": (factors, lambda image, _: image),
    "Brightness": (factors, vision.adjust_brightness),
    "Contrast": (factors, vision.adjust_contrast),
    "Color": (factors, vision.adjust_saturation),
    "Sharpness": (factors, vision.adjust_sharpness),
    "Hue": (torch.linspace(-0.5, 0.5, COUNT), vision.adjust_hue),
    "Posterize": (torch.arange(COUNT) % 9, lambda image, bits: vision.posterize(image, int(bits))),
    "Solarize": (torch.linspace(0, 255, COUNT), vision.solarize),
    "SolarizeAdd": (
        torch.linspace(0, 128, COUNT).round(),
        lambda image, add: torch.where(image < 128, (image.int() + int(add)).clamp(max=255), image).to(torch.uint8),
    ),
    "AutoContrast": (factors, lambda image, _: vision.autocontrast(image)),
    "Equalize": (factors, lambda image, _: vision.equalize(image)),
    "Invert": (factors, lambda image, _: vision.invert(image)),
    "ShearX": (slopes, affine(shear=lambda slope: [degrees(slope), 0.0])),
    "ShearY": (slopes, affine(shear=lambda slope: [0.0, degrees(slope)])),
    "TranslateX": (pixels, affine(translate=lambda shift: [-shift, 0.0])),
    "TranslateY": (pixels, affine(translate=lambda shift: [0.0, -shift])),
    "Rotate": (torch.linspace(-135, 135, COUNT), affine(angle=lambda angle: -angle)),
}
MOVING = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_torchvision_gives_for_each_image(name: str) -> None:
    amounts, reference = CASES[name]
    images = smooth() if name in MOVING else noise()
    changed = OPERATIONS[name](images, amounts.float().view(-1, 1, 1, 1), BLACK)
    expected = torch.stack([reference(image, amount) for image, amount in zip(images, amounts.tolist(), strict=True)])
    assert changed.dtype == torch.uint8
    difference = (changed.int() - expected.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 0.06  # the hue is rounded here and cut off there


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_changes_no_input_and_each_image_by_itself(name: str) -> None:
    amounts, images = CASES[name][0].float().view(-1, 1, 1, 1), noise()
    together = OPERATIONS[name](images, amounts, BLACK)
    assert torch.equal(images, noise())
    single = [OPERATIONS[name](images[i : i + 1], amounts[i : i + 1], BLACK) for i in range(COUNT)]
    assert torch.equal(together, torch.cat(single))


@pytest.mark.parametrize("name", NAMES)
def test_grey_images_stay_grey(name: str) -> None:
    grey, amounts = noise(1), CASES[name][0].float().view(-1, 1, 1, 1)
    changed = OPERATIONS[name](grey, amounts, BLACK[:1])
    assert changed.shape == grey.shape
    if name in {"Color", "Hue"}:
        assert torch.equal(changed, grey)
    else:
        same = OPERATIONS[name](grey.expand(-1, 3, -1, -1), amounts, BLACK)
        assert int((same - changed.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    ("name", "neutral"),
    [
        *((name, 0.0) for name in (*sorted(MOVING), "Hue", "SolarizeAdd")),
        *((name, 1.0) for name in ("Brightness", "Contrast", "Color", "Sharpness")),
        ("Posterize", 8.0),
        ("Solarize", 256.0),
    ],
)
def test_the_neutral_amount_changes_nothing(name: str, neutral: float) -> None:
    assert torch.equal(OPERATIONS[name](noise(), torch.full((COUNT, 1, 1, 1), neutral), BLACK), noise())


def test_what_comes_in_from_outside_has_the_colour_asked_for() -> None:
    fill = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)
    moved = OPERATIONS["TranslateX"](noise(), torch.full((COUNT, 1, 1, 1), 4.0), fill)
    assert torch.equal(moved[..., -4:], fill.to(torch.uint8).expand(COUNT, 3, 11, 4))
    assert torch.equal(moved[..., :-4], noise()[..., 4:])


@settings(deadline=None, max_examples=20)
@given(part=st.integers(1, 9), batches=st.integers(1, 3), layers=st.integers(1, 3), seed=st.integers(0, 99))
def test_grouping_is_one_by_one_in_order(part: int, batches: int, layers: int, seed: int) -> None:
    stream, count = torch.Generator().manual_seed(seed), part * batches
    images = torch.randint(256, (count, 3, 5, 5), generator=stream, dtype=torch.uint8)
    operations = torch.randint(len(NAMES), (count, layers), generator=stream)
    amounts = torch.rand(count, layers, generator=stream)
    slices = [slice(start, start + part) for start in range(0, count, part)]
    grouped = Grouped(operations, amounts, slices, BLACK)
    found = torch.cat([grouped(images[part], number) for number, part in enumerate(slices)])
    for i in range(count):
        image = images[i : i + 1]
        for operation, amount in zip(operations[i].tolist(), amounts[i], strict=True):
            image = OPERATIONS[NAMES[operation]](image, amount.view(1, 1, 1, 1), BLACK)
        assert torch.equal(found[i], image[0])


def strongest(space: dict[str, Amount], level: float, size: int = 32) -> dict[str, set[float]]:
    """Amounts of each operation at a level, of both signs."""
    signs, levels = torch.tensor([-1, 1]), torch.tensor([level, level], dtype=torch.float64)
    return {name: {round(value, 4) for value in amount(levels, signs, size).tolist()} for name, amount in space.items()}


@pytest.mark.parametrize("level", [0.0, 0.35, 0.9, 1.0, 1.5])
@pytest.mark.parametrize("increasing", [False, True], ids=["plain", "increasing"])
def test_rand_augment_scales_its_operations_as_timm_does(level: float, increasing: bool) -> None:
    from timm.data.auto_augment import LEVEL_TO_ARG, rand_augment_choices

    renamed = {"TranslateXRel": "TranslateX", "TranslateYRel": "TranslateY"}
    found = strongest(INCREASING if increasing else RANDOM, level, 1)
    theirs = rand_augment_choices("", increasing=increasing)
    assert sorted(found) == sorted(renamed.get(name, name.removesuffix("Increasing")) for name in theirs)
    for name in theirs:
        if LEVEL_TO_ARG[name] is not None:
            amounts = {round(float(LEVEL_TO_ARG[name](10 * level, {})[0]), 4) for _ in range(40)}
            ours = found[renamed.get(name, name.removesuffix("Increasing"))]
            if "Posterize" in name:
                amounts, ours = ({min(max(bits, 0), 8) for bits in values} for values in (amounts, ours))
            assert {abs(value) for value in ours} == {abs(value) for value in amounts}, name


@pytest.mark.parametrize(
    ("space", "levels", "theirs"),
    [
        (LEARNED, 10, AutoAugment()._augmentation_space(10, (32, 32))),
        (WIDE, 31, TrivialAugmentWide()._augmentation_space(31)),
    ],
    ids=["auto_augment", "trivial_augment"],
)
def test_learned_and_wide_spaces_are_torchvisions(
    space: dict[str, Amount], levels: int, theirs: dict[str, tuple[Tensor, bool]]
) -> None:
    assert sorted(space) == sorted(theirs)
    enhanced = {"Brightness", "Color", "Contrast", "Sharpness"}
    for name, (magnitudes, signed) in theirs.items():
        for place in range(levels) if magnitudes.ndim else ():
            value = float(magnitudes[place])
            expected = {1 - value, 1 + value} if name in enhanced else {-value, value} if signed else {value}
            if name.startswith("Translate"):
                pixels = float(int(value + 1e-4))  # float32 makes 15.99999 of its 16
                expected = {-pixels, pixels}
            assert sorted(strongest(space, place / (levels - 1))[name]) == pytest.approx(sorted(expected), abs=1e-3)


def names_of(operations: Tensor) -> Counter[str]:
    return Counter(NAMES[number] for number in operations.flatten().tolist())


def test_rand_augment_draws_layers_evenly_and_applies_a_share() -> None:
    config = PolicyConfig(name="rand_augment", layers=3, probability=0.6)
    operations, amounts = draw_policy(config, 32, 5000, 0, 0)
    assert operations.shape == amounts.shape == (5000, 3)
    counts = names_of(operations)
    assert counts.pop("Identity") / 15000 == pytest.approx(0.4, abs=0.02)
    assert sorted(counts) == sorted(RANDOM)
    assert max(counts.values()) / min(counts.values()) < 1.3


@pytest.mark.parametrize(
    ("magnitude", "std", "angles"),
    [(9.0, 0.0, (27.0, 27.0)), (9.0, 0.5, (18.0, 30.0)), (15.0, 0.0, (45.0, 45.0)), (0.0, 0.0, (0.0, 0.0))],
    ids=["fixed", "varied, at most 10", "beyond 10", "nothing"],
)
def test_rand_augments_magnitude_varies_up_to_the_strongest(
    magnitude: float, std: float, angles: tuple[float, float]
) -> None:
    config = PolicyConfig(name="rand_augment", magnitude=magnitude, std=std)
    operations, amounts = draw_policy(config, 32, 4000, 0, 0)
    turned = amounts[operations == NUMBERS["Rotate"]]
    assert float((turned > 0).float().mean()) == pytest.approx(0.5 if magnitude else 0.0, abs=0.07)
    assert angles[0] - 1e-4 <= float(turned.abs().min()) <= float(turned.abs().max()) <= angles[1] + 1e-4
    assert (float(turned.abs().std()) > 0.5) == (std > 0)


@pytest.mark.parametrize(
    ("size", "policy"),
    [(32, AutoAugmentPolicy.CIFAR10), (64, AutoAugmentPolicy.CIFAR10), (65, AutoAugmentPolicy.IMAGENET)],
    ids=["32", "64", "65"],
)
def test_auto_augment_draws_the_pairs_of_the_policy_for_the_size(size: int, policy: AutoAugmentPolicy) -> None:
    operations, _ = draw_policy(PolicyConfig(name="auto_augment"), size, 20_000, 0, 0)
    pairs = AutoAugment(policy).policies
    for column in (0, 1):
        expected: Counter[str] = Counter()
        for pair in pairs:
            name, chance, _ = pair[column]
            expected[name] += 20_000 * chance / len(pairs)
            expected["Identity"] += 20_000 * (1 - chance) / len(pairs)
        found = names_of(operations[:, column])
        for name in expected | found:
            assert found[name] == pytest.approx(expected[name], abs=6 * max(expected[name], 1) ** 0.5), name


def test_trivial_augment_draws_one_operation_of_any_strength() -> None:
    operations, amounts = draw_policy(PolicyConfig(name="trivial_augment"), 32, 9000, 0, 0)
    assert operations.shape == (9000, 1)
    assert sorted(names_of(operations)) == sorted(WIDE)
    bits = amounts[operations == NUMBERS["Posterize"]]
    assert sorted(set(bits.tolist())) == [2, 3, 4, 5, 6, 7, 8]
    angles = amounts[operations == NUMBERS["Rotate"]]
    assert sorted({round(angle, 2) for angle in angles.abs().tolist()}) == [4.5 * step for step in range(31)]


def test_colour_jitter_draws_even_factors_in_any_order() -> None:
    operations, amounts = draw_jitter((0.4, 0.0, 1.5, 0.1), 4000, 0, 0)
    assert names_of(operations) == {name: 4000 for name in ("Brightness", "Identity", "Color", "Hue")}
    for name, low, high in (("Brightness", 0.6, 1.4), ("Color", 0.0, 2.5), ("Hue", -0.1, 0.1)):
        drawn = amounts[operations == NUMBERS[name]]
        assert low <= float(drawn.min()) <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= float(drawn.max()) <= high
        assert float(drawn.mean()) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    orders = Counter(tuple(row) for row in operations.tolist())
    assert len(orders) == 24
    assert max(orders.values()) < 2 * min(orders.values())
