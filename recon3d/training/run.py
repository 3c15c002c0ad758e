"""What the runs of all stages share: where a run is, its checkpoints, logs and learning rates.

A run that was cut off goes on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from recon3d.errors import InputError, MissingExtraError
from recon3d.files import atomic_path
from recon3d.media._ahead import prefetched
from recon3d.training.config import OptimizerConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Steps between two lines of the log; pictures come every twentieth time.
_LOG_EVERY = 50
_CHECKPOINT_SECONDS = 300.0

Say = Callable[[str], None]
_Lot = TypeVar("_Lot")


def learn(
    fabric: Fabric, network: nn.Module, optimizer: torch.optim.Optimizer, options: OptimizerConfig,
    lots: Callable[[int], Iterator[_Lot]], losses_of: Callable[[nn.Module, _Lot, int], Losses],
    *, steps: int, seed: int, checkpoint: Path, say: Say,
) -> dict[str, Tensor]:  # fmt: skip
    """Train a network, from its last checkpoint on if there is one; return the averaged weights.

    Args:
        fabric: Where.
        network: What learns.
        optimizer: Of ``adamw``.
        options: For how long, and how.
        lots: Gives what to learn from, from a step on.
        losses_of: Judges the network by a lot; the loss that counts is "total". Gets the step, too.
        steps: After which the run ends, if its time does not end before.
        seed: Of dropout.
        checkpoint: File; logs go beside it, into ``log/`` under its name.
        say: Told every now and then where the run is.

    Raises:
        InputError: The checkpoint is none of this network, or the losses became no numbers.
        OutputError: A checkpoint cannot be written.
    """
    model, optimizer = fabric.setup(network, optimizer)
    name = checkpoint.stem
    progress = Progress.start(checkpoint, network, optimizer)
    log = Log(checkpoint.parent / "log" / name, progress.step) if fabric.is_global_zero else None
    clock, saved = time.monotonic() - progress.seconds, time.monotonic()
    for lot in prefetched(lots(progress.step), 3):
        progress.seconds = time.monotonic() - clock
        if progress.step >= steps or progress.seconds > options.minutes * 60:
            break
        set_rates(optimizer, rate_share(progress, steps, options.warm_up, options.minutes * 60))
        # Dropout by the step's number, so that a run that was cut off goes on with the same.
        torch.manual_seed(hash((seed, progress.step, fabric.global_rank)))
        losses = losses_of(model, lot, progress.step)
        if not bool(torch.isfinite(losses["total"])):
            kept = f"; {checkpoint} is from before" if checkpoint.exists() else ""
            raise InputError(
                f"the losses became no numbers at step {progress.step}{kept}: lower the rates and run again"
            )
        optimizer.zero_grad()
        fabric.backward(losses["total"])
        fabric.clip_gradients(model, optimizer, max_norm=5.0)
        optimizer.step()
        progress.step += 1
        progress.average(network, options.average)
        if log is not None and progress.step % _LOG_EVERY == 0:
            say(f"{name}: {log.write(progress, losses, optimizer)}")
        if fabric.is_global_zero and time.monotonic() - saved > _CHECKPOINT_SECONDS:
            progress.save(checkpoint, network, optimizer)
            saved = time.monotonic()
    if fabric.is_global_zero:
        progress.save(checkpoint, network, optimizer)
    return progress.averaged


class Losses(dict[str, Tensor]):
    """Losses by name, and pictures that show what was learnt from.

    Attributes:
        pictures: Gives (n,H,W,3) uint8; asked for seldom.
    """

    def __init__(self, losses: dict[str, Tensor], pictures: Callable[[], Tensor]) -> None:
        """Gather them."""
        super().__init__(losses)
        self.pictures = pictures


class Progress:
    """Where a run is: its step, the time it took, and the averaged weights."""

    def __init__(self, step: int, seconds: float, averaged: dict[str, Tensor]) -> None:
        """Be at a step, after so many seconds, with these averaged weights."""
        self.step, self.seconds, self.averaged = step, seconds, averaged

    @staticmethod
    def start(path: Path, network: nn.Module, optimizer: Any) -> Progress:
        """Begin, or go on from a checkpoint.

        Raises:
            InputError: The file is no checkpoint of this network.
        """
        if not path.exists():
            return Progress(0, 0.0, {k: v.detach().clone() for k, v in network.state_dict().items()})
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict(kept["network"])
            optimizer.load_state_dict(kept["optimizer"])
            return Progress(kept["step"], kept["seconds"], kept["averaged"])
        except (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise InputError(
                f"{path}: not a checkpoint of this configuration; remove it, or choose another --out"
            ) from error

    def average(self, network: nn.Module, decay: float) -> None:
        """Move the averaged weights toward the present ones, faster at first."""
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                kept = self.averaged[name] = self.averaged[name].to(value.device)
                if value.is_floating_point():
                    kept.lerp_(value, share)
                else:
                    kept.copy_(value)

    def save(self, path: Path, network: nn.Module, optimizer: Any) -> None:
        """Write a checkpoint.

        Raises:
            OutputError: It cannot be written.
        """
        with atomic_path(path) as temporary:
            torch.save(
                {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "averaged": self.averaged,
                    "step": self.step,
                    "seconds": self.seconds,
                },
                temporary,
            )


class Log:
    """TensorBoard's curves and pictures, and a line for the console."""

    def __init__(self, folder: Path, step: int) -> None:
        """Log into a folder; what it holds of later steps is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step)
        self._mean: dict[str, float] = {}

    def write(self, progress: Progress, losses: Losses, optimizer: Any) -> str:
        """Log a step, pictures every so often; return a line for the console."""
        for name, value in losses.items():
            now = float(value.detach())
            self._mean[name] = 0.7 * self._mean.get(name, now) + 0.3 * now
            self._writer.add_scalar(f"loss/{name}", now, progress.step)
        self._writer.add_scalar("rate", optimizer.param_groups[0]["lr"], progress.step)
        if progress.step % (20 * _LOG_EVERY) == 0:
            self._writer.add_images("faces", losses.pictures(), progress.step, dataformats="NHWC")
        parts = " ".join(f"{name} {value:.3f}" for name, value in self._mean.items())
        return f"step {progress.step}, {progress.seconds / 60:.1f} min: {parts}"


def open_fabric(precision: str) -> Fabric:
    """Start Lightning Fabric.

    Raises:
        MissingExtraError: It or TensorBoard is not installed.
    """
    try:
        from lightning_fabric import Fabric
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training needs more packages: pip install 'recon3d[train]'") from error
    fabric = Fabric(precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def adamw(network: nn.Module, rate: float, trunk_rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW (I. Loshchilov, F. Hutter, 2019); the pretrained part learns more slowly, no vector decays."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        pretrained = name.startswith("trunk.")
        # The pretrained layers' scales are far apart (their batch norm was folded in): no decay there.
        key = (trunk_rate if pretrained else rate, 0.0 if pretrained or parameter.ndim == 1 else decay)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": r, "top": r, "weight_decay": d} for (r, d), p in groups.items()]
    )


def rate_share(progress: Progress, steps: int, warm_up: int, seconds: float) -> float:
    """Share of the highest rate: up, then down along a cosine as the run nears its end."""
    done = max(progress.step / steps, progress.seconds / seconds)
    return min(1.0, (progress.step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_rates(optimizer: Any, share: float) -> None:
    """Set all learning rates to a share of their highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["top"] * share
