"""What a loaded model says of inputs that it cannot use."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import ectype
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo, Target
from ectype.core.errors import DataError, ModelError
from ectype.models.base import Model, evaluating
from tests.conformance.small import small

GREY = DataInfo(1, (16, 16), ("zero", "one"), (0.5, 0.5))
COLOUR = DataInfo(3, (16, 24))


def model(name: str, info: DataInfo = GREY, *, checks: bool = True, **changes: Any) -> Any:
    torch.manual_seed(0)
    built = load_recipe(name, changes).model.build(info)
    assert isinstance(built, Model)
    built.checks_inputs = checks
    return built.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> Any:
    return model("vae-fast")


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(2, 1, 16, 16)


# ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


WRONG: dict[str, tuple[Any, str]] = {
    "0 to 255": (lambda x: x * 255, "divide by 255"),
    "−1 to 1": (lambda x: x * 2 - 1, r"\(images \+ 1\) / 2"),
    "normalized": (lambda x: (x - 0.5) / 0.2, "undo their normalization"),
    "a little outside": (lambda x: x * 1.2 - 0.1, r"clamp\(0, 1\)"),
    "NaN": (lambda x: x.clone().fill_(float("nan")), "NaN or infinite"),
    "one NaN": (lambda x: torch.where(x > 0.99, float("nan"), x.clone().index_fill(3, torch.tensor(0), 1.0)), "NaN"),
    "infinite": (lambda x: x.clone().fill_(float("inf")), "NaN or infinite"),
    "uint8": (lambda x: (x * 255).byte(), r"images.float\(\) / 255"),
    "integers": (lambda x: x.long(), "must be floats"),
    "double": (lambda x: x.double(), r"images.to\(torch.float32\)"),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), r"permute\(0, 3, 1, 2\)"),
    "one image": (lambda x: x[0], r"image\[None\]"),
    "no channel": (lambda x: x[0, 0], r"must be \[b, 1, 16, 16\]"),
    "no images": (lambda x: x[:0], r"must be \[b, 1, 16, 16\]"),
    "colour": (lambda x: x.repeat(1, 3, 1, 1), r"3 channels.*takes 1; average them"),
    "size": (lambda x: x[..., :8], r"16×8 \(height×width\).*takes 16×16; resize"),
    "device": (lambda x: x.to("meta"), r"are on meta.*is on cpu; move them"),
    "NumPy": (lambda x: x.numpy(), "torch.from_numpy"),
    "PIL": (lambda x: Image.new("L", (16, 16)), "of type Image"),
    "a list": (lambda x: [x], "of type list"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=list(WRONG))
@pytest.mark.parametrize("method", ["reconstruct", "encode", "log_likelihood"])
def test_images_that_cannot_be_used(vae: Any, image: Tensor, method: str, change: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        getattr(vae, method)(change(image))
    assert str(caught.value).startswith(f"{method}: ")
    assert "\n" not in str(caught.value)
    assert vae.checks_inputs


def test_good_images_pass_and_results_are_the_same(vae: Any, image: Tensor) -> None:
    free = copy.deepcopy(vae)
    free.checks_inputs = False
    for method in ("reconstruct", "encode"):
        assert torch.equal(getattr(vae, method)(image), getattr(free, method)(image=image))
    assert torch.equal(vae.decode(vae.encode(image)), free.reconstruct(image))
    draws = [one.log_likelihood(image, samples=3, generator=torch.Generator().manual_seed(0)) for one in (vae, free)]
    assert torch.equal(*draws)
    vae.reconstruct(image * 1.0005 - 0.0002)  # a rounding error


def test_colour_models_say_how_to_repeat_a_channel() -> None:
    with pytest.raises(ModelError, match=r"takes 3; repeat it, \.expand"):
        model("ae", COLOUR).encode(torch.rand(2, 1, 16, 24))


def test_maps_of_codes_take_images_of_other_sizes() -> None:
    net = {"model.net": {"kind": "conv", "latent": [4, 4, 6], "width": 8}}
    found = model("ae", COLOUR, **net)
    assert found.reconstruct(torch.rand(1, 3, 32, 48)).shape == (1, 3, 32, 48)
    with pytest.raises(ModelError, match=r"must be \[b, 3, h, w\]"):
        found.reconstruct(torch.rand(3, 32, 48))
    with pytest.raises(ModelError, match=r"must be \[b, 4, h, w\]"):
        found.decode(torch.rand(1, 3, 4, 6))


def test_translators_take_any_size_but_not_any_range() -> None:
    info = COLOUR._replace(target=Target("masks", 1, ("a", "b"), (0.5, 0.5), ((0, 0, 0), (9, 9, 9))))
    found = model("unet-segment", info)
    assert found.translate(torch.rand(1, 3, 32, 40)).shape == (1, 2, 32, 40)
    with pytest.raises(ModelError, match=r"translate: images have values.*divide by 255"):
        found.translate(255 * torch.rand(1, 3, 32, 32))


def test_models_of_noisy_images_take_them() -> None:
    noisy = torch.rand(2, 1, 16, 16) + torch.randn(2, 1, 16, 16)
    found = model("dae")
    found.reconstruct(noisy)
    with pytest.raises(ModelError, match="divide by 255"):
        found.reconstruct(noisy.abs() * 255 / noisy.max())


# ── Codes and draws ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda code: code[0], r"code\[None\]"),
        (lambda code: code[:, :5], "as encode returns them"),
        (lambda code: code[..., None], "as encode returns them"),
        (lambda code: code.long(), "must be floats"),
        (lambda code: code.double(), "convert them"),
        (lambda code: code / 0, "NaN or infinite"),
        (lambda code: code.to("meta"), "on meta"),
        (lambda code: code.numpy(), "type ndarray"),
    ],
)
def test_codes_that_cannot_be_used(vae: Any, change: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        vae.decode(change(torch.randn(2, *vae.code_shape)))
    assert str(caught.value).startswith("decode: codes")


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "2", None])
def test_numbers_of_samples_that_cannot_be(vae: Any, n: Any) -> None:
    with pytest.raises(ModelError, match="not a number of images"):
        vae.sample(n)


def test_samples(vae: Any) -> None:
    assert vae.sample(3).shape == (3, 1, 16, 16)
    with pytest.raises(ModelError, match="samples=0"):
        vae.log_likelihood(torch.rand(2, 1, 16, 16), samples=0)
    with pytest.raises(ModelError, match=r"class"):
        vae.sample(2, label=torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    "label, message",
    [
        (1, "label is a int"),
        ([0, 1], "label is a list"),
        (torch.zeros(3, dtype=torch.long), r"label has shape \[3\].*torch.full\(\(2,\), 1\)"),
        (torch.zeros(2), r"label.long\(\)"),
        (torch.tensor([0, 2]), r"from 0 to 2, and the model knows 2 classes, 0 to 1 \(zero, one\)"),
        (torch.tensor([-1, 0]), "from -1 to 0"),
    ],
)
def test_labels_that_cannot_be_used(label: Any, message: str) -> None:
    found = model("cgan")
    assert found.sample(2, label=torch.tensor([0, 1])).shape == (2, 1, 16, 16)
    with pytest.raises(ModelError, match=message):
        found.sample(2, label=label)


def test_a_class_without_training_images_is_refused() -> None:
    found = model("cgan", GREY._replace(frequencies=(1.0, 0.0)))
    assert found.sample(1, label=torch.tensor([0])).shape == (1, 1, 16, 16)
    for use in (found.sample, lambda n, label: found.render(found.sample_latents(n), label=label)):
        with pytest.raises(ModelError, match=r"value 1 \(class 'one'\), of which there were no training images"):
            use(2, label=torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda vae, x: vae.sample_posterior(x * 255, 2), "sample_posterior: images have values.*divide by 255"),
        (lambda vae, x: vae.sample_posterior(x, 0), "sample_posterior: k=0 is not a number of draws"),
        (lambda vae, x: vae.log_weights(x * float("nan"), None), "log_weights: images hold NaN"),
        (lambda vae, x: vae.sample_latents(-1), "sample_latents: n=-1 is not a number of images"),
        (lambda vae, x: vae.render(vae.sample_latents(2) / 0), "render: latents hold NaN or infinite"),
        (lambda vae, x: vae.render(vae.sample_latents(2)[0]), r"render: latents have shape \[.*sample_latents"),
        (lambda vae, x: vae.render(vae.sample_latents(2).numpy()), "render: latents are a ndarray"),
        (lambda vae, x: vae.render(vae.sample_latents(2).long()), "render: latents are int64"),
    ],
)
def test_the_other_methods_check_too(vae: Any, image: Tensor, use: Any, message: str) -> None:
    assert vae.sample_posterior(image, 2).shape == (2, *image.shape)
    assert vae.render(vae.sample_latents(2)).shape == image.shape
    with pytest.raises(ModelError, match=message):
        use(vae, image)


# ── Where nothing is checked ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fast = {"train.images": 320, "monitor.every": 160, "run.pictures": 0, "run.log_every": 1000}
    return ectype.train(small("vae-fast", **fast), out=tmp_path_factory.mktemp("checks") / "run").path


def test_only_loaded_models_check(run: Path, image: Tensor) -> None:
    free = model("vae-fast", checks=False)
    assert free.reconstruct(image * 255).shape == image.shape
    loaded = ectype.load(run)
    with pytest.raises(ModelError, match="divide by 255"):
        loaded.reconstruct(image * 255)
    with evaluating(loaded):
        assert loaded.reconstruct(image * 255).shape == image.shape
    assert loaded.checks_inputs
    copied = copy.deepcopy(loaded)
    with pytest.raises(ModelError, match="divide by 255"):
        copied.reconstruct(image * 255)


@pytest.mark.trains
def test_functions_of_the_package_check_what_they_are_given(run: Path, tmp_path: Path, image: Tensor) -> None:
    for function in (ectype.reconstruct, ectype.encode):
        for wrong in (image * 255, image * float("nan"), (image * 255).numpy(), image[0]):
            with pytest.raises(ModelError, match=f"{function.__name__}: images"):
                function(run, wrong)
    code = ectype.encode(run, image)
    assert isinstance(code, Tensor)
    for wrong in (code * float("nan"), code[:, :3], code[0], code.numpy()[..., None]):
        with pytest.raises(ModelError, match="decode: codes"):
            ectype.decode(run, wrong)
    np.savez(tmp_path / "codes.npz", code=np.full(code.shape, np.nan, np.float32))
    with pytest.raises(DataError, match="holds codes that are NaN or infinite"):
        ectype.decode(run, tmp_path / "codes.npz", tmp_path / "out")
    for use in (ectype.score, lambda *given: ectype.nearest(*given, "digits")):
        with pytest.raises(DataError, match="images are given as Tensor: this function takes image files and folders"):
            use(run, image)


def test_checks_leave_no_trace_in_the_state_of_a_model() -> None:
    assert model("vae-fast").state_dict().keys() == model("vae-fast", checks=False).state_dict().keys()


TRACED = """
import torch
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo

model = load_recipe("vae-fast").model.build(DataInfo(1, (16, 16))).eval().requires_grad_(False)
model.checks_inputs = True
image = torch.rand(2, 1, 16, 16)
expected = model.reconstruct(image)

class Taken(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model.reconstruct(image)

for strict in (True, False):
    torch.testing.assert_close(torch.export.export(Taken(), (image,), strict=strict).module()(image), expected)
compiled = torch.compile(model.reconstruct, backend="eager", fullgraph=True)
torch.testing.assert_close(compiled(image), expected)
compiled(image * 255)
torch.testing.assert_close(torch.jit.trace(Taken(), image)(image), expected)
assert model.checks_inputs
"""


def test_graphs_are_traced_without_checks() -> None:
    # In a process of its own: what checks shapes in tests cannot be traced.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TRACED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_gradients_and_function_transforms_pass_through(vae: Any, image: Tensor) -> None:
    wanted = image.clone().requires_grad_()
    vae.reconstruct(wanted).sum().backward()
    assert wanted.grad is not None
    code = vae.encode(image)
    jacobian = torch.func.jacrev(vae.decode)(code[:1])
    assert jacobian.shape == (1, 1, 16, 16, 1, *vae.code_shape)
    assert torch.func.vmap(lambda one: vae.decode(one[None])[0])(code).shape == image.shape


def test_an_own_model_may_call_its_arguments_otherwise() -> None:
    class Own(Model):
        def reconstruct(self, x: Tensor) -> Tensor:
            return x

    own = Own(GREY)
    own.checks_inputs = True
    assert own.reconstruct(torch.rand(1, 1, 16, 16)).shape == (1, 1, 16, 16)
    with pytest.raises(ModelError, match="divide by 255"):
        own.reconstruct(x=255 * torch.rand(1, 1, 16, 16))
