"""RandAugment's operations on whole batches (Cubuk et al. 2020, arXiv 1909.13719).

These are the paper's operations except equalize: its histograms have no fast batched form.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    *("identity", "autocontrast", "brightness", "contrast", "color", "sharpness"),
    *("posterize", "solarize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)
_MAGNITUDE = 9 / 30
_LUMA = (0.299, 0.587, 0.114)


def randaugment(images: Tensor, which: Tensor, sign: Tensor) -> Tensor:
    """Apply one of `OPERATIONS` to each image, at magnitude 9 of 30 (Cubuk et al. 2020).

    Args:
        images: Whole numbers from 0 to 255, float of shape (B, C, H, W).
        which: The index of each image's operation, of shape (B,).
        sign: 1 or -1: the direction of operations that have two, of shape (B,).

    Returns:
        The images, again whole numbers from 0 to 255.
    """

    def on(name: str) -> Tensor:
        return (which == OPERATIONS.index(name)).view(-1, 1, 1, 1)

    sign = sign.view(-1, 1, 1, 1)
    grey = _grey(images)
    # Four operations blend the image with a poorer one, or extrapolate away from it.
    poorer = torch.where(on("contrast"), grey.mean(dim=(2, 3), keepdim=True), grey)
    poorer = torch.where(on("sharpness"), _smooth(images), poorer)
    poorer = torch.where(on("brightness"), 0.0, poorer)
    blends = on("brightness") | on("contrast") | on("color") | on("sharpness")
    found = images + torch.where(blends, 0.9 * _MAGNITUDE * sign, 0.0) * (images - poorer)

    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    stretches = on("autocontrast") & (high > low)
    stretched = (images - low) * (255 / (high - low).clamp(min=1))
    found = torch.where(stretches, stretched, found)
    found = torch.where(on("posterize"), images - images % 2 ** round(4 * _MAGNITUDE), found)
    bright = on("solarize") & (images >= 255 * (1 - _MAGNITUDE))
    found = torch.where(bright, 255 - images, found)
    return _moved(found.floor_().clamp_(0, 255), which, sign.flatten())


# Made once for a device: a copy of Python's numbers waits for what is queued there.
@cache
def _luma(device: torch.device) -> Tensor:
    return torch.tensor(_LUMA, device=device).view(1, 3, 1, 1)


@cache
def _kernel(device: torch.device) -> Tensor:
    return torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=device) / 13


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    return (images * _luma(images.device)).sum(dim=1, keepdim=True).floor_()


def _smooth(images: Tensor) -> Tensor:
    """Return the images under PIL's SMOOTH filter, which leaves the border as it is."""
    channels = images.shape[1]
    kernel = _kernel(images.device).expand(channels, 1, 3, 3)
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(images, kernel, groups=channels).round_()
    return smooth


def _moved(images: Tensor, which: Tensor, sign: Tensor) -> Tensor:
    """Rotate, shear or shift images to the nearest pixel, with 0 from outside."""
    height, width = images.shape[2:]

    def amount(name: str, most: float) -> Tensor:
        return torch.where(which == OPERATIONS.index(name), most * _MAGNITUDE * sign, 0.0)

    angle = amount("rotate", math.radians(30))
    # The place that the result's (x, y) comes from, in pixels from the centre.
    xx, yy, sine = angle.cos(), angle.cos(), angle.sin()
    xy, yx = sine + amount("shear_x", 0.3), -sine + amount("shear_y", 0.3)
    dx = -amount("translate_x", 150 / 331 * width).trunc()
    dy = -amount("translate_y", 150 / 331 * height).trunc()
    ratio = height / width
    theta = torch.stack(
        [
            torch.stack([xx, xy * ratio, 2 * dx / width], dim=1),
            torch.stack([yx / ratio, yy, 2 * dy / height], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", align_corners=False)
