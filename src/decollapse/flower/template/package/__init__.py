"""A Flower app; see `data.py`, `model.py` and `recipe.toml`."""
