"""What a model builder may ask of the examples it is built for."""

from __future__ import annotations


def image_channels(input_shape: tuple[int, ...], *, smallest: int = 1) -> int:
    """The number of channels of images (channels, height, width).

    Args:
        input_shape: the shape of one example, without the batch.
        smallest: height and width, in pixels, below which the model's pooling leaves nothing.

    Raises:
        ValueError: the examples are not images, or are smaller than `smallest`.

    >>> image_channels((3, 32, 32))
    3
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"a convolutional model needs images (channels, height, width), got examples of shape {input_shape}; "
            "use MLP for other data."
        )
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise ValueError(f"this model needs images of at least {smallest} x {smallest}, got {height} x {width}.")
    return channels
