"""Tensors survive the wire to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord

from decollapse.flower.tensors import decode, encode

DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 2**32),
)
def test_any_bits_of_any_dtype_and_shape_come_back(dtype: torch.dtype, shape: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    width = torch.empty(0, dtype=dtype).element_size()
    count = torch.Size(shape).numel()
    noise = torch.randint(256, (count * width,), generator=generator, dtype=torch.uint8)  # NaNs of every kind, too
    sent = noise.view(dtype).reshape(shape)
    came = decode(encode({"x": sent}))["x"]
    assert came.dtype == dtype
    assert came.shape == sent.shape
    assert bits(came) == bits(sent)


def test_booleans_come_back() -> None:
    assert decode(encode({"x": torch.tensor([True, False])}))["x"].tolist() == [True, False]


def test_a_transposed_tensor_comes_back_contiguous() -> None:
    sent = torch.arange(6.0).reshape(2, 3).T
    came = decode(encode({"x": sent}))["x"]
    assert came.is_contiguous()
    assert torch.equal(came, sent)


def test_what_comes_back_can_be_written_to() -> None:
    came = decode(encode({"x": torch.zeros(2)}))["x"]
    came.add_(1)
    assert came.tolist() == [1.0, 1.0]


def test_names_keep_their_order() -> None:
    assert list(decode(encode({"b": torch.zeros(1), "a": torch.zeros(1)}))) == ["b", "a"]


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (Array("float32", (2,), "numpy.ndarray", b"garbage"), "no array"),
        (Array("float32", (2,), "numpy.ndarray", b""), "no array"),
        (Array("float32", (2,), "torch.pickle", b""), "torch.pickle"),
        (Array("float32", (3,), "numpy.ndarray", encode({"x": torch.zeros(2)})["x"].data), "shape"),
        (Array("int32", (2,), "numpy.ndarray", encode({"x": torch.zeros(2)})["x"].data), "int32"),
        (Array("float32", (2,), "numpy.ndarray", encode({"x": torch.zeros(2)})["x"].data[:-3]), "no array"),
    ],
)
def test_bytes_that_are_not_what_they_say_are_refused_by_name(array: Array, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        decode(ArrayRecord({"weight": array}))
    assert "weight" in str(caught.value)
