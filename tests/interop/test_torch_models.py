"""Whole models against PyTorch itself: each linear layer, forward and gradient; pieces; names; what is refused."""

import copy
import pickle
import re
import sys

import numpy as np
import pytest

from convmat import Conv2d, ConvTranspose2d, affine_pieces, check_adjoint, from_torch, from_torch_model, norm_bounds
from convmat.interop.layer import Layer, Layers
from convmat.operators import Rearrange

torch = pytest.importorskip("torch")
nn = torch.nn
F = nn.functional


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def randomise(model):
    """Parameters and running statistics that no default hides, in float64 and evaluation mode."""
    with torch.no_grad():
        for name, tensor in (*model.double().named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                new = torch.rand_like(tensor) + 0.5 if name.endswith("running_var") else torch.randn_like(tensor)
                tensor.copy_(new)
    return model.eval()


def close(got, want, rtol=1e-12):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=rtol * max(1.0, np.abs(want).max(initial=0)))


# Models -----------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, channels, outs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.downsample = None
        if stride != 1 or channels != outs:
            self.downsample = nn.Sequential(nn.Conv2d(channels, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """ResNet-18 with an eighth of its channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        widths = (8, 8, 16, 32, 64)
        for k in range(1, 5):
            stages = (Residual(widths[k - 1], widths[k], 1 if k == 1 else 2), Residual(widths[k], widths[k], 1))
            self.add_module(f"layer{k}", nn.Sequential(*stages))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def twice(channels, outs):
    return nn.Sequential(
        nn.Conv2d(channels, outs, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(outs), nn.LeakyReLU(),
        nn.Conv2d(outs, outs, 3, padding=1, padding_mode="replicate"), nn.BatchNorm2d(outs), nn.LeakyReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels down and up, with skips: one up by a transposed convolution, one by interpolation."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.middle = twice(1, 4), twice(4, 8), twice(8, 8)
        self.pool = nn.AvgPool2d(2)
        self.up2 = nn.ConvTranspose2d(8, 8, 2, 2)
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.merge2, self.merge1, self.last = twice(16, 8), twice(12, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(self.pool(first))
        y = self.up2(self.middle(self.pool(second)), output_size=second.shape[2:])
        y = self.up1(self.merge2(torch.cat([y, second], 1)))
        return self.last(self.merge1(torch.cat([y, first], 1)))


class Inverted(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, channels, outs, stride, grow=4):
        super().__init__()
        inner = channels * grow
        self.residual = stride == 1 and channels == outs
        self.conv = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, outs, 1, bias=False), nn.BatchNorm2d(outs),
        )  # fmt: skip

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def mobilenet():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()),
        Inverted(8, 8, 1), Inverted(8, 12, 2), Inverted(12, 12, 1),
        nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 5),
    )  # fmt: skip


MODELS = {
    "resnet": (ResNet, (2, 3, 64, 64), 20 + 20 + 2),
    "unet": (UNet, (1, 1, 20, 28), 2 * 2 * 5 + 5),
    "mobilenet": (mobilenet, (2, 3, 32, 32), 2 * (1 + 3 * 3) + 4),
}
"""Name -> the model, the shape of its input, and the number of its layers: convolutions, batch norms and others.

ResNet-18 has 20 convolutions. The U-Net has five pairs of convolutions, its pool has two sizes. The convolutions of
MobileNet have a batch norm each.
"""


@pytest.fixture(params=MODELS)
def whole(request):
    make, shape, count = MODELS[request.param]
    return randomise(make()), torch.randn(shape, dtype=torch.float64), count


def called(model, layer):
    """The module of a layer as a function of images."""
    module = model.get_submodule(layer.name.partition("#")[0])
    if isinstance(module, nn.ConvTranspose2d):
        return lambda x: module(x, output_size=layer.operator.output_shape[1:])
    return module


def test_every_linear_layer_is_that_of_torch_forward_and_transposed(whole):
    model, x, count = whole
    layers = from_torch_model(model, x)
    assert len(layers) == count
    for name, layer in layers.items():
        assert layer.name == name
        x = torch.randn(2, *layer.operator.input_shape, dtype=torch.float64, requires_grad=True)
        y = called(model, layer)(x)
        close(layer.apply(x.detach().numpy()), y.detach())
        offset = 0 if layer.offset is None else layer.offset
        flat = [layer.operator @ image.ravel() + offset for image in x.detach().numpy()]
        close(np.array(flat), y.detach().reshape(2, -1))
        cotangent = torch.randn_like(y)
        y.backward(cotangent)
        close(layer.operator.T.apply(cotangent.numpy()), x.grad)


def test_every_module_is_a_layer_or_skipped_with_a_reason(whole):
    model, x, _ = whole
    layers = from_torch_model(model, x)
    leaves = {name for name, module in model.named_modules() if not module._modules}
    assert leaves == {name.partition("#")[0] for name in layers} | set(layers.skipped)
    assert set(layers.skipped.values()) == {"it is not linear"}


def recorded(model, x):
    """What each module gave at each of its calls: (name, number of the call) -> array, and the inputs."""
    seen = {"inputs[0]": x.numpy().copy()}

    def keep(name):
        def hook(module, args, result):
            number = sum(key == name or key.startswith(f"{name}#") for key in seen) + 1
            seen[name if number == 1 else f"{name}#{number}"] = result.detach().numpy().copy()

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def test_names_of_tensors_are_where_the_images_come_from(whole):
    model, x, _ = whole
    seen = recorded(model, x)
    known = 0
    for layer in from_torch_model(model, x).values():
        for source, target in zip(layer.inputs, layer.outputs, strict=True):
            if source in seen:
                known += 1
                image = seen[source].reshape(-1, *layer.operator.input_shape)
                close(layer.apply(image).ravel(), seen[target].ravel())
    assert known > 15


def test_functions_make_tensors_of_no_module():
    layers = from_torch_model(randomise(UNet()), torch.zeros(1, 1, 16, 16, dtype=torch.float64))
    assert layers["merge2.0"].inputs == ("tensor",)
    assert layers["merge1.0"].inputs == ("tensor#2",)
    resnet = from_torch_model(randomise(ResNet()), torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    assert resnet["layer1.1.conv1"].inputs == ("layer1.0.relu#2",)
    assert resnet["layer2.0.downsample.0"].inputs == resnet["layer2.0.conv1"].inputs == ("layer1.1.relu#2",)


def test_what_is_written_to_in_place_is_another_tensor():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x):
            y = self.first(x)
            y += 1
            z = self.second(y)
            F.relu_(z)
            return self.third(z)

    layers = from_torch_model(InPlace(), torch.zeros(1, 3))
    assert [layer.inputs for layer in layers.values()] == [("inputs[0]",), ("tensor",), ("tensor#2",)]


def test_block_names_the_tensor_that_it_returns():
    x = torch.zeros(1, 8, 8, 8)
    layers = from_torch_model(nn.Sequential(Inverted(8, 8, 1), nn.Conv2d(8, 1, 1)), x)
    assert layers["1"].inputs == ("0",)


# Sizes, names and calls -------------------------------------------------------------------------------------------


class Calls(nn.Module):
    """A module called once for each size."""

    def __init__(self, module, *sizes):
        super().__init__()
        self.m, self.sizes = module, sizes

    def forward(self, x):
        return [self.m(x[..., :size]) for size in self.sizes]


def test_module_of_two_sizes_is_there_under_each_and_of_one_size_once():
    layers = from_torch_model(Calls(nn.Conv1d(2, 3, 3), 8, 6, 8, 5), torch.zeros(4, 2, 8))
    assert {name: layer.operator.input_shape for name, layer in layers.items()} == {
        "m": (2, 8), "m#2": (2, 6), "m#3": (2, 5),
    }  # fmt: skip
    assert [layer.outputs for layer in layers.values()] == [("m", "m#3"), ("m#2",), ("m#4",)]
    assert [len(layer.inputs) for layer in layers.values()] == [2, 1, 1]


def test_name_that_is_taken_is_told_apart():
    class Taken(Calls):
        def forward(self, x):
            return super().forward(x), self._modules["m#2"](x)

    model = Taken(nn.Conv1d(2, 3, 3), 8, 6)
    model.add_module("m#2", nn.Conv1d(2, 5, 3))
    layers = from_torch_model(model, torch.zeros(1, 2, 8))
    assert {name: layer.operator.output_shape for name, layer in layers.items()} == {
        "m": (3, 6), "m#2": (3, 4), "m#2#2": (5, 6),
    }  # fmt: skip


def test_shared_module_has_its_first_name():
    conv = nn.Conv1d(2, 2, 3, padding=1)
    layers = from_torch_model(nn.Sequential(conv, nn.ReLU(), conv), torch.zeros(1, 2, 8))
    assert list(layers) == ["0"]
    assert layers["0"].inputs == ("inputs[0]", "1")
    assert layers["0"].outputs == ("0", "0#2")


def test_sizes_of_batches_make_no_difference():
    class Halves(Calls):
        def forward(self, x):
            return self.m(x), self.m(x[:1]), self.m(x[0])

    layers = from_torch_model(Halves(nn.Conv1d(2, 3, 3)), torch.zeros(4, 2, 8))
    assert list(layers) == ["m"]
    assert len(layers["m"].inputs) == 3


def test_single_layer_has_the_name_of_its_class():
    layers = from_torch_model(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 5, 5))
    assert list(layers) == ["Conv2d"]
    assert isinstance(layers["Conv2d"].operator, Conv2d)


def test_keyword_arguments_and_nested_inputs_are_seen():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3)

        def forward(self, pair, scale):
            return {"y": self.conv(input=pair["b"]) * scale}

    layers = from_torch_model(Keywords(), {"a": torch.zeros(1), "b": torch.zeros(1, 1, 5)}, 2.0)
    assert layers["conv"].inputs == ("inputs[1]",)
    assert layers["conv"].operator.input_shape == (1, 5)


def test_a_size_may_stand_beside_a_tensor():
    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)

        def forward(self, x, size):
            return self.conv(F.interpolate(x, size))

    layers = from_torch_model(Resized(), torch.zeros(1, 1, 5, 5), (8, 9))
    assert layers["conv"].operator.input_shape == (1, 8, 9)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(4, 3), (2, 5, 4)),
        (nn.Linear(4, 1), (2, 5, 4)),
        (nn.Linear(4, 3), (4,)),
        (nn.BatchNorm1d(3), (2, 3)),
        (nn.BatchNorm1d(3), (2, 3, 5)),
        (nn.ConstantPad1d((1, 2), 3.0), (2, 3, 5)),
        (nn.PixelShuffle(2), (2, 3, 8, 4, 4)),
        (nn.Identity(), (2, 3)),
        (nn.Dropout(), (2, 3)),
        (nn.Conv2d(1, 2, 3, bias=True), (1, 6, 7)),
        (nn.Unflatten(1, (2, 3)), (2, 6)),
    ],
)
def test_layer_on_batches_of_every_shape(module, shape):
    randomise(module)
    x = torch.randn(shape, dtype=torch.float64)
    (layer,) = from_torch_model(module, x).values()
    want = module(x).detach().numpy().reshape(-1, *layer.operator.output_shape)
    images = x.numpy().reshape(-1, *layer.operator.input_shape)
    close(layer.apply(images), want)
    if layer.bias is not None:
        assert not layer.bias.flags.writeable
        close(layer.offset, layer.apply(np.zeros(layer.operator.input_shape)).ravel())
    check_adjoint(layer.operator, rng=0)


def test_transposed_convolution_has_the_size_that_it_was_called_with():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 2, 3, stride=(2, 3), padding=1)

        def forward(self, x):
            return self.up(x, output_size=(10, 14))

    model = randomise(Sized())
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    (layer,) = from_torch_model(model, x).values()
    assert isinstance(layer.operator, ConvTranspose2d)
    close(layer.apply(x.numpy()), model(x).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_dtype_of_a_layer_without_parameters_is_that_of_its_input(dtype):
    layers = from_torch_model(nn.Sequential(nn.Flatten(), nn.Linear(6, 2, dtype=dtype)), torch.zeros(1, 2, 3).to(dtype))
    assert {layer.operator.dtype for layer in layers.values()} == {np.dtype(str(dtype).removeprefix("torch."))}


# What is skipped --------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma, self.conv, self.spare = nn.Parameter(torch.ones(1)), nn.Conv1d(1, 1, 1), nn.Linear(2, 2)

    def forward(self, x):
        return self.gamma * self.conv(x)


class ScaledSequential(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv1d(1, 1, 1))
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.gamma * super().forward(x)


class Own(nn.Conv1d):
    def forward(self, x):
        return super().forward(x).abs()


def hooked():
    module = nn.Conv1d(1, 1, 1)
    module.register_forward_hook(lambda module, args, result: result + 1)
    return module


@pytest.mark.parametrize(
    ("module", "reasons"),
    [
        (Scaled(), {"0": r"a block that uses parameters of its own: gamma$", "0.spare": "^it was not called$"}),
        (ScaledSequential(), {"0": r"a block that uses parameters of its own: gamma$"}),
        (Own(1, 1, 1), {"0": "^it has its own forward in place of that of Conv1d"}),
        (hooked(), {"0": "^it has forward hooks .*remove them"}),
        (nn.BatchNorm1d(1, track_running_stats=False), {"0": "no running statistics"}),
        (nn.GRU(4, 2), {"0": "^it is not linear$"}),
    ],
)
def test_what_is_no_linear_layer_is_listed_with_the_reason(module, reasons):
    layers = from_torch_model(nn.Sequential(module), torch.ones(1, 1, 4))
    assert set(layers.skipped) == set(reasons)
    for name, reason in reasons.items():
        assert re.search(reason, layers.skipped[name])


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_layer_is_skipped_under_its_name():
    layers = from_torch_model(nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(3, 2)), torch.ones(1, 3))
    assert not layers
    assert layers.skipped["0"] == "it is quantised, and rounding is not linear"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_script_modules_are_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(TypeError, match=r"^layer 0 \(RecursiveScriptModule\): it is a ScriptModule, .* made from$"):
        from_torch_model(nn.Sequential(scripted), torch.ones(1, 3))


def test_parametrized_layers_are_layers_and_their_parametrizations_are_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3)), nn.ReLU()).double()
    nn.utils.parametrizations.spectral_norm(model[0])
    model.eval()
    x = torch.randn(1, 2, 8, dtype=torch.float64)
    layers = from_torch_model(model, x)
    assert (list(layers), list(layers.skipped)) == (["0"], ["1"])
    close(layers["0"].apply(x.numpy()), model[0](x).detach())


# The model is left as it was --------------------------------------------------------------------------------------


def hooks_and_modes(model):
    return [
        (
            name,
            m.training,
            *(dict(value) for key, value in vars(m).items() if "hook" in key and isinstance(value, dict)),
        )
        for name, m in model.named_modules()
    ]


@pytest.mark.parametrize("channels", [3, 4])
def test_model_is_left_as_it_was_found_whether_its_forward_fails_or_not(channels):
    model = ResNet().train()
    model.layer2.eval()
    model.layer2[0].conv1.register_forward_hook(lambda *_: None)
    state, modes = copy.deepcopy(model.state_dict()), hooks_and_modes(model)
    random = torch.get_rng_state()
    if channels == 3:
        assert len(from_torch_model(model, torch.ones(1, 3, 32, 32))) == 41
    else:
        with pytest.raises(ValueError, match=r"^model fails on inputs of shapes \(1, 4, 32, 32\).*channels"):
            from_torch_model(model, torch.ones(1, channels, 32, 32))
    assert hooks_and_modes(model) == modes
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_parameters_are_copied():
    model = nn.Conv1d(1, 1, 1)
    (layer,) = from_torch_model(model, torch.zeros(1, 1, 2)).values()
    before = layer.apply(np.ones((1, 2)))
    with torch.no_grad():
        model.weight += 1
        model.bias += 1
    np.testing.assert_array_equal(layer.apply(np.ones((1, 2))), before)


def test_layers_can_be_pickled_with_what_was_skipped():
    layers = from_torch_model(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3))
    restored = pickle.loads(pickle.dumps(layers))
    assert isinstance(restored, Layers)
    assert restored.skipped == layers.skipped == {"1": "it is not linear"}
    np.testing.assert_array_equal(restored["0"].apply(np.ones(3)), layers["0"].apply(np.ones(3)))


def test_norms_of_the_layers_of_a_model_enclose_those_of_its_matrices():
    for layer in from_torch_model(randomise(mobilenet()), torch.zeros(1, 3, 8, 8, dtype=torch.float64)).values():
        lower, upper = norm_bounds(layer.operator)
        norm = np.linalg.norm(layer.operator.toarray(), 2)
        assert lower <= norm * (1 + 1e-12)
        assert norm <= upper * (1 + 1e-12)


# Pieces -----------------------------------------------------------------------------------------------------------


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


PIECES = {
    "cnn": (
        nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()), nn.MaxPool2d(2),
            nn.Dropout(), nn.ConstantPad2d(1, 2.0), nn.Conv2d(4, 3, 3, stride=2), Swish(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(3, 4), nn.Softmax(1),
        ),
        (2, 8, 8), ["0.0+0.1", "identity", "2+3+4", "6+7+8", "identity"],
    ),
    "channels left out": (nn.Sequential(nn.Identity(), nn.Conv1d(2, 3, 3), nn.ReLU()), (8,), ["0+1", "identity"]),
    "mlp": (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.PReLU(3), nn.Linear(3, 2)), 5, ["0+1", "3"]),
    "affine": (nn.Sequential(nn.Conv1d(1, 1, 3)), (1, 5), ["0"]),
    "one layer": (nn.Linear(5, 4), (5,), ["Linear"]),
    "one activation": (nn.ReLU(), (5,), ["identity", "identity"]),
    "nothing": (nn.Sequential(), (5,), ["identity"]),
    "tokens": (nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1)), (5, 4), ["0", "2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", PIECES)
def test_pieces_one_after_the_other_are_the_network(case):
    net, size, names = PIECES[case]
    randomise(net)
    pieces = affine_pieces(net, size)
    affine, between = pieces[::2], pieces[1::2]
    assert [piece.name for piece in affine] == names
    assert all(isinstance(piece, Layer) for piece in affine)
    assert all(any(layer is module for module in net.modules()) for layer in between)

    x = torch.randn(3, *affine[0].operator.input_shape, dtype=torch.float64)
    y, flat = x, x.reshape(3, -1).numpy()
    for place, piece in enumerate(pieces):
        if place % 2:
            with torch.no_grad():
                y = piece(y)
            flat = y.reshape(3, -1).numpy()
        else:
            y = torch.from_numpy(piece.apply(y.numpy()))
            flat = flat @ piece.operator.toarray().T + (0 if piece.offset is None else piece.offset)
            close(flat, y.reshape(3, -1))
    close(y, net(x).detach())


def test_pieces_are_simplified_and_name_what_is_around_them():
    net = randomise(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()))
    first, relu, last = affine_pieces(net, (6, 6))
    assert isinstance(first.operator, Conv2d)
    assert isinstance(last.operator, Rearrange)
    assert relu is net[2]
    assert (first.inputs, first.outputs, last.inputs, last.outputs) == (("inputs[0]",), ("1",), ("2",), ("3",))


def test_pieces_of_linear_layers_alone_are_those_of_from_torch():
    net = randomise(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)))
    (piece,) = affine_pieces(net, (4, 4))
    A, b = from_torch(net, (4, 4))
    close(piece.operator.toarray(), A.toarray())
    close(piece.offset, b)


def test_half_precision_passes_through_the_layers_between():
    net = nn.Sequential(nn.Linear(3, 2), nn.PReLU(), nn.Linear(2, 2)).half()
    assert [piece.operator.dtype for piece in affine_pieces(net, 3)[::2]] == [np.float32, np.float32]


def test_looking_for_sizes_leaves_the_network_in_its_mode():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x).abs()

    net = nn.Sequential(nn.Linear(3, 3), Counting())
    affine_pieces(net, 3)
    assert net[1].norm.training
    assert net[1].norm.num_batches_tracked == 0


# Errors -----------------------------------------------------------------------------------------------------------

LINEAR = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "message"),
    [
        (F.relu, (torch.zeros(1),), TypeError, "^model=.* must be a torch.nn.Module, not"),
        (LINEAR, (), ValueError, r"^inputs is empty: pass an example .*torch.zeros\(1, 3, 64, 64\)"),
        (LINEAR, (np.zeros((1, 3)),), TypeError, r"^inputs hold no tensor, but ndarray: .*torch.from_numpy"),
        (LINEAR, ((3, 8), 2), TypeError, r"^inputs hold no tensor, but tuple, int: .*torch.zeros\(1, 3, 64, 64\)"),
        (LINEAR, (torch.zeros(1, 4),), ValueError, r"^model fails on inputs of shapes \(1, 4\), .*RuntimeError: "),
        (LINEAR, (torch.zeros(3), 1), ValueError, r"^model fails on inputs of shapes \(3,\), .*TypeError: "),
        (nn.LazyLinear(2), (torch.zeros(1, 3),), ValueError, "^LazyLinear: it is lazy and not initialised"),
        (nn.Sequential(nn.LazyLinear(2)), (torch.zeros(1, 3),), ValueError, r"^layer 0 \(LazyLinear\): it is lazy"),
    ],
)
def test_models_and_inputs_that_do_not_fit_are_refused(model, inputs, kind, message):
    with pytest.raises(kind, match=message):
        from_torch_model(model, *inputs)


def net(*layers):
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("module", "size", "kind", "message"),
    [
        (F.relu, 3, TypeError, "^sequential=.* must be a torch.nn.Module, not"),
        (LINEAR, (3, True), TypeError, "^input_size=.* must hold integers"),
        (net(LINEAR, nn.ReLU(), LINEAR), 3, ValueError, r"^layer 2 \(Linear\): .*in_features=3"),
        (net(LINEAR, net(nn.ReLU(), Own(1, 1, 1))), 3, TypeError, r"^layer 1.1 \(Own\): it has its own forward"),
        (net(LINEAR, nn.ReLU(), nn.Dropout()), 3, ValueError, r"^layer 2 \(Dropout\): it is in training mode"),
        (net(LINEAR, nn.MaxPool2d(2)), 3, ValueError, r"^layer 1 \(MaxPool2d\): it fails on an image of shape \(2,\)"),
        (net(nn.GRU(3, 2)), (4, 3), TypeError, r"^layer 0 \(GRU\): it makes tuple of an image of shape \(4, 3\)"),
    ],
)
def test_networks_that_have_no_pieces_are_refused_with_position_and_reason(module, size, kind, message):
    with pytest.raises(kind, match=message):
        affine_pieces(module, size)


def test_missing_torch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (lambda: from_torch_model(LINEAR, torch.zeros(1, 3)), lambda: affine_pieces(LINEAR, 3)):
        with pytest.raises(
            ImportError, match=r"needs torch: install the extra `torch`, pip install 'convmat\[torch\]'"
        ):
            call()
