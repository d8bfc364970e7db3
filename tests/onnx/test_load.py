"""Models of ONNX that are read compute what the standard, onnxruntime and PyTorch say.

And a file may hold anything: what cannot be read is an error that says what, soon and without
taking more memory than the file is long.
"""

from __future__ import annotations

import copy
import pickle
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx
import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from onnx import TensorProto, helper
from onnx_oracle import run
from tinygrad_rnn import nn
from tinygrad_rnn.onnx import ImportedModelError, export, load
from tinygrad_rnn.serialization import load as load_arrays
from tinygrad_rnn.structure import flatten
from tinygrad_rnn.testing import check_grads

FIXTURES = Path(__file__).parents[1] / "fixtures"
RNG = np.random.default_rng(0)
I, H = 4, 5  # noqa: E741

RECURRENT = [
    f"{kind}_{name}"
    for kind, more in {"gru": "seq_length", "lstm": "with_peepholes", "simple_rnn": ""}.items()
    for name in ("defaults", "with_initial_bias", "batchwise", "reverse", "bidirectional", more)
    if name
] + ["rnn_seq_length"]
SCANS_AND_LOOPS = ["scan_sum", "scan9_sum", "scan9_multi_state", "scan9_scalar"]
SCANS_AND_LOOPS += ["loop11", "loop13_seq", "loop16_seq_none"]


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    """The test cases of onnx itself, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some overflow when they are made
        return {case.name.removeprefix("test_"): case for case in collect_testcases(None)}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def saved(model: Any, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def host(x: Any) -> np.ndarray:
    return x.numpy() if isinstance(x, tg.Tensor) else np.asarray(x)


def model_of(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: list[str],
    opset: int = 18,
    initializer: Any = (),
) -> Any:
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in inputs.items()
    ]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "graph", given, made, initializer=[*initializer])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def test_these_are_all_cases_of_recurrent_layers(official: dict[str, Any]) -> None:
    kinds = {"LSTM", "GRU", "RNN"}
    found = [n for n, c in official.items() if {x.op_type for x in c.model.graph.node} & kinds]
    assert sorted(found) == sorted(RECURRENT)
    assert len(RECURRENT) == 18


@pytest.mark.parametrize("name", [*RECURRENT, *SCANS_AND_LOOPS])
def test_official_cases(name: str, official: dict[str, Any], tmp_path: Path) -> None:
    case = official[name]
    module = load(saved(case.model, tmp_path))
    for inputs, expected in case.data_sets:
        found = module(*inputs)
        if len(module.outputs) == 1:
            found = (found,)
        for ours, theirs in zip(found, expected, strict=True):
            pairs = zip(ours, theirs, strict=True) if isinstance(theirs, list) else [(ours, theirs)]
            for a, b in pairs:
                assert (host(a).shape, host(a).dtype) == (np.shape(b), np.asarray(b).dtype)
                np.testing.assert_allclose(host(a), b, rtol=1e-5, atol=1e-6)


# What they do not cover, beside onnxruntime.

KINDS = {"LSTM": 4, "GRU": 3, "RNN": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reverse": {"direction": "reverse"},
    "both": {"direction": "bidirectional"},
    "clip": {"clip": 0.3},
}
OWN: list[tuple[str, str, dict[str, Any]]] = [
    ("GRU", "after", {"linear_before_reset": 1}),
    ("GRU", "after, both, clip", {"linear_before_reset": 1, "direction": "bidirectional"}),
    ("LSTM", "coupled", {"input_forget": 1}),
    (
        "LSTM",
        "activations",
        {
            "activations": ["HardSigmoid", "ScaledTanh", "LeakyRelu"],
            "activation_alpha": [0.3, 1.5, 0.1],
            "activation_beta": [0.4, 0.7],
        },
    ),
    ("RNN", "elu", {"activations": ["Elu"], "activation_alpha": [0.7]}),
    ("GRU", "softsign", {"activations": ["Sigmoid", "Softsign"]}),
]
OWN += [(kind, name, options) for kind in KINDS for name, options in VARIANTS.items()]


@pytest.mark.parametrize(
    ("kind", "name", "options"), OWN, ids=lambda x: x if type(x) is str else ""
)
@pytest.mark.parametrize("ragged", [False, True])
def test_recurrent_layers_as_onnxruntime(
    kind: str, name: str, options: dict[str, Any], ragged: bool, tmp_path: Path
) -> None:
    gates, count = KINDS[kind], 2 if options.get("direction") == "bidirectional" else 1
    arrays = {
        "w": normal(count, gates * H, I),
        "r": normal(count, gates * H, H),
        "b": normal(count, 2 * gates * H),
        "h": normal(count, 3, H),
        "c": normal(count, 3, H),
        "p": normal(count, 3 * H),
    }
    inputs = {"x": normal(7, 3, I), "n": np.array([7, 2, 4] if ragged else [7] * 3, dtype=np.int32)}
    names = ["x", "w", "r", "b", "n", "h", *(["c", "p"] if kind == "LSTM" else [])]
    outputs = ["y", "y_h", "y_c"][: 3 if kind == "LSTM" else 2]
    node = helper.make_node(kind, names, outputs, hidden_size=H, **options)
    weights = [onnx.numpy_helper.from_array(arrays[n], n) for n in names if n in arrays]
    model = model_of([node], inputs, outputs, initializer=weights)
    module = load(saved(model, tmp_path))
    for ours, theirs in zip(module(**inputs), run(model, inputs.values()), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)


def test_a_row_of_no_steps_keeps_its_state(tmp_path: Path) -> None:
    layer = nn.GRU(I, H)
    lengths = np.array([0, 2])
    module = load(saved(export(layer, normal(2, 2, I), normal(1, 2, H), lengths=lengths), tmp_path))
    x, h = normal(2, 2, I), normal(1, 2, H)
    _, final = module(x, h, lengths)
    np.testing.assert_array_equal(final.numpy()[:, 0], h[:, 0])


# There and back.


def test_from_pytorch_and_its_gradient() -> None:
    module = load(FIXTURES / "torch.onnx")
    arrays, _ = load_arrays(FIXTURES / "torch_onnx.safetensors")
    for name in "ab":
        y, final = module(arrays[f"{name}.tokens"], h=arrays[f"{name}.h"])
        np.testing.assert_allclose(y.numpy(), arrays[f"{name}.y"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(final.numpy(), arrays[f"{name}.h_n"], rtol=1e-5, atol=1e-6)
    tg.sum(y[..., 0]).backward()
    found = [p.grad for p in module.parameters() if p.shape == (2, 4 * H, H)]
    assert found[0] is not None
    gates = found[0].numpy()[0].reshape(4, H, H)[[0, 2, 3, 1]]  # i o f c is i f c o there
    np.testing.assert_allclose(gates.reshape(4 * H, H), arrays["b.gradient"], rtol=1e-4, atol=1e-6)
    assert all(p.grad is not None for p in module.parameters())


ROUND_TRIPS = {
    "LSTM": lambda: nn.LSTM(I, H, num_layers=2, bidirectional=True),
    "projected": lambda: nn.LSTM(I, H, proj_size=2),
    "GRU": lambda: nn.GRU(I, H, reset_after=False),
    "peepholes": lambda: nn.Recurrent(nn.PeepholeLSTMCell(I, H), reverse=True),
    "a Scan": lambda: nn.Recurrent(nn.LayerNormLSTMCell(I, H), reverse=True),
    "another": lambda: nn.Sequential(nn.RNN(I, H), nn.Linear(H, 3)),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_is_exported_is_read_again(name: str, tmp_path: Path) -> None:
    tg.manual_seed(0)
    layer = ROUND_TRIPS[name]()
    module = load(saved(export(layer, normal(7, 3, I)), tmp_path))
    for x in (normal(5, 2, I), normal(1, 1, I)):
        ours = flatten(layer(x))[0]
        again = module(x)
        again = again if isinstance(again, tuple) else (again,)
        for a, b in zip(again, ours, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_losses_and_attention_are_read_again(tmp_path: Path) -> None:
    def model(q: tg.Tensor, n: tg.Tensor) -> Any:
        found = tg.scaled_dot_product_attention(q, q, q, is_causal=True)
        return found, tg.cross_entropy(tg.moveaxis(found, -1, 1), n), q[n[0, 0] % 2, ::-1, 1:]

    module = load(saved(export(model, normal(6, 5, I), RNG.integers(0, I, (6, 5))), tmp_path))
    q, n = normal(3, 4, I), RNG.integers(0, I, (3, 4))
    for ours, again in zip(model(tg.tensor(q), tg.tensor(n)), module(q, n), strict=True):
        np.testing.assert_allclose(again.numpy(), ours.numpy(), rtol=1e-5, atol=1e-6)


def test_it_is_a_module(tmp_path: Path, backend: backends.Backend) -> None:
    with tg.use_backend("numpy"):
        layer = nn.GRU(I, 2)
        module = load(saved(export(layer, normal(3, 2, I)), tmp_path))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    twin.load_state_dict(module.state_dict())
    twin.to(backend.name)
    x = normal(4, 2, I)
    y, _ = twin(tg.tensor(x, backend=backend.name))
    assert y.backend == backend.name
    with tg.use_backend("numpy"):
        np.testing.assert_allclose(y.numpy(), layer(x)[0].numpy(), rtol=1e-5, atol=1e-6)
    assert "x -> output_0, output_1; " in repr(module)
    assert module.inputs == ["x"]


def test_gradients_of_a_loaded_layer(tmp_path: Path) -> None:
    tg.set_default_dtype("float64")
    try:
        layer = nn.LSTM(2, 2)
    finally:
        tg.set_default_dtype("float32")
    model = export(layer, RNG.standard_normal((3, 2, 2)))
    module = load(saved(model, tmp_path))
    names, weights = zip(*module.named_parameters(), strict=True)

    def loss(x: tg.Tensor, *given: tg.Tensor) -> tg.Tensor:
        weights = dict(zip(names, given, strict=True))
        y, h, c = nn.functional_call(module, weights, x)
        return tg.sum(y * y) + tg.sum(h) + tg.sum(c * c)

    check_grads(loss, [tg.tensor(RNG.standard_normal((3, 2, 2))), *[w.detach() for w in weights]])


def test_inputs_by_place_and_by_name(tmp_path: Path) -> None:
    module = load(saved(export(lambda a, b: a - b, normal(2), normal(2)), tmp_path))
    assert module(normal(2), b=normal(2)).shape == (2,)
    for given, named in (
        ([normal(2)], {}),
        ([normal(2)] * 3, {}),
        ([normal(2)], {"a": normal(2)}),
        ([normal(2)], {"c": normal(2)}),
    ):
        with pytest.raises(TypeError, match="OnnxModule: the inputs"):
            module(*given, **named)
    with pytest.raises(ValueError, match="shape"):
        module(normal(2), normal(3))


# Files that are not what they should be.


@pytest.fixture(scope="module")
def intact() -> bytes:
    return export(nn.LSTM(I, H), normal(3, 2, I)).SerializeToString()


def test_a_file_that_was_cut_off(intact: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for end in [0, 1, 2, *range(3, len(intact), 97)]:
        path.write_bytes(intact[:end])
        with pytest.raises(ImportedModelError, match="load: "):
            load(path)


def test_damaged_files_are_errors_and_nothing_more(intact: bytes, tmp_path: Path) -> None:
    """Bytes changed at random: read, refused, or an error of the node that runs."""
    path, x = tmp_path / "model.onnx", normal(3, 2, I)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for _ in range(150):
            damaged = bytearray(intact)
            for place in rng.integers(0, len(intact), 3):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(damaged)
            try:
                module = load(path)
            except ImportedModelError:
                continue
            try:
                with np.errstate(all="ignore"):
                    module(*[x][: len(module.inputs)])
            except Exception as error:
                assert isinstance(error, (ValueError, TypeError, IndexError, KeyError)), error
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 50e6


def tensor_of(name: str = "w", **changes: Any) -> Any:
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])
    for field, value in changes.items():
        if field == "dims":
            tensor.dims[:] = value
        elif field == "external":
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", value
        else:
            setattr(tensor, field, value)
    return tensor


ADD = [helper.make_node("Add", ["x", "w"], ["y"])]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dims": [2**40, 2**20]}, "'w' should hold"),
        ({"dims": [-1, -2]}, "'w' should hold"),
        ({"dims": [3]}, r"\(3,\) numbers, and 2 are there"),
        ({"external": "/etc/passwd"}, "are in another file, which is not opened"),
        ({"data_type": TensorProto.STRING}, "of type 8, which is not read"),
        ({"data_type": TensorProto.BFLOAT16}, "of type 16, which is not read"),
        ({"data_type": 99}, "of type 99, which is not read"),
        ({"raw_data": b"123456789"}, "'w' should hold"),
    ],
)
def test_arrays_that_are_not_in_the_file(changes: Any, said: str, tmp_path: Path) -> None:
    model = model_of(ADD, {"x": normal(2)}, ["y"], initializer=[tensor_of(**changes)])
    with pytest.raises(ImportedModelError, match=said):
        load(saved(model, tmp_path))


def ints(name: str, *numbers: int, shape: Any = None) -> Any:
    dims = [len(numbers)] if shape is None else shape
    return helper.make_tensor(name, TensorProto.INT64, dims, numbers)


BOMBS: dict[str, tuple[list[Any], list[Any]]] = {
    "ConstantOfShape": ([helper.make_node("ConstantOfShape", ["n"], ["y"])], [ints("n", 2**40)]),
    "Expand": ([helper.make_node("Expand", ["x", "n"], ["y"])], [ints("n", 2**40, 2)]),
    "Tile": ([helper.make_node("Tile", ["x", "n"], ["y"])], [ints("n", 2**50)]),
    "Pad": ([helper.make_node("Pad", ["x", "n"], ["y"])], [ints("n", 2**50, 0)]),
    "Range": (
        [helper.make_node("Range", ["a", "n", "b"], ["y"])],
        [ints("n", 2**60, shape=[]), ints("a", 0, shape=[]), ints("b", 1, shape=[])],
    ),
    "Concat": (
        [helper.make_node("Concat", [f"x{i}"] * 2, [f"x{i + 1}"], axis=0) for i in range(40)],
        [],
    ),
    "MatMul": (
        [
            helper.make_node("Expand", ["x", "n"], ["wide"]),
            helper.make_node("Unsqueeze", ["wide", "one"], ["column"]),
            helper.make_node("Unsqueeze", ["wide", "zero"], ["row"]),
            helper.make_node("MatMul", ["column", "row"], ["y"]),
        ],
        [ints("n", 2**20), ints("one", 1), ints("zero", 0)],
    ),
    "Add": (
        [
            helper.make_node("Expand", ["x", "n"], ["wide"]),
            helper.make_node("Unsqueeze", ["wide", "one"], ["column"]),
            helper.make_node("Add", ["column", "wide"], ["y"]),
        ],
        [ints("n", 2**20), ints("one", 1)],
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_would_take_too_much_memory_is_refused(kind: str, tmp_path: Path) -> None:
    nodes, arrays = BOMBS[kind]
    x = {"x0" if kind == "Concat" else "x": normal(1)}
    output = nodes[-1].output[0]
    module = load(
        saved(model_of(nodes, x, [output], initializer=arrays), tmp_path), max_elements=2**21
    )
    tracemalloc.start()
    try:
        with pytest.raises(ImportedModelError, match=f"{kind}: an array of shape .*max_elements"):
            module(*x.values())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100e6


def loop_of(trips: int) -> Any:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["on_still"]),
            helper.make_node("Identity", ["s"], ["t"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on_still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, None),
        ],
    )
    names = ["n" if trips else "", "", "x"]
    node = helper.make_node("Loop", names, ["y"], body=body)
    return model_of([node], {"x": normal(1)}, ["y"], initializer=[ints("n", trips, shape=[])])


def test_a_loop_without_end_ends(tmp_path: Path) -> None:
    with pytest.raises(ImportedModelError, match=r"4,611,686,018,427,387,904 rounds are more than"):
        load(saved(loop_of(2**62), tmp_path))(normal(1))
    with pytest.raises(ImportedModelError, match="more than 50 rounds"):
        load(saved(loop_of(0), tmp_path), max_steps=50)(normal(1))


def nested(depth: int) -> list[Any]:
    nodes = [helper.make_node("Identity", ["x"], ["z0"])]
    for i in range(depth):
        output = [helper.make_tensor_value_info(f"z{i}", TensorProto.FLOAT, None)]
        branch = helper.make_graph(nodes, "branch", [], output)
        nodes = [
            helper.make_node("If", ["c"], [f"z{i + 1}"], then_branch=branch, else_branch=branch)
        ]
        if i > 3:
            nodes[0].attribute.pop()  # one branch will do: two would double it each time
    return nodes


CUSTOM = helper.make_node("Trick", ["x"], ["y"], domain="com.example")
BRANCH = helper.make_graph(
    [helper.make_node("StringNormalizer", ["x"], ["b"])],
    "branch",
    [],
    [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
)
BAD: dict[str, tuple[Any, str]] = {
    "a newer opset": (model_of(ADD, {"x": normal(2)}, ["y"], opset=99), "opset 99, and 7 to 28"),
    "an older opset": (model_of(ADD, {"x": normal(2)}, ["y"], opset=3), "opset 3, and 7 to 28"),
    "no operation of ours": (
        model_of(
            [
                CUSTOM,
                helper.make_node("NonMaxSuppression", ["x", "x"], ["z"]),
                helper.make_node("If", ["x"], ["q"], then_branch=BRANCH, else_branch=BRANCH),
            ],
            {"x": normal(2)},
            ["y"],
        ),
        "not known here: NonMaxSuppression, StringNormalizer, com.example.Trick$",
    ),
    "nothing makes it": (model_of(ADD, {"x": normal(2)}, ["y"]), "reads 'w', which nothing"),
    "no output": (
        model_of([helper.make_node("Abs", ["x"], ["z"])], {"x": normal(2)}, ["y"]),
        "nothing makes the output 'y'",
    ),
    "too deep": (model_of(nested(20), {"x": normal(2)}, ["z20"]), "graphs within graphs|cut off"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_says_why(name: str, tmp_path: Path) -> None:
    model, said = BAD[name]
    with pytest.raises(ImportedModelError, match=said):
        load(saved(model, tmp_path))


def test_functions_and_sparse_arrays_are_refused(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Abs", ["x"], ["y"])], {"x": normal(2)}, ["y"])
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [], opset))
    with pytest.raises(ImportedModelError, match="defines functions"):
        load(saved(model, tmp_path))
    del model.functions[:]
    model.graph.sparse_initializer.add()
    with pytest.raises(ImportedModelError, match="sparse"):
        load(saved(model, tmp_path))


def test_errors_say_which_node(tmp_path: Path) -> None:
    node = helper.make_node("LSTM", ["x", "w", "w"], ["y"], name="first", direction="sideways")
    weights = onnx.numpy_helper.from_array(normal(1, 4, 1), "w")
    module = load(
        saved(model_of([node], {"x": normal(2, 1, 1)}, ["y"], initializer=[weights]), tmp_path)
    )
    with pytest.raises(
        ImportedModelError, match="LSTM 'first': the direction 'sideways'"
    ) as caught:
        module(normal(2, 1, 1))
    assert "in LSTM 'first' of a model of ONNX" in caught.value.__notes__[0]


def test_no_file_and_no_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="load: there is no file"):
        load(tmp_path / "nothing.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"load: pip install 'tinygrad_rnn\[onnx\]'"):
        load(FIXTURES / "torch.onnx")
