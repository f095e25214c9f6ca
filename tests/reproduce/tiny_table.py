"""Settings that make any table one of seconds."""

from __future__ import annotations

TINY = (
    *("rounds=2", "num_clients=3", "model=mlp", "client.epochs=1", "client.augment=[]"),
    *("data.train_size=120", "data.test_size=40", "evaluation.local_every=0"),
)
