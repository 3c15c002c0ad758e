"""What covers a face must not be learned from: hands, hair, microphones.

After FOCUS (C. Li et al., Robust Model-based Face Reconstruction through Weakly-Supervised Outlier
Segmentation, 2023), where a mask of what the face model cannot show learns together with the model, as in
expectation maximisation. There the two learn in turn; here one loss holds both.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.training.losses import SynthesisWeights


def doubted(off: Tensor, doubt: Tensor, weights: SynthesisWeights) -> Tensor:
    """Return the loss of each pixel, of which it is not known whether it shows the face.

    A pixel is an outlier with probability m, the mask, and then of any colour: density 1 on [0,1]³. Else the
    painter's differences d of its three channels have Laplace's distribution of scale b. The negative
    logarithm of the mixture, counted from what a perfect pixel has at m = 0, in units of b / 3::

        -b/3 · log((1 - m) · exp(-Σ|d| / b) + m · (2b)³)

    is the mean of |d| as long as m is small and d not large. Its gradients are those of an M step, with the
    E step's responsibility r = m · (2b)³ / ((1 - m) · exp(-Σ|d| / b) + m · (2b)³) of the outlier: m - r on
    the logit of m, and (1 - r) of what it would be on the picture.

    Without more, the mask would take whatever is hard to paint. So it is held to a Bernoulli distribution of
    a small share p, by w · KL(p‖m), with gradient w · (m - p): EM with w observations made before, a share p
    of them outliers. A pixel that can in no way be explained comes to m = (1 + w p) / (1 + w).

    Args:
        off: (B,3,H,W) absolute differences of sRGB in [0,1].
        doubt: (B,1,H,W) logit of m.
        weights: ``outlier_scale`` is b, ``outlier_share`` p, and ``outlier_prior`` w.

    Returns:
        (B,1,H,W).
    """
    scale, share = weights.outlier_scale, weights.outlier_share
    face = F.logsigmoid(-doubt) - off.sum(1, keepdim=True) / scale
    other = F.logsigmoid(doubt) + 3 * math.log(2 * scale)
    usual = torch.full_like(doubt, share)
    least = -share * math.log(share) - (1 - share) * math.log(1 - share)
    far = F.binary_cross_entropy_with_logits(doubt, usual, reduction="none") - least
    return (scale / 3) * (weights.outlier_prior * far - torch.logaddexp(face, other))
