"""Files: the old one or the new one, nothing between; a damaged one is an error and no more."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.serialization import load, load_checkpoint, save, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]

ARRAYS: dict[str, Any] = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "scalar": np.float64(2.5),
    "number": 7,
    "empty": np.zeros((0, 3), np.float16),
    "flags": np.array([True, False]),
    "tensor": tg.tensor([1, 2, 3]),
    "trained": tg.tensor([1.5], requires_grad=True),
    "elsewhere": tg.tensor([1.0, 2.0], backend="array_api_strict"),
    "ünï/code .": np.array([255], np.uint8),
}


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    save(tmp_path / "file", ARRAYS)
    arrays, metadata = load(tmp_path / "file")
    assert metadata == {}
    assert set(arrays) == set(ARRAYS)
    for name, given in ARRAYS.items():
        expected = given.numpy() if isinstance(given, tg.Tensor) else np.asarray(given)
        assert arrays[name].dtype == expected.dtype, name
        assert arrays[name].shape == expected.shape, name
        assert_array_equal(arrays[name], expected)


def test_what_was_loaded_can_be_written_to(tmp_path: Path) -> None:
    save(tmp_path / "file", ARRAYS)
    load(tmp_path / "file")[0]["matrix"][0] = 9
    assert_array_equal(load(tmp_path / "file")[0]["matrix"], ARRAYS["matrix"])


def test_metadata_are_strings(tmp_path: Path) -> None:
    metadata = {"settings": json.dumps({"hidden": 256, "text": "“ü”\n"}), "": ""}
    save(tmp_path / "file", {}, metadata)
    assert load(tmp_path / "file") == ({}, metadata)
    with pytest.raises(TypeError, match=r"metadata are strings; use json\.dumps"):
        save(tmp_path / "file", {}, {"step": 3})  # type: ignore[dict-item]
    assert load(tmp_path / "file") == ({}, metadata)


def test_a_file_read_with_another_program_can_be_written_again(tmp_path: Path) -> None:
    save(tmp_path / "file", {"x": np.ones(2)}, {"a": "b"})
    with safetensors.safe_open(tmp_path / "file", framework="numpy") as file:
        arrays, metadata = {"x": file.get_tensor("x") + 1}, file.metadata()
    save(tmp_path / "file", arrays, metadata)
    assert load(tmp_path / "file")[1] == {"a": "b"}


def test_a_module_is_saved_by_its_arrays(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"save: arrays by name, as module.state_dict\(\).* Linear"):
        save(tmp_path / "file", nn.Linear(1, 1))  # type: ignore[arg-type]


def test_a_module_makes_the_round_trip(tmp_path: Path) -> None:
    one, other = nn.GRUCell(3, 4), nn.GRUCell(3, 4)
    save(tmp_path / "file", one.state_dict())
    other.load_state_dict(load(tmp_path / "file")[0])
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert_array_equal(a.numpy(), b.numpy())


# Written at once, or not at all.


def test_nothing_is_left_lying_about(tmp_path: Path) -> None:
    for _ in range(3):
        save(tmp_path / "file", ARRAYS)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("bad", [np.zeros(2, complex), np.array(["text"]), np.array([object()])])
def test_what_cannot_be_written_leaves_the_old_file(bad: Any, tmp_path: Path) -> None:
    save(tmp_path / "file", {"x": np.ones(2)})
    with pytest.raises(TypeError, match="save: "):
        save(tmp_path / "file", {"x": np.zeros(2), "bad": bad})
    assert_array_equal(load(tmp_path / "file")[0]["x"], [1, 1])
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "file", {"x": np.ones(2)})

    def fail(*arguments: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path / "file", {"x": np.zeros(2)})
    monkeypatch.undo()
    assert_array_equal(load(tmp_path / "file")[0]["x"], [1, 1])
    assert os.listdir(tmp_path) == ["file"]


WRITER = """
import sys, numpy as np
from tinygrad_rnn.serialization import save
n = 0
while True:
    n += 1
    save(sys.argv[1], {"a": np.full(200_000, n), "b": np.full(200_000, n)}, {"n": str(n)})
    if n == 1:
        print("ready", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("delay", [0.0, 0.011, 0.023, 0.037])
def test_a_writer_killed_at_any_moment_leaves_a_whole_file(delay: float, tmp_path: Path) -> None:
    path = tmp_path / "file"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "backends")))}
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(delay)
        writer.kill()
    arrays, metadata = load(path)
    for name in ("a", "b"):
        assert_array_equal(arrays[name], int(metadata["n"]))


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_the_file_is_an_ordinary_one(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    save(tmp_path / "link", ARRAYS)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")]
    assert modes[0] == modes[1]
    assert (tmp_path / "link").is_symlink()


# Files that are none of ours.


def header(text: bytes, data: bytes = bytes(4)) -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def described(dtype: str, shape: str, end: int) -> bytes:
    return f'{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}'.encode()


FOREIGN = {
    "empty": b"",
    "short": b"1234567",
    "text": b"This is not a file of arrays, but a text. " * 9,
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x05cos\nsystem\n(S'false'\ntR.",
    "endless header": (2**62).to_bytes(8, "little") + b"{}",
    "no json": header(b"{'x': 1}"),
    "no utf-8": header(b'{"\xff": 1}'),
    "a list": header(b"[1, 2]"),
    "metadata of numbers": header(b'{"__metadata__":{"n":1}}', b""),
    "pages of no json": header(b"[" * 200_000),
    "a thing in a thing in a thing": header(b'{"x":' * 200_000),
    "one name twice": header(
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"x":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "metadata twice": header(b'{"__metadata__":{},"__metadata__":{"a":"b"}}', b""),
    "one place for two": header(
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "a hole": header(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
    "too many axes": header(described("F32", str([1] * 99), 4)),
    "half a size": header(described("F32", "[1.0]", 4)),
    "half a letter": header(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "a negative size": header(described("F32", "[-1]", 4)),
    "too little data": header(described("F32", "[2]", 8)),
    "too much data": header(described("F32", "[1]", 4), bytes(9)),
    "another shape": header(described("F32", "[3]", 4)),
    "an enormous shape": header(described("F32", "[0,9223372036854775807,9223372036854775807]", 0)),
    "an unknown dtype": header(described("F33", "[1]", 4)),
    "a dtype NumPy has not": header(described("BF16", "[2]", 4)),
    "another one": header(described("F8_E4M3", "[4]", 4)),
}


def pickled() -> bytes:
    return pickle.dumps({"weight": np.zeros((3, 12), np.float32)})


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.zeros((3, 12), np.float32))
    return file.getvalue()


FOREIGN |= {"a whole pickle": pickled(), "npz": zipped()}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_a_value_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"load: .*some file"):
        load(path)
    assert path.read_bytes() == content


def test_a_truncated_file_is_a_value_error_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save(path, ARRAYS, {"settings": "{}"})
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="load: "):
            load(path)


def test_a_damaged_file_is_an_error_or_unharmed(tmp_path: Path) -> None:
    """Where the name of the checksum is hit, there is none, and all else is as it was."""
    path = tmp_path / "file"
    save(path, ARRAYS, {"settings": "{}"})
    whole = path.read_bytes()
    before = load(path)[0]
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), size=500):
        damaged = bytearray(whole)
        damaged[place] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            found = load(path)[0]
        except ValueError:
            refused += 1
        else:
            assert {k: a.tobytes() for k, a in found.items()} == {
                k: a.tobytes() for k, a in before.items()
            }
    assert refused > 450


def test_a_file_of_another_program_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(header(described("F32", "[1]", 4)))
    assert load(tmp_path / "file") == ({"x": np.zeros(1)}, {})


PIECES: list[Any] = [None, True, -1, 0, 1, 3, 2**31, 2**63, 2**64, 1.5, "", "x", [], [1], {}]
PIECES += ["F64", "I32", "BOOL", "BF16", "F4", "C64", [2, 2], [12], [0, 2**40], [0, 4], [4, 0]]
PIECES += [{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}]


def distorted(whole: bytes, rng: np.random.Generator) -> bytes:
    """A file of weights with something wrong, and no checksum that would give it away."""
    size = int.from_bytes(whole[:8], "little")
    data = whole[8 + size :]
    how = rng.integers(6)
    if how == 0:
        return whole[: rng.integers(len(whole))]
    if how == 1:
        return int(2 ** rng.uniform(0, 64)).to_bytes(9, "little")[:8] + whole[8:]
    if how == 2:
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        return bytes(damaged)
    if how == 3:
        return whole + rng.bytes(rng.integers(1, 9))
    described = json.loads(whole[8 : 8 + size])
    inside: Any = described
    while True:
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        key = keys[rng.integers(len(keys))]
        if not isinstance(inside[key], (dict, list)) or rng.random() < 0.3:
            break
        inside = inside[key]
    inside[key] = PIECES[rng.integers(len(PIECES))]
    return header(json.dumps(described).encode(), data)


def read_by_the_book(content: bytes) -> dict[str, tuple[list[int], bytes]]:
    """Shapes and bytes, as the header of a valid file says; the last of equal names."""
    size = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + size])
    found.pop("__metadata__", None)
    data = content[8 + size :]
    return {k: (d["shape"], data[slice(*d["data_offsets"])]) for k, d in found.items()}


def test_a_thousand_malformed_files_are_refused_or_read_by_the_book(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    cell = nn.GRUCell(3, 4)
    save(path, cell.state_dict())
    arrays = load(path)[0]
    whole = safetensors.numpy.save(arrays, metadata={"format": "np"})
    before = {name: x.tolist() for name, x in cell.state_dict().items()}
    rng = np.random.default_rng(0)
    refused = read = 0
    for _ in range(1000):
        content = distorted(whole, rng)
        path.write_bytes(content)
        try:
            found = load(path)[0]
            book = read_by_the_book(content)
            assert {k: (list(a.shape), a.tobytes()) for k, a in found.items()} == book
            read += 1
            cell.load_state_dict(found)
        except ValueError:
            refused += 1
            assert {name: x.tolist() for name, x in cell.state_dict().items()} == before
        else:
            cell.load_state_dict(arrays)
    assert refused > 800 and read > 50


LIAR = """
import resource, sys
from tinygrad_rnn.serialization import load
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
for path in sys.argv[1:]:
    try:
        load(path)
    except ValueError as error:
        print("refused")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit that Linux keeps")
def test_a_file_that_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    contents = [
        (2**40).to_bytes(8, "little") + b"{}",
        (99_999_999).to_bytes(8, "little") + b"{}",
        header(described("F32", f"[{2**38}]", 2**40)),
        header(described("F32", f"[{2**38}]", 4)),
        header(described("U8", f"[{2**63}, 2]", 0), b""),
    ]
    paths = [tmp_path / str(i) for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    with open(paths[0], "r+b") as file:
        file.truncate(2**33)  # nothing but a hole
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "backends")))}
    command = [sys.executable, "-c", LIAR, *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "refused\n" * len(contents), done.stderr


def test_a_link_is_followed(tmp_path: Path) -> None:
    save(tmp_path / "file", {"x": np.ones(2)})
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert_array_equal(load(tmp_path / "link")[0]["x"], [1, 1])


@pytest.mark.skipif(os.name != "posix", reason="pipes and links of POSIX")
def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")
    for name in ("nothing", "broken", "circle", "nothing/file"):
        with pytest.raises(FileNotFoundError, match="load: there is no file"):
            load(tmp_path / name)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=r"load: .* is a pipe or a device, not a file"):
            load(path)
    with pytest.raises(IsADirectoryError, match=r"load: .* is a folder, not a file"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "no folder" / "file", {})


def test_the_formats_own_name_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save(path, {"x": np.ones(2)})
    with pytest.raises(TypeError, match="__metadata__"):
        save(path, {"__metadata__": np.ones(1)})
    assert load(path)[0]["x"].tolist() == [1, 1]


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_a_file_for_one_users_eyes_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save(path, {"x": np.ones(2)})
    path.chmod(0o600)
    save(path, {"x": np.zeros(2)})
    assert path.stat().st_mode & 0o777 == 0o600


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may read anything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_a_file_that_may_not_be_read_is_there(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for path in (tmp_path / "file", hidden / "file"):
        save(path, {"x": np.ones(2)})
        path.chmod(0 if path.parent is tmp_path else 0o644)
    hidden.chmod(0)
    for path in (tmp_path / "file", hidden / "file"):
        with as_nobody(), pytest.raises(PermissionError, match=r"load: .*file' may not be read"):
            load(path)
    hidden.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
@pytest.mark.parametrize("before", [None, 0o600, 0o640, 0o664])
def test_what_is_being_written_has_the_mode_of_the_file_from_the_start(
    before: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "file", list[int]()
    umask = os.umask(0o027)
    try:
        if before is not None:
            save(path, {"x": np.ones(2)})
            path.chmod(before)
        fsync = os.fsync
        monkeypatch.setattr(
            os, "fsync", lambda f: (seen.append(stat.S_IMODE(os.fstat(f).st_mode)), fsync(f))
        )
        save(path, {"x": np.zeros(2)})
    finally:
        os.umask(umask)
    expected = 0o640 if before is None else before
    assert seen[0] == expected == stat.S_IMODE(path.stat().st_mode)
    assert len(seen) == 2  # the second is the folder, after the renaming


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        save(tmp_path / name, {"x": np.ones(2)})
        save(tmp_path / name, {"x": np.zeros(2)})
        assert load(tmp_path / name)[0]["x"].tolist() == [0, 0]


HELD = """
import os, sys
from tinygrad_rnn import serialization
replace = os.replace
def hold(*paths):
    print("ready", flush=True)
    sys.stdin.readline()
    replace(*paths)
os.replace = hold
serialization.save(sys.argv[1], {"x": __import__("numpy").ones(3)})
"""


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_the_next_save_removes_what_nobody_writes_any_more(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "backends")))}

    def writer(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HELD, str(tmp_path / name)]
        pipe = subprocess.PIPE
        started = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe)
        assert started.stdout is not None and started.stdout.readline() == b"ready\n"
        return started

    with writer("killed") as killed, writer("alive") as alive:
        assert len(os.listdir(tmp_path)) == 2
        killed.kill()
        killed.wait()
        foreign = tmp_path / ".tinygrad_rnn-folder"
        foreign.mkdir()
        os.mkfifo(tmp_path / ".tinygrad_rnn-pipe")
        save(tmp_path / "file", {"x": np.ones(2)})
        left = {*os.listdir(tmp_path)} - {"file", foreign.name, ".tinygrad_rnn-pipe"}
        assert len(left) == 1  # of the one that lives, which goes on undisturbed
        alive.communicate(b"go\n", timeout=60)
    assert alive.returncode == 0
    assert load(tmp_path / "alive")[0]["x"].tolist() == [1, 1, 1]
    assert {*os.listdir(tmp_path)} == {"file", "alive", foreign.name, ".tinygrad_rnn-pipe"}


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_many_may_write_into_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(save, tmp_path / str(i % 3), {"x": np.ones(9)}) for i in range(200)]
    assert [each.result() for each in done] == [None] * 200
    assert {*os.listdir(tmp_path)} == {"0", "1", "2"}


def test_a_part_alone_is_restored_by_what_the_error_says(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    save_checkpoint(tmp_path / "file", model=model, optimizer=optim.SGD(model.parameters()))
    checkpoint = load_checkpoint(tmp_path / "file")
    with pytest.raises(ValueError, match=r"model.load_state_dict\(checkpoint.parts\['model'\]\)"):
        checkpoint.restore(model=model)
    model.load_state_dict(checkpoint.parts["model"])
