"""Training step of GANs: `Trainer` with prepared MNIST, and a bare PyTorch loop that does the same work.

The bare loop builds the same networks and has the same turns: an update of the critic with R1 and R2 every
fourth step from one pass over real and generated images, an update of the generator with relativistic pairs, fused Adam
for both, the running average in one call, images from one uint8 tensor in memory. It lacks what the Trainer adds: a
check for non-finite values, gradient norms, logged means, noise that depends on the position in the run, images in a
memory-mapped file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from common import DATA, arguments, console, in_turns, tell
from ectype.config.recipe import Recipe, load_recipe
from ectype.objectives.adversarial import Adversarial
from step import our_trainer, row, segment

GOAL = 0.95
PAIRED = {"loss": "relativistic", "penalty.r1": 1.0, "penalty.r2": 1.0, "penalty.every": 4}
CASES = {
    "gan-mlp, non-saturating": load_recipe("gan-mlp", {"data.source": str(DATA / "mnist"), "data.size": 28}),
    "gan, relativistic with R1 + R2": load_recipe(
        "gan", {"data.source": str(DATA / "mnist"), "data.size": 28, **PAIRED}
    ),
}


def bare_loop(recipe: Recipe) -> Callable[[], None]:
    """Build the step of a bare loop."""
    trainer = our_trainer(recipe)
    images = trainer.loader.images.gather(torch.arange(len(trainer.loader)))  # type: ignore[attr-defined]
    objective = trainer.objective
    assert isinstance(objective, Adversarial)
    generator, adversary = objective.generator, objective.adversary
    batch, lr, betas = recipe.train.batch, recipe.optimizer.lr, recipe.optimizer.betas
    penalty, paired = adversary.config.penalty, adversary.config.loss == "relativistic"
    moves = {
        part: torch.optim.Adam(part.parameters(), lr=lr, betas=betas, fused=True) for part in (generator, adversary)
    }
    weights = [p.data for p in generator.parameters()]
    average = [p.clone() for p in weights]
    follow = 1 - 0.5 ** (batch / recipe.train.ema_images)
    critic, head = adversary.critic, adversary.head

    def batches() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(len(images)).split(batch)[: len(images) // batch]

    order, count = batches(), 0

    def made() -> Tensor:
        return generator(torch.randn(batch, generator.latent_dim))

    def judge(x: Tensor) -> Tensor:
        return head(critic(x, None)).squeeze(1)

    def step() -> None:
        nonlocal count
        real = images[next(order)].float().div_(255)
        with torch.no_grad():
            fake = made()
        due = penalty.needs_input_gradient and count % penalty.every == 0
        both = (torch.cat([real, fake]) * 2 - 1).requires_grad_(due)
        scores = judge(both)
        of_real, of_fake = scores.chunk(2)
        if paired:
            loss = F.softplus(of_fake - of_real).mean()
        else:
            loss = F.softplus(-of_real).mean() + F.softplus(of_fake).mean()
        if due:
            (slope,) = torch.autograd.grad(scores.sum(), both, create_graph=True)
            on_real, on_fake = slope.flatten(1).square().sum(1).chunk(2)
            loss = loss + 0.5 * penalty.every * (penalty.r1 * on_real.mean() + penalty.r2 * on_fake.mean())
        moves[adversary].zero_grad()
        loss.backward()
        moves[adversary].step()
        adversary.requires_grad_(False)
        fake = made() * 2 - 1
        if paired:
            of_fake, of_real = judge(torch.cat([fake, real * 2 - 1])).chunk(2)
            loss = F.softplus(of_real - of_fake).mean()
        else:
            loss = F.softplus(-judge(fake)).mean()
        moves[generator].zero_grad()
        loss.backward()
        moves[generator].step()
        adversary.requires_grad_(True)
        torch._foreach_lerp_(average, weights, follow)
        count += 1

    return step


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, threads=(1, "of torch, for both"))
    torch.set_num_threads(given.threads)
    pairs, seconds = (5, 1.0) if given.quick else (15, 3.0)
    rows, raw = [], {}
    for name, recipe in CASES.items():
        console.print(f"{name}: {pairs} pairs of {seconds:g} s …")
        bare, ours, batch = (bare_loop(recipe), our_trainer(recipe).step, recipe.train.batch)
        for step in (ours, bare):
            speed = segment(step, 24, batch, flush=True)()["wall"]
        # Complete cycles of the lazy penalty, so that all segments contain equally many.
        steps = max(1, round(seconds * speed / batch / 4)) * 4
        raw[name] = found = in_turns(
            segment(bare, steps, batch, flush=True), segment(ours, steps, batch, flush=True), pairs
        )
        rows.append(row(f"{name}, images/s", found["wall"], f"≥ {GOAL}", lambda ratio: ratio >= GOAL))
        rows.append(row(f"{name}, images/CPU s", found["CPU"]))
    notes = [
        "Peer: a bare PyTorch loop of the same work, in the same process, in turns; denormals flushed for both.",
        f"Both: float32, {given.threads} torch thread(s), segments of {seconds:g} s; a step is an update of each "
        "player.",
    ]
    tell("gan_step", "Training step of GANs: a bare loop (peer), Ectype's Trainer (ours)", rows, notes, pairs=raw)


if __name__ == "__main__":
    main()
