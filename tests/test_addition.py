"""Sums of two digits: the pairs, the networks, and their table."""

import json

import numpy as np
import pytest

import minist.functional as F
from minist import Tensor, cli, manual_seed
from minist.datasets import MNIST, Images, distort, sums
from minist.experiments import addition as experiment
from minist.experiments.addition import PAPER, Addition, Table, jobs
from minist.experiments.jobs import name_of
from minist.models.addition import MODELS, PARAMETERS, build
from minist.training import RunError, load_trained, transformers
from minist.training import settings as settings_module


@pytest.fixture(scope="module")
def digits():
    data = MNIST(train=False)
    return Images(data.images[:40], data.labels[:40])


# --- the pairs ---


def test_a_pair_is_two_digits_and_its_label_their_sum(digits):
    images, labels = sums(digits, np.random.default_rng(3))
    assert images.shape == (40, 2, 42, 42) and images.dtype == np.float32
    first = distort(digits.images, "RTS", np.random.default_rng(3))[:, 0]
    np.testing.assert_array_equal(images[:, 0], first)
    partners = [int(np.flatnonzero((first == image).all((1, 2)))[0]) for image in images[:, 1]]
    assert sorted(partners) == list(range(40))  # each once as the second, too
    np.testing.assert_array_equal(labels, digits.labels + digits.labels[partners])
    assert sum(a == b for a, b in enumerate(partners)) < 5


def test_pairs_are_others_with_another_state(digits):
    some, same, other = (sums(digits, np.random.default_rng(seed)).labels for seed in (0, 0, 1))
    assert (some == same).all() and (some != other).any()


# --- the networks ---


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("transformation", ["affine", "projective", "tps"])
def test_networks_have_equally_many_parameters(name, transformation):
    manual_seed(0)
    assert abs(build(name, transformation).count_parameters() / PARAMETERS - 1) < 0.025


@pytest.mark.parametrize("name", ["st-fcn", "2xst-fcn", "2xst-cnn"])
def test_each_transformer_hands_on_both_channels(name):
    manual_seed(0)
    images = np.random.default_rng(0).random((40, 2, 42, 42), np.float32)
    net, looks = build(name, width=2), 2 if name.startswith("2x") else 1
    assert net(Tensor(images)).shape == (40, 19)
    seen = net.transformer(Tensor(images)).numpy()
    size = 21 if name.endswith("cnn") else 14
    assert seen.shape == (40, 2 * looks, size, size)
    corners = images[:, :, ::41, ::41]  # which stay corners: at first theta is the identity
    for look in np.split(seen, looks, axis=1):
        np.testing.assert_allclose(look[:, :, :: size - 1, :: size - 1], corners, atol=1e-5)


def test_two_transformers_learn_to_differ(digits):
    manual_seed(0)
    images, labels = sums(digits, np.random.default_rng(0))
    net = build("2xst-fcn", width=8)
    F.cross_entropy(net(Tensor(images)), labels).backward()
    one, two = (list(part)[-1].weight.grad for part in net.transformer.localisation)
    assert abs(one).max() > 0 and abs(two).max() > 0
    assert abs(one - two).max() > 0.5 * abs(one).max()


def test_unknown_networks_are_named():
    with pytest.raises(ValueError, match="unknown model '3xst-fcn'; there are fcn, cnn"):
        build("3xst-fcn")


# --- the table ---


def test_every_row_is_a_job():
    assert [job.name for job in jobs()] == [row.replace(" ", "-") for row in PAPER]
    some = jobs(["fcn", "2xst-fcn"], ["tps"], seeds=[0, 2], recipe="paper", epochs=3)
    assert [name_of(job) for job in some] == [
        "fcn-0",
        "2xst-fcn-tps-0",
        "fcn-2",
        "2xst-fcn-tps-2",
    ]
    assert all((job.optimizer, job.epochs) == ("sgd", 3) for job in some)
    with pytest.raises(ValueError, match="no such row; its rows are fcn, cnn"):
        jobs(["st-cnn"], ["tps"])


def test_a_table_from_command_to_page(tmp_path, monkeypatch, capsys):
    def few(train=True, root=None):
        data = MNIST(train, root)
        return data if train else Few(data.images[:40], data.labels[:40])

    class Few(Images):
        def __len__(self):
            return 40

    (job,) = jobs(["2xst-fcn"], ["affine"], limit=256, epochs=1, width=4)
    table = Table(tmp_path / "docs/results/addition", tmp_path / "runs")
    monkeypatch.setattr(settings_module, "MNIST", few)
    from minist.experiments.jobs import run_job, write_result

    write_result(table.result_file(job), run_job(job, table.folder(job), table.draw))
    assert (table.folder(job) / "result.png").read_bytes().startswith(b"\x89PNG")
    model, settings, _ = load_trained(table.folder(job))
    assert isinstance(settings, Addition) and len(transformers(model)) == 1

    table.folder(job).joinpath("model.safetensors").unlink()
    with pytest.raises(
        RunError, match=r"no model.safetensors yet; to go on: the same minist addit"
    ):
        load_trained(table.folder(job))

    options = ["--results", str(table.results), "--runs", str(table.runs)]
    again = ["--models", "2xst-fcn", "--transformations", "affine", "--limit", "256"]
    assert cli.main(["addition", *again, "--epochs", "1", *options]) == 0  # nothing is left to do
    printed = capsys.readouterr().out
    error = json.loads(table.result_file(job).read_text())["test_error"]
    row = f"| 2xST-FCN affine | **{error:.2f}** | 9.0 | {error - 9:+.2f} |"
    assert row in printed and row in (tmp_path / "docs/addition.md").read_text()
    assert "(addition.png)" in (tmp_path / "docs/addition.md").read_text()
    assert (tmp_path / "docs/addition.png").read_bytes().startswith(b"\x89PNG")
    assert "| ST-FCN TPS | unmeasured | 19.1 |" in printed
    with pytest.raises(RunError, match="was made with epochs = 1, not 2"):
        table.unfinished([job], {"epochs": 2})


def test_the_page_in_the_docs_is_what_its_results_say():
    docs = cli.Path(experiment.__file__).parents[2] / "docs"
    table = Table(docs / "results" / "addition", "nowhere")
    if not docs.is_dir():
        pytest.skip("not a clone of the repository")
    assert table.page.read_text() == experiment.as_page(table.read(), table.picture.is_file())
