"""Convolutional layers, the ConvLSTM against its equations, and modules applied to every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from onnx_oracle import agree
from tinygrad_rnn import nn
from tinygrad_rnn.testing import check_planned

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: str = "float32") -> Array:
    return RNG.normal(size=shape).astype(dtype)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def convolution(x: Array, w: Array) -> Array:
    """Of odd windows, padded so that the size stays, as the sum reads."""
    half = w.shape[-1] // 2
    height, width = x.shape[-2:]
    x = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    out = np.zeros((x.shape[0], w.shape[0], height, width))
    for i, j in np.ndindex(*w.shape[2:]):
        out += np.einsum("bchw,oc->bohw", x[:, :, i : i + height, j : j + width], w[:, :, i, j])
    return out


@pytest.mark.parametrize("peephole", [True, False])
def test_a_conv_lstm_is_equation_3(peephole: bool, backend: Any) -> None:
    cell = nn.ConvLSTMCell(2, 3, 3, (4, 5), peephole=peephole)
    weights = {name: normal(*p.shape, dtype="float64") for name, p in cell.named_parameters()}
    for name, value in weights.items():
        setattr(cell, name, nn.Parameter(tg.tensor(value, backend=backend.name)))
    c, h = normal(2, 3, 4, 5, dtype="float64"), normal(2, 3, 4, 5, dtype="float64")
    x = normal(2, 2, 4, 5, dtype="float64")
    given = [tg.tensor(a, backend=backend.name) for a in (x, h, c)]
    output, (h_next, c_next) = cell(given[0], (given[1], given[2]))

    gates = convolution(x, weights["weight_ih"]) + convolution(h, weights["weight_hh"])
    i, f, g, o = np.split(gates + weights["bias"][:, None, None], 4, axis=1)
    see = {k: weights.get(f"weight_c{k}", 0.0) for k in "ifo"}
    c = sigmoid(f + see["f"] * c) * c + sigmoid(i + see["i"] * c) * np.tanh(g)
    h = sigmoid(o + see["o"] * c) * np.tanh(c)
    assert_allclose(c_next.numpy(), c, rtol=1e-11)
    assert_allclose(h_next.numpy(), h, rtol=1e-11)
    assert_array_equal(output.numpy(), h_next.numpy())


def test_a_conv_lstm_is_planned_with_what_its_input_needs_ahead_of_the_loop() -> None:
    cell = nn.ConvLSTMCell(2, 3, 3, (4, 5))
    for p in cell.parameters():
        p.data = p.data + 0.3 * normal(*p.shape)
    xs = tg.tensor(normal(6, 4, 2, 4, 5))
    check_planned(cell, xs)
    check_planned(cell, xs, lengths=[6, 0, 3, 1])
    report = tg.plan(cell, xs).report()
    ahead, _, loop = report.partition("carried: state 0")
    assert "Rows of the batch are independent" in report
    assert "(T*B, 4, 5, 2) convolved with (3, 3, 2, 12)" in ahead
    assert "(B, 4, 5, 3) convolved with (3, 3, 3, 12)" in loop
    assert "(T*B, 4, 5, 3) convolved with (T*B, 4, 5, 12)" in loop  # the kernel's, after the loop


def test_convolutions_inside_a_cell_of_ones_own_are_planned() -> None:
    """A strided convolution, pooling and groups in a step, with the state in the other hand."""
    convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
    readout = nn.Linear(4 * 2 * 3, 5)
    line = nn.Conv1d(1, 1, 3, padding="same", dilation=2)

    def cell(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        seen = tg.max_pool2d(tg.relu(convolution(x)), 2, 1)
        around = tg.squeeze(line(tg.expand_dims(h, axis=1)), axis=1)
        h = tg.tanh(readout(tg.reshape(seen, (x.shape[0], -1))) + around)
        return tg.avg_pool1d(h, 2), h

    check_planned(cell, tg.tensor(normal(5, 3, 2, 6, 8)), tg.tensor(normal(3, 5)))


def test_kernels_are_summed_over_time_whatever_they_meet() -> None:
    """One picture for all steps, no batch at all, and kernels that every step has another of."""
    kernel = tg.tensor(normal(2, 1, 3, 3), requires_grad=True)
    picture = tg.tensor(normal(3, 1, 4, 5), requires_grad=True)

    def same(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = tg.tanh(h * tg.conv2d(picture, kernel, padding=1) + x)
        return h, h

    check_planned(same, tg.tensor(normal(5, 3, 2, 4, 5)), tg.tensor(normal(3, 2, 4, 5)))

    def alone(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        seen = tg.conv1d(tg.expand_dims(x, axis=0), kernel[:, :, 0], padding="same")
        h = tg.tanh(h + tg.conv1d(h, kernel[:, 0, :2], padding=1) * seen)
        return h, h

    check_planned(alone, tg.tensor(normal(5, 6)), tg.tensor(normal(2, 6)))

    def moving(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = tg.tanh(tg.conv2d(h, kernel[:1] * tg.mean(x), padding=1) + x)
        return h, h

    check_planned(moving, tg.tensor(normal(5, 3, 1, 4, 5)), tg.tensor(normal(3, 1, 4, 5)))


def test_layers_have_the_weights_of_pytorch_and_are_drawn_as_matrices() -> None:
    layer = nn.Conv2d(4, 6, (3, 5), groups=2)
    assert layer.weight.shape == (6, 2, 3, 5) and layer.bias.shape == (6,)
    limit = np.sqrt(6 / (2 * 15 + 6))
    assert 0.9 * limit < np.abs(layer.weight.numpy()).max() <= limit
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert repr(layer) == "Conv2d(4, 6, kernel_size=(3, 5), groups=2, bias=True)"
    line = nn.Conv1d(4, 6, 3, 2, "valid", bias=False)
    assert repr(line) == "Conv1d(4, 6, kernel_size=(3,), stride=(2,), padding='valid', bias=False)"
    assert line(tg.tensor(normal(4, 9))).shape == (6, 4)


def test_steps_of_a_batch_are_a_larger_batch() -> None:
    reader = nn.Sequential(nn.Conv2d(1, 3, 3), tg.relu, nn.MaxPool2d(2), nn.AvgPool2d(2))
    x = tg.tensor(normal(4, 2, 1, 10, 10))
    found = nn.TimeDistributed(reader)(x)
    assert found.shape == (4, 2, 3, 2, 2)
    for t in range(4):
        assert_allclose(found[t].numpy(), reader(x[t]).numpy(), rtol=1e-5, atol=1e-6)
    model = nn.TimeDistributed(nn.Linear(3, 2))
    assert list(model.state_dict()) == ["module.weight", "module.bias"]
    with pytest.raises(ValueError, match="recurrent layers take"):
        nn.TimeDistributed(nn.LSTM(3, 2))(tg.tensor(normal(4, 2, 5, 3)))
    with pytest.raises(TypeError, match="not a int"):
        nn.TimeDistributed(3)
    with pytest.raises(ValueError, match="x is"):
        model(tg.tensor(normal(3)))


def test_convolutional_models_are_exported() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        tg.relu,
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, (2, 3), stride=2, dilation=(1, 2)),
        nn.AvgPool2d(2, 1),
    )
    agree(model, [normal(2, 2, 9, 17)], dynamic=[()])
    agree(
        lambda x: tg.conv1d(x, tg.ones((2, 1, 3)), padding="same"),
        [normal(3, 1, 7)],
        [normal(2, 1, 7)],
        dynamic=[("batch", None, None)],
    )
    agree(
        lambda x: tg.conv2d(x, tg.ones((2, 3, 2, 1)), stride=(1, 2), padding=(0, 1)),
        [normal(2, 4, 3, 5, 6)],
        [normal(3, 2, 3, 5, 6)],
        dynamic=[("time", "batch", None, None, None)],
    )
    agree(lambda x: tg.conv1d(x, tg.ones((2, 3, 2))), [normal(3, 5)], dynamic=[()])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups=2 has to divide in_channels 3"),
        (lambda: nn.Conv2d(3, 4, 3, padding="SAME"), "Conv2d: padding is numbers, 'same' or"),
        (lambda: nn.Conv1d(3, 4, 3, stride=2, padding="same"), "Conv1d: padding='same' is for"),
        (lambda: nn.MaxPool2d(2, padding=2), r"MaxPool2d: padding \(2, 2\) is more than half"),
        (lambda: nn.MaxPool1d(2, dilation=0), "MaxPool1d: dilation is an integer"),
        (lambda: nn.AvgPool2d(2, padding=-1), "AvgPool2d: padding is an integer or 2"),
        (lambda: nn.Conv2d(3, 4, 0), "Conv2d: kernel_size is an integer or 2"),
        (lambda: nn.Conv1d(0, 4, 1), "in_channels is an integer of at least 1"),
        (
            lambda: nn.ConvLSTMCell(1, 2, 3, 8)(
                *[tg.ones((2, 1, 8, 9)), (tg.ones((2, 2, 8, 8)),) * 2]
            ),
            "x \\(B, 1, 8, 8\\)",
        ),
    ],
)
def test_bad_sizes_are_named(make: Any, said: str) -> None:
    with pytest.raises((ValueError, AttributeError), match=said):
        make()


def test_a_state_that_is_no_pair_is_named() -> None:
    cell = nn.ConvLSTMCell(1, 2, 3, (8, 8))
    with pytest.raises(TypeError, match=r"ConvLSTMCell: the state is a tuple \(h, c\)"):
        cell(tg.ones((2, 1, 8, 8)), tg.ones((2, 2, 8, 8)))


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 4, 8, 8)])
def test_clips_without_rows_or_channels_are_named(shape: tuple[int, ...]) -> None:
    cell = nn.ConvLSTMCell(1, 2, 3, (8, 8))
    said = rf"frames are \(T, B, 1, 8, 8\), .*{shape[1]}, 8, 8\) to read; .*x\[:, None\]"
    for run in (lambda x: tg.unroll(cell, x), nn.Recurrent(cell)):
        with pytest.raises(ValueError, match=said):
            run(tg.ones(shape))


def test_frames_of_bytes_are_named() -> None:
    frames = np.zeros((5, 4, 1, 8, 8), np.uint8)
    with pytest.raises(TypeError, match=r"ConvLSTMCell: x is uint8; .*astype\('float32'\)"):
        tg.unroll(nn.ConvLSTMCell(1, 2, 3, (8, 8)), frames)


def test_a_state_can_be_asked_for_by_the_rows_alone() -> None:
    cell = nn.ConvLSTMCell(1, 2, 3, (4, 5))
    for rows in ((3,), (3, 1, 4)):
        h, c = cell.initial_state(rows, tg.float32, "numpy")
        assert h.shape == c.shape == (3, 2, 4, 5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_both_directions_of_pictures_are_joined_along_their_channels(wrapped: bool) -> None:
    cells = [nn.ConvLSTMCell(1, channels, 3, (4, 5)) for channels in (2, 3)]
    both: list[Any] = [nn.StackedCell(nn.Zoneout(c, 0.0)) for c in cells] if wrapped else cells
    x = tg.tensor(normal(3, 2, 1, 4, 5))
    outputs, _ = nn.Bidirectional(*both)(x)
    assert outputs.shape == (3, 2, 5, 4, 5)
    ahead, back = tg.unroll(cells[0], x)[0], tg.unroll(cells[1], x, reverse=True)[0]
    expected = np.concatenate([ahead.numpy(), back.numpy()], axis=2)
    assert_allclose(outputs.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_error_inside_says_what_the_steps_were_made_to() -> None:
    with pytest.raises(ValueError, match="channels") as caught:
        nn.TimeDistributed(nn.Conv2d(1, 2, 3))(tg.ones((5, 4, 8, 8)))
    assert caught.value.__notes__ == [
        "TimeDistributed: x (5, 4, 8, 8) is given to its module as (20, 8, 8)"
    ]
