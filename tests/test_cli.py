"""The command line as people use it: what it writes, what it says, and its exit status."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from typer.testing import CliRunner

from equilog._version import __version__
from equilog.baselines.registry import LOSSES
from equilog.cli import app

QUICK = ("--seeds", "1", "--epochs", "3", "--jobs", "1")
EQUILOG = (sys.executable, "-m", "equilog.cli")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> Path:
    """Work in an empty folder, as wide as a usual terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def equilog(*args: object) -> Any:
    """Run the command line; an exception that is not caught fails the test."""
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def iris(**columns: Any) -> pd.DataFrame:
    """Every third iris, with further columns."""
    data = load_iris(as_frame=True)
    frame = data.frame.rename(columns=lambda name: name.removesuffix(" (cm)"))
    frame["species"] = np.array(data.target_names)[frame.pop("target")]
    return frame.iloc[::3].reset_index(drop=True).assign(**columns)


def refused(*args: object) -> str:
    """Run the command line on what it must refuse, and return what it said."""
    before = files()
    result = equilog(*args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert files() == before
    return str(result.stderr)


def test_a_named_data_set_gives_table_files_and_a_model_to_predict_with():
    result = equilog("compare", "digits-lt", "--losses", "log-balanced,focal", *QUICK, "--seeds", "2")
    assert result.exit_code == 0
    assert "digits-lt  1797 rows, 64 features, multiclass, 2 splits" in result.stdout
    for words in (
        "● log-balanced",
        "focal",
        "cross-entropy",
        "baseline",
        "Verdict",
        "Written to equilog-out/digits-lt",
    ):
        assert words in result.stdout
    assert "The training rows of every split are thinned" in result.stderr
    assert "7/7" in result.stderr
    assert CONTROL.search(result.output) is None
    folder = Path("equilog-out/digits-lt")
    results = json.loads((folder / "results.json").read_text())
    assert set(results["losses"]) == {"cross-entropy", "log-balanced", "focal"}
    assert {"task", "data", "losses", "baseline", "verdict", "versions"} <= set(results)

    digits = pd.DataFrame(np.eye(64), columns=[f"pixel_{i}_{j}" for i in range(8) for j in range(8)])
    digits.to_csv("new.csv", index=False)
    result = equilog("predict", folder / "model", "new.csv")
    assert result.exit_code == 0
    assert "Written to predictions.csv: 64 rows" in result.stderr
    predictions = pd.read_csv("predictions.csv")
    assert len(predictions) == 64
    np.testing.assert_allclose(predictions.filter(like="posterior").sum(axis=1), 1)


def test_a_second_comparison_does_not_overwrite_the_first_and_resume_takes_the_latest():
    iris().to_csv("iris.csv", index=False)
    asked = ("compare", "iris.csv", "--target", "species", "--losses", "cross-entropy", *QUICK)
    for folder in ("iris", "iris-2"):
        assert f"Written to equilog-out/{folder}" in equilog(*asked).stdout
    result = equilog(*asked, "--seeds", "2", "--resume")
    assert "Written to equilog-out/iris-2" in result.stdout
    assert len(Path("equilog-out/iris-2/runs.jsonl").read_text().splitlines()) == 2
    assert len(Path("equilog-out/iris/runs.jsonl").read_text().splitlines()) == 1


def save_mixed(frame: pd.DataFrame) -> tuple[str, list[str]]:
    """Save numbers, categories, dates, text and gaps, under names that are hostile to terminals and pages."""
    rng = np.random.default_rng(0)
    n = len(frame)
    gone = rng.random(n) < 0.2
    frame = frame.rename(columns={"petal width": "<script>alert(1)</script>", "sepal width": "[bold red]wide[/]"})
    frame["seen\non\x1b[31m"] = (pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(n), "D")).strftime("%d.%m.%Y")
    frame["täxt" * 400] = [" ".join(words) for words in rng.choice(["long", "short", "thin", "näh", "wide"], (n, 5))]
    frame["bed"] = rng.choice(["north, east", 'the "old" one', "south"], n)
    frame["always"] = "the same"
    frame.loc[gone, ["bed", "[bold red]wide[/]"]] = None
    frame["species"] = frame["species"].map(
        {"setosa": "<b>setosa</b>", "versicolor": "[red]versi[/red]\ncolor\x1b[2J", "virginica": "维吉尼亚" * 100}
    )
    frame.to_csv("mixed.csv", index=False)
    return "mixed.csv", ["--target", "species"]


def save_several(frame: pd.DataFrame) -> tuple[str, list[str]]:
    frame["long"] = frame["petal length"] > 4
    frame.to_parquet("several.parquet")
    return "several.parquet", ["--target", "species", "--target", "long"]


def save_labels(frame: pd.DataFrame) -> tuple[str, list[str]]:
    wide, long = frame["sepal width"] > 3, frame["sepal length"] > 6
    frame["tags"] = [";".join(["wide"] * w + ["long"] * g) for w, g in zip(wide, long, strict=True)]
    frame.to_csv("labels.tsv", sep="\t", index=False)
    return "labels.tsv", ["--target", "tags", "--multilabel"]


def save_soft(frame: pd.DataFrame) -> tuple[str, list[str]]:
    votes = np.random.default_rng(0).multinomial(10, [0.6, 0.3, 0.1], len(frame))
    np.savez("soft.npz", X=frame.iloc[:, :4].to_numpy(), y=votes)
    return "soft.npz", ["--soft"]


@pytest.mark.parametrize("save", [save_mixed, save_several, save_labels, save_soft])
def test_every_kind_of_file_and_target_is_compared_and_predicted(save):
    data, asked = save(iris())
    result = equilog("compare", data, *asked, *QUICK, "--losses", "all", "--out", "out")
    assert result.exit_code == 0, result.output
    assert "failed" not in result.output
    assert "Warning" not in result.output
    assert CONTROL.search(result.output) is None
    assert [path.name for path in Path("out").glob(".*")] == []
    task = json.loads(Path("out/results.json").read_text())["task"]
    compared = set(json.loads(Path("out/results.json").read_text())["losses"])
    assert {name for name in compared if "+" not in name} == {
        name for name, entry in LOSSES.items() if task in entry.tasks and not entry.named_only
    }
    result = equilog("predict", "out/model", data, "--out", "-")
    assert result.exit_code == 0, result.output
    Path("told.csv").write_text(result.stdout)
    predicted = pd.read_csv("told.csv")
    assert len(predicted) == len(iris())
    assert not predicted.isna().any(axis=None)
    probabilities = predicted.filter(regex="^(balanced|posterior) ")
    assert ((probabilities >= 0) & (probabilities <= 1)).all(axis=None)


def test_models_metric_and_what_to_save_are_options():
    iris().to_csv("iris.csv", index=False)
    asked = ("compare", "iris.csv", "--target", "species", *QUICK, "--out", "out")
    more = ("--models", "logistic,logistic+rule", "--metric", "worst-recall", "--save", "logistic+rule", "--tune")
    result = equilog(*asked, *more)
    assert result.exit_code == 0, result.output
    assert "The model to save is logistic+rule: as asked by --save." in " ".join(result.stdout.split())
    results = json.loads(Path("out/results.json").read_text())
    assert results["main_metric"] == "worst_class_recall"
    assert set(results["losses"]) == {"cross-entropy", "logistic", "logistic+rule"}
    assert set(results["provenance"]["chosen"]) <= {"cross-entropy"}
    assert results["provenance"]["settings"]["tune"]
    page = Path("out/report.html").read_text()
    assert "The learning rate of each loss was chosen on validation rows" in page
    assert {path.name for path in Path("out/model").iterdir()} == {
        "model.json",
        "estimators.skops",
        "preprocessor.skops",
    }
    result = equilog("predict", "out/model", "iris.csv", "--out", "-")
    assert result.exit_code == 0, result.output
    Path("told.csv").write_text(result.stdout)
    assert (pd.read_csv("told.csv")["species"] == iris()["species"]).mean() > 0.9
    assert "metric was worst_class_recall and is now balanced_accuracy" in refused(*asked, "--tune", "--resume")


def test_notes_say_what_was_done_to_the_columns():
    data, asked = save_mixed(iris(height=["7"] * 46 + ["tall"] * 4))
    result = equilog("compare", data, *asked, *QUICK, "--losses", "cross-entropy")
    for note in (
        'Column "height" mixes 46 numbers with 4 other values',
        "Left out, one value only: always",
        "Read as dates: seen on [31m (day.month.year)",
        "Read as text",
    ):
        assert note in result.stderr


BAD_DATA: dict[str, tuple[str, tuple[str, ...], str]] = {
    "an empty file": ("", ("--target", "y"), "error: data.csv is empty."),
    "a header alone": ("a,b,y\n", ("--target", "y"), "error: data.csv has no rows."),
    "no target told": ("a,y\n1,x\n2,y\n", (), "--target COLUMN. It has a, y."),
    "a misspelt target": ("age,colour\n1,x\n2,y\n", ("--target", "color"), 'no column "color". Did you mean colour?'),
    "one class": ("a,y\n1,x\n2,x\n3,x\n", ("--target", "y"), 'Target "y" has one class only (x)'),
    "a class of one row": (
        "a,y\n" + "1,x\n2,z\n" * 9 + "3,rare\n",
        ("--target", "y"),
        'data.csv: "rare" of y has fewer than 2 rows, and every class needs one to train on and one to test on.',
    ),
    "an infinite number": (
        "a,y\n1,x\ninf,z\n3,x\n4,z\n",
        ("--target", "y"),
        'Column "a" holds an infinite number in row 2',
    ),
    "a quantity": (
        "a,y\n" + "".join(f"{i % 7},{i / 3}\n" for i in range(60)),
        ("--target", "y"),
        'Target "y" has 60 different values in 60 rows: it looks like a quantity',
    ),
    "nothing to predict from": ("y\nx\nz\nx\nz\n", ("--target", "y"), "no column besides the target"),
    "a constant to predict from": ("a,y\n1,x\n1,z\n1,x\n1,z\n", ("--target", "y"), "No usable column"),
    "labels that are none": (
        "a,y,z\n1,1,0\n2,0,2\n",
        ("--target", "y", "--target", "z", "--multilabel"),
        'holds "2" in row 2',
    ),
    "one column of probabilities": (
        "a,y\n1,1\n2,0\n",
        ("--target", "y", "--soft"),
        "--soft needs two or more target columns",
    ),
    "negative votes": (
        "a,y,z\n1,1,2\n2,0,-2\n",
        ("--target", "y", "--target", "z", "--soft"),
        "a number below 0 (-2) in row 2",
    ),
    "ragged rows": ("a,y\n1,x\n2,z,3\n", ("--target", "y"), "data.csv"),
    "names twice": ("a,a,y\n1,2,x\n2,3,z\n", ("--target", "y"), "more than one column named a"),
}


@pytest.mark.parametrize("fault", BAD_DATA)
def test_data_that_cannot_be_used_is_refused_with_its_place_and_remedy(fault):
    content, asked, message = BAD_DATA[fault]
    Path("data.csv").write_text(content)
    assert message in refused("compare", "data.csv", *asked, *QUICK)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("nowhere.csv",), "nowhere.csv: no such file"),
        (("digit-lt",), '"digit-lt" is neither a file nor the name of a data set. Did you mean digits-lt?'),
        (("digits-lt", "--losses", "focl"), 'No loss is called "focl". Did you mean focal?'),
        (("yeast", "--losses", "focal"), '"focal" does not fit multilabel targets. There are:'),
        (("digits-lt", "--multilabel"), "digits-lt is multiclass data; leave --multilabel out."),
        (
            ("iris.csv", "--target", "species", "--multilabel", "--soft"),
            "either labels (--multilabel) or probabilities (--soft)",
        ),
        (("digits-lt", "--models", "hist-bg"), 'No model is called "hist-bg". Did you mean hist-gb'),
        (("digits-lt", "--metric", "f1"), '--metric: no metric of multiclass targets is called "f1"'),
        (("digits-lt", "--save", "logistc"), '--save: no contender is called "logistc". Did you mean logistic'),
        (("digits-lt", "--hidden", "many"), 'or 0 for a linear model; got "many"'),
        (("digits-lt", "--hidden", "-3"), "--hidden must be widths"),
        (("digits-lt", "--hidden", "8,0"), "--hidden must be widths"),
        (("digits-lt", "--learning-rate", "0"), "learning_rate must be a number above 0"),
        (("digits-lt", "--learning-rate", "nan"), "--learning-rate"),
        (("digits-lt", "--jobs", "0"), "--jobs must be a number of processes"),
        (("digits-lt", "--test-fraction", "nan"), "--test-fraction"),
        (("digits-lt", "--resume"), "equilog-out/digits-lt holds no comparison to resume"),
        (("digits-lt", "--seeds", "0"), "Invalid value for '--seeds'"),
        (("digits-lt", "--folds", "1"), "Invalid value for '--folds'"),
        (("digits-lt", "--folds", "3", "--test-fraction", "0.3"), "Leave --test-fraction out"),
        (("iris.csv", "--target", "species", "--group", "plot"), 'has no column "plot"'),
        (("iris.csv", "--target", "species", "--time", "petal length", "--folds", "3"), "With --time, say --seeds N"),
        (("digits-lt", "--losess", "focal"), "No such option: --losess"),
    ],
)
def test_options_that_cannot_be_used_are_refused_with_what_could(asked, message):
    iris().to_csv("iris.csv", index=False)
    said = re.sub(r"[│╭╮╰╯─\s]+", " ", refused("compare", *asked))
    assert message in said


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_place_that_cannot_be_written_is_told_before_training(place):
    Path("file").write_text("mine")
    assert "Choose another" in refused("compare", "digits-lt", "--out", place, *QUICK)
    assert Path("file").read_text() == "mine"


def test_a_loss_that_overflows_everywhere_leaves_nothing_and_its_folder_free():
    out = ("--out", "out", "--losses", "cross-entropy", *QUICK)
    said = refused("compare", "digits-lt", *out, "--learning-rate", "1e30")
    assert "failed: cross-entropy, split 0: " in said
    assert "error: Every run failed." in said
    assert equilog("compare", "digits-lt", *out).exit_code == 0


def test_a_run_that_fails_costs_exit_status_1_and_no_other_run(monkeypatch):
    def broken(_: object) -> Any:
        raise RuntimeError("this loss cannot be made")

    entry = LOSSES["focal"]
    monkeypatch.setitem(LOSSES, "focal", type(entry)(entry.name, "", entry.tasks, broken, ""))
    result = equilog("compare", "digits-lt", "--losses", "focal,log-balanced", *QUICK, "--out", "out")
    assert result.exit_code == 1
    assert "failed: focal, split 0: this loss cannot be made" in result.stderr
    assert "log-balanced" in result.stdout
    assert "focal" not in result.stdout
    assert "Written to out: results.json, report.html, tables/, model/" in result.stdout


def test_other_options_are_no_way_to_go_on():
    asked = ("compare", "digits-lt", "--losses", "cross-entropy", "--out", "out", *QUICK)
    assert equilog(*asked).exit_code == 0
    assert "out holds a comparison already. Go on with it by --resume" in refused(*asked)
    assert "max_epochs was 3 and is now 4" in refused(*asked, "--resume", "--epochs", "4")
    assert "data was digits-lt and is now vader" in refused("compare", "vader", *asked[2:], "--resume")


@pytest.fixture
def model() -> Path:
    data, asked = save_mixed(iris())
    assert equilog("compare", data, *asked, *QUICK, "--losses", "cross-entropy", "--out", "out").exit_code == 0
    return Path("out/model")


def test_rows_to_predict_may_have_gaps_unseen_categories_and_further_columns(model):
    rows = pd.read_csv("mixed.csv").drop(columns="species")
    rows["bed"] = "on the roof"
    rows.loc[::2, "petal length"] = None
    rows["sepal length"] = ["unknown", *rows["sepal length"][1:]]
    rows["further"] = "yes"
    rows.to_csv("new.csv", index=False)
    assert equilog("predict", model, "new.csv").exit_code == 0
    predicted = pd.read_csv("predictions.csv")
    assert len(predicted) == len(rows)
    assert not predicted.isna().any(axis=None)


def test_what_cannot_be_predicted_is_refused(model):
    rows = pd.read_csv("mixed.csv")
    rows.rename(columns={"bed": "beds"}).to_csv("renamed.csv", index=False)
    assert 'renamed.csv has no column "bed". Did you mean beds?' in refused("predict", model, "renamed.csv")
    Path("empty.csv").write_text("")
    assert "empty.csv is empty" in refused("predict", model, "empty.csv")
    assert "nowhere.csv: no such file" in refused("predict", model, "nowhere.csv")
    assert "out is no model: it has no model.json" in refused("predict", "out", "mixed.csv")
    rows.assign(**{"sepal length": np.inf}).to_csv("infinite.csv", index=False)
    assert 'Column "sepal length" holds an infinite number' in refused("predict", model, "infinite.csv")
    (model / "model.json").write_text("{}")
    assert "out/model is a damaged model" in refused("predict", model, "mixed.csv")


@pytest.mark.parametrize("place", ["folder", "mixed.csv/below.csv", "/proc/nowhere.csv", "/dev/null"])
def test_predictions_replace_neither_folders_nor_devices(model, place):
    Path("folder").mkdir()
    Path("folder/thesis.txt").write_text("years of work")
    assert f"Cannot write {place}: " in refused("predict", model, "mixed.csv", "--out", place)
    assert Path("folder/thesis.txt").read_text() == "years of work"
    assert Path("/dev/null").is_char_device()


def test_predictions_replace_earlier_ones(model):
    Path("told").mkdir()
    Path("told/predictions.csv").write_text("old")
    assert equilog("predict", model, "mixed.csv", "--out", "told/predictions.csv").exit_code == 0
    assert len(pd.read_csv("told/predictions.csv")) == len(iris())
    assert os.listdir("told") == ["predictions.csv"]


def test_version_and_lists():
    assert equilog("--version").stdout == f"equilog {__version__}\n"
    listed = equilog("compare", "--list").stdout
    for name in (*LOSSES, "digits-lt", "yeast", "greek", "vader", "fashion-lt"):
        assert name in listed
    assert files() == []


def start(*args: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line in a session of its own, so that its processes can be ended with it."""
    return subprocess.Popen([*EQUILOG, *args], start_new_session=True, **options)


def runs_of(folder: str) -> list[dict[str, Any]]:
    """Return the runs by seed and loss, without what is never the same twice."""
    lines = Path(folder, "runs.jsonl").read_text().splitlines()
    return sorted((json.loads(line) | {"seconds": 0} for line in lines), key=lambda run: (run["seed"], run["loss"]))


def wait_for_runs(
    number: int, process: subprocess.Popen[bytes], folder: str, read: Callable[[], object] = lambda: None
) -> None:
    """Wait until so many runs are kept, reading what the process prints meanwhile."""
    runs, patience = Path(folder, "runs.jsonl"), time.monotonic() + 120
    while not (runs.exists() and runs.read_bytes().count(b"\n") >= number):
        assert process.poll() is None
        assert time.monotonic() < patience
        read()
        time.sleep(0.02)


LONGER = ("compare", "digits-lt", "--losses", "cross-entropy,balanced-softmax", "--seeds", "5", "--epochs", "50")


@pytest.mark.slow
def test_killed_in_mid_run_it_goes_on_to_the_same_end():
    process = start(*LONGER, "--jobs", "1", "--out", "killed", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_runs(2, process, "killed")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(runs_of("killed")) < 10
    assert equilog(*LONGER, "--jobs", "1", "--out", "killed", "--resume").exit_code == 0
    assert equilog(*LONGER, "--jobs", "1", "--out", "whole").exit_code == 0
    assert runs_of("killed") == runs_of("whole")
    killed, whole = (json.loads(Path(folder, "results.json").read_text()) for folder in ("killed", "whole"))
    assert killed | {"provenance": None} == whole | {"provenance": None}  # dates and seconds


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_sums_up_and_resume_goes_on():
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            shown.extend(os.read(ours, 65536))

    process = start(
        *LONGER, "--jobs", "2", "--out", "cut",
        stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    wait_for_runs(3, process, "cut", read)
    time.sleep(0.2)
    os.write(ours, b"\x03")
    while process.poll() is None:
        read()
        time.sleep(0.02)
    read()
    os.close(ours)
    os.close(theirs)
    said = shown.decode()
    assert process.returncode == 130, said
    # A bar with the runs, the time taken and the time left.
    assert "Traceback" not in said
    assert "Warning" not in said
    assert "KeyboardInterrupt" not in said
    # The bar is drawn ten times a second, and runs may end within one tenth: any count between first and last will do.
    assert re.search(r"training .*━.*\D([1-9]|10)/11.* .*0:0\d:\d\d.* left .*\d:\d\d:\d\d", said), said
    assert "interrupted; the same command with --resume goes on from here" in said
    assert "Written to cut: results.json, report.html, tables/\r\n" in said
    assert sorted(os.listdir("cut")) == ["report.html", "results.json", "runs.jsonl", "settings.json", "tables"]
    assert 0 < len(runs_of("cut")) < 10

    result = equilog(*LONGER, "--jobs", "1", "--out", "cut", "--resume")
    assert result.exit_code == 0
    assert equilog(*LONGER, "--jobs", "1", "--out", "whole").exit_code == 0
    assert runs_of("cut") == runs_of("whole")
    assert sorted(os.listdir("cut")) == sorted(os.listdir("whole"))


def test_ctrl_c_while_the_data_are_read_says_so_and_leaves_nothing(monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("equilog.cli.load", interrupt)
    result = equilog("compare", "digits-lt")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"
    assert files() == []


WITHOUT_EXTRAS = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import torch, equilog
loss = equilog.LogBalancedCrossEntropyLoss()(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
print(f"loss {{loss.item():.3f}}")
import equilog.cli
"""

EXTRAS = set(
    "jinja2 joblib numpy pandas pyarrow rich safetensors scipy skops sklearn typer".split()  # noqa: SIM905
)


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [EXTRAS, {"jinja2"}])
def test_without_the_extras_the_losses_work_and_the_command_says_what_to_install(blocked):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_EXTRAS.format(blocked=blocked)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.fullmatch(r"loss \d\.\d{3}\n", done.stdout), done.stderr
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert re.fullmatch(r"The command line .*pip install 'equilog\[compare\]' \(\w+ is not installed\)", line)
    assert blocked == EXTRAS or "jinja2" in line


@pytest.mark.slow
def test_a_comparison_that_is_terminated_sums_up_as_on_ctrl_c():
    process = start(*LONGER, "--jobs", "2", "--out", "cut", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for_runs(1, process, "cut")
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "interrupted; the same command with --resume goes on from here" in output
    assert sorted(os.listdir("cut")) == ["report.html", "results.json", "runs.jsonl", "settings.json", "tables"]


def alive(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    running = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = folder.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == session and state != "Z":
                running.append(int(folder.name))
    return running


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_comparison_that_is_killed_leaves_no_process_behind():
    process = start(*LONGER, "--jobs", "2", "--out", "cut", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_runs(1, process, "cut")
    assert len(alive(process.pid)) >= 3  # itself and two workers
    process.kill()
    process.wait()
    patience = time.monotonic() + 30
    while alive(process.pid):
        assert time.monotonic() < patience
        time.sleep(0.1)


def customers(rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, rows)
    return pd.DataFrame(
        {
            "customer_id": [f"{7 * row:06d}" for row in rng.permutation(rows)],
            "amount": (rng.normal(size=rows) + codes).round(2),
            "town": rng.choice(["Rome", "Oslo"], rows),
            "left": np.array(["no", "yes"])[codes],
        }
    )


def test_predictions_keep_the_ids_and_warn_of_what_training_had_not():
    customers().to_csv("customers.csv", index=False)
    assert (
        equilog("compare", "customers.csv", "--target", "left", *QUICK, "--losses", "all", "--out", "out").exit_code
        == 0
    )
    new = customers().drop(columns="left")
    assert equilog("predict", "out/model", "customers.csv").stderr == "Written to predictions.csv: 120 rows\n"
    told = pd.read_csv("predictions.csv", dtype=str)
    assert told["customer_id"].tolist() == new["customer_id"].tolist()
    assert list(told.columns[:2]) == ["customer_id", "left"]

    new.assign(amount="lots").rename(columns={"town": "city"}).to_csv("new.csv", index=False)
    assert 'new.csv has no column "town"' in refused("predict", "out/model", "new.csv")
    result = equilog("predict", "out/model", "new.csv", "--allow-missing", "--id", "city")
    assert 'warning: new.csv has no column "town": taken as missing in every row.' in result.stderr
    assert 'warning: Column "amount": 100% of the cells are no numbers ("lots")' in result.stderr
    assert list(pd.read_csv("predictions.csv").columns[:2]) == ["city", "left"]
    assert 'new.csv has no column "nowhere"' in refused("predict", "out/model", "new.csv", "--id", "nowhere")


def test_rows_of_a_group_or_of_later_are_tested_on_in_folds_or_windows():
    frame = customers().assign(branch=np.arange(120) % 7, day=pd.date_range("2024-01-01", periods=120))
    frame.to_csv("customers.csv", index=False)
    asked = (
        "compare",
        "customers.csv",
        "--target",
        "left",
        "--losses",
        "cross-entropy",
        "--epochs",
        "3",
        "--jobs",
        "1",
    )
    for number, (options, by, count) in enumerate(
        [(("--group", "branch", "--folds", "3"), "group", 3), (("--time", "day", "--seeds", "2"), "time", 2)]
    ):
        result = equilog(*asked, *options, "--out", number)
        assert result.exit_code == 0, result.output
        assert "the column is no feature" in " ".join(result.stderr.split())
        splits = json.loads(Path(str(number), "results.json").read_text())["splits"]
        assert (splits["by"], splits["column"], splits["count"]) == (by, options[1], count)
        assert len(runs_of(str(number))) == count
    # With other windows the splits would be others.
    assert "windows was 2 and is now 3" in refused(*asked, "--time", "day", "--seeds", "3", "--out", "1", "--resume")


def test_types_encoding_and_rare_classes_are_options():
    frame = customers().assign(note="größer")
    frame.loc[0, "left"] = "perhaps"
    frame.to_csv("customers.csv", index=False, encoding="latin-1", sep=";")
    asked = ("compare", "customers.csv", "--target", "left", *QUICK, "--losses", "cross-entropy", "--out", "out")
    assert "Name its encoding" in refused(*asked)
    assert "--rare merge" in refused(*asked, "--encoding", "latin-1")
    result = equilog(*asked, "--encoding", "latin-1", "--rare", "drop", "--types", "customer_id=category,town=ignore")
    assert result.exit_code == 0, result.output
    assert "Left out as asked: town" in result.stderr
    results = json.loads(Path("out/results.json").read_text())
    assert set(results["data"]["classes"]["left"]) == {"no", "yes"}
    assert any("were left out: perhaps" in note for note in results["data"]["notes"])
