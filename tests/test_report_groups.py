"""The report on groups: what the page says is what analysis.json holds."""

import json
import re
import shutil

import numpy as np
import pytest

from paljax.errors import UserError
from paljax.report import write_report
from paljax.reporting import groups
from tests.test_report import edit_json, plain, table_rows, write_run

MINUS = "\N{MINUS SIGN}"
GROUPS = [
    {
        "group": group,
        "n": 120,
        "n_users": 15,
        "accuracy": {"pal_a": accuracy, "bradley_terry": accuracy - gain},
        "intervals": {"pal_a": [accuracy - 0.05, accuracy + 0.05], "bradley_terry": None},
        "gain": {"accuracy": gain, "interval": [gain - 0.031, gain + 0.029]},
    }
    for group, accuracy, gain in (("north", 0.81, 0.124), ("<b>south", 0.6, -0.047))
]
SHARE = {"share": 0.5, "interval": [0.4, 0.6]}
GAINS = {
    "users": 400,
    "better": {"share": 0.61, "interval": [0.55, 0.66]},
    "worse": {"share": 0.19, "interval": [0.15, 0.24]},
    "same": {"share": 0.2, "interval": [0.16, 0.25]},
    "clearly_better": 73,
    "clearly_worse": 4,
    "quantiles": {"0.1": -0.12, "0.5": 0.08, "0.9": 0.31},
    "histogram": {"edges": [-0.15, -0.05, 0.05, 0.15], "users": [76, 80, 244]},
}
GAPS = {
    "pal_a": {"best": "north", "worst": "<b>south", "gap": 0.21, "interval": [0.13, 0.28]},
    "bradley_terry": {"best": "north", "worst": "<b>south", "gap": 0.04, "interval": [-0.02, 0.1]},
}
GROUND = {
    kind: [{"item": text, "mean": mean, "spread": spread, "rewards": [mean - spread, mean, mean]}]
    for kind, text, mean, spread in (
        ("liked", "More trees & <i>shade</i>", 2.1, 0.3),
        ("disliked", "Close the library " + "for ever " * 40, -1.9, 0.2),
        ("disputed", "Build the bypass", 0.1, 2.4),
    )
}
FOUND = {"groups": GROUPS, "gaps": GAPS, "user_gains": GAINS, "common_ground": GROUND}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("runs") / "grouped", attributes=(), users=30)
    edit_json(folder, "metrics.json", groups="group")
    edit_json(folder, "analysis.json", **FOUND)
    write_report([folder], folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def page(run_dir):
    return (run_dir / "report.html").read_text()


def test_the_sections_follow_what_they_are_about(page):
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    place = titles.index("What the prototypes want")
    assert titles[place + 1] == "Common ground and disputes"
    assert titles[titles.index("By group") + 1] == "Who gains and who loses"


def test_the_gap_is_told_for_the_model_and_the_shared_reward(page):
    assert (
        "Gap between the best and the worst group, in points: PAL 21.0 [13.0, 28.0] (north ahead "
        f"of <b>south); Shared reward 4.0 [{MINUS}2.0, 10.0] (north ahead of <b>south)."
    ) in " ".join(plain(page).split())


def test_gains_of_groups_and_people_are_those_of_analysis_json(page):
    assert f"north 12.4 [9.3, 15.3]; &lt;b&gt;south {MINUS}4.7 [{MINUS}7.8, {MINUS}1.8]" in page
    text = " ".join(plain(page).split())
    assert (
        "Of 400 people 61.0 % [55.0, 66.0] are predicted better than by the shared reward, "
        "19.0 % [15.0, 24.0] worse, 20.0 % [16.0, 25.0] alike. By their own choices alone (sign "
        "test, 5 %) 73 are clearly better off and 4 clearly worse; if nobody differed and "
        "choices were independent, up to 10 would seem so on each side."
    ) in text


def without_intervals(record):
    """As of a run that scores one person alone."""
    if isinstance(record, dict):
        return {
            name: None if name == "interval"
            else dict.fromkeys(value) if name == "intervals"
            else without_intervals(value)
            for name, value in record.items()
        }  # fmt: skip
    return list(map(without_intervals, record)) if isinstance(record, list) else record


def test_numbers_without_intervals_stand_alone(run_dir, tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        shutil.copytree(run_dir, folder)
        for name in ("metrics.json", "analysis.json"):
            edit_json(folder, name, **without_intervals(json.loads((folder / name).read_text())))
    write_report([tmp_path / "one"], tmp_path / "one.html")
    page = (tmp_path / "one.html").read_text()
    text = " ".join(plain(page).split())
    assert "in points: PAL 21.0 (north ahead of <b>south); Shared reward 4.0 (north ahead" in text
    assert f"north 12.4; &lt;b&gt;south {MINUS}4.7;" in page
    assert "Of 400 people 61.0 % are predicted better than by the shared reward, 19.0 %" in text
    assert "without intervals this proves nothing" in text
    assert not re.search(r"\d (%|points)? ?\[", text)
    audit = dict(row[:2] for row in table_rows(page, "Checks of the accuracy"))
    told = [value for value in audit.values() if "%" in value or "points" in value]
    assert len(told) == 4
    assert not [value for value in told if "[" in value]
    write_report([tmp_path / "one", tmp_path / "two"], tmp_path / "both.html")
    both = " ".join(plain((tmp_path / "both.html").read_text()).split())
    assert "not all have intervals." in both
    assert "intervals overlap" not in both


def test_a_prototype_that_is_one_persons_strongest_has_a_dot_without_a_line():
    mean = groups._mean(np.array([0.7]))
    assert (mean.value, mean.low, mean.high) == (0.7, None, None)
    low, high = groups._mean(np.array([0.6, 0.8]))[1:]
    assert (low, high) == (0.6, 0.8)


def test_common_ground_shows_every_item_in_full(page):
    rows = table_rows(page, "each prototype")
    assert rows[0] == ["Item", "Kind", "Mean", "Spread", "P1", "P2", "P3"]
    assert rows[1] == ["More trees & <i>shade</i>", "Liked by all",
                       "+2.10", "0.30", "+1.80", "+2.10", "+2.10"]  # fmt: skip
    assert rows[2][0] == ("Close the library " + "for ever " * 40).strip()
    assert rows[3][:4] == ["Build the bypass", "Most disputed", "+0.10", "2.40"]
    assert "<i>shade" not in page


def test_a_shared_reward_that_was_chosen_has_no_gains(tmp_path):
    folder = write_run(tmp_path / "run", users=30)
    edit_json(folder, "metrics.json", groups="group")
    metrics = json.loads((folder / "metrics.json").read_text())
    edit_json(folder, "metrics.json", selection=metrics["selection"] | {"personal": False})
    edit_json(folder, "analysis.json", **(FOUND | {"common_ground": None}))
    write_report([folder], tmp_path / "r.html")
    titles = re.findall(r"<h2>(.*?)</h2>", (tmp_path / "r.html").read_text())
    assert "Who gains and who loses" not in titles
    assert "Common ground and disputes" not in titles


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {"common_ground": {"liked": [GROUND["liked"][0] | {"rewards": [1.0]}]}},
            r"analysis\.json: common_ground: wanted 3 rewards of every item",
        ),
        (
            {"user_gains": GAINS | {"histogram": {"edges": [0, 1], "users": [1, 2]}}},
            r"analysis\.json: user_gains\.histogram: 2 bins want 3 edges",
        ),
        (
            {"user_gains": GAINS | {"better": SHARE | {"share": 61}}},
            r"analysis\.json: user_gains\.better\.share: Input should be less than or equal to 1",
        ),
    ],
)
def test_damaged_groups_are_told_in_one_line(found, message, run_dir, tmp_path):
    folder = write_run(tmp_path / "run", users=30)
    edit_json(folder, "analysis.json", **found)
    with pytest.raises(UserError, match=message):
        write_report([folder], tmp_path / "r.html")
