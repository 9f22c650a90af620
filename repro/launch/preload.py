"""Imported once by the fork server, so that each run starts warm. No operator may run here and no GPU be touched."""

import warnings

warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

import fvcore.nn  # noqa: E402 - the filter must stand before the imports that warn
import lightning  # noqa: E402
import scipy.special  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import torchmetrics  # noqa: E402
import torchvision  # noqa: E402

import repro.train  # noqa: E402

__all__ = ["fvcore", "lightning", "repro", "scipy", "timm", "torch", "torchmetrics", "torchvision"]
