"""Imported once by the fork server, so that each run starts warm. No operator may run here and no GPU be touched."""

# ruff: noqa: E402 - the filter must stand before the imports that warn
import atexit
import gc
import os
import sys
import warnings

warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

import fvcore.nn
import lightning
import sklearn.datasets
import torch
import torchmetrics

import repro.train
from repro import environment

__all__ = ["fvcore", "lightning", "repro", "sklearn", "torch", "torchmetrics"]

environment.commit()  # asked once for all runs, which train what was imported here
environment.code()

gc.collect()
gc.freeze()  # a run's collector would visit all that was imported: 0.3 s, and a copy of 120 MB, for each run
if sys.argv[0] == "-c":  # the server, whose own end would take a second of tidying up, with the complaints of libraries
    atexit.register(os._exit, 0)
