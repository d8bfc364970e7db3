"""Several processes give what one gives: tests marked ``mpi`` start them, the others need no MPI.

The runs are in mpi_ranks.py. The subtle point is how they end: every process of a run that fails
has to be gone, and a test that fails must not leave any behind either.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import mpi_ranks
import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from tinygrad_rnn import distributed, nn
from tinygrad_rnn.serialization import load, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Each test finds out anew which processes there are."""
    distributed.set_communicator(None)
    yield
    distributed.set_communicator(None)


class Run(NamedTuple):
    code: int
    output: str


def launch(count: int, *command: str | Path, cwd: Path = ROOT) -> Run:
    """So many processes of a script; all of them end with it, however it ends."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert launcher, "no mpiexec: pip install mpich, which the extra test brings"
    paths = [str(ROOT), str(ROOT / "backends"), str(ROOT / "tests")]
    running = subprocess.Popen(
        [launcher, "-n", str(count), sys.executable, "-m", "mpi4py", *map(str, command)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = running.communicate()
        return Run(running.returncode, output)
    finally:
        if running.poll() is None:  # mpiexec killed alone would leave its processes spinning
            os.killpg(running.pid, signal.SIGKILL)


def ranks(count: int, name: str, folder: Path) -> list[Any]:
    """What each process of a run of mpi_ranks.py found."""
    run = launch(count, ROOT / "tests" / "mpi_ranks.py", name, folder)
    assert run.code == 0, run.output
    return [json.loads((folder / str(rank)).read_text()) for rank in range(count)]


def gone(pid: int) -> bool:
    """Whether a process has ended, at the latest some seconds from now."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.mpi
@pytest.mark.parametrize("count", [2, 4])
def test_gradients_are_those_of_the_whole_batch(count: int, tmp_path: Path) -> None:
    found = ranks(count, "gradients", tmp_path)
    tg.set_default_dtype("float64")
    try:
        model, _ = mpi_ranks.new_model()
    finally:
        tg.set_default_dtype("float32")
    for rows in (13, 1):  # on four processes, three have none of one row
        given = mpi_ranks.sequences(rows)
        tokens = distributed.average_gradients(model.parameters(), mpi_ranks.backward(model, given))
        here = [each[str(rows)] for each in found]
        assert sum(each["rows"] for each in here) == rows
        assert {each["count"] for each in here} == {tokens}
        assert len({each["digest"] for each in here}) == 1  # the same bits everywhere
        grads, _ = load(tmp_path / f"grads_{rows}")
        for i, p in enumerate(model.parameters()):
            assert p.grad is not None
            assert grads[str(i)].dtype == np.float64
            np.testing.assert_allclose(grads[str(i)], p.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.mpi
def test_values_flags_and_rows(tmp_path: Path) -> None:
    for me, found in enumerate(ranks(3, "values", tmp_path)):
        assert found["gathered"] == [0, 1, 2]
        assert found["total"] == 7.5
        assert found["main"] == 0
        assert found["agree"] == [True, False]
        assert found["back"]
        assert found["part"] == [1 if me < 2 else 0, 7]
        assert found["shards"] == [[2, 2, 1][me], 1 if me == 0 else 0]
        assert "the processes hold float64 (5,), float64 (1,), float64 (1,)" in found["refused"]
        assert found["count"] == 3 * 2**30 + 3  # exact beyond what float32 counts
        assert found["grads"][:1] == [True]  # no process had one
        assert found["grads"][1] == pytest.approx(3 / found["count"])
        assert found["grads"][2] == "float16"
        assert found["half"] == pytest.approx([3 * 2**15 * 3 / found["count"]] * 3, rel=1e-2)


@pytest.mark.mpi
def test_all_skip_or_raise_alike(tmp_path: Path) -> None:
    for found in ranks(2, "nonfinite", tmp_path):
        assert found == [[False, True], ["raised", True]]


@pytest.mark.mpi
def test_another_model_or_version_is_named_before_anything_is_averaged(tmp_path: Path) -> None:
    for found in ranks(2, "different", tmp_path):
        size, at_broadcast, more, _, values, versions = found
        assert "parameter 1 is 'lstm.weight_ih_l0: float32 (4, 24)' in process 0" in size
        assert "(4, 28)' in process 1" in size
        assert at_broadcast.startswith("broadcast: the models differ: parameter 1")
        assert "'nothing' in process 0 and 'extra: float64 (2,)' in process 1" in more
        assert "embedding.weight has other values in process 1 than in process 0" in values
        assert "distributed.broadcast(model, optimizer)" in values
        assert "'numpy': '1.0'}, process 1 {" in versions


@pytest.mark.mpi
def test_a_run_is_resumed_bit_for_bit_and_by_other_numbers_of_processes(tmp_path: Path) -> None:
    whole = ranks(2, "train", tmp_path)
    weights = {each[20:] for each in whole}
    assert len(weights) == 1
    assert whole[0][:20] != whole[1][:20]  # dropout is drawn by each for itself
    assert ranks(2, "train", tmp_path) == whole  # the second half, from the file
    for count in (1, 3):
        resumed = ranks(count, "train", tmp_path)
        assert len({each[20:] for each in resumed}) == 1
    assert load_checkpoint(tmp_path / "run.safetensors").parts["batches"]["position"] == 2


@pytest.mark.mpi
def test_what_one_cannot_write_or_read_is_an_error_for_all(tmp_path: Path) -> None:
    for me, found in enumerate(ranks(2, "unwritable", tmp_path)):
        written, missing, other = found
        assert written.startswith("RuntimeError: save_checkpoint: process 0" if me else "FileNot")
        assert "there is no file" in missing
        assert "what processes [1] read" in other


@pytest.mark.mpi
def test_an_exception_in_one_process_ends_all_and_is_shown(tmp_path: Path) -> None:
    run = launch(2, ROOT / "tests" / "mpi_ranks.py", "raising", tmp_path)
    assert run.code != 0
    assert "LookupError: a mistake of the last process alone" in run.output
    assert all(gone(int(path.read_text())) for path in tmp_path.glob("pid_*"))


@pytest.mark.mpi
def test_a_process_that_is_killed_takes_all_with_it(tmp_path: Path) -> None:
    run = launch(4, ROOT / "tests" / "mpi_ranks.py", "killed", tmp_path)
    assert run.code != 0
    pids = [int((tmp_path / f"pid_{rank}").read_text()) for rank in range(4)]
    assert all(map(gone, pids))


@pytest.mark.mpi
@pytest.mark.parametrize("script", ["char_lm.py", "seq2seq_g2p.py"])
def test_examples_run_with_no_other_change(script: str, tmp_path: Path) -> None:
    options = {
        "char_lm.py": ["--steps", "8", "--save-every", "4", "--length", "20", "--limit", "20000"],
        "seq2seq_g2p.py": ["--minutes", "0.02", "--beam", "2", "--hidden", "8"],
    }[script]
    run = launch(2, ROOT / "examples" / script, "--quick", *options, cwd=tmp_path)
    assert run.code == 0, run.output
    said = [line for line in run.output.splitlines() if line.startswith("step ")]
    assert len(said) == len(set(said))  # one process speaks


# One process alone, and what needs no MPI.


def test_one_process_needs_no_mpi_and_divides_by_its_tokens() -> None:
    p = nn.Parameter(np.ones(2))
    p.grad = tg.tensor([4.0, 6.0], dtype="float64")
    assert distributed.average_gradients([p], 2) == 2
    assert p.grad.numpy().tolist() == [2.0, 3.0]
    assert distributed.average_gradients([("p", p)], 0) == 0  # of no tokens: divided by 1
    assert p.grad.numpy().tolist() == [2.0, 3.0]
    p.grad = None
    distributed.average_gradients([p], 3)
    assert p.grad is None
    assert (distributed.rank(), distributed.size(), distributed.is_main()) == (0, 1, True)
    assert [*distributed.shard([[1, 2], (np.ones(3), [4])])][1][1] == [4]
    x = tg.ones((2, 3))
    assert distributed.all_rows(distributed.own_rows(x, axis=1), axis=-1).shape == (2, 3)


def test_gradients_of_every_backend(backend: backends.Backend) -> None:
    p, q = nn.Parameter(tg.ones((2, 3))), nn.Parameter(tg.ones(2, dtype="float64"))
    (tg.sum(p * 3) + tg.sum(q)).backward()
    distributed.average_gradients([p, q], 4)
    assert p.grad is not None and q.grad is not None
    assert (p.grad.backend, p.grad.dtype, q.grad.dtype) == (backend.name, p.dtype, q.dtype)
    assert p.grad.numpy().tolist() == [[0.75] * 3] * 2
    assert q.grad.numpy().tolist() == [0.25] * 2


def test_broadcast_of_one_leaves_everything_as_it_was() -> None:
    model, optimizer = mpi_ranks.new_model()
    before, state = mpi_ranks.digest(model.parameters()), tg.random.get_state()
    distributed.broadcast(model, optimizer)
    assert (mpi_ranks.digest(model.parameters()), tg.random.get_state()) == (before, state)


@pytest.mark.parametrize(
    ("parameters", "count", "error", "said"),
    [
        ([], 1, ValueError, "no parameters"),
        (nn.Parameter([1.0]), 1, TypeError, "several"),
        ([np.ones(2)], 1, TypeError, "parameter 0"),
        ([nn.Buffer([1])], 1, TypeError, "no Tensor of floats"),
        ([nn.Parameter([1.0])], -1, ValueError, "-1"),
        ([nn.Parameter([1.0])], 2**48, ValueError, "2\\*\\*48"),
        ([nn.Parameter([1.0])], 0.5, TypeError, "0.5"),
        ([nn.Parameter([1.0])], True, TypeError, "True"),
    ],
)
def test_what_cannot_be_averaged(parameters: Any, count: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=f"average_gradients: .*{said}"):
        distributed.average_gradients(parameters, count)


def test_rows_of_what_has_none() -> None:
    with pytest.raises(TypeError, match=r"own_rows: .*axis 2, not float32 \(2, 3\)"):
        distributed.own_rows(tg.ones((2, 3)), axis=2)
    with pytest.raises(ValueError, match="list has no axis 1"):
        distributed.own_rows([1], axis=1)
    with pytest.raises(TypeError, match="not 3"):
        distributed.own_rows(3)


def test_no_mpi4py_is_said_when_several_processes_were_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setattr(distributed, "_current", None)
    with pytest.raises(ImportError, match=r"pip install 'tinygrad_rnn\[mpi\]'"):
        distributed.rank()
    with pytest.raises(TypeError, match="not a int"):
        distributed.set_communicator(3)


def test_gradients_on_gpus_go_through_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for CuPy's side: what is asked of it, and that the host is left out."""
    import types

    class Library(types.ModuleType):
        ndarray = np.ndarray
        chosen: Any = None

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

    class Group:
        asked: Any = None

        def all_reduce(self, message: Any, out: Any) -> None:
            out += message  # two processes with equal gradients

    def started(*place: int, **options: Any) -> Group:
        Group.asked = place, options
        return Group()

    library: Any = Library("cupy")
    library.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 1),
        Device=lambda number: types.SimpleNamespace(use=lambda: setattr(library, "chosen", number)),
    )
    module: Any = types.ModuleType("cupyx.distributed")
    module.init_process_group = started
    monkeypatch.setitem(sys.modules, "cupyx.distributed", module)
    backend = backends.CupyBackend(xp=library)
    group = backend.process_group(2, 1, 0, host="node", port=3)
    assert Group.asked == ((2, 1), {"host": "node", "port": 3, "use_mpi": True})
    assert library.chosen == 0
    with pytest.raises(tg.BackendUnavailable, match="2th of a machine with 1"):
        backend.process_group(2, 1, 1, host=None, port=None)
    processes = distributed._Processes(None)
    processes.size, processes.nccl = 2, group
    monkeypatch.setattr(distributed, "_current", processes)
    assert distributed._summed(backend, np.ones(3)).tolist() == [2.0, 2.0, 2.0]
