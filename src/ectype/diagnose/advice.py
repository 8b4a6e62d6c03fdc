"""What to change when a generator has collapsed, as recipe overrides in the order that works."""

from __future__ import annotations

from ectype.diagnose.finding import Advice
from ectype.recipe import Recipe
from ectype.sections import ObjectiveConfig

__all__ = ["advised", "game"]


def game(recipe: Recipe) -> tuple[ObjectiveConfig, str]:
    """The rules that a recipe's players play by, and their key: of images, or of codes."""
    inner = getattr(recipe.objective, "inner", None)
    return (recipe.objective, "objective") if inner is None else (inner, "objective.inner")


def advised(recipe: Recipe, verdict: str, channels: int | None = None) -> list[Advice]:
    """What to change after such a verdict, the most promising first, without what the recipe does already."""
    objective, above = game(recipe)
    rules = getattr(objective, "adversary", None)
    if rules is None or getattr(rules, "weight", 1.0) == 0:
        return []
    key = f"{above}.adversary"
    if verdict == "spoiled":
        return _gentler(recipe, key)
    relativistic = Advice(
        "judge in pairs, with R1 and R2",
        "the one objective of these that is known to settle at the data (R3GAN, Huang et al. 2024)",
        {
            f"{key}.loss": "relativistic",
            f"{key}.penalty": {"r1": 1.0, "r2": 1.0, "gradient": 0.0, "clip": None, "every": 1},
            f"{above}.critic_steps": 1,
            "optimizer.betas": [0.0, 0.99],
        },
    )
    policy = (
        ["translation", "cutout"] if (channels or recipe.data.channels) == 1 else ["translation", "cutout", "colour"]
    )
    augment = Advice(
        "show the critic changed images",
        "a critic that knows few images by heart teaches the generator to copy them (Zhao et al. 2020)",
        {f"{key}.augment.policy": policy, f"{key}.augment.probability": "adaptive"},
    )
    pack = Advice(
        "judge two images together",
        "a critic that sees two alike knows that they are made (PacGAN, Lin et al. 2018)",
        {f"{key}.pack": 2},
    )
    wasserstein = Advice(
        "earth mover's distance with gradient penalty",
        "a critic that never saturates (Gulrajani et al. 2017)",
        {
            f"{key}.loss": "wasserstein",
            f"{key}.penalty": {"r1": 0.0, "r2": 0.0, "gradient": 10.0, "clip": None, "every": 1},
            f"{above}.critic_steps": 5,
            "optimizer.betas": [0.5, 0.9],
            "optimizer.lr": 1e-4,
        },
    )
    settled = rules.loss == "relativistic" and rules.penalty.r1 > 0 and rules.penalty.r2 > 0
    open_to: list[tuple[bool, Advice]] = [
        (not settled, relativistic),
        (not rules.augment.policy and above == "objective", augment),  # codes can be neither moved nor recoloured
        (rules.pack == 1 and recipe.train.batch % 2 == 0, pack),
        (rules.loss != "wasserstein" and rules.penalty.gradient == 0, wasserstein),
    ]
    if verdict.startswith("memorising"):
        return [advice for possible, advice in open_to[1:2] if possible]
    return [advice for possible, advice in open_to if possible]


def _gentler(recipe: Recipe, key: str) -> list[Advice]:
    """After a critic has wrecked a reconstruction: ask it less, and later."""
    rules = recipe.objective.adversary  # pyright: ignore[reportAttributeAccessIssue]
    return [
        Advice(
            "a critic that counts for less and has learnt more",
            "one whose gradient counts before it can judge, or for too much, wrecks what was there",
            {f"{key}.weight": rules.weight / 4, f"{key}.warmup": 2 * rules.warmup},
        )
    ]
