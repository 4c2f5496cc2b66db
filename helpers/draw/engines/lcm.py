"""The guidance scale as an input of the UNet: latent consistency models were distilled with it.

Luo et al. 2023, https://arxiv.org/abs/2310.04378, section 4.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GUIDANCE = 8.5  # the default of diffusers' LatentConsistencyModelPipeline


def guidance_features(width: int) -> NDArray[np.float32]:
    """The sinusoids of GUIDANCE - 1, as diffusers computes them: (width,)."""
    half = width // 2
    waves = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1)))
    angles = 1000 * (GUIDANCE - 1) * waves
    return np.concatenate([np.sin(angles), np.cos(angles), np.zeros(width % 2)], dtype=np.float32)
