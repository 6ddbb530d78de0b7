"""The `minist` command as its user meets it."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from minist import __version__, cli
from minist.experiments.volume import Volume
from minist.training import RECIPES, TABLE, Run, Settings

TINY = ["--limit", "128", "--epochs", "1", "--filters", "4"]


def minist(*arguments):
    """Run the command in this process: its exit code."""
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert minist("train", *TINY, "--out", folder) == 0
    return folder


def test_train_ends_with_the_test_error_and_a_picture(tmp_path, capsys):
    assert minist("train", *TINY, "--out", tmp_path / "run") == 0
    out, err = capsys.readouterr()
    *_, picture, last = out.splitlines()
    assert picture == f"picture {tmp_path / 'run' / 'result.png'}"
    assert last.startswith("test error ") and last.endswith(" %")
    assert err == ""  # no progress bar where nobody looks
    assert (tmp_path / "run" / "result.png").read_bytes().startswith(b"\x89PNG")


def test_a_recipe_is_settings_by_name(tmp_path):
    """SGD, batch 256, base rate 0.01, divided by ten every third (the appendix), unless scaled."""
    folder = tmp_path / "run"
    assert minist("train", "--recipe", "paper", *TINY, "--out", folder) == 0
    given = {"limit": 128, "epochs": 1, "filters": 4}
    settings = Run(folder).settings()
    assert settings == Settings.of(
        {**RECIPES["paper"], **given, "micro_batch": settings.micro_batch}
    )
    assert settings.optimizer == "sgd" and settings.lr == 0.01 and settings.batch_size == 256
    assert RECIPES["paper"]["epochs"] * 60_000 == pytest.approx(150_000 * 256, rel=1e-2)


def test_a_finished_run_is_answered_from_its_log(trained, capsys):
    assert minist("train", "--resume", "--out", trained) == 0
    first = capsys.readouterr().out
    assert minist("evaluate", trained) == 0
    assert capsys.readouterr().out.splitlines()[-1] == first.splitlines()[-1]


def test_evaluate_is_the_test_error(trained, capsys):
    minist("evaluate", trained)
    loss, error = capsys.readouterr().out.splitlines()
    assert loss.startswith("test loss ")
    assert 20 < float(error.split()[2]) < 95


def test_show_draws_other_digits(trained, capsys):
    before = (trained / "result.png").read_bytes()
    assert minist("show", trained, "--first", 100, "--digits", 3) == 0
    assert (trained / "result.png").read_bytes() != before
    assert minist("show", trained, "--first", 10_000) == 1
    assert "there are 10000" in capsys.readouterr().err


def test_info_of_a_run_and_of_the_machine(trained, capsys):
    assert minist("info", trained) == 0
    facts = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert facts["filters"] == "4" and facts["steps"] == "1"
    assert minist("info") == 0
    facts = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert facts["minist"] == __version__
    assert "kernel" in facts["BLAS"] and int(facts["threads"]) >= 1 and "GPU" in facts


def test_info_of_a_network(capsys):
    assert minist("info", "st-cnn", "--distortion", "RTS", "--transformation", "tps") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["input", "1", "x", "42", "x", "42"]
    (regression,) = (line for line in lines if "ThetaRegression" in line)
    assert regression.split()[-2:] == ["32", "672"]
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[2:]]
    assert sum(counts[:-1]) == counts[-1] == 226_218


@pytest.mark.parametrize("name", ["", "train", "volume", "evaluate", "show", "table1", "info"])
def test_help_names_every_option_and_default(name, capsys):
    with pytest.raises(SystemExit) as stop:
        minist(*[name] * bool(name), "--help")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for kind in (Settings, Volume):
        if name == kind.command:
            for field in fields(kind):
                assert "--" + field.name.replace("_", "-") in text
                if field.default is not None:
                    assert f"(default:{field.default})" in text.replace(" ", "")
    if name == "table1":
        assert f"(default: {TABLE['epochs']})" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--resume"], "--resume needs the folder of the run"),
        (["train", "--epochs", "0"], "epochs must be 1 or more, not 0"),
        (["train", "--held-out", "60000"], "cannot hold 60000 of 60000 images out"),
        (["train", "--data", "nowhere"], "found neither train-images-idx3-ubyte"),
        (["train", "--model", "cnn", "--units", "64"], "--units is not for cnn"),
        (["train", "--model", "cnn", "--transformation", "tps"], "--transformation is not for cnn"),
        (["train", "--model", "st-fcn", "--filters", "8"], "--filters is not for st-fcn"),
        (["info", "fcn", "--transformation", "tps"], "--transformation is not for fcn"),
        (["info", "--transformation", "tps"], "--transformation is for a network: fcn, cnn"),
        (["train", "--model", "cnn", "--localisation-lr", "1"], "--localisation-lr is not for cnn"),
        (["volume", "--model", "cnn", "--slices", "3"], "--slices is not for cnn"),
        (["train", "--gpus", "2", "--device", "cpu"], "--gpus is not for --device cpu"),
        (["train", "--label-smoothing", "2"], "label_smoothing must be 1 or less, not 2.0"),
        (["info", "ST-CNN"], "ST-CNN holds no run, and is no network; those are fcn, cnn, st-fcn"),
        (["evaluate", "nowhere"], "nowhere holds no run"),
        (["show", "nowhere"], "nowhere holds no run"),
        (["info", "nowhere"], "nowhere holds no run"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_1(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert minist(*arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("minist: ") and words in err and err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    "wrong",
    [
        ["train", "--model", "resnet"],
        ["train", "--epochs", "many"],
        ["train", "--colour", "1"],
        ["train", "--gpus", "0"],
        ["table1", "--workers", "0"],
        ["benchmark", "--batch-size", "0"],
        ["info", "cnn", "--filters", "-1"],
    ],
)
def test_wrong_usage_is_exit_2(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        minist(*wrong)
    assert stop.value.code == 2


def test_cuda_without_cupy_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    assert minist("train", *TINY, "--device", "cuda", "--out", tmp_path / "x") == 1
    assert 'pip install "minist[cuda12]"' in capsys.readouterr().err


def test_a_resumed_run_keeps_its_settings(trained, capsys):
    assert minist("train", "--resume", "--out", trained, "--lr", "0.1") == 1
    assert "was begun with lr = 0.003, not 0.1" in capsys.readouterr().err


def test_a_resumed_run_may_be_given_what_it_was_begun_with(tmp_path, capsys):
    begun = ["train", "--out", tmp_path / "run", "--epochs", "1", "--limit", "128"]
    assert minist(*begun, "--model", "fcn", "--units", "4") == 0
    assert minist("train", "--resume", "--out", tmp_path / "run", "--units", "4") == 0
    assert minist("train", "--resume", "--out", tmp_path / "run", "--filters", "32") == 1
    assert "--filters is not for fcn" in capsys.readouterr().err


def test_a_recipe_that_is_asked_for_is_compared_with_that_of_the_run(tmp_path, capsys):
    asked = [*TINY, "--out", tmp_path / "paper"]
    assert minist("train", "--recipe", "paper", *asked) == 0
    assert minist("train", "--resume", "--recipe", "paper", *asked) == 0
    assert minist("train", "--resume", "--recipe", "fast", *asked) == 1
    assert "was begun with batch_size = 256, not 128" in capsys.readouterr().err


def test_the_fast_recipe_of_a_table_is_its_own_defaults():
    options = cli.parser().parse_args(["table1", "--recipe", "fast"])
    assert cli.recipe_of(options).items() >= {"epochs": 40, "label_smoothing": 0.2}.items()
    assert cli.recipe_of(cli.parser().parse_args(["table1"])) == {}


@pytest.mark.parametrize("table", ["table1", "addition", "colocalise"])
def test_results_may_lie_in_the_folder_at_hand(table, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert minist(table, "--report", "--results", "results") == 0
    assert ((here if table == "table1" else tmp_path) / f"{table}.md").is_file()


def test_a_page_that_cannot_be_written_says_why_alone(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert minist("table1", "--report", "--results", tmp_path / "file" / "docs" / "results") == 1
    err = capsys.readouterr().err
    assert "cannot write" in err and "Not a directory" in err and "--resume" not in err


def test_a_run_whose_files_hold_no_objects(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('3\n{"step": 1}\nnull\n')
    assert Run(tmp_path).lines() == [{"step": 1}]
    (tmp_path / "config.json").write_text("[]")
    assert minist("info", tmp_path) == 1
    assert "config.json is damaged: it holds a list" in capsys.readouterr().err


def test_resume_starts_where_there_is_nothing_yet(tmp_path, capsys):
    assert minist("train", *TINY, "--resume", "--out", tmp_path / "new") == 0
    assert "test error" in capsys.readouterr().out


def test_new_runs_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("st-cnn-affine-R", "st-cnn-affine-R-2", "st-cnn-affine-R-3"):
        assert cli.new_folder(Settings()) == Path("runs", name)
        (tmp_path / "runs" / name).mkdir(parents=True)


def test_the_installed_command_and_the_module_are_one():
    for program in (["-m", "minist"], ["-c", "import sys; from minist.cli import main; main()"]):
        done = subprocess.run(
            [sys.executable, *program, "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"minist {__version__}\n"
