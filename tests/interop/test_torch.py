"""Every kind of layer against PyTorch itself in float64, forward and gradient, and every way to be refused."""

import copy
import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convmat import Conv1d, Conv2d, Conv3d, ConvTranspose2d, Downsample, Pad, check_adjoint
from convmat.interop.torch import TorchOperator, from_torch, to_torch
from convmat.operators import Chain, Diagonal, Rearrange, Separable
from tests.strategies import tries
from tests.trees import Trees

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def close(got, want, rtol=1e-12):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=rtol * max(1.0, np.abs(want).max(initial=0)))


def randomise(module):
    """Parameters and running statistics that no default hides, in float64."""
    module.double()
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.rand_like(tensor) + 0.5 if name.endswith("running_var") else torch.randn_like(tensor)
                )
    return module


def agree(module, shape, input_size=None, *, vjp=True):
    """The operator and offset of a module, compared with the module: forward, vjp, matrix, dot test, pickle."""
    A, b = from_torch(module, shape if input_size is None else input_size)
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    y = module(x)
    assert A.input_shape == tuple(shape)
    assert A.output_shape == tuple(y.shape[1:])
    assert A.dtype == np.float64

    offset = 0 if b is None else b.reshape(A.output_shape)
    close(A.apply(x.detach().numpy()) + offset, y.detach())
    flat = np.array([A @ image.ravel() + (0 if b is None else b) for image in x.detach().numpy()])
    close(flat, y.detach().reshape(2, -1))
    if vjp:
        cotangent = torch.randn_like(y)
        y.backward(cotangent)
        close(A.T.apply(cotangent.numpy()), x.grad)
        close(np.array([A.rmatvec(image.ravel()) for image in cotangent.numpy()]), x.grad.reshape(2, -1))

    check_adjoint(A, rng=0)
    close(A.tosparse().toarray(), A @ np.eye(A.shape[1]))
    close(A.T.tosparse().toarray(), A.tosparse().toarray().T)
    restored = pickle.loads(pickle.dumps(A))
    assert type(restored) is type(A)
    np.testing.assert_array_equal(restored.apply(x.detach().numpy()), A.apply(x.detach().numpy()))
    return A, b


# layers -----------------------------------------------------------------------------------------------------------


def per_axis(draw, values, ndim):
    return tuple(draw(values) for _ in range(ndim))


@st.composite
def convolutions(draw):
    ndim = draw(st.integers(1, 3))
    largest = {1: 9, 2: 7, 3: 4}[ndim]
    groups = draw(st.integers(1, 3))
    size = per_axis(draw, st.integers(1, largest), ndim)
    padding = draw(st.sampled_from(["same", "valid", "ints", "ints", "one"]))
    if padding == "ints":
        padding = per_axis(draw, st.integers(0, 2), ndim)
    elif padding == "one":
        padding = draw(st.integers(0, 2))
    options = {
        "kernel_size": per_axis(draw, st.integers(1, 3), ndim),
        "stride": 1 if padding == "same" else per_axis(draw, st.integers(1, 3), ndim),
        "padding": padding,
        "dilation": per_axis(draw, st.integers(1, 2), ndim),
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    }
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    return ndim, size, channels, options


@tries(80)
@given(convolutions(), st.booleans())
def test_convolutions_with_every_attribute(case, with_channels):
    ndim, size, (ins, outs), options = case
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'")
        module = randomise(kind(ins, outs, **options))
        try:
            module(torch.zeros(1, ins, *size, dtype=torch.float64))
        except RuntimeError:  # PyTorch refuses: so do we
            with pytest.raises(ValueError, match=f"^{kind.__name__}: "):
                from_torch(module, size)
            return
        A, b = agree(module, (ins, *size), (ins, *size) if with_channels else size)
    assert type(A) is (Conv1d, Conv2d, Conv3d)[ndim - 1]
    assert (b is None) == (not options["bias"])


@st.composite
def transposed(draw):
    ndim = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    stride, dilation = (per_axis(draw, st.integers(1, 3), ndim) for _ in range(2))
    options = {
        "kernel_size": per_axis(draw, st.integers(1, 3), ndim),
        "stride": stride,
        "padding": per_axis(draw, st.integers(0, 2), ndim),
        "output_padding": tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)),
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    return ndim, per_axis(draw, st.integers(1, 4 if ndim == 3 else 6), ndim), channels, options


@tries(50)
@given(transposed(), st.booleans())
def test_transposed_convolutions_with_every_attribute(case, with_channels):
    ndim, size, (ins, outs), options = case
    module = randomise((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[ndim - 1](ins, outs, **options))
    try:
        module(torch.zeros(1, ins, *size, dtype=torch.float64))
    except RuntimeError:
        assume(False)
    agree(module, (ins, *size), (ins, *size) if with_channels else size)


@st.composite
def pools(draw):
    ndim = draw(st.integers(1, 3))
    kernel = per_axis(draw, st.integers(1, 4), ndim)
    options = {
        "kernel_size": kernel,
        "stride": draw(st.none() | st.just(per_axis(draw, st.integers(1, 5), ndim))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
        "count_include_pad": draw(st.booleans()),
    }
    if ndim > 1:
        options["divisor_override"] = draw(st.none() | st.integers(1, 5))
    return (draw(st.integers(1, 3)), *per_axis(draw, st.integers(1, 4 if ndim == 3 else 7), ndim)), options


@tries(100)
@given(pools())
def test_average_pools_with_every_attribute(case):
    shape, options = case
    module = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[len(shape) - 2](**options)
    try:
        module(torch.zeros(1, *shape, dtype=torch.float64))
    except RuntimeError:
        assume(len(shape) < 4)  # AvgPool3d alone wants an input as large as the kernel before it is padded
        with pytest.raises(ValueError, match=f"kernel_size|{type(module).__name__}"):
            from_torch(module, shape)
        return
    A, b = agree(module, shape)
    assert b is None
    assert isinstance(A, Conv1d | Conv2d | Conv3d | Chain)


def test_average_pool_of_equal_windows_is_one_convolution():
    A, _ = from_torch(nn.AvgPool2d(3, 2, padding=1), (4, 9, 9))
    assert isinstance(A, Conv2d)
    assert A.geometry.groups == 4


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.AdaptiveAvgPool1d(3), (2, 7)),
        (nn.AdaptiveAvgPool2d(1), (3, 5, 4)),
        (nn.AdaptiveAvgPool2d((None, 5)), (2, 3, 4)),
        (nn.AdaptiveAvgPool3d((2, 1, 3)), (2, 3, 4, 5)),
    ],
)
def test_adaptive_average_pools(module, shape):
    assert isinstance(agree(module, shape)[0], Separable)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.BatchNorm1d, (4,)),
        (nn.BatchNorm1d, (4, 5)),
        (nn.BatchNorm2d, (4, 3, 2)),
        (nn.BatchNorm3d, (4, 1, 3, 2)),
        (nn.SyncBatchNorm, (4, 3, 2)),
    ],
)
def test_batch_norm_in_evaluation_mode(kind, shape, affine):
    A, b = agree(randomise(kind(4, eps=0.1, affine=affine)).eval(), shape)
    assert isinstance(A, Diagonal)
    assert b.shape == (A.shape[0],)


def test_batch_norm_2d_and_3d_know_their_channels():
    for kind, size in ((nn.BatchNorm2d, (3, 2)), (nn.BatchNorm3d, (3, 2, 1))):
        agree(randomise(kind(4)).eval(), (4, *size), size)


PADS = {
    1: [(1, 2), (0, 3), (-1, 2)],
    2: [(1, 2, 3, 0), (2, 0, 1, 1), (-1, 2, 0, -2)],
    3: [(1, 0, 2, 1, 0, 1), (0, 0, 1, 1, 2, 2), (-1, 1, 0, 2, 1, 0)],
}


@pytest.mark.parametrize("kind", ["Zero", "Constant", "Reflection", "Replication", "Circular"])
@pytest.mark.parametrize(("ndim", "padding"), [(ndim, padding) for ndim, cases in PADS.items() for padding in cases])
def test_padding_layers(kind, ndim, padding):
    arguments = (padding, 0.0) if kind == "Constant" else (padding,)
    A, b = agree(getattr(nn, f"{kind}Pad{ndim}d")(*arguments), (2, 4, 5, 6)[: ndim + 1])
    assert isinstance(A, Chain if kind == "Circular" and min(padding) < 0 else Pad)
    assert b is None


@pytest.mark.parametrize(("ndim", "padding"), [(1, (1, 2)), (2, (1, -1, 0, 2)), (3, (1, 1, 0, 0, 2, 0))])
def test_constant_padding_that_is_not_zero_is_an_offset(ndim, padding):
    A, b = agree(getattr(nn, f"ConstantPad{ndim}d")(padding, 2.5), (2, 4, 3, 3)[: ndim + 1])
    assert isinstance(A, Pad)
    assert set(b.tolist()) == {0.0, 2.5}


MODES = [("nearest", 1), ("nearest", 2), ("nearest", 3), ("nearest-exact", 1), ("nearest-exact", 2), ("linear", 1),
         ("bilinear", 2), ("trilinear", 3), ("bicubic", 2), ("area", 1), ("area", 2), ("area", 3)]  # fmt: skip


def gradient_is_wrong(module, size):
    """Whether PyTorch's backward is not the transpose of its own forward.

    Where a scale factor that is not M / N gives M = N or M = 2 N, the backward goes by the sizes, the forward does not.
    """
    if module.scale_factor is None or module.recompute_scale_factor:
        return False
    outputs = module(torch.zeros(1, 1, *size)).shape[2:]
    if module.mode == "bicubic":
        return tuple(outputs) == size
    return module.mode == "nearest" and any(m in (n, 2 * n) for n, m in zip(size, outputs, strict=True))


@tries(15)
@pytest.mark.parametrize(("mode", "ndim"), MODES)
@given(data=st.data())
def test_upsample_in_every_mode(mode, ndim, data):
    size = per_axis(data.draw, st.integers(1, 7 if ndim < 3 else 4), ndim)
    corners = data.draw(st.booleans()) if "linear" in mode or "cubic" in mode else None
    if data.draw(st.booleans()):
        options = {"size": per_axis(data.draw, st.integers(1, 11 if ndim < 3 else 6), ndim)}
    else:
        factor = st.sampled_from([0.5, 0.75, 1.0, 1.1, 1.3, 1.5, 2, 2.2, 2.5, 3])
        scale = data.draw(factor) if data.draw(st.booleans()) else per_axis(data.draw, factor, ndim)
        options = {"scale_factor": scale, "recompute_scale_factor": data.draw(st.sampled_from([None, False, True]))}
        factors = scale if isinstance(scale, tuple) else (scale,) * ndim
        assume(all(int(n * f) >= 1 for n, f in zip(size, factors, strict=True)))
    module = nn.Upsample(mode=mode, align_corners=corners, **options)
    A, b = agree(module, (2, *size), vjp=not gradient_is_wrong(module, size))
    assert isinstance(A, Separable)
    assert b is None


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.1, 2.0, 2.2])
def test_nearest_with_a_scale_factor_that_keeps_or_doubles_the_size(scale, ndim):
    shape = (1, 4, 3, 2)[: ndim + 1]
    agree(nn.Upsample(scale_factor=scale), shape, vjp=scale == 2.0)


@pytest.mark.parametrize("size", [5, 7, 10, 13])
@pytest.mark.parametrize("output", range(1, 60, 3))
def test_nearest_takes_the_same_samples_as_pytorch_where_rounding_decides(size, output):
    x = np.arange(float(size))
    for mode in ("nearest", "nearest-exact"):
        module = nn.Upsample(size=output, mode=mode)
        expected = module(torch.from_numpy(x)[None, None])[0]
        np.testing.assert_array_equal(from_torch(module, (1, size))[0].apply(x[None]), expected)


def test_upsampling_nearest_and_bilinear_of_old():
    agree(nn.UpsamplingNearest2d(scale_factor=2), (2, 3, 4))
    agree(nn.UpsamplingBilinear2d(size=(5, 7)), (2, 3, 4))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.PixelShuffle(2), (8, 3, 2)),
        (nn.PixelShuffle(3), (9, 2, 1)),
        (nn.PixelUnshuffle(2), (3, 4, 6)),
        (nn.PixelUnshuffle(3), (1, 3, 6)),
        (nn.ChannelShuffle(3), (6, 2, 3)),
        (nn.Flatten(), (2, 3, 4)),
        (nn.Flatten(2), (2, 3, 4)),
        (nn.Flatten(1, 2), (2, 3, 4)),
        (nn.Flatten(-2, -1), (2, 3, 4)),
        (nn.Unflatten(1, (2, 3)), (6, 2)),
        (nn.Unflatten(-1, (-1, 2)), (3, 8)),
        (nn.Identity(), (2, 3)),
        (nn.Dropout(0.0), (5,)),
        (nn.Dropout().eval(), (2, 3)),
        (nn.Dropout2d().eval(), (2, 3, 3)),
        (nn.AlphaDropout().eval(), (4,)),
        (nn.Sequential(), (2, 3)),
    ],
)
def test_layers_that_move_entries_or_do_nothing(module, shape):
    A, b = agree(module, shape)
    assert isinstance(A, Rearrange)
    assert b is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_linear_acts_on_the_last_axis(lead, bias):
    A, b = agree(randomise(nn.Linear(4, 5, bias=bias)), (*lead, 4))
    assert (b is not None) == bias
    assert A.tosparse().nnz == A.nnz == 20 * int(np.prod(lead))


def test_complex_convolutions_and_linear_layers():
    for module, shape in (
        (nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular", dtype=torch.complex128), (2, 5, 4)),
        (nn.ConvTranspose1d(2, 3, 3, stride=2, dtype=torch.complex128), (2, 5)),
        (nn.Linear(3, 2, dtype=torch.complex128), (3,)),
    ):
        A, b = from_torch(module, shape)
        x = torch.randn(2, *shape, dtype=torch.complex128, requires_grad=True)
        y = module(x)
        close(A.apply(x.detach().numpy()) + b.reshape(A.output_shape), y.detach())
        cotangent = torch.randn_like(y)
        y.backward(cotangent)
        close(A.H.apply(cotangent.numpy()), x.grad)
        check_adjoint(A, rng=0)


# dtypes and parameters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, np.float32),
        (torch.float64, np.float64),
        (torch.complex64, np.complex64),
        (torch.complex128, np.complex128),
        (torch.float16, np.float32),
        (torch.bfloat16, np.float32),
    ],
)
def test_dtypes_are_kept_and_half_precision_is_converted_exactly(dtype, expected):
    module = nn.Conv2d(2, 3, 3, dtype=dtype)
    A, b = from_torch(module, (4, 4))
    assert A.dtype == b.dtype == expected
    assert torch.equal(torch.from_numpy(A.weight.copy()).to(dtype), module.weight)
    exact = module.weight.detach().to(torch.complex128).numpy()
    np.testing.assert_array_equal(A.weight.astype(np.complex128), exact)
    np.testing.assert_array_equal(
        b.reshape(3, 2, 2)[:, 0, 0].astype(np.complex128), module.bias.detach().to(torch.complex128)
    )


def test_layers_without_parameters_take_the_dtype_of_the_network():
    net = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Flatten())
    for dtype, expected in ((torch.float32, np.float32), (torch.bfloat16, np.float32), (torch.float64, np.float64)):
        A, b = from_torch(copy.deepcopy(net).to(dtype).eval(), (2, 6, 6))
        assert {factor.dtype for factor in A.factors()} == {np.dtype(expected)}
        assert A.dtype == b.dtype == expected


def test_float32_network_agrees_to_single_precision():
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Upsample(scale_factor=2, mode="bilinear"))
    net.eval()
    A, b = from_torch(net, (6, 6))
    x = torch.randn(2, 6, 6)
    assert A.apply(x.numpy()).dtype == np.float32
    close(A @ x.numpy().ravel() + b, net(x[None]).detach().ravel(), 1e-5)


def test_parameters_are_copied():
    for module, size in ((nn.Conv1d(1, 1, 2), 5), (nn.Linear(3, 2), 3), (nn.BatchNorm2d(2).eval(), (2, 2))):
        A, b = from_torch(module, size)
        before, offset = A.toarray(), b.copy()
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.add_(1)
        np.testing.assert_array_equal(A.toarray(), before)
        np.testing.assert_array_equal(b, offset)


def test_from_torch_leaves_the_module_alone():
    module = nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)).eval()
    state = copy.deepcopy(module.state_dict())
    from_torch(module, (4, 4))
    assert not module.training
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.weight_norm,
        lambda m: nn.utils.parametrizations.spectral_norm(m).eval(),
        lambda m: nn.utils.spectral_norm(m).eval(),
        nn.utils.parametrizations.orthogonal,
        lambda m: importlib.import_module("torch.nn.utils.prune").l1_unstructured(m, "weight", amount=0.5),
        lambda m: importlib.import_module("torch.nn.utils.prune").random_unstructured(m, "bias", amount=2),
    ],
    ids=["weight_norm", "old weight_norm", "spectral_norm", "old spectral_norm", "orthogonal", "pruned", "pruned bias"],
)
def test_reparametrised_weights_are_read_as_the_next_call_will_use_them(wrap):
    module = wrap(nn.Conv2d(2, 4, 3).double())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)  # an attribute computed at an earlier call would be stale now
    A, b = from_torch(module, (5, 5))
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    close(A @ x.numpy().ravel() + b, module(x[None]).detach().ravel())


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("iterations", [1, 200])
def test_spectral_norm_in_training_mode_is_refused_and_not_touched(wrap, iterations):
    module = wrap(nn.Linear(4, 3), n_power_iterations=iterations)
    for _ in range(3):
        module(torch.ones(4))  # after 600 power iterations nothing changes any more, but is written to
    state, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"Linear: its .*(spectral_norm|SpectralNorm).*module.eval\(\)"):
        from_torch(module, 4)
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


class Noisy(nn.Module):
    def forward(self, weight):
        return nn.functional.dropout(weight, 0.5, self.training)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight):
        self.calls = self.calls + 0.0  # the same value, in another tensor
        return weight


class Doubling(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize(("part", "refused"), [(Noisy, True), (Counting, True), (Doubling, False)])
def test_parametrizations_that_are_random_or_write_to_buffers_are_refused_in_training_mode_alone(part, refused):
    module = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(module.weight)  # so that no value tells
    nn.utils.parametrize.register_parametrization(module, "weight", part())
    random = torch.get_rng_state()
    if refused:
        with pytest.raises(ValueError, match=rf"in training mode \({part.__name__}\): module.eval"):
            from_torch(module, 4)
    else:
        from_torch(module, 4)
    assert torch.equal(random, torch.get_rng_state())
    A, _ = from_torch(module.eval(), 4)
    assert A.shape == (3, 4)


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (nn.Conv2d(2, 3, 3, stride=(2,), padding=(1,), dilation=(2,)), (2, 9, 8)),
        (nn.Conv3d(2, 3, 2, stride=(2,), padding=(1,)), (2, 3, 4, 5)),
        (nn.Conv1d(2, 3, 3, padding=(2,), padding_mode="circular"), (2, 5)),
        (nn.ConvTranspose2d(2, 3, 3, stride=(2,), padding=(1,), output_padding=(1,)), (2, 4, 5)),
        (nn.AvgPool2d((3,), stride=(2,), padding=(1,)), (2, 7, 8)),
    ],
)
def test_a_tuple_of_one_entry_stands_for_every_axis(module, size):
    agree(randomise(module), size)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_borders_that_pytorch_refuses_are_refused(mode):
    layers = {"reflect": (nn.ReflectionPad2d, 4), "circular": (nn.CircularPad2d, 5)}
    kind, padding = layers[mode]
    for module in (kind(padding), nn.Conv2d(1, 1, 3, padding=padding, padding_mode=mode)):
        with pytest.raises(RuntimeError):
            module(torch.zeros(1, 1, 4, 9))
        with pytest.raises(ValueError, match=r"padding=.*in PyTorch for the input size \(4, 9\)"):
            from_torch(module, (1, 4, 9))
    single = nn.Conv2d(1, 1, 3, padding=(1,), padding_mode=mode)  # here PyTorch takes a tuple for each axis alone
    with pytest.raises((RuntimeError, NotImplementedError)):
        single(torch.zeros(1, 1, 4, 9))
    with pytest.raises(ValueError, match=r"padding=\(1,\)"):
        from_torch(single, (1, 4, 9))


def test_subclass_without_its_own_forward_is_read():
    class Blur(nn.Conv2d):
        def __init__(self):
            super().__init__(1, 1, 3, bias=False)

    agree(Blur().double(), (1, 4, 4))


def test_lazy_layer_is_read_once_it_is_initialised():
    module = nn.LazyConv2d(3, 2)
    with pytest.raises(ValueError, match="LazyConv2d: it is lazy and not initialised"):
        from_torch(module, (2, 4, 4))
    module(torch.zeros(1, 2, 4, 4))
    assert from_torch(module, (4, 4))[0].input_shape == (2, 4, 4)


# networks ---------------------------------------------------------------------------------------------------------


def network():
    return nn.Sequential(
        nn.Sequential(nn.Identity(), nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)),
        nn.Dropout(),
        nn.PixelShuffle(2),
        nn.Sequential(
            nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), nn.ConstantPad2d((1, 0, 0, 1), 0.3)
        ),
        nn.ConvTranspose2d(1, 2, 3, stride=2, output_padding=1),
        nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True),
        nn.Flatten(),
        nn.Linear(2 * 21 * 21, 5),
    )


@pytest.mark.parametrize("input_size", [(2, 5, 5), (5, 5)])
def test_network_of_linear_layers_is_one_chain(input_size):
    A, b = agree(randomise(network()).eval(), (2, 5, 5), input_size)
    assert isinstance(A, Chain)
    names = [type(factor).__name__ for factor in A.factors()]
    assert names[-1:] == ["Conv2d"]
    assert names[:2] == ["Separable", "Rearrange"]
    assert b.shape == (5,)


def test_offset_of_a_network_is_its_value_at_zero():
    net = randomise(network()).eval()
    _, b = from_torch(net, (5, 5))
    close(b, net(torch.zeros(1, 2, 5, 5, dtype=torch.float64)).detach().ravel())


@tries(60)
@given(
    st.lists(st.sampled_from(["conv", "up", "pool", "pad", "norm", "transposed", "shuffle"]), min_size=2, max_size=5)
)
def test_random_chains(kinds):
    make = {
        "conv": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
        "up": lambda: nn.Upsample(size=(5, 7), mode="bicubic"),
        "pool": lambda: nn.AvgPool2d(2, 1, padding=1, ceil_mode=True),
        "pad": lambda: nn.CircularPad2d((1, 0, 2, 1)),
        "norm": lambda: nn.BatchNorm2d(4),
        "transposed": lambda: nn.ConvTranspose2d(4, 4, 2, bias=False),
        "shuffle": lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2)),
    }
    agree(randomise(nn.Sequential(*(make[kind]() for kind in kinds))).eval(), (4, 3, 4))


def test_sequential_of_one_layer_is_that_layer():
    A, _ = from_torch(nn.Sequential(nn.Dropout(0.0), nn.Sequential(nn.ConvTranspose2d(1, 1, 3)), nn.Identity()), (4, 4))
    assert type(A) is ConvTranspose2d


def test_named_and_repeated_layers():
    conv = randomise(nn.Conv1d(2, 2, 3, padding=1))
    A, _ = agree(nn.Sequential(conv, conv), (2, 6), 6)
    assert len(A.factors()) == 2


# refusals ---------------------------------------------------------------------------------------------------------


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Block(nn.Module):
    def forward(self, x):
        return x


def hooked(pre=False):
    module = nn.Conv2d(1, 1, 3)
    if pre:
        module.register_forward_pre_hook(lambda module, inputs: None)
    else:
        module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def replaced():
    module = nn.Conv2d(1, 1, 3)
    module.forward = lambda x: x
    return module


def with_weight(dtype):
    module = nn.Conv2d(1, 1, 3)
    module.weight = nn.Parameter(torch.zeros(1, 1, 3, 3).to(dtype), requires_grad=False)
    return module


def net(*layers):
    return nn.Sequential(*layers)


CONV = nn.Conv2d(1, 1, 3)


@pytest.mark.parametrize(
    ("module", "size", "kind", "message"),
    [
        (
            net(CONV, CONV, CONV, nn.ReLU()),
            (9, 9),
            TypeError,
            r"^layer 3 \(ReLU\): it is not linear: split the network",
        ),
        (net(CONV, net(CONV, nn.Sigmoid())), (9, 9), TypeError, r"^layer 1.1 \(Sigmoid\): it is not linear"),
        (nn.GELU(), (9, 9), TypeError, r"^GELU: it is not linear"),
        (nn.MaxPool2d(2), (1, 8, 8), TypeError, r"^MaxPool2d: it is not linear"),
        (nn.AdaptiveMaxPool1d(2), (1, 8), TypeError, r"^AdaptiveMaxPool1d: it is not linear"),
        (nn.GroupNorm(1, 1), (1, 8, 8), TypeError, r"^GroupNorm: it is not linear"),
        (nn.LayerNorm(8), (8,), TypeError, r"^LayerNorm: it is not linear"),
        (nn.Bilinear(2, 2, 2), (2,), TypeError, "^Bilinear: it is not a layer that from_torch can read"),
        (net(Block()), (2,), TypeError, r"^layer 0 \(Block\): it is not a layer that from_torch can read"),
        (Doubled(1, 1, 3), (8, 8), TypeError, "^Doubled: it has its own forward in place of that of Conv2d"),
        (Standardised(1, 1, 3), (8, 8), TypeError, "^Standardised: it has its own _conv_forward"),
        (net(Residual(CONV)), (8, 8), TypeError, r"^layer 0 \(Residual\): it has its own forward"),
        (replaced(), (8, 8), TypeError, "its own forward"),
        (with_weight(torch.int8), (8, 8), TypeError, "^Conv2d: its weight has dtype torch.int8.*dequantise"),
        (with_weight(torch.float8_e4m3fn), (8, 8), TypeError, "its weight has dtype torch.float8_e4m3fn"),
        (nn.Conv2d(1, 1, 3, device="meta"), (8, 8), ValueError, "its weight is on the meta device"),
        (torch.nn.functional.relu, (8, 8), TypeError, "^module=.* must be a torch.nn.Module, not"),
        (hooked(), (8, 8), ValueError, "^Conv2d: it has forward hooks .*remove them"),
        (hooked(pre=True), (8, 8), ValueError, "^Conv2d: it has forward hooks"),
        (nn.BatchNorm2d(3), (8, 8), ValueError, r"^BatchNorm2d: it is in training mode.*module.eval\(\)"),
        (
            net(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)),
            (8, 8),
            ValueError,
            r"^layer 1 \(BatchNorm2d\): .*module.eval\(\)",
        ),
        (nn.BatchNorm2d(3, track_running_stats=False).eval(), (8, 8), ValueError, "no running statistics.*not linear"),
        (nn.Dropout(), (8,), ValueError, r"^Dropout: it is in training mode, where it is random: module.eval\(\)"),
        (net(nn.Flatten(0)), (8,), ValueError, r"^layer 0 \(Flatten\): start_dim=0 must be an axis of the image"),
        (nn.Conv2d(3, 4, 3), (4, 8, 8), ValueError, r"shape \(4, 8, 8\), 4 channels: it must be \(3, N_1, N_2\)"),
        (nn.Conv2d(3, 4, 3), 8, ValueError, r"shape \(8,\): it must be \(3, N_1, N_2\)"),
        (nn.Conv2d(3, 4, 3), (1, 3, 8, 8), ValueError, r"\(3, N_1, N_2\), channels first and no batch"),
        (nn.Conv2d(3, 4, 3), (8, 8.0), TypeError, "^input_size=.* must be an integer or a sequence of integers"),
        (nn.Conv2d(3, 4, 3), (8, True), TypeError, "^input_size=.* must hold integers, not bools"),
        (nn.Conv2d(3, 4, 3), (8, 0), ValueError, "^input_size=.* at least 1 along each"),
        (nn.Conv2d(3, 4, 3), "88", TypeError, "^input_size='88'"),
        (nn.Conv2d(3, 4, 3), (2, 2), ValueError, "^Conv2d: weight has the kernel size 3 x 3"),
        (net(CONV, nn.Flatten(), CONV), (8, 8), ValueError, r"^layer 2 \(Conv2d\): the image has shape \(36,\)"),
        (net(CONV, nn.Flatten(2), CONV), (8, 8), ValueError, r"^layer 2 \(Conv2d\): the image has shape \(1, 36\)"),
        (net(CONV, nn.Flatten(), nn.Linear(35, 2)), (8, 8), ValueError, r"^layer 2 \(Linear\): .*in_features=35"),
        (nn.BatchNorm1d(3).eval(), 8, ValueError, r"shape \(8,\): its first axis must have num_features=3"),
        (nn.BatchNorm1d(3).eval(), (3, 8, 8), ValueError, r"it must be \(C,\) or \(C, N_1\)"),
        (nn.AvgPool2d(2), (8, 8), ValueError, r"shape \(8, 8\): it must be \(C, N_1, N_2\)"),
        (nn.AvgPool2d(2, padding=2), (1, 8, 8), ValueError, "at most half of kernel_size"),
        (nn.AvgPool2d(9), (1, 8, 8), ValueError, "kernel_size=9 must not be larger than the padded input, 8"),
        (
            nn.ReflectionPad2d(8),
            (1, 8, 8),
            ValueError,
            r"^ReflectionPad2d: padding=.*at most \(7, 7\) in PyTorch",
        ),
        (nn.PixelShuffle(2), (6, 2, 2), ValueError, "multiple of upscale_factor\\^2 = 4"),
        (nn.PixelUnshuffle(2), (6, 2, 3), ValueError, "multiple of downscale_factor = 2"),
        (nn.ChannelShuffle(4), (6, 2, 3), ValueError, "multiple of groups = 4"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3), ValueError, r"it must be \(C, N_1, N_2\)"),
        (nn.Upsample(scale_factor=0.1), (2, 3), ValueError, "scale_factor=0.1 leaves no output"),
        (nn.Upsample(scale_factor=(2, 2)), (2, 3), ValueError, "one entry per spatial axis, 1"),
        (nn.Upsample(size=4, mode="lanczos"), (2, 3, 3), ValueError, "mode='lanczos' must be one of 'nearest'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_position_name_and_reason(module, size, kind, message):
    with pytest.raises(kind, match=message):
        from_torch(module, size)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_layers_are_refused():
    with pytest.raises(TypeError, match=r"^Conv2d: it is quantised"):
        from_torch(torch.ao.nn.quantized.Conv2d(1, 1, 3), (8, 8))
    with pytest.raises(TypeError, match=r"^Conv2d: it has its own forward"):
        from_torch(torch.ao.nn.qat.Conv2d(1, 1, 3, qconfig=torch.ao.quantization.default_qconfig), (8, 8))


def test_missing_torch_names_the_extra(monkeypatch):
    module = nn.Conv2d(1, 1, 3)
    A = Conv1d([1.0], 3)
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (lambda: from_torch(module, (3, 3)), lambda: to_torch(A)):
        with pytest.raises(
            ImportError, match=r"needs torch: install the extra `torch`, pip install 'convmat\[torch\]'"
        ):
            call()


# to_torch ---------------------------------------------------------------------------------------------------------


def kernel(*shape, dtype=np.float64):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)


OPERATORS = {
    "Conv2d": lambda dtype: Conv2d(
        kernel(2, 1, 2, 3, dtype=dtype), (4, 3), stride=2, padding=1, padding_mode="circular"
    ),
    "ConvTranspose2d": lambda dtype: Conv2d(kernel(1, 1, 2, 2, dtype=dtype), (2, 3)).T,
    "Pad": lambda dtype: Pad((2, 2), 1, padding_mode="reflect", dtype=dtype),
    "Downsample": lambda dtype: Downsample(5, 2, dtype=dtype),
    "Chain": lambda dtype: Chain(Conv1d(kernel(2, dtype=dtype), 5), Pad(3, 1, dtype=dtype)),
    "Diagonal": lambda dtype: Diagonal(kernel(2, 1, dtype=dtype), (2, 3)),
    "Rearrange": lambda dtype: Rearrange((2, 3), order=(1, 0), dtype=dtype),
    "Separable": lambda dtype: Separable((2, 3), [None, kernel(2, 3, dtype=dtype)]),
    "WeightOperator": lambda dtype: Conv1d(kernel(2, 1, 2, dtype=dtype), 4).weight_operator(kernel(1, 4, dtype=dtype)),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own
@pytest.mark.filterwarnings("ignore:Casting complex values to real discards the imaginary part")
@pytest.mark.parametrize("vector", [torch.float64, torch.complex128])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_of_every_operator_once_twice_and_forward(name, dtype, vector):
    f = to_torch(OPERATORS[name](dtype))
    x = torch.randn(1, *f.operator.input_shape, dtype=vector, requires_grad=True)
    close(f(x).detach(), f.operator.apply(x.detach().numpy()), 1e-14)
    forward = vector.is_complex or dtype is np.float64  # PyTorch's forward-mode check has no real to complex
    assert torch.autograd.gradcheck(f, (x,), check_forward_ad=forward)
    assert torch.autograd.gradgradcheck(f, (x,))


def test_gradient_agrees_with_the_layer_of_pytorch():
    module = randomise(nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False))
    f = to_torch(from_torch(module, (6, 5))[0])
    x, z = (torch.randn(4, 2, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    z.data = x.data.clone()
    f(x).square().sum().backward()
    module(z).square().sum().backward()
    close(x.grad, z.grad)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,)])
def test_batch_axes(batch):
    A = Conv2d(kernel(2, 3, 2, 2), (4, 4))
    x = torch.randn(*batch, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    y = to_torch(A)(x)
    assert y.shape == (*batch, 2, 3, 3)
    y.sum().backward()
    close(x.grad, np.broadcast_to(A.T.apply(np.ones(A.output_shape)), x.shape))


@pytest.mark.parametrize(
    ("operator", "vector", "result"),
    [
        (np.float32, torch.float32, torch.float32),
        (np.float32, torch.float64, torch.float64),
        (np.float64, torch.float32, torch.float64),
        (np.complex64, torch.float32, torch.complex64),
        (np.float64, torch.complex64, torch.complex128),
    ],
)
def test_gradient_has_the_dtype_of_the_tensor(operator, vector, result):
    A = Conv1d(kernel(3, dtype=operator), 6)
    x = torch.randn(6, dtype=vector, requires_grad=True)
    y = to_torch(A)(x)
    assert y.dtype == result
    y.backward(torch.ones_like(y))
    assert x.grad.dtype == vector
    expected = A.H.apply(np.ones(4))
    close(x.grad, expected if vector.is_complex else expected.real, 1e-5)


def test_complex_gradient_is_the_adjoint_where_transpose_would_differ():
    A = Conv1d(np.array([1.0 + 2.0j]), 1)
    x = torch.tensor([1.0 + 0.0j], dtype=torch.complex128, requires_grad=True)
    to_torch(A)(x).abs().square().sum().backward()  # |a x|^2 has the gradient 2 |a|^2 x
    close(x.grad, [10.0 + 0.0j])


def test_conjugate_and_transposed_views_are_read_as_they_look():
    A = Conv2d(kernel(2, 2), (3, 4))
    x = torch.randn(4, 3, dtype=torch.complex128)
    view = x.conj().T
    close(to_torch(A)(view), A.apply(x.numpy().conj().T), 1e-14)
    negative = x.conj().imag.T  # a view with a sign that PyTorch has not yet carried out
    assert negative.is_neg()
    close(to_torch(A)(negative), A.apply(-x.numpy().imag.T), 1e-14)


def test_no_copy_on_the_way_in_or_out():
    seen = []

    class Spy(Diagonal):
        def _forward(self, x):
            y = super()._forward(x)
            seen.extend([x, y])
            return y

    x = torch.ones(2, 3, dtype=torch.float64)
    y = to_torch(Spy(2.0, 3))(x)
    assert np.shares_memory(seen[0], x.numpy())
    assert np.shares_memory(seen[1], y.numpy())
    assert not np.shares_memory(x.numpy(), y.numpy())


def test_result_never_shares_memory_with_the_tensor():
    for A in (Rearrange(3), Separable(3, [None]), Pad(3, 0), Downsample(3, 1), Chain(Rearrange(3))):
        x = torch.ones(3, dtype=torch.float64)
        y = to_torch(A)(x)
        assert torch.equal(y, x)
        assert not np.shares_memory(y.numpy(), x.numpy())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own
def test_functional_transforms():
    A = Conv1d(kernel(2, 1, 3), 6, stride=2)
    f = to_torch(A)
    x = torch.randn(4, 1, 6, dtype=torch.float64)
    close(torch.func.vmap(f, in_dims=1)(x.movedim(0, 1)), A.apply(x.numpy()), 1e-14)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        close(jacobian(f)(x[0]).reshape(A.shape), A.toarray(), 1e-14)


def test_pickled_function_computes_the_same():
    f = to_torch(Conv1d([1.0, 2.0], 4))
    g = pickle.loads(pickle.dumps(f))
    assert isinstance(g, TorchOperator)
    x = torch.randn(4, dtype=torch.float64)
    assert torch.equal(f(x), g(x))


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (np.ones(4), TypeError, "must be a torch.Tensor"),
        (torch.ones(4, device="meta"), ValueError, r"device meta: the operator computes on the CPU, pass x.cpu\(\)"),
        (torch.ones(4).to_sparse(), ValueError, "x has layout torch.sparse_coo: it must be dense"),
        (torch.ones(4, dtype=torch.bfloat16), TypeError, r"dtype torch.bfloat16: .*pass x.float\(\)"),
        (torch.ones(4, dtype=torch.int64), TypeError, "dtype torch.int64"),
        (torch.ones(5), ValueError, r"x has shape \(5,\): it must end in \(4,\)"),
        (torch.ones(()), ValueError, r"x has shape \(\): it must end in \(4,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(x, kind, message):
    with pytest.raises(kind, match=message):
        to_torch(Conv1d([1.0], 4))(x)


def test_to_torch_refuses_what_is_not_an_operator():
    with pytest.raises(TypeError, match=r"^operator=\[1, 2\] must be a convmat operator on images, not list"):
        to_torch([1, 2])


@pytest.mark.parametrize("chunk", range(4))
def test_expressions_are_layers_whose_gradient_is_the_adjoint(chunk):
    for seed in range(20 * chunk, 20 * (chunk + 1)):
        trees = Trees(seed)
        A, dense = trees.tree(3, trees.shape())
        f = to_torch(A)
        x = torch.from_numpy(trees.numbers((2, *A.input_shape), A.dtype)).requires_grad_()
        y = f(x)
        cotangent = torch.from_numpy(trees.numbers((2, *A.output_shape), A.dtype))
        y.backward(cotangent)
        rtol = 1e-4 if trees.single else 1e-12
        close(y.detach().numpy().reshape(2, -1), x.detach().numpy().reshape(2, -1) @ dense.T, rtol)
        close(x.grad.numpy().reshape(2, -1), cotangent.numpy().reshape(2, -1) @ dense.conj(), rtol)
