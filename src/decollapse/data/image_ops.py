"""The image operations of AutoAugment on batches of uint8 images, each with a strength of its own.

Every function takes images (n, c, h, w), one or three channels, with one value an image, and returns new images.
The results are Pillow's, bit for bit: its fixed-point coordinates, truncations and roundings are followed on purpose.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

    Images = UInt8[Tensor, "n c h w"]
    Values = Float[Tensor, "n"]

Coefficients = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): where in the input an output pixel comes from; see `warp`."""


def warp(images: Images, coefficients: Float[Tensor, "n 6"]) -> Images:
    """Output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f), the nearest; black outside.

    As `Image.transform(size, AFFINE, (a, b, c, d, e, f))`, which samples at pixel centres in 16.16 fixed point.
    """
    n, channels, h, w = images.shape
    a, b, c, d, e, f = coefficients.double().unbind(1)
    centred = torch.stack([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2])
    a, b, c, d, e, f = (centred * 65536 + 0.5).floor().long()[:, :, None, None]
    x, y = torch.arange(w, device=images.device), torch.arange(h, device=images.device)[:, None]
    # The image gets a black frame of one pixel: 1 is added to the coordinates, and what lies outside is clamped to it.
    column = (a * x + (b * y + (c + 65536))).bitwise_right_shift_(16).clamp_(0, w + 1)
    row = (d * x + (e * y + (f + 65536))).bitwise_right_shift_(16).clamp_(0, h + 1)
    source = row.mul_(w + 2).add_(column).view(n, 1, h * w)
    framed = F.pad(images, (1, 1, 1, 1)).flatten(2)
    return framed.gather(2, source.expand(-1, channels, -1)).view_as(images)


def shear_x(slope: float, h: int, w: int) -> Coefficients:
    """Move row y left by `slope * y` pixels."""
    return (1, slope, 0, 0, 1, 0)


def shear_y(slope: float, h: int, w: int) -> Coefficients:
    """Move column x up by `slope * x` pixels."""
    return (1, 0, 0, slope, 1, 0)


def translate_x(pixels: float, h: int, w: int) -> Coefficients:
    """Move right by a whole number of pixels, the fraction dropped."""
    return (1, 0, -int(pixels), 0, 1, 0)


def translate_y(pixels: float, h: int, w: int) -> Coefficients:
    """Move down by a whole number of pixels, the fraction dropped."""
    return (1, 0, 0, 0, 1, -int(pixels))


def rotate(degrees: float, h: int, w: int) -> Coefficients:
    """Turn counter-clockwise about the centre."""
    angle = -math.radians(degrees)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = w / 2, h / 2
    return (cos, sin, x - (cos * x + sin * y), -sin, cos, y - (cos * y - sin * x))


def color(images: Images, factor: Values) -> Images:
    """Saturation: 0 is grey, 1 changes nothing."""
    return _blend(_grey(images), images, factor)


def contrast(images: Images, factor: Values) -> Images:
    """0 is the mean grey level everywhere, 1 changes nothing."""
    mean = (_grey(images).double().mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return _blend(mean, images, factor)


def brightness(images: Images, factor: Values) -> Images:
    """0 is black, 1 changes nothing."""
    return _blend(torch.zeros((), device=images.device), images, factor)


def sharpness(images: Images, factor: Values) -> Images:
    """0 is smoothed by the 3 x 3 kernel (1 1 1, 1 5 1, 1 1 1) / 13, 1 changes nothing, more is sharper; edges stay."""
    if min(images.shape[2:]) < 3:
        return images.clone()
    x = images.float()
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[:, :, 1:-1, 1:-1]
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = total.div_(13).add_(0.5).floor_()
    return _blend(smooth, images, factor)


def posterize(images: Images, bits: Values) -> Images:
    """Keep the `bits` highest bits, 1 to 8."""
    mask = 256 - 2 ** (8 - bits)
    return images & mask.to(torch.uint8)[:, None, None, None]


def solarize(images: Images, threshold: Values) -> Images:
    """Invert every value from `threshold` on."""
    return torch.where(images < threshold.float()[:, None, None, None], images, 255 - images)


def auto_contrast(images: Images, _: Values) -> Images:
    """Stretch every channel to the full range; a constant channel stays."""
    low, high = images.amin((2, 3), keepdim=True).double(), images.amax((2, 3), keepdim=True).double()
    scale = torch.full_like(low, 255.0) / (high - low)  # 255.0 / tensor would round twice, by way of the reciprocal
    stretched = (images * scale + -low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: Images, _: Values) -> Images:
    """Flatten the histogram of every channel."""
    n, c, h, w = images.shape
    values = images.view(n * c, h * w) + 256 * torch.arange(n * c, device=images.device)[:, None]
    histogram = values.flatten().bincount(minlength=256 * n * c).view(n * c, 256)
    brightest = values.amax(1, keepdim=True)
    step = (h * w - histogram.take(brightest)) // 255
    before = histogram.cumsum(1) - histogram
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device)).to(torch.uint8)
    return table.take(values).view_as(images)


def invert(images: Images, _: Values) -> Images:
    """255 minus every value."""
    return 255 - images


def _blend(start: Tensor, end: Images, factor: Values) -> Images:
    """`start + factor * (end - start)`, clipped and truncated; a factor above 1 goes beyond `end`."""
    start = start.float()
    return (end - start).mul_(factor.float()[:, None, None, None]).add_(start).clamp_(0, 255).to(torch.uint8)


def _grey(images: Images) -> Int[Tensor, "n 1 h w"]:
    """ITU-R 601 luma in Pillow's 16-bit fixed point."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().unbind(1)
    luma: Tensor = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma[:, None]
