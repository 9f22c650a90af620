"""Random changes of the pixels of one uint8 image `(3, H, W)`, on any device; drawn from torch's CPU generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import RandomErasing

from repro.data.holes import ERASED_AREA, ERASED_RATIO
from repro.data.statistics import EIGENVALUES, EIGENVECTORS, MEAN_COLOUR


@dataclass(frozen=True)
class Lighting:
    """Adds a random multiple of the principal components of ImageNet's colours to all pixels.

    Krizhevsky et al. 2012, section 4.1: each multiple is the component's eigenvalue times a normal variable of
    standard deviation `std`. The sum is rounded and kept within 0 to 255.
    """

    std: float

    def __call__(self, image: Tensor) -> Tensor:
        """Change one image; see the class."""
        multiples = torch.randn(3) * self.std * torch.tensor(EIGENVALUES)
        shift = 255 * torch.tensor(EIGENVECTORS) @ multiples
        return (image + shift.view(3, 1, 1).to(image.device)).round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Cutout:
    """Fills a square of `side` with the mean colour; its centre is any pixel, so that a part may lie outside.

    DeVries and Taylor, arXiv:1708.04552, section 3.2.
    """

    side: int

    def __call__(self, image: Tensor) -> Tensor:
        """Change one image; see the class."""
        top, left = (int(torch.randint(extent, ())) - self.side // 2 for extent in image.shape[-2:])
        return _filled(image, max(top, 0), top + self.side, max(left, 0), left + self.side)


@dataclass(frozen=True)
class Erase:
    """With `probability`, fills a rectangle of random area and aspect ratio with the mean colour.

    Zhong et al., arXiv:1708.04896, section 3; filled as by torchvision's RandomErasing, after which it is modelled.
    """

    probability: float

    def __call__(self, image: Tensor) -> Tensor:
        """Change one image; see the class."""
        if torch.rand(()) >= self.probability:
            return image
        top, left, height, width, _ = RandomErasing.get_params(image, ERASED_AREA, ERASED_RATIO, [0.0])
        whole = (height, width) == tuple(image.shape[-2:])  # no rectangle was found in ten tries
        return image if whole else _filled(image, top, top + height, left, left + width)


def _filled(image: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Return a copy in which a rectangle has the mean colour."""
    image = image.clone()
    image[:, top:bottom, left:right] = torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(3, 1, 1).to(image.device)
    return image
