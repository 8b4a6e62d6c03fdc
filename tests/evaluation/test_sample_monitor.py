"""Signs and verdicts on samplers whose fault is known, with real images that scikit-learn ships."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import DataError
from ectype.data.dataset import ImageSplit, open_store
from ectype.data.loader import Loader, evenly_spaced
from ectype.data.prepare import prepare
from ectype.evaluation import feature_space
from ectype.evaluation import generation as generated
from ectype.evaluation.classifier import Classifier, TrainedClassifier, cached_classifier
from ectype.evaluation.comparison_stats import compare_figures
from ectype.evaluation.feature_space import frechet_dimensions
from ectype.evaluation.features import Extractor, ExtractorInputs, PixelFeatures, choose_extractors, extract_features
from ectype.evaluation.figure_names import display_name, is_key
from ectype.evaluation.figures import Evaluation
from ectype.evaluation.generation import evaluate_samples
from ectype.evaluation.sample_monitor import SampleMonitor
from ectype.evaluation.verdict import decide_verdict

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
    """Scanned digits in three parts: for training, for monitoring, and test images that nothing has used."""

    def __init__(self) -> None:
        config = load_recipe(
            "gan",
            {
                "data.source": "digits",
                "data.size": 8,
                "data.split.val": 0.3,
                "data.split.test": 0.3,
                "data.split.duplicates": "ignore",
            },
        ).data
        self.prepared = prepare(config)
        store = open_store(self.prepared, config)
        self.info: DataInfo = store.info
        self.train, self.val, self.test = (
            Loader(store.split(name), config, CPU, training=False) for name in ("train", "val", "test")
        )

    def images(self, feed: Loader) -> Tensor:
        return feed.images.gather(torch.arange(len(feed))).float() / 255


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


@pytest.fixture(scope="module")
def pixels(data: Data) -> Extractor:
    return PixelFeatures(data.train, data.info)


@pytest.fixture(scope="module")
def watch(data: Data, pixels: Extractor) -> SampleMonitor:
    return SampleMonitor(data.info, data.train, data.val, [pixels], images=400)


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    return (images + 0.4 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def faint(images: Tensor, generator: torch.Generator) -> Tensor:
    return (images + 0.04 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def test_fresh_real_images_are_at_the_floor_and_healthy(data: Data, watch: SampleMonitor) -> None:
    found = watch(Sampler(data.images(data.test)))
    assert abs(found[watch.key] - watch.floor) < 0.5 * watch.floor
    assert found["recall"] > 0.7
    verdict = decide_verdict(found, watch.reference)
    assert verdict.name == "healthy", verdict


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [7]])
def test_digits_that_are_gone_are_missed(data: Data, watch: SampleMonitor, kept: list[int]) -> None:
    labels = data.test.images.labels
    assert labels is not None
    some = data.images(data.test)[torch.isin(labels, torch.tensor(kept))]
    found = watch(Sampler(some))
    assert found[watch.key] > 4 * watch.floor
    verdict = decide_verdict(found, watch.reference)
    assert verdict.name in ("losing modes", "collapsed"), verdict
    assert "clusters with" in verdict.evidence


def test_what_is_lost_within_one_digit_is_missed(data: Data, watch: SampleMonitor) -> None:
    """Every digit is there, but all sevens are three: a tenth of the images, which no mean over all shows."""
    images, labels = data.images(data.test), data.test.images.labels
    assert labels is not None
    sevens = (labels == 7).nonzero()[:, 0]
    shrunk = images.clone()
    shrunk[sevens] = images[sevens[torch.arange(len(sevens)) % 3]]
    before, after = watch(Sampler(images, faint)), watch(Sampler(shrunk, faint))
    assert after["min_group_coverage"] < 0.6 * before["min_group_coverage"]
    assert after["coverage"] > 0.85 * before["coverage"]
    assert watch.reference["min_group_coverage"].mean > 0.8
    evidence = watch.evidence(Sampler(shrunk, faint))
    assert evidence.lost is not None
    held_out = data.images(data.val)
    of = torch.cdist(evidence.lost.flatten(1), held_out.flatten(1)).argmin(1)
    assert data.val.images.labels is not None
    assert (data.val.images.labels[of] == 7).double().mean() > 0.7


def test_kinds_are_found_where_there_are_no_labels(data: Data, pixels: Extractor) -> None:
    pixels_only = data.val.images.gather(torch.arange(len(data.val)))
    images = ImageSplit([pixels_only], torch.arange(len(pixels_only)), None, data.val.images.names)
    unlabelled = Loader(images, data.val.config, CPU, training=False)
    own = SampleMonitor(data.info, data.train, unlabelled, [pixels], images=400)
    assert int(own.groups.max()) >= 5
    assert own(Sampler(data.images(data.test)))["min_group_coverage"] > 0.6


def test_copies_are_looked_for_among_more_samples_in_the_last_space_alone(data: Data, pixels: Extractor) -> None:
    class Slow(PixelFeatures):
        slow = True

    own = SampleMonitor(data.info, data.train, data.val, [Slow(data.train, data.info), pixels], images=300)
    own.num_drawn = 500
    first, last = own.features(own.draw(Sampler(data.images(data.test))))
    assert (len(first), len(last)) == (own.num_samples, 500)
    assert torch.equal(first, last[: own.num_samples])


def test_few_images_over_and_over_are_a_collapse(data: Data, watch: SampleMonitor) -> None:
    found = watch(Sampler(data.images(data.test)[:8], faint))
    assert found["duplicates"] > 0.5
    assert 0.3 < found["sample_variance"] < 1.2
    one = watch(Sampler(data.images(data.test)[:1]))
    assert one["sample_variance"] < 1e-6
    assert "all samples are the same image" in decide_verdict(one, watch.reference).evidence
    assert decide_verdict(found, watch.reference).name == "collapsed"


def test_copies_are_memorised(data: Data, watch: SampleMonitor) -> None:
    found = watch(Sampler(data.images(data.train), faint))
    assert found[watch.key] < 2 * watch.floor
    assert found["authenticity"] < 0.2
    assert decide_verdict(found, watch.reference).name == "memorising"


def test_noise_is_far_and_varied(data: Data, watch: SampleMonitor) -> None:
    found = watch(Sampler(data.images(data.test), noisy))
    assert found[watch.key] > 3 * watch.floor
    assert found["authenticity"] > 0.9
    assert found["precision"] < 0.7


def test_looking_twice_finds_the_same_and_leaves_chance_alone(data: Data, watch: SampleMonitor) -> None:
    model = Sampler(data.images(data.test), faint)
    state = torch.random.get_rng_state()
    assert watch(model) == watch(model)
    assert torch.equal(state, torch.random.get_rng_state())


def part(split: Loader, n: int) -> Loader:
    """The first n images of a split."""
    labels = split.images.labels
    assert labels is not None
    some = ImageSplit([split.images.gather(torch.arange(n))], torch.arange(n), labels[:n], [str(i) for i in range(n)])
    return Loader(some, split.config, CPU, training=False)


def test_few_held_out_images_give_the_verdict_that_many_give(data: Data, pixels: Extractor) -> None:
    """A run is monitored on a few dozen images; a fresh measurement on many must not find what the monitor did not."""
    images = data.images(data.test)
    flat = images.flatten(1)
    directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:8]
    # They vary along the eight main directions only, which are all that a distance on 32 images is measured on.
    smooth = flat.mean(0) + (flat - flat.mean(0)) @ directions.T @ directions
    few = SampleMonitor(data.info, data.train, part(data.val, 32), [pixels], images=400)
    many = SampleMonitor(data.info, data.train, data.val, [pixels], images=400)
    assert few.spaces[0].distance_dims == 8
    faulty = Sampler(smooth.reshape(images.shape).clamp(0, 1))
    labels = data.test.images.labels
    assert labels is not None
    verdicts = [decide_verdict(monitor(faulty), monitor.reference).name for monitor in (few, many)]
    assert verdicts[0] == verdicts[1] in ("losing modes", "collapsed")
    for highest in (4, 6):
        partial = Sampler(images[labels <= highest])
        verdicts = [decide_verdict(monitor(partial), monitor.reference).name for monitor in (few, many)]
        assert verdicts[0] == verdicts[1] in ("losing modes", "collapsed"), highest
    for good in (Sampler(images), Sampler(images, faint)):
        verdicts = [decide_verdict(monitor(good), monitor.reference).name for monitor in (few, many)]
        assert verdicts == ["healthy", "healthy"]


def test_more_held_out_images_than_samples_do_not_change_the_verdict(data: Data, pixels: Extractor) -> None:
    images, train = data.images(data.test), part(data.train, 160)
    for held_out in (part(data.val, 16), data.val):
        monitor = SampleMonitor(data.info, train, held_out, [pixels], images=400)
        assert monitor.num_samples == len(monitor.diversity_images) == 80
        assert monitor.reference["coverage"].mean > 0.9
        assert decide_verdict(monitor(Sampler(images)), monitor.reference).name == "healthy"


def test_training_images_complete_few_held_out_ones_and_are_not_compared_with_themselves(
    data: Data, pixels: Extractor
) -> None:
    monitor = SampleMonitor(data.info, data.train, part(data.val, 32), [pixels], images=400)
    chosen = monitor.diversity_images
    assert (len(chosen.held_out), len(chosen.train)) == (32, monitor.num_samples - 32)
    assert monitor.reference["precision"].mean < 1
    # Pictures of what is lost may be training images.
    labels = data.test.images.labels
    assert labels is not None
    lost = monitor.evidence(Sampler(data.images(data.test)[labels < 5])).lost
    assert lost is not None
    known = torch.cat([data.images(data.val)[:32], data.images(data.train)])
    assert data.val.images.labels is not None
    assert data.train.images.labels is not None
    of = torch.cdist(lost.flatten(1), known.flatten(1)).min(1)
    assert float(of.values.max()) < 0.01
    assert (torch.cat([data.val.images.labels[:32], data.train.images.labels])[of.indices] >= 5).double().mean() > 0.7


def test_evidence_shows_what_is_lost_and_what_was_copied(data: Data, watch: SampleMonitor) -> None:
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


def test_numbers_are_said_and_fit_the_data(data: Data, watch: SampleMonitor) -> None:
    assert watch.num_samples == min(400, len(data.train) // 2)
    assert (watch.key, watch.name) == ("fd_pixels", "FD-pixels")
    assert watch.reference[watch.key].mean == watch.floor
    assert f"{watch.num_samples:,} samples with {watch.num_real:,} held-out images by FD-pixels" in watch.summary
    assert frechet_dimensions(watch.spaces[0].extractor, watch.num_real) == min(64, 128, watch.num_real // 4)


def test_generation_is_judged_on_the_test_images_with_intervals(data: Data, pixels: Extractor) -> None:
    figures, signs, own = evaluate_samples(
        Sampler(data.images(data.val)), data.train, data.test, [pixels], data.info, seed=3, max_samples=300
    )
    found = {figure.key: figure for figure in figures}
    assert {"fd_pixels", "kernel_distance_pixels", "precision", "recall", "density", "coverage", "ndb"} <= found.keys()
    assert {"vendi_ratio", "fld", "duplicates", "authenticity", "sliced_wasserstein"} <= found.keys()
    for figure in figures:
        assert figure.low is not None, figure.key
        assert figure.high is not None
        assert figure.low <= figure.value <= figure.high, figure.key
    assert found["recall"].baselines["real_images"] > 0.7
    assert decide_verdict(signs, own.reference).name == "healthy"


def test_monitor_evaluation_and_comparison_agree_on_keys(data: Data, pixels: Extractor) -> None:
    class Second(PixelFeatures):
        def __init__(self) -> None:
            super().__init__(data.train, data.info)
            self.name = "DINOv2"

    sampler, spaces = Sampler(data.images(data.val)), [pixels, Second()]
    monitored = SampleMonitor(data.info, data.train, data.val, spaces, images=200)(sampler)
    figures = evaluate_samples(sampler, data.train, data.test, spaces, data.info, seed=3, max_samples=200).figures
    keys = [figure.key for figure in figures]
    assert len(keys) == len(set(keys))
    assert {"fd_pixels", "fd_dinov2", "recall", "recall_dinov2"} <= monitored.keys() & set(keys)
    only_monitored = {"lost_clusters", "lost_clusters_dinov2", "min_group_coverage", "membership_z"}
    only_monitored |= {"sample_variance", "sample_variance_dinov2"}
    assert monitored.keys() - set(keys) == only_monitored
    found = Evaluation("implicit", 1, 1, None, 10, 10, 0, figures, {}, {}, [])
    compared = compare_figures({"a": [found], "b": [found]})
    assert [each.key for each in compared] == [figure.key for figure in figures if figure.better]
    assert [each.name for each in compared] == [figure.name for figure in figures if figure.better]
    for key in (*monitored, *keys):
        assert is_key(key)
        assert display_name(key) != key or "_" not in key


def test_images_that_lie_class_by_class_are_compared_as_any(
    data: Data, pixels: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes a part of the images takes it from everywhere: folders of classes come one after the other."""
    for module, name, most in ((generated, "MAX_PAIRWISE_SAMPLES", 120), (feature_space, "MAX_IMAGES_FOR_BINS", 200)):
        monkeypatch.setattr(module, name, most)

    def sorted_by_class(feed: Loader) -> Loader:
        labels = feed.images.labels
        assert labels is not None
        order = labels.argsort(stable=True)
        some = ImageSplit([feed.images.gather(order)], torch.arange(len(order)), labels[order], list(map(str, order)))
        return Loader(some, feed.config, CPU, training=False)

    train, test = sorted_by_class(data.train), sorted_by_class(data.test)
    sampler = Sampler(data.images(data.val))
    figures, _, watch = evaluate_samples(sampler, train, test, [pixels], data.info, seed=3, max_samples=300)
    found = {figure.key: figure for figure in figures}
    # Fresh real images of all classes are no farther from these than from any.
    assert found["kernel_distance_pixels"].low is not None
    assert found["kernel_distance_pixels"].low < 0
    assert abs(found["fld"].value) < 10
    # The last class is as near to a bin as the first is.
    space, labels = watch.spaces[0], test.images.labels
    assert space.bins is not None
    assert labels is not None
    held_out = space.for_diversity(space.held_out)
    away = torch.cdist(held_out, space.bins.means.to(held_out)).amin(1)
    labels = labels[evenly_spaced(len(test), watch.num_real)]
    assert float(away[labels >= 8].mean()) < 1.3 * float(away[labels <= 1].mean())


def test_too_few_test_images_are_no_basis(data: Data, pixels: Extractor) -> None:
    twelve = data.test.images.gather(torch.arange(12))
    some = ImageSplit([twelve], torch.arange(12), None, [str(i) for i in range(12)])
    few = Loader(some, data.test.config, CPU, training=False)
    with pytest.raises(DataError, match="12 test images are too few"):
        evaluate_samples(Sampler(data.images(data.val)), data.train, few, [pixels], data.info, seed=3)


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
    source = ExtractorInputs(data.train, data.info, Path(data.prepared.root))
    chosen = choose_extractors("auto", source, quick=True)
    assert [each.name for each in chosen.extractors] == ["classifier", "pixels"]
    assert "a classifier on the labels has 9" in chosen.why
    features = extract_features(chosen.extractors[0], data.images(data.test).split(100))
    labels = data.test.images.labels
    assert labels is not None
    means = torch.stack([features[labels == k].mean(0) for k in range(10)])
    assert (torch.cdist(features, means).argmin(1) == labels).double().mean() > 0.9
    again = choose_extractors("auto", source, quick=True)
    assert torch.equal(
        extract_features(again.extractors[0], [data.images(data.test)]),
        extract_features(chosen.extractors[0], [data.images(data.test)]),
    )


def test_a_classifier_is_kept_for_its_images_and_what_it_was_told_of_them(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Loader] = []

    def train(split: Loader, info: DataInfo, *, seed: int) -> TrainedClassifier:
        trained.append(split)
        return TrainedClassifier(Classifier(info), 0.9, 0.1)

    monkeypatch.setattr("ectype.evaluation.classifier.train_classifier", train)
    renamed = copy.copy(data.train)
    renamed.images = copy.copy(data.train.images)
    assert renamed.images.labels is not None
    renamed.images.labels = 9 - renamed.images.labels
    for feed in (data.train, data.train, renamed, data.val, renamed):
        cached_classifier(feed, data.info, tmp_path)
    assert trained == [data.train, renamed, data.val]
