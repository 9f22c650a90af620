"""Networks with weights on a held-out split, each image exactly once. Writes nothing into a run's folder.

`evaluate(nets, loaders)` is the whole of it in one process. `start(job)` is what the command line asks for: with
several devices it runs `python -m repro.evaluate FOLDER`, which Lightning's DDP re-executes for the other ranks.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from repro.config import RunConfig
from repro.data import HeldOutSplit, Loader, has_own_test, load, load_test, prepare
from repro.data.config import EvaluationConfig, ImagenetConfig
from repro.errors import InputError
from repro.evaluation import pretrained
from repro.evaluation.measures import log_probabilities, mean_probability, measures, sums
from repro.evaluation.probe import check_network
from repro.evaluation.records import (
    Evaluation,
    Images,
    Job,
    LibraryWeights,
    Measures,
    Outcome,
    Split,
    Target,
    check_same_images,
    ensemble_outcome,
    outcome,
)
from repro.models import build
from repro.prepare import check_device
from repro.results import write_atomic
from repro.training.checkpoint import load_weights

JOB, EVALUATION = "job.json", "evaluation.json"

Predictions = tuple[Tensor, Tensor]
"""Log probabilities `(N, classes)` and labels `(N,)` of this process's images, in their order."""

Shelf = dict[str, HeldOutSplit]
"""Splits that were read before, by what they were read from."""


def evaluate(nets: Iterable[nn.Module], loaders: Sequence[Loader]) -> Measures:
    """Measure networks by the mean of their probabilities over all networks and loaders, in this process.

    Each loader gives the same images in the same order, for instance cut at another size, as `(B, C, H, W)` or, of
    several views, `(B, V, C, H, W)`. Networks are put into evaluation mode. Raises InputError where the loaders give
    other labels, no image, or outputs are not finite.
    """
    return measures(sums(*average(predict(net, loader) for net in nets for loader in loaders)))


@torch.inference_mode()
def predict(net: nn.Module, loader: Loader) -> Predictions:
    """Run a network over a loader's images; see `Predictions`. Raises InputError where there is none."""
    net.eval()
    found = [(log_probabilities(net, images), labels) for images, labels in loader]
    if not found:
        raise InputError("the split has no image; nothing can be measured")
    return torch.cat([part for part, _ in found]), torch.cat([labels for _, labels in found])


def average(parts: Iterable[Predictions]) -> Predictions:
    """Average the probabilities of several predictions of the same images. Raises InputError for other labels."""
    first: list[Tensor] = []

    def checked() -> Iterable[Tensor]:
        for log_probs, labels in parts:
            first.append(labels) if not first else None
            if not torch.equal(labels, first[0]):
                raise InputError("probabilities are averaged over the same images only; these are of others")
            yield log_probs

    return mean_probability(checked()), first[0]


class _Predictor(L.LightningModule):
    """Keeps what a network predicts for this rank's images; no collective and no synchronisation by the batch."""

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        self.net = net
        self.found: list[Predictions] = [(torch.empty(0, classes), torch.empty(0, dtype=torch.int64))]

    def on_test_start(self) -> None:
        """Begin with no images; a rank may have none."""
        self.found = [(part.to(self.device), labels.to(self.device)) for part, labels in self.found[:1]]

    def test_step(self, batch: Predictions, batch_idx: int) -> None:
        """Predict one batch."""
        images, labels = batch
        self.found.append((log_probabilities(self.net, images), labels))

    def predictions(self) -> Predictions:
        """Return those of all batches."""
        return torch.cat([part for part, _ in self.found]), torch.cat([labels for _, labels in self.found])


class _SplitData(L.LightningDataModule):
    """One split, cut in one way, on the device of this rank."""

    def __init__(self, target: Target, cut: EvaluationConfig, split: Split, shelf: Shelf) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may have no image
        self.target, self.cut, self.split, self.shelf = target, cut, split, shelf
        self.read: HeldOutSplit | None = None

    def setup(self, stage: str) -> None:
        """Read the split, or take it from the shelf; Lightning calls this when the rank's device is known."""
        config = self.target.config
        batch, channels_last = config.recipe.batch_size, config.trainer.channels_last
        alone = _reads_test_only(self.target, self.split)
        key = f"{config.data.model_dump_json()} {self.cut.model_dump_json()} {batch} {channels_last} {alone}"
        if key not in self.shelf:
            self.shelf[key] = self._alone() if alone else self._of_all()
        self.read = self.shelf[key]

    def _where(self) -> dict[str, Any]:
        trainer: Any = self.trainer
        config = self.target.config
        return {
            "batch_size": config.recipe.batch_size,
            "device": trainer.strategy.root_device,
            "channels_last": config.trainer.channels_last,
            "rank": trainer.global_rank,
            "world": trainer.world_size,
        }

    def _alone(self) -> HeldOutSplit:
        data = self.target.config.data
        assert isinstance(data, ImagenetConfig)
        return load_test(data, self.cut, **self._where())

    def _of_all(self) -> HeldOutSplit:
        config = self.target.config
        splits = load(config.data, config.recipe.augment, self.cut, seed=config.seed, **self._where())
        loader = splits.val if self.split == "val" else splits.test
        return HeldOutSplit(loader, splits.sizes[self.split], splits.fingerprint, splits.test_transform)

    def test_dataloader(self) -> Any:
        """Batches of the split."""
        assert self.read is not None
        return self.read.loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are on the device already."""
        return batch


def _reads_test_only(target: Target, split: Split) -> bool:
    """Whether the training images are left alone: weights from elsewhere, on a test split that is its own folder."""
    return split == "test" and isinstance(target.weights, LibraryWeights) and has_own_test(target.config.data)


def start(job: Job) -> Evaluation:
    """Check data and devices, then evaluate in this process, or in one for each device. Raises InputError as `run`."""
    settings = job.targets[0].config.trainer
    if settings.nodes > 1:
        raise InputError(f"trainer.nodes={settings.nodes}: an evaluation runs on one machine; expected trainer.nodes=1")
    check_device(settings)
    reads = [(target.config.data, _reads_test_only(target, job.split)) for target in job.targets]
    for data, test_only in dict.fromkeys(reads):
        prepare(data, test_only=test_only)  # before any weights are fetched
    return _several(job) if settings.devices > 1 else run(job)


def _several(job: Job) -> Evaluation:
    for target in job.targets:
        if isinstance(target.weights, LibraryWeights):
            pretrained.network(target.weights)  # fetched here, so that the ranks only read
    with tempfile.TemporaryDirectory(prefix="repro-evaluate-") as folder:
        (Path(folder) / JOB).write_text(job.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "repro.evaluate", folder]
        done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
        if done.returncode == 0:
            return Evaluation.model_validate_json((Path(folder) / EVALUATION).read_text(encoding="utf-8"))
    said = [line for line in done.stderr.splitlines() if line.startswith("repro: ")]
    if said:
        raise InputError(said[0].removeprefix("repro: "))
    raise RuntimeError(f"the processes of the evaluation ended with {done.returncode}:\n{done.stderr}")


def run(job: Job) -> Evaluation:
    """Evaluate all targets on this rank's share of the images and reduce once for each.

    Raises InputError for weights or data that are missing, damaged or do not fit each other, for a network that cannot
    take the images, for outputs that are not finite, and where the memory does not suffice.
    """
    outcomes: list[Outcome] = []
    total: Predictions | None = None
    shelf: Shelf = {}
    for target in job.targets:
        trainer = _trainer(target.config)
        predictions, images, count = _predict_target(target, job.split, trainer, shelf)
        outcomes.append(outcome(target, _reduced(predictions, trainer, count), images))
        if job.ensemble:
            check_same_images(outcomes)
            total = predictions if total is None else (torch.logaddexp(total[0], predictions[0]), predictions[1])
    if total is None:
        return Evaluation(outcomes=tuple(outcomes))
    log_probs = total[0] - torch.tensor(float(len(outcomes))).log().item()
    ensemble = _reduced((log_probs, total[1]), trainer, count)
    return Evaluation(outcomes=tuple(outcomes), ensemble=ensemble_outcome(outcomes, ensemble))


def _trainer(config: RunConfig) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.pytorch")
    settings = config.trainer
    torch.set_num_threads(settings.threads)
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=settings.strategy,
        precision=settings.precision,
        deterministic=settings.deterministic,
        use_distributed_sampler=False,  # the loaders give each rank its own images, without padding
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _predict_target(target: Target, split: Split, trainer: L.Trainer, shelf: Shelf) -> tuple[Predictions, Images, int]:
    """Return this rank's predictions, averaged over the cuts, what was read, and the images of all ranks."""
    data = [_SplitData(target, cut, split, shelf) for cut in target.cuts]
    net = _network(target)
    check_network(net, target)
    predictions = average(_predict(net, target, part, trainer) for part in data)
    read = [part.read for part in data if part.read is not None]
    images = Images(
        data=target.config.data.name,
        split=split,
        fingerprint=read[0].fingerprint,
        transforms=tuple(part.transform for part in read),
    )
    return predictions, images, read[0].size


def _predict(net: nn.Module, target: Target, data: _SplitData, trainer: L.Trainer) -> Predictions:
    module = _Predictor(net, target.config.data.classes)
    try:
        trainer.test(module, datamodule=data, verbose=False)
    except SystemExit:  # Lightning turns Ctrl-C into it
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError:
        batch = target.config.recipe.batch_size // target.config.trainer.devices
        raise InputError(f"{target.name}: out of memory with {batch} images at once; set a smaller --batch") from None
    return module.predictions()


def _network(target: Target) -> nn.Module:
    """Build the target's network with its weights, in evaluation mode."""
    weights, config = target.weights, target.config
    if isinstance(weights, LibraryWeights):
        net = pretrained.network(weights, config.model)
    else:
        net = build(config.model, weights.channels, weights.classes)
        state = load_weights(Path(weights.directory), weights.which)
        try:
            net.load_state_dict(state)
        except RuntimeError:
            raise InputError(f"{weights.directory}: the weights do not fit the network of its config.yaml") from None
    if config.trainer.channels_last:
        net = net.to(memory_format=torch.channels_last)
    return net.eval()


def _reduced(predictions: Predictions, trainer: L.Trainer, count: int) -> Measures:
    """Measure over the images of all ranks: one collective, of sums."""
    found: Any = trainer.strategy.reduce(sums(*predictions), reduce_op="sum")
    result = measures(found)
    if result.images != count:
        raise RuntimeError(f"{result.images} images were measured of {count}")
    return result


def main(arguments: list[str]) -> int:
    """Evaluate the job in the folder that is named; rank 0 writes the outcome there. Exit status: 0, or 2 bad input."""
    if len(arguments) != 1:
        print("usage: python -m repro.evaluate FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        found = run(Job.model_validate_json((folder / JOB).read_text(encoding="utf-8")))
    except InputError as error:
        print(f"repro: {error}", file=sys.stderr, flush=True)
        return 2
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        write_atomic(folder / EVALUATION, found.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
