"""onnxruntime as the oracle: a model exported, run there on several sizes, and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn import onnx as tg_onnx
from tinygrad_rnn.structure import flatten, map_leaves


def run(model: Any, inputs: Sequence[Any]) -> list[np.ndarray]:
    """What onnxruntime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [x.name for x in session.get_inputs()]
    arrays = [x.numpy() if isinstance(x, tg.Tensor) else np.asarray(x) for x in inputs]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def agree(
    function: Callable[..., Any],
    *calls: Sequence[Any],
    rtol: float = 1e-5,
    **options: Any,
) -> Counter[str]:
    """Export by the first call's arguments, compare all; returns how often there is which node.

    A call is a list of arguments; a dict at its end holds those given by name.
    """
    if isinstance(function, nn.Module):
        function.eval()
    split = [
        (list(call[:-1]), call[-1]) if isinstance(call[-1], dict) else (list(call), {})
        for call in calls
    ]
    model = tg_onnx.export(function, *split[0][0], **split[0][1], **options)
    for arguments, named in split:
        leaves = flatten((arguments, named))[0]
        found = run(model, [x for x in leaves if hasattr(x, "dtype")])
        with tg.no_grad():
            given = map_leaves(lambda x: tg.tensor(x) if hasattr(x, "dtype") else x, arguments)
            expected, _ = flatten(function(*given, **named))
        assert len(found) == len(expected)
        for theirs, ours in zip(found, expected, strict=True):
            assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape)
            np.testing.assert_allclose(theirs, ours.numpy(), rtol=rtol, atol=rtol)
    return Counter(node.op_type for node in model.graph.node)
