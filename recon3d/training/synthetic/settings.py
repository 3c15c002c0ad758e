"""How varied the synthetic faces are: one set of ranges to train on, another to be judged by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SyntheticSettings:
    """Ranges that everything random is drawn from. Pairs are lowest and highest.

    Attributes:
        size: Width and height of the pictures, px.
        identity: Spread of the identity coefficients, standard deviations: a person's own is drawn from it.
        warp: Smooth change of the head beyond its identity components, mm: other heads than ours.
        style: How unlike people show the same unit: relative spread of its strength over the face.
        yaw: Largest turn to a side, degrees.
        pitch: Largest turn up or down, degrees.
        distance: Camera to face, m.
        hard_light: Share of pictures with a lamp that casts shadows.
        lamp: Its strength against the light from all around.
        plain: Share of heads without paint, as of clay.
        hair: Share with hair.
        beard: Share with a beard that stands off the skin.
        glasses: Share with glasses.
        covered: Share with something before the face.
        nothing: Share of pictures without a face.
        wear: Share of pictures that are spoilt, as on the web.
        close: Share that end close around the face.
        skin: Range of skin colours, 0 the darkest and 1 the palest.
        framing: Relative error of the crop's place and size.
    """

    size: int = 256
    identity: tuple[float, float] = (0.4, 1.2)
    warp: float = 1.2
    style: float = 0.18
    yaw: float = 50.0
    pitch: float = 28.0
    distance: tuple[float, float] = (0.28, 2.5)
    hard_light: float = 0.6
    lamp: tuple[float, float] = (0.2, 1.5)
    plain: float = 0.1
    hair: float = 0.75
    beard: float = 0.12
    glasses: float = 0.1
    covered: float = 0.07
    nothing: float = 0.02
    wear: float = 0.55
    close: float = 0.2
    skin: tuple[float, float] = (0.0, 1.0)
    framing: float = 0.04


#: What training sees.
TRAINING = SyntheticSettings()

#: What training never sees: identities beyond its range, other ways to show a unit, harder light.
OTHER = SyntheticSettings(
    identity=(1.2, 1.5),
    warp=1.8,
    style=0.24,
    distance=(0.22, 4.0),
    hard_light=1.0,
    lamp=(1.0, 2.2),
    plain=0.2,
    covered=0.0,
    nothing=0.0,
    wear=0.3,
    framing=0.05,
)
