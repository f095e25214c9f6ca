from __future__ import annotations

import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from decollapse.data import CIFAR10_NORMALIZE, Dataset, DataSource, Groups, Normalize, load_dataset
from decollapse.data.datasets import DEBIAN_FASHION_MNIST

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "src/decollapse/data/fashion_mnist_small"


def toy(**changes: object) -> Dataset:
    x, y = torch.arange(8.0).view(4, 2), torch.tensor([0, 1, 0, 1])
    fields = dict(name="toy", train_x=x, train_y=y, test_x=x, test_y=y, classes=("a", "b"))
    return Dataset(**(fields | {"preprocess": Normalize((0.0,), (1.0,))} | changes))


def save(folder: Path, **arrays: np.ndarray) -> None:
    """Write the same arrays as both splits, `test_...` ones into the test split only."""
    test = {key.removeprefix("test_"): value for key, value in arrays.items() if key.startswith("test_")}
    train = {key: value for key, value in arrays.items() if not key.startswith("test_")}
    np.savez(folder / "train.npz", **train)
    np.savez(folder / "test.npz", **(train | test))


def test_the_embedded_data_are_balanced_uint8_images_with_named_classes() -> None:
    data = load_dataset("fashion-mnist-small")
    assert (data.train_x.shape, data.train_x.dtype) == ((5000, 1, 28, 28), torch.uint8)
    assert data.train_y.bincount().tolist() == [500] * 10
    assert data.test_y.bincount().tolist() == [200] * 10
    assert (data.num_classes, data.input_shape, data.classes[9]) == (10, (1, 28, 28), "Ankle boot")
    assert data.preprocess == Normalize(mean=(0.286041,), std=(0.353024,))  # of all 60,000 training images


def test_the_embedded_data_are_small_and_fast_to_read() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.glob("*.npz")) <= 4_000_000
    started = time.thread_time()
    load_dataset("fashion-mnist-small")
    assert time.thread_time() - started < 1


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_script_draws_the_embedded_data_again(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "scripts/make_fashion_mnist_small.py"))["main"](DEBIAN_FASHION_MNIST, tmp_path)
    for split in ("train", "test"):
        with np.load(EMBEDDED / f"{split}.npz") as kept, np.load(tmp_path / f"{split}.npz") as drawn:
            assert kept.files == drawn.files
            assert all(np.array_equal(kept[key], drawn[key]) for key in kept.files)


def test_digits_are_images_with_the_full_range_of_grey() -> None:
    data = load_dataset("digits")
    assert (data.train_x.shape, data.test_x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert (data.train_x.min(), data.train_x.max()) == (0, 255)
    assert data.test_y.bincount().min() >= 34


def test_the_splits_of_digits_do_not_overlap_and_leave_nothing_out() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits")
    ours = torch.cat([data.train_x, data.test_x]).flatten(1).tolist()
    assert sorted(ours) == sorted(np.rint(load_digits().data * 255 / 16).astype(int).tolist())


def test_a_subset_keeps_the_proportions_and_the_order_and_is_the_same_every_time() -> None:
    whole = load_dataset("fashion-mnist-small")
    first = load_dataset("fashion-mnist-small", train_size=503, test_size=50)
    second = load_dataset("fashion-mnist-small", train_size=503, test_size=50)
    assert torch.equal(first.train_x, second.train_x)
    assert set(first.train_y.bincount().tolist()) == {50, 51}
    assert first.test_y.bincount().tolist() == [5] * 10
    places = [int((whole.train_x == image).flatten(1).all(1).nonzero()[0, 0]) for image in first.train_x[:20]]
    assert places == sorted(places)


def test_another_subset_seed_draws_another_subset() -> None:
    first = load_dataset("fashion-mnist-small", train_size=50)
    second = load_dataset("fashion-mnist-small", train_size=50, subset_seed=1)
    assert not torch.equal(first.train_x, second.train_x)
    assert first.train_y.bincount().tolist() == second.train_y.bincount().tolist()


def test_a_subset_is_normalised_like_the_whole() -> None:
    assert load_dataset("digits", train_size=20).preprocess == load_dataset("digits").preprocess


def test_a_source_can_override_the_normalisation() -> None:
    assert DataSource("digits", preprocess=CIFAR10_NORMALIZE).load().preprocess == CIFAR10_NORMALIZE


def test_sources_compare_and_hash_by_value() -> None:
    assert DataSource() == DataSource("fashion-mnist-small") != DataSource(train_size=5)
    assert len({DataSource(), DataSource()}) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion-mnst", "there is no data set 'fashion-mnst', did you mean 'fashion-mnist'?"),
        ("digit", "did you mean 'digits'?"),
        ("cifar10", "There are fashion-mnist-small, digits"),
        ("npz", "'npz' needs to know where: npz:FOLDER"),
        ("hf:", "'hf' needs to know where"),
        ("digits:here", "'digits' takes no location"),
    ],
)
def test_an_unknown_name_is_refused_before_loading_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        DataSource(name)
    assert message in str(error.value)


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"train_size must be at least 1, got {size}"):
        DataSource(train_size=size)
    with pytest.raises(ValueError, match=f"test_size must be at least 1, got {size}"):
        DataSource(test_size=size)


def test_a_size_above_what_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="digits: the train split has 1437 examples, 2000 were asked for"):
        load_dataset("digits", train_size=2000)


def test_npz_colour_images_become_channels_first(tmp_path: Path) -> None:
    x = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)
    save(tmp_path, x=x, y=np.array([0, 2, 1, 0]))
    data = load_dataset(f"npz:{tmp_path}")
    assert data.train_x.is_contiguous()
    assert torch.equal(data.train_x, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    assert data.classes == ("0", "1", "2")
    assert data.preprocess == Normalize.fit(data.train_x)


def test_npz_grey_images_get_a_channel_and_tables_stay_tables(tmp_path: Path) -> None:
    save(tmp_path, x=np.zeros((4, 5, 6), np.int64), y=np.arange(4))
    assert load_dataset(f"npz:{tmp_path}").train_x.shape == (4, 1, 5, 6)
    save(tmp_path, x=np.ones((4, 13)), y=np.arange(4, dtype=np.uint8))
    table = load_dataset(f"npz:{tmp_path}")
    assert (table.train_x.shape, table.train_x.dtype, table.train_y.dtype) == ((4, 13), torch.float64, torch.int64)


def test_npz_names_constants_and_columns_are_used(tmp_path: Path) -> None:
    extra = dict(names=np.array(["cat", "dog", "emu"]), mean=np.array([0.5]), std=np.array([0.25]))
    save(tmp_path, x=np.zeros((4, 5, 6), np.uint8), y=np.array([0, 1, 0, 1]), domain=np.array(list("baab")), **extra)
    data = load_dataset(f"npz:{tmp_path}")
    assert (data.classes, data.preprocess) == (("cat", "dog", "emu"), Normalize((0.5,), (0.25,)))
    assert {name: codes.tolist() for name, codes in data.train_columns.items()} == {"domain": [1, 0, 0, 1]}


def test_columns_follow_their_examples_into_a_subset(tmp_path: Path) -> None:
    y = np.arange(40) % 4
    save(tmp_path, x=np.arange(80.0).reshape(40, 2), y=y, parity=np.arange(40) % 2)
    data = load_dataset(f"npz:{tmp_path}", train_size=11)
    assert torch.equal(data.train_columns["parity"], (data.train_x[:, 0] / 2 % 2).long())


def test_columns_of_the_test_split_are_groups_and_follow_a_subset(tmp_path: Path) -> None:
    y = np.arange(40) % 4
    save(tmp_path, x=np.arange(80.0).reshape(40, 2), y=y, parity=np.array(["even", "odd"] * 20))
    data = load_dataset(f"npz:{tmp_path}", test_size=11)
    parity = data.test_groups["parity"]
    assert parity.values == ("even", "odd")
    assert torch.equal(parity.codes, (data.test_x[:, 0] / 2 % 2).long())


@pytest.mark.parametrize(("count", "kept"), [(1, False), (2, True), (20, True), (21, False)])
def test_a_column_of_one_value_or_of_many_makes_no_groups(tmp_path: Path, count: int, kept: bool) -> None:
    save(tmp_path, x=np.zeros((42, 2)), y=np.arange(42) % 2, age=np.arange(42) % count)
    data = load_dataset(f"npz:{tmp_path}")
    assert ("age" in data.train_columns, "age" in data.test_groups) == (True, kept)


def test_a_test_label_outside_the_training_classes_is_refused(tmp_path: Path) -> None:
    save(tmp_path, x=np.zeros((3, 2)), y=np.array([0, 1, 1]), test_y=np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"the test split has label 2, outside its 2 classes \(0 to 1\)"):
        load_dataset(f"npz:{tmp_path}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_y": torch.tensor([0, 1, 0])}, "toy: the train split needs one int64 label an example"),
        ({"test_y": torch.tensor([0, 1, 0, -1])}, "toy: the test split has label -1, outside its 2 classes"),
        ({"train_y": torch.tensor([0.0, 1, 0, 1])}, "int64 label"),
        ({"train_x": torch.full((4, 2), float("nan"))}, "the train split has NaN or infinite features"),
        ({"train_x": torch.zeros(4, 2, dtype=torch.int64)}, "needs uint8 images or floating-point features"),
        ({"train_x": torch.zeros(4, 2, dtype=torch.uint8)}, r"must have shape \(n, channels, h, w\), got \(4, 2\)"),
        ({"test_x": torch.zeros(4, 3)}, r"training examples are torch.float32 of shape \(2,\), test examples"),
        ({"test_x": torch.zeros(0, 2), "test_y": torch.zeros(0, dtype=torch.int64)}, "at least one example"),
        ({"train_columns": {"writer": torch.arange(3)}}, "column 'writer' has 3 entries for 4 examples"),
        ({"test_groups": {"site": Groups(("a", "b"), torch.tensor([0, 1]))}}, "column 'site' has 2 entries for 4"),
    ],
)
def test_a_data_set_that_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**changes)


def test_shared_memory_keeps_the_values_in_place() -> None:
    data = toy(train_columns={"writer": torch.arange(4)})
    before = data.train_x.clone()
    assert data.share_memory() is data
    assert data.train_x.is_shared()
    assert data.test_y.is_shared()
    assert data.train_columns["writer"].is_shared()
    assert torch.equal(data.train_x, before)


def test_importing_the_data_package_does_not_import_what_only_some_sources_need() -> None:
    code = (
        "import sys, decollapse.data; print([m for m in ('sklearn', 'datasets', 'PIL', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert out.stdout.strip() == "[]"
