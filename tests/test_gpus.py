"""A step as a CUDA graph, and training on several GPUs, with stand-ins for what needs a card."""

import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import idle_card
import numpy as np
import pytest

import minist
from minist import backend, models, nn, optim
from minist.backend import to_device, to_numpy
from minist.cuda import blas
from minist.cuda.graph import Graph
from minist.training import (
    MicroBatches,
    Report,
    Run,
    Settings,
    captured,
    loop,
    train,
    training_step,
)
from minist.training.parallel import Group, group_of, start

# --- the group ----------------------------------------------------------------------------------


class Meeting:
    """Sums arrays over threads, as NCCL does over processes."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self.buffers = [None] * size
        self.sums = 0

    def group(self, rank):
        def all_reduce(buffer):
            self.buffers[rank] = buffer.copy()
            self.barrier.wait()
            buffer[...] = sum(self.buffers)
            self.sums += rank == 0
            self.barrier.wait()

        return Group(rank, self.size, all_reduce)

    def run(self, function):
        """[function(group)] of all, side by side."""
        results, faults = [None] * self.size, []

        def one(rank):
            try:
                results[rank] = function(self.group(rank))
            except BaseException as error:
                faults.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if faults:
            raise faults[0]
        return results


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 128])
def test_the_parts_are_the_batch(size, n):
    parts = [np.arange(n)[Group(rank, size).part(n)] for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_arrays_are_added_in_one_buffer(rng):
    arrays = [[rng.normal(size=s).astype("f") for s in ((2, 3), (), (4,))] for _ in range(2)]
    meeting = Meeting(2)
    for found in meeting.run(lambda group: group.add([*arrays[group.rank], 3])):
        for a, b, c in zip(found, *arrays, strict=False):
            np.testing.assert_array_equal(a, b + c, strict=True)
        assert found[3] == 6
    assert meeting.sums == 1


@pytest.mark.parametrize("n", [64, 37, 1])
def test_a_step_of_several_is_the_step_of_one(n, rng):
    images, labels = rng.random((n, 1, 28, 28), dtype="f"), rng.integers(0, 10, n)

    def gradients(group):
        minist.manual_seed(0)
        model = models.build("st-cnn", filters=4)
        with MicroBatches(16, threads=1) as micro_batches:
            report = training_step(model, images, labels, micro_batches, group=group)
        return [p.grad for p in model.parameters()], report

    expected, whole = gradients(Group())
    for found, report in Meeting(2).run(gradients):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(report.numbers(), whole.numbers(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


# The parts of the batches, 32 and 16 images, are cut where the batches are.
SETTINGS = Settings(
    model="fcn", units=8, epochs=2, batch_size=64, limit=160, micro_batch=16, warmup=2
)


@pytest.fixture
def in_threads(monkeypatch):
    """Threads stand for GPUs here, and must not be forked."""
    monkeypatch.setattr(
        loop, "micro_batches_on_all_cores", lambda model, size, *_: MicroBatches(size)
    )


def test_a_run_of_several_is_the_run_of_one(tmp_path, in_threads):
    alone, together = Run(tmp_path / "alone"), Run(tmp_path / "together")
    for run in (alone, together):
        run.folder.mkdir()
    expected = train(SETTINGS, alone, progress=False).state_dict()

    def take_part(group):
        return train(SETTINGS, together, progress=False, group=group).state_dict()

    for found in Meeting(2).run(take_part):
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6)
    lines, others = alone.lines(), together.lines()
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    assert others[-1]["loss"] == pytest.approx(lines[-1]["loss"], rel=1e-5)


def test_all_go_on_from_the_checkpoint_of_the_first(tmp_path, in_threads):
    run, whole = Run(tmp_path / "parts"), Run(tmp_path / "whole")
    for one in (run, whole):
        one.folder.mkdir()

    def first_epoch(group):
        settings = replace(SETTINGS, epochs=1)
        train(settings, run, progress=False, group=group)

    def go_on(group):
        return train(SETTINGS, run, resume=True, progress=False, group=group).state_dict()

    schedule = optim.CosineLR.factor  # of a run that is planned longer
    try:
        optim.CosineLR.factor = lambda self, t: 1.0
        expected = train(SETTINGS, whole, progress=False).state_dict()
        Meeting(2).run(first_epoch)
        found = Meeting(2).run(go_on)
    finally:
        optim.CosineLR.factor = schedule
    for state in found:
        for name, array in expected.items():
            np.testing.assert_allclose(state[name], array, rtol=1e-4, atol=1e-6)


def test_without_a_launcher_there_is_one_process():
    assert group_of({}, "cuda") == Group()


def test_several_processes_need_gpus():
    with pytest.raises(RuntimeError, match="train on GPUs only"):
        group_of({"WORLD_SIZE": "2", "RANK": "0"}, "cpu")
    with pytest.raises(RuntimeError, match="WORLD_SIZE is set and RANK is not"):
        group_of({"WORLD_SIZE": "2"}, "cuda")


def test_processes_are_started_with_their_places(tmp_path):
    program = (
        "import os, pathlib; e = os.environ; pathlib.Path(e['RANK']).write_text("
        "' '.join(e[k] for k in ('WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR')))"
    )
    with pytest.MonkeyPatch.context() as m:
        m.chdir(tmp_path)
        assert start([sys.executable, "-c", program], 2) == 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "0": "2 0 127.0.0.1",
        "1": "2 1 127.0.0.1",
    }


def test_when_one_process_fails_the_others_end():
    program = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(600)"
    assert start([sys.executable, "-c", program], 2) == 3


# --- the graph ----------------------------------------------------------------------------------


class FakeCuPy:
    """As much of CuPy as a capture touches; notes what is done."""

    def __init__(self):
        self.done = []
        self.room = 4096  # bytes that the card has left
        self.cuda = SimpleNamespace(
            MemoryPool=lambda allocate: FakePool("private", self.done, allocate),
            Memory=self.memory,
            MemoryPointer=lambda memory, offset: memory + offset,
            runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError),
            Stream=lambda non_blocking: FakeStream(self.done),
            using_allocator=self.using_allocator,
        )

    def get_default_memory_pool(self):
        return FakePool("default", self.done, self.memory)

    def memory(self, size):
        if size > self.room:
            raise CUDARuntimeError("out of memory")
        self.room -= size
        return size

    @contextmanager
    def using_allocator(self, malloc):
        self.malloc = malloc
        self.done.append(f"allocate from {malloc.__self__.name}")
        yield
        self.done.append("allocate as before")


class CUDARuntimeError(RuntimeError):
    pass


class FakePool:
    """As CuPy 14's: what comes to the limit, or to a full card, frees and is tried again."""

    def __init__(self, name, done, allocate):
        self.name, self.done, self.allocate, self.limit = name, done, allocate, 64

    def set_limit(self, size):
        self.limit = size

    def free_all_blocks(self):
        self.done.append(f"free in {self.name}")

    def malloc(self, size):
        if self.limit and size > self.limit:
            self.free_all_blocks()
        try:
            return self.allocate(size)
        except CUDARuntimeError:
            self.free_all_blocks()
            return self.allocate(size)


class FakeStream:
    def __init__(self, done):
        self.done = done

    def __enter__(self):
        self.done.append("stream")

    def __exit__(self, *error):
        self.done.append("stream before")

    def begin_capture(self):
        self.done.append("begin")

    def end_capture(self):
        self.done.append("end")
        return SimpleNamespace(launch=lambda: self.done.append("launch"))


@pytest.fixture
def cupy():
    return FakeCuPy()


def test_a_graph_is_captured_apart_and_launched_as_a_whole(cupy):
    graph = Graph(cupy, lambda: cupy.done.append("work") or "result")
    assert graph.launch() == "result"
    inside = ["begin", "work", "end"]
    before, after = ["allocate from private", "stream"], ["stream before", "allocate as before"]
    assert cupy.done == ["free in default", *before, *inside, *after, "launch"]


def test_a_capture_that_fails_is_ended(cupy):
    def fail():
        raise NotImplementedError("cuBLAS")

    with pytest.raises(NotImplementedError, match="cuBLAS"):
        Graph(cupy, fail)
    assert cupy.done.count("end") == 1


def test_a_capture_frees_nothing(cupy):
    """Freed blocks would be blocks that the graph writes to."""
    graph = Graph(cupy, lambda: [cupy.malloc(1000), cupy.malloc(2000)])
    assert graph.result == [1000, 2000]
    with pytest.raises(MemoryError, match="no 5000 bytes"):
        Graph(cupy, lambda: cupy.malloc(5000))
    assert "free in private" not in cupy.done


def test_cupy_refuses_to_capture_copies():
    """Of the host's memory a graph would read what is there when it is launched."""
    idle_card.run(
        "-c",
        """
import cupy
import numpy as np
from minist.cuda.graph import Graph

x = cupy.ones(4)
Graph(cupy, lambda: x + 1.0)
copies = {
    "from an array": lambda: cupy.asarray(np.ones(4)),
    "from an index": lambda: x[[0, 1]],
    "from addresses": lambda: cupy.concatenate([x] * 9),
    "to an array": lambda: x.get(),
    "to a number": lambda: float(x[0]),
}
for name, copy in copies.items():
    copy()
    try:
        Graph(cupy, copy)
    except RuntimeError as error:
        assert "is capturing" in str(error), error
    else:
        raise AssertionError(name)
""",
    )


def test_a_full_card_ends_a_capture_on_cupy_itself():
    idle_card.run(
        "-c",
        """
import cupy
from minist.cuda.graph import Graph

Memory = cupy.cuda.Memory
def memory(size):
    if size > 5000:
        raise cupy.cuda.runtime.CUDARuntimeError(2)
    return Memory(size)
cupy.cuda.Memory = memory

def work():
    cupy.empty(4000, "u1")  # is given back to the pool
    return cupy.empty(6000, "u1")

try:
    Graph(cupy, work)
except MemoryError:
    assert card.freed_in_capture == 0
else:
    raise AssertionError("it was captured")
""",
    )


class Replay:
    """Stands in for a graph: does the work again, and leaves what it gives in the same arrays."""

    model: nn.Module
    captures = 0

    def __init__(self, xp, function):
        Replay.captures += 1
        self.function = function
        self.result = Report(*(np.array(number) for number in function().numbers()))
        self.gradients = [p.grad for p in self.model.parameters()]

    def launch(self):
        before = [p.grad for p in self.model.parameters()]
        fresh = self.function()
        places = zip(self.model.parameters(), self.gradients, before, strict=True)
        for p, gradient, as_it_was in places:
            gradient[...] = p.grad
            p.grad = as_it_was  # a graph knows nothing of Python's names
        for kept, number in zip(self.result.numbers(), fresh.numbers(), strict=True):
            kept[...] = number
        return self.result


def test_replayed_steps_are_the_plain_steps(monkeypatch, rng):
    monkeypatch.setattr(captured, "Graph", Replay)
    batches = [
        (rng.random((n, 1, 28, 28), dtype="f"), rng.integers(0, 10, n))
        for n in (16, 16, 16, 16, 7, 16)
    ]

    def seen(step):
        minist.manual_seed(0)
        Replay.model = model = models.build("st-cnn", filters=2)
        optimizer = optim.Adam(model.parameters(), 1e-2)
        reports = []
        with MicroBatches(16, threads=1) as micro_batches:
            for images, labels in batches:
                reports.append(step(model, images, labels, micro_batches))
                optimizer.step()
        return [float(report.loss) for report in reports], [p.data for p in model.parameters()]

    losses, weights = seen(training_step)
    replayed, found = seen(captured.Captured(training_step))
    assert Replay.captures == 1
    assert replayed == losses  # each report is its own
    for a, b in zip(found, weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_networks_that_draw_or_count_are_not_captured(monkeypatch, rng):
    monkeypatch.setattr(captured, "Graph", None)  # would fail
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5))
    step = captured.Captured(training_step)
    with MicroBatches(8, threads=1) as micro_batches:
        for _ in range(4):
            step(model, rng.random((8, 1, 2, 2), dtype="f"), np.zeros(8, int), micro_batches)
    assert step.graph is None


def test_what_cannot_be_captured_goes_on_plainly_and_says_so_once(monkeypatch, rng, capsys):
    def refuse(xp, function):
        raise NotImplementedError("no capture of this")

    monkeypatch.setattr(captured, "Graph", refuse)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    step = captured.Captured(training_step)
    with MicroBatches(8, threads=1) as micro_batches:
        for _ in range(5):
            step(model, rng.random((8, 1, 2, 2), dtype="f"), np.zeros(8, int), micro_batches)
    assert capsys.readouterr().err.count("without a CUDA graph: no capture of this") == 1


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_arrays_are_joined_without_a_copy_from_the_host(axis, rng, monkeypatch):
    arrays = [rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4)).astype("f")]
    expected = np.concatenate(arrays, axis=axis)
    only = SimpleNamespace(empty=np.empty, result_type=np.result_type)
    monkeypatch.setattr(backend, "is_cupy", lambda array: True)
    monkeypatch.setattr(backend, "array_module", lambda array: only)
    np.testing.assert_array_equal(backend.concatenate(arrays, axis), expected, strict=True)


# --- cuBLAS -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (4, 1), (1, 1), (2, 5)])
def test_a_matrix_is_handed_to_cublas_as_it_lies(shape):
    wide = np.arange(60.0).reshape(6, 10)
    for x in (np.ones(shape), np.ones(shape[::-1]).T, wide[: shape[0], : shape[1]]):
        flag, row = blas.layout(x.shape, x.strides, x.itemsize)
        assert row >= (shape[1] if flag == blas.N else shape[0])
        for i, j in np.ndindex(shape):
            place = i * row + j if flag == blas.N else j * row + i
            assert place * x.itemsize == i * x.strides[0] + j * x.strides[1]


def test_a_matrix_with_gaps_is_copied_first():
    x = np.ones((6, 8))[::2, ::2]
    assert blas.layout(x.shape, x.strides, x.itemsize) == (None, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_products_asked_of_cublas_are_the_products(dtype, rng, monkeypatch):
    """A stand-in for cuBLAS does what its manual says, column by column, on the host."""

    def gemm(handle, flag_a, flag_b, m, n, k, alpha, *rest):
        a, ta, lda, sa, b, tb, ldb, sb, beta, c, tc, ldc, sc, batch, compute, algorithm = rest
        assert (ta, tb, tc) == ((0,) * 3 if dtype == "float32" else (1,) * 3)
        assert compute == (68 if dtype == "float32" else 70)
        assert (alpha[0], beta[0], algorithm) == (1.0, 0.0, -1)
        for i in range(batch):
            one, other, result = (
                columns(p.value, rows, ld, count, step.value * i)
                for p, rows, ld, count, step in (
                    (a, k if flag_a else m, lda, m if flag_a else k, sa),
                    (b, n if flag_b else k, ldb, k if flag_b else n, sb),
                    (c, m, ldc, n, sc),
                )
            )
            result[...] = (one.T if flag_a else one) @ (other.T if flag_b else other)
        return 0

    def columns(address, rows, ld, count, skip):
        import ctypes

        real = ctypes.c_float if dtype == "float32" else ctypes.c_double
        size = np.dtype(dtype).itemsize
        flat = (real * (ld * (count - 1) + rows)).from_address(address + skip * size)
        strides = (size, ld * size)
        return np.lib.stride_tricks.as_strided(np.frombuffer(flat, dtype), (rows, count), strides)

    class Card(np.ndarray):
        @property
        def data(self):
            return SimpleNamespace(ptr=self.ctypes.data)

    monkeypatch.setattr(blas, "is_cupy", lambda array: True)
    monkeypatch.setattr(blas, "handle", lambda xp: None)
    monkeypatch.setattr(
        blas, "library", lambda xp: SimpleNamespace(cublasGemmStridedBatchedEx=gemm)
    )
    xp = SimpleNamespace(
        empty=lambda shape, dtype: np.full(shape, np.nan, dtype).view(Card),
        ascontiguousarray=lambda x: np.ascontiguousarray(x).view(Card),
    )
    monkeypatch.setattr(blas, "array_module", lambda array: xp)

    def card(*shape):
        return rng.normal(size=shape).astype(dtype).view(Card)

    for a, b in (
        (card(3, 4), card(4, 5)),
        (card(4, 3).T, card(4, 5)),
        (card(3, 4), card(5, 4).T),
        (card(4, 3).T, card(5, 4).T),
        (card(3, 1), card(1, 5)),
        (card(1, 4), card(4, 1)),
        (card(6, 8)[::2, ::2], card(4, 5)),
        (card(2, 3, 4), card(2, 4, 5)),
        (card(2, 4, 3).swapaxes(1, 2), card(2, 5, 4).swapaxes(1, 2)),
        (card(3, 4), card(2, 4, 5)),
        (card(2, 3, 4), card(4, 5)),
        (card(1, 3, 4), card(1, 4, 5)),
        (card(3, 2, 4).swapaxes(0, 1), card(4, 5)),
    ):
        expected = np.matmul(np.asarray(a), np.asarray(b))
        found = blas.matmul(a, b)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, strict=True)


# --- on a card ----------------------------------------------------------------------------------

KINDS = {
    "fcn": ("fcn", "affine"),
    "cnn": ("cnn", "affine"),
    "affine": ("st-cnn", "affine"),
    "projective": ("st-cnn", "projective"),
    "spline": ("st-cnn", "tps"),
}


def losses_on(device, name, transformation, steps, step):
    rng = np.random.default_rng(0)
    minist.manual_seed(0)
    model = models.build(name, transformation, filters=8, units=16).to(device)
    optimizer = optim.Adam(model.parameters(), 1e-3)
    schedule = optim.CosineLR(optimizer, steps)
    seen = []
    with MicroBatches(64, threads=1) as micro_batches:
        for _ in range(steps):
            batch = rng.random((64, 1, 28, 28), dtype="f"), rng.integers(0, 10, 64)
            images, labels = (to_device(array, device) for array in batch)
            seen.append(step(model, images, labels, micro_batches).loss)
            optimizer.step()
            schedule.step()
    return [float(loss) / 64 for loss in seen]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_card_replayed_steps_are_the_plain_steps(kind):
    step = captured.Captured(training_step)
    plain = losses_on("cuda", *KINDS[kind], 12, training_step)
    np.testing.assert_allclose(losses_on("cuda", *KINDS[kind], 12, step), plain, rtol=1e-4)
    assert step.graph is not None


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_card_learns_what_the_host_learns(kind):
    host = losses_on("cpu", *KINDS[kind], 50, training_step)
    card = losses_on("cuda", *KINDS[kind], 50, captured.Captured(training_step))
    np.testing.assert_allclose(card, host, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_on_a_card(dtype, rng):
    for a, b in (
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((6, 7), (2, 7, 3)),
        ((2, 1, 4), (2, 4, 1)),
    ):
        a, b = rng.normal(size=a).astype(dtype), rng.normal(size=b).astype(dtype)
        for x, y in ((a, b), (a.swapaxes(-1, -2).copy().swapaxes(-1, -2), b)):
            found = blas.matmul(to_device(x, "cuda"), to_device(y, "cuda"))
            np.testing.assert_allclose(to_numpy(found), a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_a_graph_keeps_its_memory_while_others_allocate(rng):
    import cupy

    x = cupy.ones(1000, dtype=np.float32)

    def work():
        return (x * 2) + (x * 3)

    work()
    graph = Graph(cupy, work)
    for value in (1.0, 4.0):
        x.fill(value)
        others = [cupy.full(1000, 7.0, dtype=np.float32) for _ in range(20)]
        np.testing.assert_array_equal(graph.launch().get(), np.full(1000, 5 * value, "f"))
        assert all((other == 7).all() for other in others)
