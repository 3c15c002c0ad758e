"""The second stage of training: analysis by neural synthesis (G. Retsinas et al., SMIRK, 2024).

The encoder tells what it sees in a face, the rasterizer draws that in grey, and a painter paints the face
again from the drawing, its surroundings and a few of its pixels. Only what the drawing shows of the
expression can come out right, so the encoder learns to tell all of it. In the cycle path an expression that
is known is put in instead and has to be read out of the painted picture; there encoder and painter learn in
turn, so that they do not agree on a secret.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.encoder.crop import CROP_SIZE
from recon3d.encoder.encoder import SHIPPED
from recon3d.encoder.network import Encoded, EncoderNetwork, images_of
from recon3d.encoder.weights import load_weights, save_weights
from recon3d.errors import AssetError, InputError
from recon3d.evaluation.synthetic import read_live_link
from recon3d.files import atomic_path, make_folder
from recon3d.fitting import LandmarkSolver, guess_from_encoder
from recon3d.head import HeadModel, load_head
from recon3d.resources import resource_path
from recon3d.synthesis.geometry import Heads, Pose
from recon3d.synthesis.painter import FacePainter, PainterConfig
from recon3d.synthesis.weights import load_painter, save_painter
from recon3d.training.clips import WINDOW
from recon3d.training.config import OptimizerConfig, Stage2Config
from recon3d.training.cycle import Likeness, SynthesisLoss, SynthesisNetwork, trunk_likeness
from recon3d.training.data import TrainingData
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import EncoderLoss
from recon3d.training.perceptual import perceptual_distance, pretrained_perceptual
from recon3d.training.perturb import perturbed
from recon3d.training.run import Losses, Say, learn, open_fabric
from recon3d.training.source import Lot, Source
from recon3d.training.speech import mouth_motion
from recon3d.training.stage1 import Score, score
from recon3d.training.store import FaceStore, batches

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Faces that a run is judged by.
_JUDGED = 256
#: Focal length in cut-outs: nearly weak perspective.
_FAR = 50.0
#: Of the painter, by Lightning Fabric's names.
_PRECISIONS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class SynthesisScore:
    """How well faces are painted and read.

    Attributes:
        difference: Mean absolute difference of painted and given pictures, sRGB in [0,1].
        cycle: Mean absolute difference of the units put in and read out.
    """

    difference: float
    cycle: float


class Stage2:
    """One run."""

    def __init__(
        self,
        config: Stage2Config,
        folder: Path,
        encoder: Path | None,
        say: Say = print,
        painter: Path | None = None,
    ) -> None:
        """Prepare.

        Args:
            config: What to do.
            folder: Of checkpoints, logs and weights.
            encoder: Weights to start from; None takes those that come with recon3d.
            say: Told where the run is.
            painter: Weights to start from; None starts anew. Parts that they do not have start anew, too.

        Raises:
            AssetError: The encoder's or the painter's weights cannot be used.
            OutputError: The folder cannot be written to.
        """
        self.config, self.folder, self._say = config, make_folder(folder), say
        self.head = load_head(config.data.head or None).in_units
        self.data = TrainingData(config.data, self.head, say)
        share = config.share, config.share_most
        self.loss = SynthesisLoss(self.head, config.painter.size, config.losses, share, self._likeness())
        self._solver = LandmarkSolver(self.head)
        self._painter = painter
        self._before = load_weights(encoder or resource_path(SHIPPED), self.head)
        recording = config.data.recording
        rows = read_live_link(recording).numpy() if recording else None
        self._sampler = ExpressionSampler(rows)

    def _likeness(self) -> Likeness | None:
        if not self.config.losses.likeness:
            return None
        try:
            network = pretrained_perceptual()
        except AssetError as error:
            self._say(f"{error}; pictures are compared by the landmark network's maps instead")
            return trunk_likeness(pretrained_trunk()[0].requires_grad_(False))
        return lambda painted, pictures: perceptual_distance(network, painted, pictures)

    def run(self) -> tuple[SynthesisScore, dict[str, Score]]:
        """Train; write ``encoder.safetensors`` and ``painter.safetensors``; return the scores at the end.

        Raises:
            InputError: The losses became no numbers, or the run is spread over several processes.
            OutputError: A file cannot be written.
        """
        config = self.config
        fabric = open_fabric(config.learning.precision)
        if fabric.world_size > 1:
            raise InputError("the second stage runs in one process, on one GPU; start it without torchrun")
        self.data.draw(fabric)
        torch.manual_seed(config.data.seed)
        network = self._network()
        self._before.to(fabric.device)
        if config.painting.passes and config.painting.minutes:
            network.load_state_dict(self._paint(fabric, network))
        if config.learning.passes and config.learning.minutes:
            network.load_state_dict(self._learn(fabric, network))
        judged = self._faces(fabric, config.learning.batch)[1]
        scores = self.score(network, *judged), self._encoder_scores(network.encoder)
        self._write(network, *scores)
        return scores

    def _paint(self, fabric: Fabric, network: SynthesisNetwork) -> dict[str, Tensor]:
        """Let the painter learn alone; return the averaged weights."""
        options = self.config.painting
        faces, _ = self._faces(fabric, options.batch, remember=False)
        optimizer = _optimizer((network.painter, options.rate), decay=options.decay)

        def losses_of(model: nn.Module, lot: Lot, step: int) -> Losses:
            return self._painting(network, lot.to(fabric.device).present())

        return learn(
            fabric, network, optimizer, options, faces.lots, losses_of, steps=_steps(faces, options),
            seed=self.config.data.seed, checkpoint=self.folder / "painting.pt", say=self._say,
        )  # fmt: skip

    def _learn(self, fabric: Fabric, network: SynthesisNetwork) -> dict[str, Tensor]:
        """Let encoder and painter learn from each other; return the averaged weights."""
        options = self.config.learning
        faces, _ = self._faces(fabric, options.batch)
        renders = self.data.renders(fabric, self.config.known, self._before)
        clips = self._clips(fabric, options.batch)
        optimizer = _optimizer(
            (network.painter, options.rate), (network.encoder, self.config.encoder), decay=options.decay
        )

        def lots(step: int) -> Iterator[tuple[Lot, Lot, Lot | None]]:
            windows = itertools.repeat(None) if clips is None else clips.lots(step)
            return zip(faces.lots(step), renders.lots(step), windows, strict=False)

        def losses_of(model: nn.Module, some: tuple[Lot, Lot, Lot | None], step: int) -> Losses:
            lot, known = (one.to(fabric.device) for one in some[:2])
            losses = self._losses(network, lot.present(), known, step)
            if some[2] is not None:
                more = self._mouth(network, some[2].to(fabric.device))
                losses |= more | {"total": losses["total"] + torch.stack(list(more.values())).sum()}
            return losses

        return learn(
            fabric, network, optimizer, options, lots, losses_of, steps=_steps(faces, options),
            seed=self.config.data.seed, checkpoint=self.folder / "learning.pt", say=self._say,
        )  # fmt: skip

    def _faces(
        self, fabric: Fabric, batch: int, *, remember: bool = True
    ) -> tuple[Source, tuple[FaceStore, int]]:
        """What is painted, and the shard that is judged by, which is not among it.

        Of photographs that fill no more than one shard, the same ones.
        """
        before = self._before if remember else None
        photographs = self.data.photographs(fabric, batch, before)
        if photographs is None:
            return self.data.renders(fabric, batch, before), (self.data.held_out["same"], 0)
        kept = photographs.shards[-1]
        learnt = photographs.shards[:-1] or photographs.shards
        return replace(photographs, shards=learnt), (photographs.store, kept)

    def _clips(self, fabric: Fabric, batch: int) -> Source | None:
        """Where the mouth is watched; None if that does not count."""
        return self.data.clips(fabric, batch, self._before) if self.config.losses.mouth else None

    def _network(self) -> SynthesisNetwork:
        encoder = copy.deepcopy(self._before).requires_grad_(True)
        precision = _PRECISIONS.get(self.config.learning.precision)
        painter = started_painter(self._painter, self.config.painter, self.head)
        network = SynthesisNetwork(encoder, pretrained_trunk(), painter, precision)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    @cached_property
    def _truth(self) -> EncoderLoss:
        """The first stage's loss; renders must be there already."""
        shapes = self._before.config.shapes
        loss = EncoderLoss(self.head, shapes, self.data.unit_variance(), self.config.truth)
        return loss.to(next(self._before.parameters()).device)

    def _painting(self, network: SynthesisNetwork, lot: Lot) -> Losses:
        """Losses of the painter alone: renders with their true geometry, photographs with a fitted one."""
        faces, pictures = lot.faces, _small(lot, self.config.painter.size)
        known = bool(faces.rotation.any())
        points = faces.landmarks if known else faces.detected
        if known:
            pose = Pose(faces.rotation, torch.zeros_like(faces.rotation[:, 0]))
            heads = Heads(faces.shape, faces.expression, pose)
        else:
            heads = self._fitted(lot)
        losses, again = self.loss.reconstruct(network, pictures, points, heads)
        losses["total"] = torch.stack(list(losses.values())).sum()
        return Losses(losses, lambda: _sheet(again.columns()))

    @torch.no_grad()
    def _fitted(self, lot: Lot) -> Heads:
        """Heads that lie closer on faces than what the encoder alone tells; their place is to be settled."""
        points = lot.faces.detected
        told = self._before(lot.images(), points, lot.maps)
        guess, confidence = guess_from_encoder(told.expression.cpu(), told.expression_spread.exp().cpu())
        count = len(points)
        focal, middle = torch.full((count,), _FAR * CROP_SIZE), torch.full((count, 2), CROP_SIZE / 2)
        pixels = points[..., :2].cpu() * CROP_SIZE
        state = self._solver.fit(pixels, focal, middle, guess=guess, confidence=confidence).state
        found = (part.to(points) for part in (state.shape, state.expression, state.rotation))
        shape, expression, rotation = found
        return Heads(shape, expression, Pose(rotation, torch.zeros_like(rotation[:, 0])))

    def _losses(self, network: SynthesisNetwork, lot: Lot, known: Lot, step: int) -> Losses:
        # Dropout would shake the geometry that is drawn.
        network.encoder.eval()
        weights, points = self.config.losses, lot.faces.detected
        pictures = _small(lot, self.config.painter.size)
        told: Encoded = network.encoder(None, points, lot.maps)
        heads = Heads.of(told)
        # In turn, as the cycle path: either needs the trunk's gradient, which takes long.
        maps = lot.maps if step % 2 else None
        losses, again = self.loss.reconstruct(network, pictures, points, heads, maps)
        shown = again.columns()
        if weights.cycle:
            other = perturbed(
                told.expression, self._sampler, np.random.default_rng((self.config.data.seed, step))
            )
            with _resting(network.painter if step % 2 else network.encoder):
                more, repainted, _ = self.loss.cycle(network, again.photograph, heads, other)
            losses |= more
            shown.append(repainted)
        losses |= self._anchors(network, told, lot, known)
        losses["total"] = torch.stack(list(losses.values())).sum()
        return Losses(losses, lambda: _sheet(shown))

    def _anchors(self, network: SynthesisNetwork, told: Encoded, lot: Lot, known: Lot) -> dict[str, Tensor]:
        """Losses that keep the encoder to what the first stage taught it."""
        weights = self.config.losses
        losses: dict[str, Tensor] = {}
        if weights.stay:
            with torch.no_grad():
                before = self._before(None, lot.faces.detected, lot.maps)
            losses |= self.loss.stay(told, before)
        if weights.outline:
            outline = self._truth.photographs(told, lot.faces)["photographs: outline"]
            losses["outline"] = weights.outline * outline
        if weights.truth:
            network.encoder.train()
            again: Encoded = network.encoder(None, known.faces.detected, known.maps)
            losses["truth"] = weights.truth * self._truth(again, known.faces)["total"]
        return losses

    def _mouth(self, network: SynthesisNetwork, lot: Lot) -> dict[str, Tensor]:
        """Losses of windows of clips, of which the encoder alone is asked."""
        # Dropout, drawn anew for every frame, would move the mouth.
        network.encoder.eval()
        points, weight = lot.faces.detected, self.config.losses.mouth
        assert lot.times is not None
        dt = lot.times.unflatten(0, (-1, WINDOW)).diff(dim=1)
        told: Encoded = network.encoder(None, points, lot.maps)
        rest = told._replace(expression=torch.zeros_like(told.expression))
        see = self._truth.seen
        motion = mouth_motion(see(told), points, WINDOW, dt, see(rest))
        return {"mouth: openings": weight * motion.openings, "mouth: velocities": weight * motion.velocities}

    @torch.no_grad()
    def score(self, network: SynthesisNetwork, store: FaceStore, shard: int = 0) -> SynthesisScore:
        """Judge by faces of a store's shard: painted again, and with other expressions."""
        network.eval()
        device = next(network.parameters()).device
        differences, cycles = [], []
        for number, batch in enumerate(batches(store, range(shard, shard + 1), 32, np.random.default_rng(1))):
            if number * 32 >= _JUDGED:
                break
            lot = Lot(batch.faces, None).to(device)
            points, pictures = lot.faces.detected, _small(lot, self.config.painter.size)
            heads = Heads.of(network.encoder(lot.images(), points))
            _, again = self.loss.reconstruct(network, pictures, points, heads)
            differences.append((again.pictures - pictures).abs().mean(dim=(1, 2, 3)))
            other = perturbed(heads.expression, self._sampler, np.random.default_rng(number))
            _, _, read = self.loss.cycle(network, again.photograph, heads, other)
            cycles.append((read.expression - other).abs().mean(1))
        return SynthesisScore(float(torch.cat(differences).mean()), float(torch.cat(cycles).mean()))

    def _encoder_scores(self, encoder: EncoderNetwork) -> dict[str, Score]:
        """Judge the encoder as the first stage does."""
        shards = self.data.held_out_shards
        return {
            name: score(encoder, self._truth, store, shards) for name, store in self.data.held_out.items()
        }

    def _write(self, network: SynthesisNetwork, painted: SynthesisScore, read: dict[str, Score]) -> None:
        save_weights(self.folder / "encoder.safetensors", network.encoder, self.head)
        save_painter(self.folder / "painter.safetensors", network.painter, self.head)
        report: dict[str, Any] = {"synthesis": asdict(painted)}
        report |= {name: asdict(one) for name, one in read.items()}
        with atomic_path(self.folder / "scores.json") as path:
            path.write_text(json.dumps(report, indent=1))


def started_painter(path: Path | None, config: PainterConfig, head: HeadModel) -> FacePainter:
    """Return a painter of this configuration that starts from weights, as far as these have its parts.

    Raises:
        AssetError: The file is no painter, or one of other sizes.
    """
    painter = FacePainter(config)
    if path is None:
        return painter
    known = load_painter(path, head)
    if replace(known.config, tokens=config.tokens, outliers=config.outliers) != config:
        raise AssetError(f"{path}: a painter of other sizes than the configuration's [painter]")
    mine = painter.state_dict()
    for name, value in known.state_dict().items():
        if name in mine:  # what tells outliers is the last layer's last channels
            count = min(len(value), len(mine[name]))
            mine[name][:count] = value[:count]
    return painter


def _optimizer(*parts: tuple[nn.Module, float], decay: float) -> torch.optim.AdamW:
    """For networks, each with its highest rate; one without does not learn."""
    groups = [
        {"params": [p for p in network.parameters() if p.requires_grad], "lr": rate, "top": rate}
        for network, rate in parts
        if rate
    ]
    return torch.optim.AdamW(groups, weight_decay=decay)


def _steps(faces: Source, options: OptimizerConfig) -> int:
    a_pass = len(faces.shards) * (faces.store.size // options.batch)
    return max(1, int(options.passes * a_pass))


@contextmanager
def _resting(network: nn.Module) -> Iterator[None]:
    """For a while, a network does not learn; gradients still go through it."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _small(lot: Lot, size: int) -> Tensor:
    """The faces' pictures (B,3,size,size)."""
    images = images_of(lot.faces.images.to(lot.faces.detected.device))
    return F.interpolate(images, (size, size), mode="area")


def _sheet(columns: list[Tensor]) -> Tensor:
    """Pictures (n,H,W,3) uint8, each row side by side."""
    rows = torch.cat([column[:8].detach() for column in columns], dim=3)
    return (rows.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).cpu()
