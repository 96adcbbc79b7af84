"""The report: what the page says is what the files hold, and damaged files are told, not shown."""

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from paljax import figures
from paljax.errors import UserError
from paljax.report import headline, main, write_report
from paljax.reporting import user_figures
from paljax.reporting.drawing import spread, svg

SHOTS = (0, 1, 2, 5, 10, 20)
ATTRIBUTES = ("price", "contract length", "local supplier", "well known", "time of day", "seasonal")
RIVALS = {
    "bradley_terry": 0.712,
    "constant": 0.5,
    "per_user_logistic_regression": 0.782,
    "mixed_logit": 0.858,
}
HOSTILE = "<script>alert('user')</script>"


def scores(accuracy, *, n=2584, n_users=361, width=0.012):
    """Return a plausible score block around an accuracy."""
    values = {
        "accuracy": accuracy,
        "accuracy_macro_user": accuracy - 0.0031,
        "accuracy_worst_group": accuracy - 0.0723,
        "accuracy_p10_user": accuracy - 0.1517,
        "nll": 0.9 - 0.7 * accuracy,
        "ece": 0.0213,
    }
    intervals = {
        name: [value - width, min(value + 1.1 * width, 1)] for name, value in values.items()
    }
    return {**values, "n": n, "n_users": n_users, "intervals": intervals}


def unseen(start, end):
    """Return an n-shot curve from `start` that saturates at `end`."""
    return {
        str(n): scores(end + (start - end) * np.exp(-n / 4), n=740 - 6 * n, n_users=72, width=0.02)
        for n in SHOTS
    }


def metrics_of(rng, K, accuracy):
    strengths = (0.3, 1.0, 3.0, 10.0)
    candidates = [
        {
            "num_prototypes": k,
            "prior_strength": strength,
            "validation_nll": 0.33 + 0.2 / k + 0.02 * abs(np.log(strength)) + 0.004 * rng.random(),
            "validation_accuracy": 0.86 - 0.1 / k,
        }
        for k in sorted({1, 2, 3, 4, 6, 8, K})
        for strength in strengths
    ]
    return {
        "model": "pal_a",
        "parameters": {"shared": 4417, "per_user": K},
        "test": scores(accuracy),
        "unseen": unseen(0.7, accuracy - 0.01),
        "baselines": {
            name: {
                "test": scores(value),
                "unseen": unseen(
                    0.5 if name == "per_user_logistic_regression" else min(value, 0.7),
                    value - 0.008,
                ),
            }
            for name, value in RIVALS.items()
        },
        "before_refit": {"pal_a": {"test": scores(accuracy - 0.0234)}},
        "timing": {"compile_s": 4.31, "train_s": 21.7, "comparisons_per_s": 812345.6},
        "selection": {"num_prototypes": K, "prior_strength": 1.0, "candidates": candidates},
        "data": {"n": 12924, "ties": 37, "dropped": {"chosen equal to rejected": 12}},
        "audit": {
            "label_swap": {"accuracy": 1 - accuracy, "expected": 1 - accuracy, "n": 2584},
            "shuffled_users": {
                "accuracy": 0.62,
                "gain": {"accuracy": -0.0921, "interval": [-0.1134, -0.0712]},
                "n": 2584,
            },
            "format_probe": {"accuracy": 0.5123, "interval": [0.4911, 0.5342], "n": 2584},
            "flip_rate": {"rate": 0.4321, "interval": [0.4011, 0.4655], "n": 740},
            "overlap": {"train_test": 0, "support_query": 0, "joining_chosen": 0},
            "overlap_counts": "votes",
            "repeated_pairs": {"n": 17, "accuracy_on_others": 0.8613},
            "repeated_pairs_of_new": {"n": 23, "accuracy_on_others": 0.7412},
            "ties": {"train": 20, "test": 13, "query": 4},
        },
        "groups": "prototype",
    }


def analysis_of(rng, K, weights, attributes):
    prototypes = []
    for k in range(K):
        order = sorted(rng.normal(0, 2, 10))
        items = [{"item": f"<b>Item {k}.{i}</b> & what it says at length", "reward": r}
                 for i, r in enumerate(order)]  # fmt: skip
        prototypes.append({
            "share": float(weights[:, k].mean()),
            "effects": {name: float(rng.normal(0, 1.2)) for name in attributes},
            "most_preferred": items[:-6:-1],
            "least_preferred": items[:5],
        })  # fmt: skip

    def bins(bias):
        centers = np.linspace(0.525, 0.975, 10)
        right = np.clip(centers - bias + 0.02 * rng.normal(size=10), 0, 1)
        return [
            {"confidence": float(c), "accuracy": float(a), "n": int(100 + 400 * c)}
            for c, a in zip(centers, right, strict=True)
        ]

    return {
        "model": "pal_a",
        "baseline": "bradley_terry",
        "calibration": {"pal_a": bins(0.01), "bradley_terry": bins(0.06)},
        "population": weights.mean(axis=0).tolist(),
        "attributes": list(attributes),
        "effect_unit": "nats per standard deviation",
        "shared_effects": {name: float(rng.normal(0, 0.6)) for name in attributes},
        "prototypes": prototypes,
    }


def log_of(K):
    lines = []
    floors = {"bradley_terry": 0.56, "pal_a K=2": 0.45, f"pal_a K={K}": 0.35}
    for fit, floor in {**floors, "bradley_terry refit": 0.55, "pal_a refit": 0.34}.items():
        for step in range(0, 400, 10):
            loss = floor + (0.693 - floor) * np.exp(-step / 60)
            lines.append({
                "fit": fit, "step": step, "epoch": step / 10, "loss": loss, "accuracy": 0.7,
                "margin": 1.0, "learning_rate": 1e-3, "grad_norm": 0.4,
                "validation_loss": None if "refit" in fit else loss + 0.01 + 1e-4 * step,
            })  # fmt: skip
    return lines


def write_run(folder, *, K=3, attributes=ATTRIBUTES, accuracy=0.864, users=361, seed=0):
    """Write a run directory as the trainer does, with made-up results."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(K, 0.25), users)
    roles = np.where(np.arange(users) % 5 == 4, "unseen", "seen")
    names = [HOSTILE, *(f"person {i}" for i in range(1, users))]
    tested = [
        None if i == 2 else float(np.clip(rng.normal(0.85, 0.1), 0.3, 1)) for i in range(users)
    ]
    tested[0] = 0.2  # among the worst served, so that the page shows the hostile id
    config = {
        "stage": "reward",
        "seed": 0,
        "data": {"name": "electricity"},
        "model": {"name": "pal_a", "num_prototypes": "auto", "user_point": "project_then_mix",
                  "distance": "squared"},
        "versions": {"paljax": "0.1.0", "jax": "0.10.2"},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps(metrics_of(rng, K, accuracy)))
    (folder / "analysis.json").write_text(json.dumps(analysis_of(rng, K, weights, attributes)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log_of(K)))
    table = {
        "user_id": names, "role": roles, "n_comparisons": pa.array([12] * users, pa.int32()),
        "weights": weights.tolist(), "accuracy": pa.array(tested, pa.float32()),
        "gap": pa.array([1e-6] * users, pa.float32()),
    }  # fmt: skip
    pq.write_table(pa.table(table), folder / "users.parquet")
    splits = {"row": range(users), "user_id": names,
              "split": [("train", "test", "validation")[i % 3] for i in range(users)]}  # fmt: skip
    pq.write_table(pa.table(splits), folder / "splits.parquet")
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "three", K=3)


@pytest.fixture(scope="module")
def page(run_dir):
    write_report([run_dir], run_dir / "report.html")
    return (run_dir / "report.html").read_text()


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("runs") / "<i>five", K=5, attributes=(), users=60)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["name"] = "<img src=x onerror=alert(1)>"
    config["data"]["files"] = {"train": "</table><script>"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_report([folder], folder / "report.html")
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(root / "a" / "run", K=2, accuracy=0.83, users=40),
        write_run(root / "b" / "run", K=4, users=40, seed=1),
        write_run(root / "one", K=1, accuracy=0.715, users=40),
    ]
    write_report(runs, root / "all.html")
    return (root / "all.html").read_text()


def plain(page):
    """Return the text a reader sees, without tags and style sheet."""
    body = re.sub(r"<style.*?</style>|<(title|desc) id.*?</\1>", "", page, flags=re.DOTALL)
    return unescape(re.sub(r"<[^>]+>", " ", body)).replace("\N{NO-BREAK SPACE}", " ")


def table_rows(page, caption):
    """Return a table's rows as lists of words of their cells."""
    table = next(t for t in re.findall(r"<table>.*?</table>", page, re.DOTALL) if caption in t)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [
        [" ".join(plain(cell).split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in rows
    ]


def percent(value):
    return f"{100 * value:.1f} %"


def test_every_section_is_on_the_page(page):
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "PAL against baselines", "New people", "What the prototypes want", "People in weight space",
        "Learning curves", "Calibration", "By strongest prototype", "Audit", "The run",
    ]  # fmt: skip
    assert page.count("<svg") == 7
    assert page.count("<figcaption>") == 7


def test_score_table_shows_the_numbers_of_metrics_json(run_dir, page):
    metrics = json.loads((run_dir / "metrics.json").read_text())
    rows = table_rows(page, "All scores")
    order = ["mixed_logit", "per_user_logistic_regression", "bradley_terry", "constant"]
    blocks = [metrics["test"], *(metrics["baselines"][name]["test"] for name in order)]
    names = ["PAL", "Gaussian mixed logit", "Per-user logistic regression", "Shared reward",
             "Constant"]  # fmt: skip
    assert [row[0] for row in rows[1:]] == names
    for row, block in zip(rows[1:], blocks, strict=True):
        for cell, name in zip(row[1:], list(block)[:6], strict=False):
            low, high = block["intervals"][name]
            wanted = (
                f"{block[name]:.3f} [{low:.3f}, {high:.3f}]"
                if name in ("nll", "ece")
                else f"{percent(block[name])} [{100 * low:.1f}, {100 * high:.1f}]"
            )
            assert cell == wanted
        assert row[-1] == f"{block['n']:,} {block['n_users']} people"


def test_new_people_table_shows_every_number_of_shots(run_dir, page):
    metrics = json.loads((run_dir / "metrics.json").read_text())
    rows = table_rows(page, "Accuracy by comparisons given")
    assert rows[0] == ["Model", *map(str, SHOTS)]
    for n, cell in zip(SHOTS, rows[1][1:], strict=True):
        assert cell.startswith(percent(metrics["unseen"][str(n)]["accuracy"]))


def test_effects_and_shares_are_those_of_analysis_json(run_dir, page):
    analysis = json.loads((run_dir / "analysis.json").read_text())
    rows = table_rows(page, "Effects in nats")
    for row, prototype in zip(rows[1:], analysis["prototypes"], strict=False):
        assert f"({100 * prototype['share']:.0f} %)" in row[0]
        found = [float(cell.replace("\N{MINUS SIGN}", "-")) for cell in row[1:]]
        np.testing.assert_allclose(found, list(prototype["effects"].values()), atol=6e-4)
    assert rows[-1][0] == "Shared reward"


def test_chosen_setting_is_marked_once(page):
    rows = table_rows(page, "Selection on validation data")
    marked = [(row[0], column) for row in rows for column, cell in enumerate(row) if "✓" in cell]
    assert marked == [("K = 3", rows[0].index("λ = 1"))]


def test_accuracy_before_the_refit_is_kept(page):
    rows = table_rows(page, "Before the last fit")
    assert rows[1:] == [["PAL", "84.1 % [82.9, 85.4]"]]


def test_the_audit_says_what_was_found_and_what_was_wanted(page):
    rows = table_rows(page, "Checks of the accuracy above")
    assert [row[1] for row in rows[1:]] == [
        "13.6 %",
        "\N{MINUS SIGN}9.2 points [\N{MINUS SIGN}11.3, \N{MINUS SIGN}7.1] over the shared reward",
        "51.2 % [49.1, 53.4]",
        "43.2 % [40.1, 46.6]",
        "0",
        "17",
        "23",
        "17",
    ]
    assert rows[1][2] == "13.6 %: one minus the accuracy"
    assert rows[5][0] == "Votes both learned from and scored"
    assert rows[6][2] == "few; accuracy on the others: 86.1 %"
    assert rows[7][2] == "few; accuracy on the others: 74.1 %"


def test_group_accuracies_come_from_the_users_table(run_dir, page):
    users = pq.read_table(run_dir / "users.parquet").to_pydict()
    accuracies = [
        accuracy
        for role, weights, accuracy in zip(
            users["role"], users["weights"], users["accuracy"], strict=True
        )
        if role == "seen" and accuracy is not None and np.argmax(weights) == 1
    ]
    assert f"P2 ({len(accuracies)} people): PAL {percent(np.mean(accuracies))}" in page


def test_named_groups_are_shown_by_model(tmp_path):
    folder = write_run(tmp_path / "run", users=20)
    edit_json(folder, "metrics.json", groups="group")
    group = {"group": "north", "n": 12, "accuracy": {"pal_a": 0.75, "bradley_terry": 0.5}}
    edit_json(folder, "analysis.json", groups=[group, {**group, "group": "south"}])
    write_report([folder], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<h2>By group</h2>" in page
    assert "north (n = 12): PAL 75.0 %, Shared reward 50.0 %" in page


def test_scores_that_do_not_exist_are_dashes(tmp_path):
    folder = write_run(tmp_path / "run", users=20)
    (folder / "splits.parquet").unlink()
    block = scores(0.8) | {"accuracy_worst_group": None, "accuracy_p10_user": float("nan")}
    del block["ece"]
    edit_json(folder, "metrics.json", test=block, unseen={}, baselines={}, selection=None)
    edit_json(folder, "analysis.json", calibration={}, prototypes=[])
    write_report([folder], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    row = table_rows(page, "All scores")[1]
    assert [row[3], row[4], row[6]] == ["–", "–", "–"]
    assert "No people were held out" in page


def test_text_from_the_data_is_escaped(page, hostile_page):
    assert "<script" not in page
    assert HOSTILE in plain(page)
    assert not re.search(r"<script|<img|<i>|<b>Item", hostile_page)
    for text in (
        "<img src=x onerror=alert(1)>",
        "<i>five",
        "</table><script>",
        "<b>Item 4.0</b> &",
    ):
        assert text in plain(hostile_page)


def test_without_attributes_items_are_ranked(hostile_page):
    text = " ".join(plain(hostile_page).split())
    for k in range(5):
        best, worst = (text.index(f"<b>Item {k}.{i}</b>") for i in (9, 0))
        assert best < text.index("Least preferred", best) < worst


def test_page_refers_to_nothing_outside_itself(page, hostile_page, comparison):
    for html in (page, hostile_page, comparison):
        tags = " ".join(re.findall(r"<[a-zA-Z][^>]*>", html))
        targets = re.findall(r'(?:href|src|srcset|data|action)="([^"]*)"', tags)
        targets += re.findall(r"url\(([^)]*)\)", html)
        assert targets
        assert all(target.startswith("#") for target in targets)
        assert not re.search(r"@import|<(script|link|iframe|object|img)", html)


def test_ids_are_unique_and_every_reference_is_met(page, comparison):
    for html in (page, comparison):
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids))
        wanted = set(re.findall(r'(?:href="|url\()#([^")]+)', html))
        wanted |= set(" ".join(re.findall(r'aria-labelledby="([^"]+)"', html)).split())
        assert wanted <= set(ids)


def test_figures_follow_the_mode_of_the_page(page):
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        colors = re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)
        assert {"var(--muted,#5f6b80)", "var(--ink,#1c2333)"} & set(colors)
        assert all(color == "none" or color.startswith("var(--") for color in colors)


def test_figures_have_names_and_tables_captions(page):
    assert len(re.findall(r'<svg[^>]*role="img"', page)) == page.count("<svg")
    assert page.count("<table>") == page.count("<caption>") > 4
    for description in re.findall(r"<desc[^>]*>(.*?)</desc>", page):
        assert re.search(r"\d", description)


def test_same_results_give_the_same_bytes(run_dir, page, tmp_path):
    write_report([run_dir], tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


def test_several_runs_are_named_by_their_folders_and_shown_in_full(comparison):
    rows = table_rows(comparison, "The runs")
    assert [row[0] for row in rows[1:]] == ["a/run", "b/run", rows[3][0]]
    assert rows[3][0].endswith("/one")
    assert [row[2] for row in rows[1:]] == [
        "PAL with 2 prototypes", "PAL with 4 prototypes", "PAL with 1 prototype",
    ]  # fmt: skip
    assert comparison.count("<h2>PAL against baselines</h2>") == 3
    assert "b/run has the highest accuracy, 86.4 % [85.2, 87.7]." in plain(comparison)
    assert "With one prototype everybody has the same reward." in comparison


# --- the headline


def metrics(accuracy=0.864, shared=0.712, width=0.012, **changes):
    found = {
        "model": "pal_a",
        "parameters": {"per_user": 8},
        "test": scores(accuracy, width=width),
        "baselines": {"bradley_terry": {"test": scores(shared, width=width)}},
    }
    return found | changes


def test_headline_says_the_result_in_one_sentence():
    assert headline(metrics()) == (
        "PAL with 8 prototypes predicts 86.4 % [85.2, 87.7] of held-out choices; one shared reward "
        "71.2 % [70.0, 72.5]; n = 2,584 comparisons of 361 people. "
        "PAL is 15.2 points above the shared reward."
    )


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (metrics(0.70, 0.75), "PAL is 5.0 points below the shared reward."),
        (metrics(0.72, 0.712), "PAL and the shared reward are not distinguishable: their 95 %"),
        (metrics(0.712, 0.72), "PAL and the shared reward are not distinguishable: their 95 %"),
        (metrics(data={"ties": 1}), "1 comparison is a tie, without a side to predict."),
        (
            metrics(gain={"test": {"accuracy": 0.152, "interval": [0.139, 0.166]}}),
            "PAL is 15.2 points [13.9, 16.6] above the shared reward.",
        ),
        (
            metrics(0.72, gain={"test": {"accuracy": 0.008, "interval": [0.001, 0.015]}}),
            "PAL is 0.8 points [0.1, 1.5] above the shared reward.",
        ),
        (
            metrics(0.7, gain={"test": {"accuracy": -0.012, "interval": [-0.02, -0.004]}}),
            "PAL is 1.2 points [0.4, 2.0] below the shared reward.",
        ),
        (
            metrics(gain={"test": {"accuracy": 0.01, "interval": [-0.02, 0.04]}}),
            "not distinguishable: they differ by +1.0 points [−2.0, +4.0].",
        ),
        (metrics(parameters={"per_user": 0}), "PAL with 1 prototype predicts"),
        (
            metrics(data={"dropped": {"NaN": 2, "no user": 1}}),
            "3 rows were dropped (NaN: 2, no user: 1).",
        ),
        (metrics(data={"dropped": 1}), "1 row was dropped"),
        (
            metrics(baselines={"mixed_logit": {"test": scores(0.9)}}),
            "The best baseline, the Gaussian mixed logit, reaches 90.0 % [88.8, 91.3]. "
            "PAL is 3.6 points below the Gaussian mixed logit.",
        ),
        (metrics(test=scores(0.8) | {"intervals": {}}), "without intervals this proves nothing"),
        (metrics(test={"n": 0, "n_users": 0}), "no held-out comparisons to test"),
        (
            metrics(model="bradley_terry"),
            "One shared reward predicts 86.4 % [85.2, 87.7] of held-out choices; n = 2,584",
        ),
    ],
)
def test_headline_says_failures_and_dropped_data_plainly(found, sentence):
    assert sentence in headline(found)


# --- damaged runs


def edit_json(folder, name, **changes):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_users(folder, **columns):
    table = pq.read_table(folder / "users.parquet").to_pydict() | columns
    pq.write_table(
        pa.table({name: column for name, column in table.items() if column is not None}),
        folder / "users.parquet",
    )


def first_weights(folder, weights):
    """Replace the first user's weights."""
    found = pq.read_table(folder / "users.parquet")["weights"].to_pylist()
    edit_users(folder, weights=[weights, *found[1:]])


DAMAGES = {
    "no metrics": (
        lambda run: (run / "metrics.json").unlink(),
        r"run: not a finished run directory: the run has not finished",
    ),
    "empty metrics": (lambda run: (run / "metrics.json").write_text(""), r"metrics\.json: Invalid"),
    "cut metrics": (
        lambda run: (run / "metrics.json").write_text('{"model": "pal_a", "te'),
        r"metrics\.json: Invalid JSON",
    ),
    "no test scores": (
        lambda run: (run / "metrics.json").write_text('{"model": "pal_a"}'),
        r"metrics\.json: test: Field required",
    ),
    "accuracy of 86": (
        lambda run: edit_json(run, "metrics.json", test=scores(0.8) | {"accuracy": 86}),
        r"metrics\.json: test\.accuracy: 86 is no fraction",
    ),
    "text for a number": (
        lambda run: edit_json(run, "metrics.json", test=scores(0.8) | {"nll": "low"}),
        r"metrics\.json: test\.nll: Input should be a valid number",
    ),
    "metrics is a folder": (
        lambda run: ((run / "metrics.json").unlink(), (run / "metrics.json").mkdir()),
        r"metrics\.json: cannot be read: Is a directory",
    ),
    "no config": (lambda run: (run / "config.yaml").unlink(), r"config\.yaml: cannot be read: No"),
    "config no YAML": (
        lambda run: (run / "config.yaml").write_text("a: [1"),
        r"config\.yaml: not YAML: ",
    ),
    "config a list": (
        lambda run: (run / "config.yaml").write_text("- 1"),
        r"config\.yaml: not a configuration",
    ),
    "config not text": (
        lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"),
        r"config\.yaml: not YAML",
    ),
    "no users": (lambda run: (run / "users.parquet").unlink(), r"users\.parquet: .*no such file"),
    "users not Parquet": (
        lambda run: (run / "users.parquet").write_bytes(b"PAR1 no"),
        r"users\.parquet: cannot be read: ",
    ),
    "users without weights": (
        lambda run: edit_users(run, weights=None),
        r"users\.parquet: it has no column 'weights'",
    ),
    "unknown role": (
        lambda run: edit_users(run, role=["new"] * 20),
        r"users\.parquet: role is 'new', wanted 'seen' or 'unseen'",
    ),
    "weights of two lengths": (
        lambda run: first_weights(run, [1.0]),
        r"users\.parquet: weights must be lists of one length",
    ),
    "weights that sum to two": (
        lambda run: first_weights(run, [1.0, 1.0, 0.0]),
        r"users\.parquet: the weights of user .* do not sum to one",
    ),
    "weights of text": (
        lambda run: edit_users(run, weights=["a"] * 20),
        r"users\.parquet: weights must be lists",
    ),
    "other population": (
        lambda run: edit_json(run, "analysis.json", population=[0.5, 0.5]),
        r"analysis\.json: population has 2 weights, users\.parquet has 3",
    ),
    "missing prototypes": (
        lambda run: edit_json(run, "analysis.json", prototypes=[{"share": 1.0}]),
        r"analysis\.json: it describes 1 prototypes, users\.parquet has 3",
    ),
    "missing effect": (
        lambda run: edit_json(run, "analysis.json", shared_effects={"price": 1.0}),
        r"analysis\.json: no effect of attribute 'contract length'",
    ),
    "no analysis": (
        lambda run: (run / "analysis.json").unlink(),
        r"analysis\.json: cannot be read",
    ),
    "cut log": (
        lambda run: (run / "metrics.jsonl").write_text('{"fit": "pal_a", "step": 1}\n{"fit'),
        r"metrics\.jsonl: line 2: Invalid JSON",
    ),
    "no log": (lambda run: (run / "metrics.jsonl").unlink(), r"metrics\.jsonl: cannot be read"),
    "splits not Parquet": (
        lambda run: (run / "splits.parquet").write_bytes(b""),
        r"splits\.parquet: cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_run_is_told_in_one_line_that_names_the_file(damage, tmp_path, capsys):
    run = write_run(tmp_path / "run", users=20)
    break_it, message = DAMAGES[damage]
    break_it(run)
    (run / "report.html").write_text("the last good report")
    assert main([str(run)]) == 2
    line = capsys.readouterr().err
    assert re.search(message, line), line
    assert line.count("\n") == 1
    assert (run / "report.html").read_text() == "the last good report"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "not a run directory: there is no such folder"),
        (lambda path: path.write_text(""), "not a run directory: there is no such folder"),
        (lambda path: path.mkdir(), "not a finished run directory: no metrics.json in it"),
    ],
)
def test_other_paths_are_no_runs(make, message, tmp_path):
    make(tmp_path / "it")
    with pytest.raises(UserError, match=re.escape(message)):
        write_report([tmp_path / "it"], tmp_path / "r.html")


def test_report_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", K=1, users=20)
    monkeypatch.setattr("paljax.report.render", lambda runs: "the page")
    with pytest.raises(UserError, match=r"missing/r\.html: can't be written \(No such"):
        write_report([run], tmp_path / "missing" / "r.html")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="No space left on device"):
        write_report([run], tmp_path / "r.html")
    assert sorted(tmp_path.iterdir()) == before


def test_command_names_the_page_and_takes_out(tmp_path, capsys, monkeypatch):
    run = write_run(tmp_path / "run", K=1, users=20)
    monkeypatch.setattr("paljax.report.render", lambda runs: f"a page on {len(runs)}")
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    assert main([str(run), "--out", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_text() == (run / "report.html").read_text()
    monkeypatch.chdir(tmp_path)
    assert main([str(run), str(run)]) == 0
    assert Path("report.html").read_text() == "a page on 2"


# --- figures


def test_spread_keeps_order_and_gaps_and_moves_no_more_than_needed():
    values = [0.5, 0.1, 0.5, 0.52, 0.9]
    placed = spread(values, 0.1)
    assert np.diff(np.sort(placed)).min() >= 0.1 - 1e-12
    assert np.argsort(placed, kind="stable").tolist() == np.argsort(values, kind="stable").tolist()
    np.testing.assert_allclose(placed, [0.5 - 0.28 / 3, 0.1, 0.5 + 0.02 / 3, 0.52 + 0.26 / 3, 0.9])


def test_principal_plane_projects_users_as_their_mixture_of_corners():
    weights = np.random.default_rng(0).dirichlet([0.3] * 5, 200)
    corners = user_figures.principal_plane(weights)
    assert corners.shape == (5, 2)
    np.testing.assert_allclose(corners.T @ corners, np.eye(2), atol=1e-12)
    spreads = np.linalg.svd(weights - weights.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose((weights @ corners).std(axis=0) * 200**0.5, spreads[:2])
    assert (corners.max(axis=0) >= -corners.min(axis=0)).all()


@pytest.mark.parametrize("K", [2, 3, 6])
def test_users_figure_draws_unseen_users_and_stays_small(K):
    weights = np.random.default_rng(K).dirichlet([0.3] * K, 20_000)
    unseen = np.arange(20_000) % 4 == 0
    figure = user_figures.users(weights, unseen, weights.mean(axis=0))
    text = svg(figure, name="x", title="t", description="d")
    assert len(text) < 1_000_000
    if K > 2:
        drawn = sum(len(c.get_offsets()) for c in figure.axes[0].collections)
        assert user_figures.MAX_POINTS <= drawn <= user_figures.MAX_POINTS + 2 * K + 1


@pytest.mark.parametrize("K", [2, 3, 5])
def test_a_user_like_the_population_lies_where_the_population_does(K):
    same = np.full((1, K), 1 / K)
    figure = user_figures.users(same, np.array([False]), same[0])
    (axes,) = figure.axes
    if K == 2:
        bars = [bar for bar in axes.patches if bar.get_height() > 0]
        assert [bar.get_height() for bar in bars] == [1]
        assert bars[0].get_x() <= 0.5 <= bars[0].get_x() + bars[0].get_width()
    else:
        drawn = [dots for dots in axes.collections if len(dots.get_offsets())]
        (user,) = (dots.get_offsets() for dots in drawn if dots.get_zorder() == 3)
        np.testing.assert_allclose(user, drawn[-1].get_offsets())
        assert np.isfinite(user).all()
    svg(figure, name="x", title="", description="")


def test_names_with_dollars_and_other_letters_are_drawn_as_they_are():
    attributes = ["$ per $kWh_{x}^", "価格", "a very long attribute name " * 3]
    figure = figures.effects(attributes, [0.5, 0.5], np.zeros((2, 3)), None)
    assert "<svg" in svg(figure, name="x", title="$", description="<&>")
