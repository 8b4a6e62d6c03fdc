"""What is written for diffusers computes the same there, and comes back the same."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ectype
from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.export.diffusers import export
from ectype.models.autoencoder import AutoencoderConfig
from ectype.models.base import Model
from ectype.nets.autoencoder_kl import KLConfig, KLDecoder
from ectype.training.run import train
from tests.export.kl import GROUPS, SHAPE, folder, loaded
from tests.training.test_starting_weights import WORDS

pytestmark = pytest.mark.trains

pytest.importorskip("diffusers")

SAYS = {"bottleneck": {"kind": "gaussian"}, "likelihood": {"kind": "mse", "output": "linear"}}


def model(size: tuple[int, int] = (16, 16), **keys: Any) -> Model:
    torch.manual_seed(0)
    config = AutoencoderConfig.model_validate({"net": KLConfig(**{**SHAPE, **GROUPS}), **SAYS, **keys})
    return config.build(DataInfo(3, size)).eval()


def test_trained_written_loaded_and_begun_with_again(tmp_path: Path) -> None:
    small = {**WORDS, "block_out_channels": [8, 16], "norm_num_groups": 4}
    run = train("vae-kl", "digits", small, out=tmp_path / "run")
    ours, image = ectype.load(run.path), torch.rand(10, 3, 16, 16)
    lines = export(ours, tmp_path / "out", image)
    assert [line.split()[0] for line in lines] == ["diffusers.AutoencoderKL", "on", "scaling_factor"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".ectype.jsonl",
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    theirs = loaded(tmp_path / "out")
    with torch.no_grad():
        posterior = theirs.encode(2 * image - 1).latent_dist
        torch.testing.assert_close(ours.posterior(image).mean, posterior.mean, atol=1e-5, rtol=0)  # type: ignore[operator]
        torch.testing.assert_close(ours.posterior(image).log_variance, posterior.logvar, atol=1e-5, rtol=0)  # type: ignore[operator]
        shown = (theirs.decode(posterior.mean).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(ours.reconstruct(image), shown, atol=1e-5, rtol=0)  # type: ignore[operator]
        drawn = posterior.sample(torch.Generator().manual_seed(1))
        centre = theirs.config.shift_factor or 0.0
        assert float(((drawn - centre) * theirs.config.scaling_factor).std()) == pytest.approx(1, abs=0.05)
    assert theirs.config.sample_size == 16

    begun = train("vae-kl", "digits", {**WORDS, "lr": 1e-30}, out=tmp_path / "again", start=tmp_path / "out")
    again = ectype.load(begun.path)
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_where_the_encoder_was_kept_codes_are_scaled_as_they_were(tmp_path: Path) -> None:
    theirs = folder(tmp_path / "theirs", scaling_factor=0.13, shift_factor=0.5)
    run = train("vae-kl", "digits", {**WORDS, "train": "decoder"}, out=tmp_path / "run", start=theirs)
    lines = export(ectype.load(run.path), tmp_path / "out", torch.rand(2, 3, 16, 16))
    assert lines[-1] == "scaling_factor 0.13, shift_factor 0.5, from the pretrained encoder, which was frozen"
    config = loaded(tmp_path / "out").config
    assert (config.scaling_factor, config.shift_factor) == (0.13, 0.5)
    assert (
        "scaled / vae.config.scaling_factor + vae.config.shift_factor" in (tmp_path / "out" / "README.md").read_text()
    )


def test_the_readme_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(model((16, 24)), tmp_path / "mine", torch.rand(2, 3, 16, 24))
    monkeypatch.chdir(tmp_path)
    code = (tmp_path / "mine" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    said: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # diffusers leaves a file for Python to close
        exec(code, said)
    assert said["back"].shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    "keys",
    [
        {"net": {"kind": "conv", "latent": [3, 8, 8]}},
        {"bottleneck": {"kind": "identity"}},
        {"likelihood": {"kind": "mse", "output": "sigmoid"}},
        {"likelihood": {"kind": "discretised_logistic"}},
    ],
    ids=str,
)
def test_what_is_no_autoencoder_of_diffusers_is_refused_in_a_line(keys: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^only an AutoencoderKL can be exported to diffusers: train `vae-kl`[^\n]*$"):
        export(model(**keys), tmp_path / "out", torch.rand(2, 3, 16, 16))


def test_nothing_is_written_over_and_nothing_that_differs_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="full' is not overwritten: it contains other files"):
        export(model(), tmp_path / "full", torch.rand(2, 3, 16, 16))

    forward = KLDecoder.forward
    monkeypatch.setattr(KLDecoder, "forward", lambda self, code: forward(self, code) + 0.01)
    with pytest.raises(
        ModelError, match=r"computes other outputs from these weights .* 0\.02 in images; at most 1e-05"
    ):
        export(model(), tmp_path / "out", torch.rand(2, 3, 16, 16))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_without_diffusers_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(ModelError, match=r"pip install 'ectype\[diffusers\]'\.$"):
        export(made, tmp_path / "out", torch.rand(2, 3, 16, 16))
