"""Signs and verdicts on samplers whose fault is known, with real images that scikit-learn ships."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ectype.data.feed import Feed, evenly
from ectype.data.prepare import prepare
from ectype.data.store import Images, open_store
from ectype.errors import DataError
from ectype.measure import generation as generated
from ectype.measure import watching
from ectype.measure.classifier import Classifier, Trained, cached_classifier
from ectype.measure.features import Extractor, PixelFeatures, Source, choose_extractors, extract
from ectype.measure.generation import generation
from ectype.measure.verdict import judge
from ectype.measure.watching import LEAST, SampleWatch, dimensions
from ectype.recipe import load_recipe
from ectype.sections import DataInfo

CPU = torch.device("cpu")


class Sampler(nn.Module):
    """Shows given images, drawn by the generator it is given."""

    def __init__(self, images: Tensor, change: Callable[[Tensor, torch.Generator], Tensor] | None = None) -> None:
        super().__init__()
        self.images, self.change = images, change

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        assert generator is not None
        chosen = torch.randint(len(self.images), (n,), generator=generator)
        images = self.images[chosen]
        return images if self.change is None else self.change(images, generator)


class Data:
    """Scanned digits in three parts: to be trained on, to watch by, and fresh ones that nothing has seen."""

    def __init__(self) -> None:
        config = load_recipe(
            "gan",
            {"data.source": "digits", "data.size": 8, "data.split.val": 0.3, "data.split.test": 0.3},
        ).data
        self.prepared = prepare(config)
        store = open_store(self.prepared, config)
        self.info: DataInfo = store.info
        self.train, self.val, self.test = (
            Feed(store.split(name), config, CPU, training=False) for name in ("train", "val", "test")
        )

    def images(self, feed: Feed) -> Tensor:
        return feed.images.gather(torch.arange(len(feed))).float() / 255


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


@pytest.fixture(scope="module")
def pixels(data: Data) -> Extractor:
    return PixelFeatures(data.train, data.info)


@pytest.fixture(scope="module")
def watch(data: Data, pixels: Extractor) -> SampleWatch:
    return SampleWatch(data.info, data.train, data.val, [pixels], images=400)


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    return (images + 0.4 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def faint(images: Tensor, generator: torch.Generator) -> Tensor:
    return (images + 0.04 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def test_fresh_real_images_are_at_the_floor_and_healthy(data: Data, watch: SampleWatch) -> None:
    found = watch(Sampler(data.images(data.test)))
    assert abs(found[watch.name] - watch.floor) < 0.5 * watch.floor
    assert found["recall"] > 0.7
    verdict = judge(found, watch.reference)
    assert verdict.name == "healthy", verdict


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [7]])
def test_digits_that_are_gone_are_missed(data: Data, watch: SampleWatch, kept: list[int]) -> None:
    labels = data.test.images.labels
    assert labels is not None
    some = data.images(data.test)[torch.isin(labels, torch.tensor(kept))]
    found = watch(Sampler(some))
    assert found[watch.name] > 4 * watch.floor
    verdict = judge(found, watch.reference)
    assert verdict.name in ("losing modes", "collapsed"), verdict
    assert "clusters of" in verdict.words


def test_what_is_lost_within_one_digit_is_missed(data: Data, watch: SampleWatch) -> None:
    """Every digit is there, but all sevens are three: a tenth of the images, which no mean over all shows."""
    images, labels = data.images(data.test), data.test.images.labels
    assert labels is not None
    sevens = (labels == 7).nonzero()[:, 0]
    shrunk = images.clone()
    shrunk[sevens] = images[sevens[torch.arange(len(sevens)) % 3]]
    before, after = watch(Sampler(images, faint)), watch(Sampler(shrunk, faint))
    assert after[LEAST] < 0.6 * before[LEAST]
    assert after["coverage"] > 0.85 * before["coverage"]
    assert watch.reference[LEAST].mean > 0.8
    evidence = watch.evidence(Sampler(shrunk, faint))
    assert evidence.lost is not None
    held_out = data.images(data.val)
    of = torch.cdist(evidence.lost.flatten(1), held_out.flatten(1)).argmin(1)
    assert data.val.images.labels is not None
    assert (data.val.images.labels[of] == 7).double().mean() > 0.7


def test_kinds_are_found_where_there_are_no_labels(data: Data, pixels: Extractor) -> None:
    pixels_only = data.val.images.gather(torch.arange(len(data.val)))
    images = Images([pixels_only], torch.arange(len(pixels_only)), None, data.val.images.names)
    unlabelled = Feed(images, data.val.config, CPU, training=False)
    own = SampleWatch(data.info, data.train, unlabelled, [pixels], images=400)
    assert int(own.kinds.max()) >= 5
    assert own(Sampler(data.images(data.test)))[LEAST] > 0.6


def test_copies_are_looked_for_among_more_samples_in_the_last_space_alone(data: Data, pixels: Extractor) -> None:
    class Slow(PixelFeatures):
        slow = True

    own = SampleWatch(data.info, data.train, data.val, [Slow(data.train, data.info), pixels], images=300)
    own.drawn = 500
    first, last = own.features(own.draw(Sampler(data.images(data.test))))
    assert (len(first), len(last)) == (own.samples, 500)
    assert torch.equal(first, last[: own.samples])


def test_few_images_over_and_over_are_a_collapse(data: Data, watch: SampleWatch) -> None:
    found = watch(Sampler(data.images(data.test)[:8], faint))
    assert found["repeated"] > 0.5
    assert judge(found, watch.reference).name == "collapsed"


def test_copies_are_memorised(data: Data, watch: SampleWatch) -> None:
    found = watch(Sampler(data.images(data.train), faint))
    assert found[watch.name] < 2 * watch.floor
    assert found["authenticity"] < 0.2
    assert judge(found, watch.reference).name == "memorising"


def test_noise_is_far_and_varied(data: Data, watch: SampleWatch) -> None:
    found = watch(Sampler(data.images(data.test), noisy))
    assert found[watch.name] > 3 * watch.floor
    assert found["authenticity"] > 0.9
    assert found["precision"] < 0.7


def test_looking_twice_finds_the_same_and_leaves_chance_alone(data: Data, watch: SampleWatch) -> None:
    model = Sampler(data.images(data.test), faint)
    state = torch.random.get_rng_state()
    assert watch(model) == watch(model)
    assert torch.equal(state, torch.random.get_rng_state())


def test_evidence_shows_what_is_lost_and_what_was_copied(data: Data, watch: SampleWatch) -> None:
    labels = data.test.images.labels
    assert labels is not None
    evidence = watch.evidence(Sampler(data.images(data.test)[labels < 5]))
    assert evidence.lost is not None
    held_out = data.images(data.val)
    of = torch.cdist(evidence.lost.flatten(1), held_out.flatten(1)).argmin(1)
    assert data.val.images.labels is not None
    assert (data.val.images.labels[of] >= 5).double().mean() > 0.7
    copied = watch.evidence(Sampler(data.images(data.train))).copied
    assert copied is not None
    samples, near = copied[::2], copied[1::2]
    assert torch.equal(samples, near)


def test_numbers_are_said_and_fit_the_data(data: Data, watch: SampleWatch) -> None:
    assert watch.samples == min(400, len(data.train) // 2)
    assert watch.name == "FD-pixels"
    assert watch.reference[watch.name].mean == watch.floor
    assert f"{watch.samples:,} samples with {watch.real:,} held-out images by FD-pixels" in watch.summary
    assert dimensions(watch.spaces[0].extractor, watch.real) == min(64, 128, watch.real // 4)


def test_generation_is_judged_on_the_test_images_with_intervals(data: Data, pixels: Extractor) -> None:
    figures, signs, own = generation(
        Sampler(data.images(data.val)), data.train, data.test, [pixels], data.info, seed=3, most=300
    )
    found = {figure.name: figure for figure in figures}
    assert {"FD-pixels", "kernel distance", "precision", "recall", "density", "coverage", "NDB/K"} <= found.keys()
    assert {"Vendi ratio", "FLD", "repeated", "authenticity", "sliced Wasserstein distance × 10³"} <= found.keys()
    for figure in figures:
        assert figure.low is not None, figure.name
        assert figure.high is not None
        assert figure.low <= figure.value <= figure.high, figure.name
    assert found["recall"].beside["real images"] > 0.7
    assert judge(signs, own.reference).name == "healthy"


def test_images_that_lie_class_by_class_are_compared_as_any(
    data: Data, pixels: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes a part of the images takes it from everywhere: folders of classes come one after the other."""
    for module, name, most in ((generated, "FEW", 120), (watching, "BINNED", 200)):
        monkeypatch.setattr(module, name, most)

    def sorted_by_class(feed: Feed) -> Feed:
        labels = feed.images.labels
        assert labels is not None
        order = labels.argsort(stable=True)
        some = Images([feed.images.gather(order)], torch.arange(len(order)), labels[order], list(map(str, order)))
        return Feed(some, feed.config, CPU, training=False)

    train, test = sorted_by_class(data.train), sorted_by_class(data.test)
    sampler = Sampler(data.images(data.val))
    figures, _, watch = generation(sampler, train, test, [pixels], data.info, seed=3, most=300)
    found = {figure.name: figure for figure in figures}
    # Fresh real images of all classes are no farther from these than from any.
    assert found["kernel distance"].low is not None
    assert found["kernel distance"].low < 0
    assert abs(found["FLD"].value) < 10
    # The last class is as near to a bin as the first is.
    space, labels = watch.spaces[0], test.images.labels
    assert space.bins is not None
    assert labels is not None
    away = torch.cdist(space.held_out, space.bins.means.to(space.held_out)).amin(1)
    labels = labels[evenly(len(test), watch.real)]
    assert float(away[labels >= 8].mean()) < 1.3 * float(away[labels <= 1].mean())


def test_too_few_test_images_are_no_basis(data: Data, pixels: Extractor) -> None:
    twelve = data.test.images.gather(torch.arange(12))
    some = Images([twelve], torch.arange(12), None, [str(i) for i in range(12)])
    few = Feed(some, data.test.config, CPU, training=False)
    with pytest.raises(DataError, match="12 test images are too few"):
        generation(Sampler(data.images(data.val)), data.train, few, [pixels], data.info, seed=3)


def test_pixel_features_are_principal_components(data: Data, pixels: Extractor) -> None:
    image = data.images(data.train)
    found = pixels(image).double()
    assert found.shape == (len(image), 64)
    covariance = found.T.cov()
    off = covariance - covariance.diag().diag()
    assert float(off.abs().max()) < 1e-4 * float(covariance.diag().max())
    # A change of basis keeps distances where nothing was dropped.
    torch.testing.assert_close(
        torch.cdist(found, found), torch.cdist(*[image.flatten(1).double()] * 2), atol=1e-4, rtol=0
    )


def test_auto_takes_a_classifier_where_labels_allow_and_says_why(data: Data) -> None:
    source = Source(data.train, data.info, Path(data.prepared.root))
    chosen = choose_extractors("auto", source, quick=True)
    assert [each.name for each in chosen.extractors] == ["classifier", "pixels"]
    assert "right on 9" in chosen.why
    features = extract(chosen.extractors[0], data.images(data.test).split(100))
    labels = data.test.images.labels
    assert labels is not None
    means = torch.stack([features[labels == k].mean(0) for k in range(10)])
    assert (torch.cdist(features, means).argmin(1) == labels).double().mean() > 0.9
    again = choose_extractors("auto", source, quick=True)
    assert torch.equal(
        extract(again.extractors[0], [data.images(data.test)]), extract(chosen.extractors[0], [data.images(data.test)])
    )


def test_a_classifier_is_kept_for_its_images_and_what_it_was_told_of_them(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Feed] = []

    def train(feed: Feed, info: DataInfo, *, seed: int) -> Trained:
        trained.append(feed)
        return Trained(Classifier(info), 0.9, 0.1)

    monkeypatch.setattr("ectype.measure.classifier.train_classifier", train)
    renamed = copy.copy(data.train)
    renamed.images = copy.copy(data.train.images)
    assert renamed.images.labels is not None
    renamed.images.labels = 9 - renamed.images.labels
    for feed in (data.train, data.train, renamed, data.val, renamed):
        cached_classifier(feed, data.info, tmp_path)
    assert trained == [data.train, renamed, data.val]
