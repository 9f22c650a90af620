"""Imported once by the fork server, so that each run starts warm. No operator may run here and no GPU be touched."""

# ruff: noqa: E402 - the filter must stand before the imports that warn
import warnings

warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

import fvcore.nn
import lightning
import sklearn.datasets
import torch
import torchmetrics

import repro.train

__all__ = ["fvcore", "lightning", "repro", "sklearn", "torch", "torchmetrics"]
