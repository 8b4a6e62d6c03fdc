"""Quantizers: their formulas, and their behavior in training."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core.distributed import World
from ectype.core.errors import ModelError
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.data.dataset import open_store
from ectype.data.loader import Loader
from ectype.data.prepare import prepare
from ectype.models import quantizers
from ectype.models.autoencoder import AutoencoderConfig, QuantizedAutoencoder
from ectype.models.bottlenecks import BottleneckConfig, BottleneckOutput
from ectype.models.densities import fit_density
from ectype.models.quantizers import FiniteScalarQuantizer, VectorQuantizer, perplexity
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.training.trainer import Trainer
from tests.training.stand_ins import RECIPE, Pixels, play


def build(shape: tuple[int, ...], **plain):
    torch.manual_seed(0)
    return BottleneckConfig.model_validate({"kind": "vq", **plain}).build(shape)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def forward(bottleneck, features: Tensor) -> BottleneckOutput:
    """Run a forward pass; quantizers ignore the noise."""
    return bottleneck(features, torch.randn)


def updated(bottleneck: VectorQuantizer, *features: Tensor) -> VectorQuantizer:
    """Update the codebook with several batches."""
    for batch in features:
        bottleneck.update_buffers(forward(bottleneck, batch).notes)
    return bottleneck


# ── A learned codebook ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("max_distances", [7, 2**22])
def test_each_position_becomes_the_nearest_code(max_distances: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizers, "MAX_DISTANCES_PER_CHUNK", max_distances)
    vq = build((4, 3, 5), codes=7, revive_below=0)
    vq.codebook.copy_(normal(7, 4, seed=1))
    features = normal(2, 4, 3, 5)
    code = forward(vq, features).code
    for b, y, x in itertools.product(range(2), range(3), range(5)):
        distances = (vq.codebook - features[b, :, y, x]).norm(dim=1)
        assert int(vq.indices(features)[b, 0, y, x]) == int(distances.argmin())
        assert torch.equal(code[b, :, y, x], vq.codebook[distances.argmin()])
    assert torch.equal(vq.code(features), code)
    assert torch.equal(vq.lookup(vq.indices(features)), code)


def test_the_gradient_goes_straight_through_and_the_penalty_holds_the_encoder() -> None:
    vq = build((4, 3, 5), codes=7)
    features, weight = normal(2, 4, 3, 5).requires_grad_(), normal(2, 4, 3, 5, seed=1)
    output = forward(vq, features)
    gradient = torch.autograd.grad((output.code * weight).sum(), features, retain_graph=True)[0]
    assert torch.equal(gradient, weight)
    torch.testing.assert_close(output.penalties["commitment"], (features - output.code).square())
    penalty_gradient = torch.autograd.grad(output.penalties["commitment"].sum(), features)[0]
    torch.testing.assert_close(penalty_gradient, 2 * (features - output.code))


def test_the_codebook_follows_running_means() -> None:
    """Nᵢ ← γNᵢ + (1 − γ)nᵢ, mᵢ ← γmᵢ + (1 − γ)Σz, eᵢ = mᵢ / Nᵢ, one vector at a time."""
    vq = build((3, 2, 2), codes=4, decay=0.9, revive_below=0)
    vq.codebook.copy_(normal(4, 3, seed=1))
    n, m, e = np.zeros(4), np.zeros((4, 3)), vq.codebook.double().numpy()
    for step in range(5):
        features = normal(6, 3, 2, 2, seed=step + 2)
        new_n, new_m = np.zeros(4), np.zeros((4, 3))
        for z in features.double().movedim(1, -1).reshape(-1, 3).numpy():
            nearest = int(((e - z) ** 2).sum(1).argmin())
            new_n[nearest] += 1 / 6
            new_m[nearest] += z / 6
        n, m = 0.9 * n + 0.1 * new_n, 0.9 * m + 0.1 * new_m
        e = np.where(n[:, None] > 0, m / np.maximum(n, 1e-9)[:, None], e)
        updated(vq, features)
        np.testing.assert_allclose(vq.counts, n, rtol=1e-5)
        np.testing.assert_allclose(vq.codebook, e, rtol=1e-4, atol=1e-6)


def test_a_forward_pass_changes_nothing_and_only_training_takes_statistics() -> None:
    vq = updated(build((4, 3, 5), codes=7), normal(2, 4, 3, 5))
    before = copy.deepcopy(vq.state_dict())
    notes = forward(vq, normal(2, 4, 3, 5, seed=1)).notes
    assert {name: tuple(note.shape) for name, note in notes.items()} == {
        "codebook usage": (),
        "code perplexity": (),
        "codebook counts": (7,),
        "codebook sums": (7, 4),
        "codebook squares": (7, 4),
    }
    assert all(note.ndim == 0 for note in forward(vq.eval(), normal(2, 4, 3, 5, seed=1)).notes.values())
    assert all(torch.equal(value, before[name]) for name, value in vq.state_dict().items())


def test_a_dead_code_takes_half_of_the_widest_cell() -> None:
    vq = build((2, 100, 100), codes=3)
    vq.codebook.copy_(torch.tensor([[50.0, 50.0], [0.0, 0.0], [-90.0, -90.0]]))
    features = normal(1, 2, 100, 100) * torch.tensor([0.1, 2.0]).view(1, 2, 1, 1)
    features[..., :10] = 50  # a tenth of them are equal: their cell has no variance and is not split
    updated(vq, features)
    offset = 2 * math.sqrt(2 / math.pi)
    torch.testing.assert_close(vq.codebook[0], torch.tensor([50.0, 50.0]))
    torch.testing.assert_close(vq.codebook[2], torch.tensor([0.0, offset]), atol=0.05, rtol=0)
    torch.testing.assert_close(vq.codebook[1], torch.tensor([0.0, -offset]), atol=0.05, rtol=0)
    torch.testing.assert_close(vq.counts[1:], torch.full((2,), 0.01 * 4500))
    flat = features.movedim(1, -1).reshape(-1, 2)
    torch.testing.assert_close(vq.sums.sum(0), 0.01 * flat.sum(0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(vq.squares.sum(0), 0.01 * flat.square().sum(0), rtol=1e-4, atol=1e-3)
    # The assumed means of the halves are right: the same batch barely changes them.
    before = vq.codebook.clone()
    torch.testing.assert_close(updated(vq, features).codebook, before, atol=0.02, rtol=0)


def test_equal_vectors_leave_dead_codes_dead() -> None:
    vq = build((2, 4, 4), codes=8)
    updated(vq, *[torch.full((3, 2, 4, 4), 0.7)] * 3)
    assert int((vq.counts > 0).sum()) == 1
    assert torch.isfinite(vq.codebook).all()


def test_a_codebook_finds_every_cluster_and_follows_them_elsewhere() -> None:
    vq = build((2, 8, 8), codes=24, decay=0.9)
    corners = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) * 3
    for shift in (0.0, 100.0):
        for step in range(80):
            which = torch.randint(16, (4 * 64,), generator=torch.Generator().manual_seed(step))
            vectors = corners[which] + shift + 0.1 * normal(256, 2, seed=step)
            updated(vq, vectors.view(4, 8, 8, 2).movedim(-1, 1))
        assert float(torch.cdist(corners + shift, vq.codebook).min(1).values.max()) < 0.15
        notes = forward(vq, corners.T.reshape(1, 2, 4, 4) + shift).notes
        assert float(notes["codebook usage"]) > 0.9
        assert float(notes["code perplexity"]) > 16


def test_usage_counts_what_was_chosen_of_late() -> None:
    vq = build((1, 1, 1), codes=4, decay=0.5, revive_below=0)
    vq.codebook.copy_(torch.arange(4.0)[:, None])
    usage = []
    for value in (0.0, 1.0, 2.0, 2.0, 2.0):
        output = forward(vq, torch.full((2, 1, 1, 1), value))
        usage.append(float(output.notes["codebook usage"]))
        vq.update_buffers(output.notes)
    assert usage == [0, 0.25, 0.5, 0.5, 0.25]  # with this decay only the last two batches count


def test_perplexity_of_known_counts() -> None:
    found = perplexity(torch.tensor([[2.0, 2, 2, 2], [9, 0, 0, 0], [0, 0, 0, 0], [3, 3, 0, 0]]))
    torch.testing.assert_close(found, torch.tensor([4.0, 1, 1, 2]))


def test_codes_by_cosine_have_length_one() -> None:
    vq = build((4, 3, 5), codes=7, cosine=True)
    features = 20 * normal(6, 4, 3, 5)
    updated(vq, features, features + 1)
    torch.testing.assert_close(vq.codebook.norm(dim=1), torch.ones(7))
    unit = nn.functional.normalize(features, dim=1)
    similar = torch.einsum("bdyx,kd->bkyx", unit, vq.codebook)
    assert torch.equal(vq.indices(features)[:, 0], similar.argmax(1))
    torch.testing.assert_close(forward(vq, features).penalties["commitment"], (unit - vq.code(features)).square())


def test_groups_cut_a_vector_into_pieces_of_one_codebook() -> None:
    vq = build((6,), codes=5, groups=3)
    vq.codebook.copy_(normal(5, 2, seed=1))
    features = normal(4, 6)
    assert vq.indices(features).shape == (4, 3)
    for b, group in itertools.product(range(4), range(3)):
        piece = slice(2 * group, 2 * group + 2)
        nearest = (vq.codebook - features[b, piece]).norm(dim=1).argmin()
        assert torch.equal(vq.code(features)[b, piece], vq.codebook[nearest])
    with pytest.raises(ModelError, match=r"groups=4 does not divide the 6 channels of the latent map"):
        build((6, 2, 2), groups=4)


def test_half_precision_around_it_changes_no_index() -> None:
    vq = updated(build((4, 8, 8), codes=64), normal(8, 4, 8, 8))
    features = normal(8, 4, 8, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        output, indices = forward(vq, features), vq.indices(features)
    assert torch.equal(indices, vq.indices(features))
    assert output.code.dtype == torch.float32


# ── Finite scalars ──────────────────────────────────────────────────────────────────────────────────────────────────

LEVELS = (3, 4, 5, 8, 2, 7)


def paper_bound(z: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Compute `bound` of the paper's appendix A.1."""
    half_l = (levels - 1) * (1 - 1e-3) / 2
    offset = np.where(levels % 2 == 1, 0.0, 0.5)
    shift = np.tan(offset / half_l)
    return np.tanh(z + shift) * half_l - offset


def test_bound_and_rounding_are_the_papers() -> None:
    fsq = build((6, 10, 10), kind="fsq", levels=LEVELS)
    features = 3 * normal(4, 6, 10, 10)
    levels = np.array(LEVELS)
    bound = paper_bound(features.double().movedim(1, -1).numpy(), levels)
    found = fsq.preprocess(fsq._split_groups(features)).squeeze(1).numpy() * (levels // 2)
    np.testing.assert_allclose(found, bound, atol=1e-5)
    rounded = fsq.code(features).movedim(1, -1).numpy()
    unambiguous = np.abs(bound - np.floor(bound) - 0.5) > 1e-4
    np.testing.assert_allclose(rounded[unambiguous], (np.round(bound) / (levels // 2))[unambiguous], atol=1e-6)


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8, 17, 256])
def test_every_level_is_reached_and_none_beyond(levels: int) -> None:
    fsq = build((1, 1, 1), kind="fsq", levels=[levels])
    features = torch.linspace(-12, 12, 50_001).view(-1, 1, 1, 1)
    values = fsq.code(features).unique()
    expected = (torch.arange(levels) - levels // 2) / (levels // 2)
    torch.testing.assert_close(values, expected)
    assert values.min() == -1
    assert fsq.indices(features).unique().tolist() == list(range(levels))


def test_each_index_has_its_own_code_and_comes_back() -> None:
    fsq = build((6,), kind="fsq", levels=LEVELS)
    assert fsq.codebook_size == math.prod(LEVELS)
    indices = torch.arange(fsq.codebook_size)[:, None]
    codes = fsq.lookup(indices)
    assert len(codes.unique(dim=0)) == fsq.codebook_size
    assert torch.equal(fsq.assign(fsq._split_groups(codes)), indices)
    assert torch.equal(fsq.nearest(codes + 0.05 * torch.rand(codes.shape)), codes)
    assert torch.equal(fsq.nearest(torch.full((1, 6), 9.0)), (torch.tensor([[2, 3, 4, 7, 1, 6]]) - fsq.half_width)
                       / fsq.half_width)  # fmt: skip


def test_the_gradient_is_that_of_the_bound_and_nothing_is_kept() -> None:
    fsq = build((6, 2, 2), kind="fsq", levels=LEVELS)
    features, weight = normal(3, 6, 2, 2).requires_grad_(), normal(3, 6, 2, 2, seed=1)
    output = forward(fsq, features)
    found = torch.autograd.grad((output.code * weight).sum(), features)[0]
    bound = fsq._merge_groups(fsq.preprocess(fsq._split_groups(features)))
    torch.testing.assert_close(found, torch.autograd.grad((bound * weight).sum(), features)[0])
    assert torch.equal(output.code, fsq.code(features))
    assert output.penalties == {}
    assert fsq.state_dict() == {}


def test_notes_of_scalars_are_of_each_image() -> None:
    fsq = build((2, 2, 4), kind="fsq", levels=[3, 3])
    one = torch.zeros(1, 2, 2, 4)
    two = torch.zeros(1, 2, 2, 4)
    two[:, 0, 0], two[:, 1, 1, :2] = (9, -9)  # four positions have one code, two another, and two a third
    notes = forward(fsq, torch.cat([one, two])).notes
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert float(notes["codes per image"]) == pytest.approx((1 + 3) / 2)
    assert float(notes["code perplexity per image"]) == pytest.approx((1 + math.exp(entropy)) / 2)


def test_a_code_of_another_width_is_told_what_to_set() -> None:
    with pytest.raises(ModelError, match=r"for 6 channels .* has 4: set net.latent=\[6, 8, 8\]"):
        build((4, 8, 8), kind="fsq")
    with pytest.raises(ModelError, match=r"in 2 groups are for 12 dimensions of the code.*set net.latent_dim=12"):
        build((6,), kind="fsq", groups=2)
    with pytest.raises(ModelError, match="more than 2\\^62 codes"):
        build((9,), kind="fsq", levels=[256] * 9)


# ── In a model, and in training ─────────────────────────────────────────────────────────────────────────────────────

CPU = torch.device("cpu")
VQ = {"kind": "vq", "codes": 24, "decay": 0.9}


def model(bottleneck: dict, size: int = 8) -> QuantizedAutoencoder:
    torch.manual_seed(0)
    net = {"kind": "conv", "latent": [3, size // 2, size // 2], "width": 8, "depth": 0}
    built = AutoencoderConfig.model_validate({"net": net, "bottleneck": bottleneck}).build(DataInfo(1, (size, size)))
    assert isinstance(built, QuantizedAutoencoder)
    return built


class Reconstruct(Objective):
    """Minimize reconstruction loss and penalties, and update the bottleneck after each step."""

    def __init__(self, autoencoder: QuantizedAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.players = {"model": autoencoder}
        self.turns = [Turn("model", self.score, after=autoencoder.bottleneck.update_buffers)]

    @property
    def model(self) -> nn.Module:
        return self.autoencoder

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        output = self.autoencoder.forward_train(batch.image, context)
        terms = {"loss": (1.0, self.autoencoder.likelihood.loss(output.raw, batch.image).mean())}
        for name, penalty in output.bottleneck.penalties.items():
            terms[name] = (self.autoencoder.bottleneck.weights[name], penalty.flatten(1).sum(1).mean())
        return LossTerms(terms, output.bottleneck.notes)


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("cosine", [False, True])
def test_micro_batches_do_not_change_the_codebook(size: int, cosine: bool) -> None:
    # Adam would amplify the rounding errors of gradients that are 0.
    recipe = RECIPE.override({"optimizer.name": "sgd", "optimizer.lr": 0.1})
    whole = play(Reconstruct(model({**VQ, "cosine": cosine})), 6, recipe)
    split = play(Reconstruct(model({**VQ, "cosine": cosine})), 6, recipe.override({"run.micro_batch": size}))
    others = split.objective.state_dict()
    for name, value in whole.objective.state_dict().items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=1e-5, msg=name)
    metrics, others = whole.take_metrics(), split.take_metrics()
    assert metrics["codebook usage"] == pytest.approx(others["codebook usage"], abs=1e-6)
    assert "codebook counts" not in metrics


def test_resuming_is_bit_equal_while_codes_are_revived() -> None:
    whole, half = play(Reconstruct(model(VQ)), 9), play(Reconstruct(model(VQ)), 4)
    resumed = play(Reconstruct(model(VQ)), 0)
    resumed.load(copy.deepcopy(half.tensors()), seen=half.seen, steps=half.step_count)
    for _ in range(5):
        resumed.step()
    for name, held in whole.tensors().items():
        for key, value in held.items():
            assert torch.equal(value, resumed.tensors()[name][key]), f"{name}: {key}"
    assert float(half.objective.model.bottleneck.counts.min()) > 0, "the first batch fills the codebook"


@pytest.mark.parametrize("bottleneck", [VQ, {"kind": "fsq", "levels": [8, 5, 5]}])
def test_a_model_with_a_codebook_encodes_decodes_and_samples(bottleneck: dict) -> None:
    trainer = play(Reconstruct(model(bottleneck)), 3)
    net, image = trainer.objective.model.eval(), Pixels().image
    with torch.no_grad():
        code, indices = net.encode(image), net.indices(image)
        assert indices.shape == (50, 1, 4, 4)
        assert int(indices.max()) < net.codebook_size
        assert torch.equal(net.bottleneck.lookup(indices), code)
        assert torch.equal(net.reconstruct(image), net.decode(code))
        net.densities["gaussian"] = fit_density("gaussian", code)
        samples = [net.sample(4, density="gaussian", generator=torch.Generator().manual_seed(1)) for _ in range(2)]
        draws = net.densities["gaussian"].sample(4, generator=torch.Generator().manual_seed(1))
        assert torch.equal(net.decode(net.bottleneck.nearest(draws)), samples[0])
    assert torch.equal(*samples)
    assert samples[0].shape == (4, 1, 8, 8)


def test_a_codebook_around_pca_starts_as_k_means_of_patches() -> None:
    from sklearn.cluster import KMeans

    colors = normal(12, 3, 1, 1, seed=1).clamp(-1, 1) / 4 + 0.5
    which = torch.randint(12, (300, 4, 4), generator=torch.Generator().manual_seed(2))
    images = colors[which].squeeze(-1).squeeze(-1).movedim(-1, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = (images + 0.02 * normal(*images.shape, seed=3)).clamp(0, 1)
    torch.manual_seed(0)
    config = {
        "net": {"kind": "pca_conv", "width": 8, "latent_channels": 4},
        "bottleneck": {"kind": "vq", "codes": 12},
        "likelihood": {"kind": "mse", "output": "linear"},
    }
    net = AutoencoderConfig.model_validate(config).build(DataInfo(3, (32, 32)))
    assert isinstance(net, QuantizedAutoencoder)
    net.initialize_from_data(images.mean(0), lambda: images)
    with torch.no_grad():
        indices, code, lost = net.indices(images), net.continuous_code(images), net.reconstruct(images) - images
    assert len(indices.unique()) == 12, "all codes are in use"
    best = KMeans(12, n_init=5, random_state=0).fit(code.movedim(1, -1).flatten(0, -2).numpy()).inertia_
    found = float((net.encode(images) - code).square().sum())
    assert found < 1.1 * best
    # Codes are as far apart as their patches, so that their error is that of the images, but for the noise.
    assert float(lost.square().sum()) < found + 1.2 * 0.02**2 * images.numel()


@pytest.mark.parametrize("bottleneck", [VQ, {"kind": "fsq", "levels": [8, 5, 5]}])
def test_the_continuous_code_is_the_code_before_it_is_quantized(bottleneck: dict) -> None:
    net, image = model(bottleneck).eval(), Pixels().image
    with torch.no_grad():
        code, quantized = net.continuous_code(image), net.encode(image)
        assert not torch.equal(code, quantized)
        assert torch.equal(net.bottleneck.nearest(code), quantized)
        assert torch.equal(net.render(code), net.reconstruct(image)), "samples are quantized before they are decoded"


def test_what_is_built_follows_from_the_kind() -> None:
    assert isinstance(model(VQ).bottleneck, VectorQuantizer)
    assert isinstance(model({"kind": "fsq", "levels": [4, 4, 4]}).bottleneck, FiniteScalarQuantizer)
    with pytest.raises(ModelError, match=r"set net.latent=\[6, 4, 4\]"):
        model({"kind": "fsq"})


def test_revival_keeps_most_of_a_codebook_in_use_on_real_images() -> None:
    recipe = load_recipe("vqvae", {"data.source": "digits", "data.size": 16, "train.batch": 32, "optimizer.lr": 2e-3})
    store = open_store(prepare(recipe.data), recipe.data)
    train, test = (Loader(store.split(split), recipe.data, CPU, training=False) for split in ("train", "test"))
    usage = {}
    for revive in (0.05, 0.0):
        objective = Reconstruct(model({"kind": "vq", "codes": 256, "revive_below": revive}, 16))
        trainer = Trainer(objective, train, recipe, budget=1600, device=CPU, world=World())
        for _ in range(50):
            trainer.step()
        with torch.no_grad():
            indices = objective.autoencoder.eval().indices(test.images.batch(torch.arange(len(test))).image)
        usage[revive] = len(indices.unique()) / 256
    assert usage[0.05] > 0.6
    assert usage[0.05] > 2 * usage[0.0]
