"""Find, explain and repair dimensional collapse in federated learning.

>>> import torch
>>> from decollapse import decorrelation_loss, spectrum
>>> features = torch.randn(64, 32, requires_grad=True)
>>> loss = 0.1 * decorrelation_loss(features)
>>> loss.backward()
"""

from __future__ import annotations

__version__ = "0.1.0"
