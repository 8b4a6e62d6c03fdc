"""What to change after a generator has collapsed or a critic has done damage, in the order that works best."""

from __future__ import annotations

from ectype.analysis.diagnose.finding import Advice
from ectype.config.recipe import Recipe
from ectype.config.schema import ObjectiveConfig
from ectype.models.latent_space import LatentSpaceConfig

__all__ = ["adversarial_objective", "advice_for_verdict"]


def adversarial_objective(recipe: Recipe) -> tuple[ObjectiveConfig, str]:
    """Return the objective that a recipe's players train by, and its key in the recipe.

    In a recipe that trains a generator of codes this is the inner objective.
    """
    inner = getattr(recipe.objective, "inner", None)
    return (recipe.objective, "objective") if inner is None else (inner, "objective.inner")


def advice_for_verdict(recipe: Recipe, verdict: str, channels: int | None = None) -> list[Advice]:
    """Return what to change after a verdict on samples, the most promising first.

    Args:
        recipe: The recipe of the run. Advice that it follows already is left out.
        verdict: Name of the verdict, such as "collapsed", "memorising" or "spoiled".
        channels: Channels of the images; those of the recipe if not given.

    Returns:
        The advice; empty if the recipe trains no critic.
    """
    objective, prefix = adversarial_objective(recipe)
    critic = getattr(objective, "adversary", None)
    if critic is None or getattr(critic, "weight", 1.0) == 0:
        return []
    key = f"{prefix}.adversary"
    if verdict == "spoiled":
        return _gentler_critic(recipe, key)
    relativistic = Advice(
        "the relativistic loss with R1 and R2 penalties",
        "of these losses, the only one known to converge at the data (R3GAN, Huang et al. 2024)",
        {
            f"{key}.loss": "relativistic",
            f"{key}.penalty": {"r1": 1.0, "r2": 1.0, "gradient": 0.0, "clip": None, "every": 1},
            f"{prefix}.critic_steps": 1,
            "optimizer.betas": [0.0, 0.99],
        },
    )
    is_grey = (channels or recipe.data.channels) == 1
    augment = Advice(
        "augmented images for the critic",
        "a critic that memorizes a few images teaches the generator to copy them (Zhao et al. 2020)",
        {
            f"{key}.augment.policy": ["translation", "cutout"] if is_grey else ["translation", "cutout", "colour"],
            f"{key}.augment.probability": "adaptive",
        },
    )
    pack = Advice(
        "pairs of images for the critic",
        "a critic that sees two nearly identical images recognizes them as fake (PacGAN, Lin et al. 2018)",
        {f"{key}.pack": 2},
    )
    wasserstein = Advice(
        "the Wasserstein loss with a gradient penalty",
        "its critic never saturates (Gulrajani et al. 2017)",
        {
            f"{key}.loss": "wasserstein",
            f"{key}.penalty": {"r1": 0.0, "r2": 0.0, "gradient": 10.0, "clip": None, "every": 1},
            f"{prefix}.critic_steps": 5,
            "optimizer.betas": [0.5, 0.9],
            "optimizer.lr": 1e-4,
        },
    )
    is_stable = critic.loss == "relativistic" and critic.penalty.r1 > 0 and critic.penalty.r2 > 0
    # Codes can be neither shifted nor recolored.
    can_augment = not critic.augment.policy and not isinstance(recipe.model, LatentSpaceConfig)
    if verdict.startswith("memorising"):
        return [augment] if can_augment else []
    candidates = [
        (not is_stable, relativistic),
        (can_augment, augment),
        (critic.pack == 1 and recipe.train.batch % 2 == 0, pack),
        (critic.loss != "wasserstein" and critic.penalty.gradient == 0, wasserstein),
    ]
    return [advice for applies, advice in candidates if applies]


def _gentler_critic(recipe: Recipe, key: str) -> list[Advice]:
    """Return advice after a critic has damaged a reconstruction: a smaller weight, and a later start."""
    critic = recipe.objective.adversary  # pyright: ignore[reportAttributeAccessIssue]
    return [
        Advice(
            "a critic with a smaller weight and a longer warm-up",
            "a critic that is weighted too much, or before it has learned to score, damages the reconstruction",
            {f"{key}.weight": critic.weight / 4, f"{key}.warmup": 2 * critic.warmup},
        )
    ]
