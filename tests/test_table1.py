"""Table 1: jobs that know nothing of one another, wherever they run; and the table itself."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import minist
from minist import Tensor, cli, models, plotting
from minist.experiments import table1, table1_page
from minist.experiments.jobs import name_of, read_result, run_job, write_result
from minist.experiments.table1 import Table, jobs
from minist.experiments.table1_page import PAPER, Cell
from minist.training import Run, RunError, Settings, load_examples, load_trained, train

ROOT = Path(minist.__file__).parents[1]
QUICK = {"limit": 640, "epochs": 2, "batch_size": 64, "warmup": 2}


def quick(networks=("fcn",), distortions=("R",), **settings):
    return jobs(networks, ["affine"], distortions, **{**QUICK, **settings})


def table_in(folder):
    return Table(folder / "results", folder / "runs")


def made(error, row="st-cnn tps", distortion="E", seed=0, **settings):
    """A result as a file has it."""
    network, _, transformation = row.partition(" ")
    job = Settings(
        model=network, transformation=transformation or "affine", distortion=distortion, seed=seed
    )
    return {
        "settings": asdict(replace(job, **settings)),
        "test_error": error,
        "parameters": 120_000,
        "images_seen": 840_000,
        "seconds": 360,
        "machine": "an abacus",
        "training_error": [5.0, 2.0],
        "outside": [0.1, 0.1],
    }


# --- the jobs ---


def test_every_cell_of_the_paper_is_a_job():
    every = jobs()
    assert len(every) == sum(map(len, PAPER.values())) == 36
    assert len({name_of(job) for job in every}) == 36
    for job in every:
        width = job.filters if job.model.endswith("cnn") else job.units
        assert width == models.width(job.model, job.transformation, job.distortion)
        assert (job.epochs, job.micro_batch, job.seed) == (40, 64, 0)


def test_part_of_the_table():
    some = jobs(["fcn", "st-cnn"], ["tps"], ["E", "TC"], seeds=[0, 3], recipe="paper", epochs=5)
    assert [name_of(job) for job in some] == [
        "fcn-E-0",
        "fcn-TC-0",
        "st-cnn-tps-E-0",  # the paper has no tps on TC
        "fcn-E-3",
        "fcn-TC-3",
        "st-cnn-tps-E-3",
    ]
    assert all(job.optimizer == "sgd" and job.epochs == 5 for job in some)
    assert all(job.weight_decay == 0 for job in some)  # the paper's is none
    with pytest.raises(ValueError, match="Table 1 has no such cell; its rows are fcn, cnn"):
        jobs(["st-fcn"], ["projective"], ["TC"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two jobs that have run in two processes, and one that could not."""
    table = table_in(tmp_path_factory.mktemp("table"))
    chosen = quick(["fcn", "st-fcn"]) + quick(distortions=["E"])
    with (
        Run(table.folder(chosen[-1])).locked(),
        pytest.raises(RunError, match=r"fcn-E-0 failed, RunError: .* is in use by another process"),
    ):
        table.run(chosen, workers=2)
    return table, chosen


def test_a_job_that_fails_leaves_the_others_alone(finished):
    table, chosen = finished
    assert [table.result_file(job).is_file() for job in chosen] == [True, True, False]
    assert not list(table.results.glob("*.tmp"))
    assert table.unfinished(chosen, {}) == chosen[-1:]


def test_a_result_tells_of_its_run(finished):
    table, chosen = finished
    for job in chosen[:2]:
        found, run = json.loads(table.result_file(job).read_text()), Run(table.folder(job))
        assert Settings.of(found["settings"]) == job == run.settings()
        assert found["test_error"] == run.test_error()
        assert found["parameters"] == models.build(job.model).count_parameters()
        assert found["images_seen"] == 2 * 640
        logged = [line for line in run.lines() if "error" in line]
        assert found["training_error"] == [round(line["error"], 4) for line in logged]
        assert len(found["outside"]) == 2
        assert table.progress(job) == 2 * 640


def test_a_finished_job_never_runs_again(finished, tmp_path, monkeypatch):
    table, chosen = finished
    monkeypatch.setattr("minist.training.loop.train", None)
    again = Table(tmp_path / "results", table.runs)  # its result lost, its folder kept
    found = run_job(chosen[0], table.folder(chosen[0]), table.draw)
    kept = read_result(table.result_file(chosen[0]), Settings)
    assert {**found, "machine": kept["machine"]} == kept
    assert again.unfinished(chosen[:1], {}) == chosen[:1]
    elsewhere = Table(table.results, tmp_path / "runs")  # its folder lost, its result kept
    assert elsewhere.unfinished(chosen[:1], {}) == []


def test_other_settings_than_those_of_a_result_or_a_run_are_refused(finished, tmp_path):
    table, chosen = finished
    with pytest.raises(RunError, match=r"fcn-R-0\.json was made with epochs = 2, not 3"):
        table.unfinished(chosen, {"epochs": 3})
    with pytest.raises(RunError, match="was begun with epochs = 2, not 3"):
        Table(tmp_path, table.runs).unfinished(chosen, {"epochs": 3})


def test_a_finished_table_needs_nobody(finished):
    table, _ = finished
    table.run([], scheduler="tcp://127.0.0.1:1")


def test_another_recipe_is_not_taken_for_the_same(finished, capsys):
    table, _ = finished
    options = ["--results", str(table.results), "--runs", str(table.runs)]
    options += ["--models", "fcn", "--distortions", "R", "--limit", "640"]
    assert cli.main(["table1", "--recipe", "paper", *options]) == 1
    assert "fcn-R-0.json was made with epochs = 2, not 638" in capsys.readouterr().err


def test_a_job_goes_on_with_the_settings_that_it_was_begun_with(tmp_path):
    table, (job,) = table_in(tmp_path), quick()
    Run(table.folder(job)).folder.mkdir(parents=True)
    Run(table.folder(job)).write_config(asdict(replace(job, lr=0.5)))
    (left,) = table.unfinished([job], {"epochs": 2})
    assert left.lr == 0.5


def test_a_file_that_is_no_result(tmp_path):
    (tmp_path / "fcn-R-0.json").write_text('{"settings": {"colour": 1}}')
    with pytest.raises(RunError, match=r"fcn-R-0\.json is no result of a job: unknown setting"):
        Table(tmp_path, tmp_path).read()


def wait_for(condition, *processes):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        assert all(process.poll() is None for process in processes), "a process has ended"
        time.sleep(0.02)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_control_c_stops_every_job_at_a_checkpoint(tmp_path):
    command = "-m minist table1 --models fcn --distortions R TC --workers 1 --epochs 10000"
    first, second = (tmp_path / "runs/table1" / name for name in ("fcn-R-0", "fcn-TC-0"))
    with subprocess.Popen(
        [sys.executable, *command.split(), "--limit", "640"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,  # a group of its own, as a terminal gives
        stderr=subprocess.PIPE,
    ) as process:
        wait_for(lambda: Run(first).checkpoint.exists(), process)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == b"interrupted\n"
    assert not Run(first).model.exists() and not (tmp_path / "docs").exists()
    last = Run(first).lines()[-1]["step"]
    assert Run(first).go_back()[0].notes["step"] == last  # nothing was done in vain
    assert not second.exists()  # nor another job begun


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_command_leaves_no_worker_behind(tmp_path):
    command = "-m minist table1 --models fcn --distortions R --workers 1 --epochs 10000"
    run = Run(tmp_path / "runs/table1/fcn-R-0")
    with subprocess.Popen(
        [sys.executable, *command.split(), "--limit", "640"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        wait_for(lambda: run.checkpoint.exists(), process)
        process.kill()
    # Its worker holds the folder's lock, and writes a checkpoint of its last step before it ends.
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with run.locked():
                break
        except RunError:
            time.sleep(0.02)
    else:
        pytest.fail("the worker goes on")
    assert run.go_back()[0].notes["step"] == run.lines()[-1]["step"]


# What a Dask worker runs first: whichever worker is the first to its third checkpoint is killed.
KILLED_ONCE = """
import os, signal
from minist import training

class KilledOnce(training.Run):
    saved = 0

    def save(self, checkpoint):
        super().save(checkpoint)
        KilledOnce.saved += 1
        if KilledOnce.saved == 3:
            try:
                os.open("killed", os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

from minist.training import loop
loop.Run = KilledOnce
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_worker_of_a_cluster_is_killed_and_nothing_lost(tmp_path):
    pytest.importorskip("distributed", reason="needs Dask: pip install 'minist[distributed]'")
    file, preload = tmp_path / "scheduler.json", tmp_path / "killed_once.py"
    preload.write_text(KILLED_ONCE)
    started = []

    def dask(kind, *options):
        program = [sys.executable, "-m", f"distributed.cli.dask_{kind}"]
        program += ["--scheduler-file", str(file), "--no-dashboard", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINIST_NUM_THREADS": "2"}
        log = open(tmp_path / f"{len(started)}.log", "w")  # noqa: SIM115
        with log:
            started.append(
                subprocess.Popen(program, cwd=tmp_path, env=environment, stdout=log, stderr=log)
            )

    table, chosen = table_in(tmp_path), quick(["fcn"], ["R", "E"], epochs=5)
    (busy,) = quick(["fcn"], ["P"])
    try:
        dask("scheduler", "--host", "127.0.0.1", "--port", "0")
        for _ in range(2):
            dask("worker", "--nthreads", "1", "--no-nanny", "--preload", str(preload))
        wait_for(lambda: file.is_file() and file.read_text().rstrip().endswith("}"), *started)
        address = json.loads(file.read_text())["address"]
        with Run(table.folder(busy)).locked(), pytest.raises(RunError, match="fcn-P-0 failed"):
            table.run([busy, *chosen], scheduler=address)
        ended = [process.poll() for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert sorted(ended, key=str) == [-signal.SIGKILL, None, None]  # one worker, in mid-run
    assert table.unfinished([busy, *chosen], {}) == [busy]
    for job in chosen:
        straight, run = Run(tmp_path / name_of(job)), Run(table.folder(job))
        with straight.locked():
            train(job, straight)
        assert run.model.read_bytes() == straight.model.read_bytes()
        assert len(run.lines()) == len(straight.lines()) + 1  # the test error
        assert read_result(table.result_file(job), Settings)["test_error"] == run.test_error()


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunError, match=r'pip install "minist\[distributed\]"'):
        table_in(tmp_path).run(quick(), scheduler="tcp://127.0.0.1:1")


# --- the table ---


def test_a_cell_is_the_mean_over_seeds_beside_the_paper():
    found = [made(1.0, seed=0), made(1.3, seed=1), made(9.0, "st-cnn affine")]
    assert str(Cell("st-cnn tps", "E", found[:2])) == "**1.15** ± 0.21 (1.1, +0.05)"
    assert str(Cell("st-cnn tps", "E", found[:1])) == "**1.00** (1.1, -0.10)"
    assert str(Cell("st-cnn tps", "E", [])) == "unmeasured (1.1)"
    assert str(Cell("st-cnn tps", "TC", [])) == ""  # nor has the paper one
    lines = table1_page.as_table(found).splitlines()
    assert lines[0] == "| error, % (the paper's, difference) | R | RTS | P | E | TC |"
    assert len({line.count("|") for line in lines}) == 1
    assert "| ST-CNN TPS |" in lines[-1] and "**1.15** ± 0.21" in lines[-1]
    assert sum(line.count("unmeasured") for line in lines) == 36 - 2


def test_base_networks_belong_to_no_transformation():
    for transformation in ("affine", "tps"):
        found = [made(1.4, "cnn", "R", transformation=transformation)]
        (cell,) = (cell for cell in table1_page.cells(found) if cell.results)
        assert cell.row == "cnn"


def test_the_table_as_csv():
    rows = list(csv.DictReader(io.StringIO(table1_page.as_csv([made(1.0), made(1.3, seed=1)]))))
    assert len(rows) == 36
    (measured,) = (row for row in rows if row["mean"])
    assert measured == {
        "network": "st-cnn tps",
        "distortion": "E",
        "paper": "1.1",
        "mean": "1.150",
        "spread": "0.212",
        "difference": "+0.050",
        "seeds": "2",
    }


def test_what_is_written_is_what_there_is(tmp_path, capsys):
    table = table_in(tmp_path)
    for job, error in zip(jobs(["cnn"], distortions=["R", "P"]), (1.25, 1.5), strict=True):
        found = made(error, "cnn", job.distortion, optimizer="sgd" if error > 1.4 else "adam")
        write_result(table.result_file(job), found)
    options = ["--results", str(table.results), "--runs", str(table.runs)]
    assert cli.main(["table1", "--report", *options]) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "table1.md").read_text()
    for text in (printed, page):
        assert "| CNN | **1.25** (1.2, +0.05) | unmeasured (0.8) | **1.50** (1.5, +0.00) |" in text
    assert "2 of 36 cells have been run, 0.2 hours in all" in page
    assert "| CNN | P | 120,000 | 0 | 14 | 840,000 |  | 0 | 0 | 0.10 | an abacus |" in page
    assert "- adam, rate 0.003" in page and "- sgd, rate 0.003" in page
    assert "table1-cases.png" not in page  # there are no weights to draw it with
    assert (tmp_path / "table1-curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "table1.csv").read_text() == table1_page.as_csv(table.read())


def test_the_picture_shows_what_only_the_st_network_gets_right(tmp_path):
    table = table_in(tmp_path)
    cells = jobs(["cnn", "st-cnn"], ["affine", "tps"], ["E"], limit=640, epochs=1)
    cells = [replace(job, filters=4, batch_size=64, warmup=2) for job in cells]
    for job, error in zip(cells, (50.0, 60.0, 40.0), strict=True):
        run = Run(table.folder(job))
        assert job.model == "st-cnn" or table.case("E") is None
        with run.locked():
            train(job, run)
        run.log(test_error=error)
    case = table.case("E")
    assert case.title == "E, tps"  # the better of the two
    cnn, st_cnn = (load_trained(table.folder(job))[0] for job in (cells[0], cells[2]))
    images, labels = load_examples(cells[0], 0, 10_000)
    assert 0 < len(case.labels) <= table1.EXAMPLES
    for image, label, taken_for in zip(case.images, case.labels, case.taken_for, strict=True):
        assert ((images == image).all((1, 2, 3)) & (labels == label)).any()
        assert cnn(Tensor(image[None])).data.argmax() == taken_for != label
        assert st_cnn(Tensor(image[None])).data.argmax() == label
    st = st_cnn.transformer
    np.testing.assert_allclose(st(Tensor(case.images)).numpy(), case.outputs.numpy(), atol=1e-6)
    np.testing.assert_array_equal(st.grid.numpy(), case.grids.numpy())
    figure = plotting.cases([case])
    drawn = [ax for part in figure.subfigs for ax in part.axes if ax.images]
    assert len(drawn) == 3 * len(case.labels)


def test_the_readme_shows_the_table_as_it_is():
    readme = ROOT / "README.md"
    if not (ROOT / "docs" / "results").is_dir():
        pytest.skip("not a clone of the repository")
    table = table1_page.as_table(Table(ROOT / "docs" / "results", ROOT / "nowhere").read())
    assert f"<!-- table 1 -->\n\n{table}\n" in readme.read_text()


def test_the_page_in_the_docs_is_what_its_results_say():
    table = Table(ROOT / "docs" / "results", ROOT / "nowhere")
    if not table.results.is_dir():
        pytest.skip("not a clone of the repository")
    pictured = (ROOT / "docs" / "table1-cases.png").is_file()
    found = table.read()
    assert (ROOT / "docs" / "table1.md").read_text() == table1_page.as_page(found, pictured)
    assert (ROOT / "docs" / "table1.csv").read_text() == table1_page.as_csv(found)
    for file in table.results.glob("*.json"):
        settings = Settings.of(read_result(file, Settings)["settings"])
        assert file.stem == name_of(settings)
        assert settings.held_out == 0 and settings.limit is None  # the whole training set
