"""Runs that start from what others published: a folder of diffusers, that of a pipeline, a name on the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ectype
from ectype.config.recipe import load_recipe
from ectype.core.errors import CheckpointError, EctypeError, ModelError, RecipeError
from ectype.nets.diffusers_weights import find_diffusers_folder
from ectype.runs import checkpoint
from ectype.training.run import resolve, train
from tests.export.kl import folder, loaded

pytestmark = pytest.mark.trains

pytest.importorskip("diffusers")

WORDS = {
    "data.size": 16,
    "data.channels": 3,
    "objective.loss": {"l1": 1.0},
    "adversary.critic": {"width": 8, "max_width": 16, "levels": 1},
    "train.images": 64,
    "train.batch": 16,
    "monitor.patience": None,
    "run.device": "cpu",
    "run.pictures": 0,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return folder(tmp_path / "theirs")


def rewritten(place: Path, **keys: Any) -> None:
    file = place / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


# ── What the recipe takes from it ───────────────────────────────────────────────────────────────────────────────────


def test_the_recipe_takes_its_architecture_and_an_override_stands(theirs: Path) -> None:
    rewritten(theirs, scaling_factor=0.5)
    net = resolve("vae-kl", "digits", start=theirs).model.net  # type: ignore[attr-defined]
    assert (net.block_out_channels, net.layers_per_block, net.latent_channels, net.norm_num_groups) == (
        (8, 16),
        1,
        3,
        4,
    )
    assert net.scaling.scaling_factor == 0.5
    said = ["layers_per_block=2", "train=decoder"]
    net = resolve("vae-kl", "digits", said, start=theirs).model.net  # type: ignore[attr-defined]
    assert (net.block_out_channels, net.layers_per_block, net.train) == ((8, 16), 2, "decoder")
    chosen = resolve("ae", "digits", ["net=diffusers"], start=theirs).model.net  # type: ignore[attr-defined]
    assert chosen.block_out_channels == (8, 16)


def test_what_an_early_config_does_not_say_is_as_diffusers_takes_it(theirs: Path) -> None:
    file = theirs / "config.json"
    left_out = ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention", "scaling_factor", "shift_factor")
    said = {key: value for key, value in json.loads(file.read_text()).items() if key not in left_out}
    file.write_text(json.dumps(said))
    net, wanted = (resolve("vae-kl", "digits", start=theirs).model.net, loaded(theirs).config)  # type: ignore[attr-defined]
    for key in ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"):
        assert getattr(net, key) == getattr(wanted, key)
    assert net.scaling.scaling_factor == wanted.scaling_factor


def test_a_whole_pipeline_is_looked_into(tmp_path: Path, theirs: Path) -> None:
    shutil.move(theirs, tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert find_diffusers_folder(tmp_path / "pipeline") == tmp_path / "pipeline" / "vae"


def test_other_networks_are_refused(theirs: Path) -> None:
    with pytest.raises(
        ModelError, match=r"class AutoencoderKL, the recipe's is not one of diffusers: `ectype train vae-kl`"
    ):
        resolve("ae", "digits", start=theirs)
    rewritten(theirs, down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"])
    with pytest.raises(ModelError, match=r"config\.json has down_block_types with AttnDownEncoderBlock2D: only"):
        resolve("vae-kl", "digits", start=theirs)
    rewritten(theirs, _class_name="UNet2DModel")
    with pytest.raises(ModelError, match="class UNet2DModel, the recipe's is of class AutoencoderKL"):
        resolve("vae-kl", "digits", start=theirs)


# ── Weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_the_decoder_is_trained(tmp_path: Path, theirs: Path) -> None:
    run = train("vae-kl", "digits", {**WORDS, "train": "decoder"}, out=tmp_path / "run", start=theirs)
    net, model = loaded(theirs), ectype.load(run.path)
    held = model.state_dict()
    for name, value in net.state_dict().items():
        kept = name.startswith(("encoder.", "quant_conv."))
        assert torch.equal(held[f"{'encoder' if kept else 'decoder'}.{name}"], value) == kept, name
    begun = checkpoint.load_tensors(min(checkpoint.checkpoint_dirs(run.checkpoints)) / "average.safetensors")
    assert torch.equal(begun["decoder.decoder.conv_out.bias"], net.decoder.conv_out.bias)  # not that of the mean image
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(image), net.encode(2 * image - 1).latent_dist.mean)  # type: ignore[operator]


def test_a_kept_encoder_needs_one_that_has_learned(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="train=decoder would freeze a randomly initialized encoder"):
        train("vae-kl", "digits", {**WORDS, "train": "decoder", "block_out_channels": [8, 16]}, out=tmp_path / "a")
    assert not (tmp_path / "a" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    "spoil, words, said",
    [
        (
            "pickled",
            {},
            r"has no diffusion_pytorch_model\.safetensors \(next to config\.json: .*\.bin\): no other format",
        ),
        ("renamed", {}, r"do not fit this model \(4 tensors; .* is missing\)"),
        ("damaged", {}, "cannot be read"),
        ("whole", {"latent_channels": 5}, r"do not fit this model .* is \[.*\], not \[.*\]\): leave out overrides"),
        ("whole", {"data.channels": 1}, r"conv_in\.weight is .*channels=3"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_a_line(
    spoil: str, words: dict[str, Any], said: str, theirs: Path, tmp_path: Path
) -> None:
    file = theirs / WEIGHTS
    if spoil == "pickled":
        file.rename(theirs / "diffusion_pytorch_model.bin")
    elif spoil == "renamed":
        held = load_file(file)
        save_file({name.replace("quant_conv.bias", "other"): value for name, value in held.items()}, file)
    elif spoil == "damaged":
        file.write_bytes(file.read_bytes()[:100])
    wrong = CheckpointError if spoil == "damaged" else ModelError
    with pytest.raises(wrong, match=said) as caught:
        train("vae-kl", "digits", {**WORDS, **words}, out=tmp_path / "run", start=theirs)
    assert "\n" not in str(caught.value)


# ── The Hub ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def cached(cache: Path, theirs: Path) -> None:
    """As the Hub's client leaves it."""
    place = cache / "models--someone--vae"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    shutil.copytree(theirs, place / "snapshots" / "abc")


def hub_at(place: Path, monkeypatch: pytest.MonkeyPatch, *, offline: bool) -> None:
    """Have the Hub's client look into a cache of its own."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", offline)


def test_a_name_on_the_hub_is_taken_from_its_cache(
    tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_at(tmp_path / "hub", monkeypatch, offline=True)
    cached(tmp_path / "hub", theirs)
    net = resolve("vae-kl", "digits", start="someone/vae").model.net  # type: ignore[attr-defined]
    assert net.block_out_channels == (8, 16)
    run = train("vae-kl", "digits", WORDS, out=tmp_path / "run", start="someone/vae")
    assert run.state() == "finished"


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_a_line_says_what_to_put_where(
    offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_at(tmp_path / "hub", monkeypatch, offline=offline)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    why = "HF_HUB_OFFLINE is set" if offline else "Name or service not known"
    with pytest.raises(
        ModelError, match=rf"'someone/vae' is neither a run .*cache and cannot be downloaded \({why}\): put"
    ) as told:
        resolve("vae-kl", "digits", start="someone/vae")
    assert "\n" not in str(told.value)


def test_a_mistyped_run_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert find_diffusers_folder("runs/vae-kl-001") is None
    with pytest.raises(EctypeError, match="runs/vae-kl-001"):
        train("vae-kl", "digits", {**WORDS, "block_out_channels": [8, 16]}, out=tmp_path / "a", start="runs/vae-kl-001")


# ── train=decoder ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_word_for_a_section_means_the_one_other_key_of_that_name() -> None:
    found = load_recipe("vae-kl", ["train=decoder", "train.images=5k", "train.batch=4"])
    assert (found.model.net.train, found.train.images, found.train.batch) == ("decoder", 5000, 4)  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="train"):
        load_recipe("vae", ["train=decoder"])
    with pytest.raises(RecipeError, match=r"model\.net\.train='encoder'.* 'all' or 'decoder'"):
        load_recipe("vae-kl", ["train=encoder"])
    assert load_recipe("vae", ["split=contiguous"]).data.split.by == "contiguous"
    assert load_recipe("vae", ["model.net=mlp"]).model.net.kind == "mlp"  # type: ignore[attr-defined]
