"""A model that trains faster: its operators in bfloat16, fused by PyTorch's compiler, or both.

Only where gradients are computed. Evaluation, spectra and frozen teachers run the plain model in its own precision: a
feature rounded to 8 bits has no small eigenvalues.

ResNet-20, batch of 64, one thread of an Intel Xeon with AMX, forward and backward: 163 ms plain, 142 ms compiled, 94 ms
with autocast, 76 ms with both (fastest of nine; `benchmarks/acceleration.py`). A compilation takes 5 to 25 s in each
worker; the next run finds it in PyTorch's cache.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from decollapse.core import Output

PAYS_FROM = 20
"""Batches of one size before it is compiled. Only the first size to get there is: last batches come in all sizes."""


def accelerate(model: nn.Module, *, device: str, compile: bool, autocast: bool) -> nn.Module:
    """`model` itself, with another `forward` for training.

    Where it cannot be compiled, it is not, and one warning says why.
    """
    if compile or autocast:
        model.forward = _Forward(model.forward, device=device, compile=compile, autocast=autocast)
    return model


class _Forward:
    def __init__(self, plain: Callable[[Tensor], Output], *, device: str, compile: bool, autocast: bool) -> None:
        self._plain = plain
        self._kind = torch.device(device).type
        self._autocast = autocast
        self._seen: Counter[torch.Size] | None = Counter() if compile else None
        self._compiled: Callable[[Tensor], Output] | None = None
        self._size: torch.Size | None = None

    def __call__(self, x: Tensor) -> Output:
        if not torch.is_grad_enabled():
            return self._plain(x)
        if self._compiled is not None and x.shape == self._size:
            return self._try_compiled(x)
        if self._seen is not None and self._compiled is None:
            self._seen[x.shape] += 1
            if self._seen[x.shape] == PAYS_FROM:
                self._size, self._compiled = x.shape, torch.compile(self._train, dynamic=False)
        return self._train(x)

    def _train(self, x: Tensor) -> Output:
        with torch.autocast(self._kind, dtype=torch.bfloat16, enabled=self._autocast):
            output = self._plain(x)
        return Output(output.logits.to(x.dtype), output.features.to(x.dtype), output.layers)

    def _try_compiled(self, x: Tensor) -> Output:
        assert self._compiled is not None
        try:
            return self._compiled(x)
        except Exception as error:  # whatever the compiler raises; an error of the model's own is raised again below
            said = str(error).strip().splitlines()
            warnings.warn(
                f"the model cannot be compiled and trains as it is: {type(error).__name__}: {said[0] if said else ''}",
                stacklevel=2,
            )
            self._compiled = self._seen = None
            return self._train(x)
