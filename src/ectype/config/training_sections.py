"""The sections of a recipe about training: optimizer, budget, monitoring, and the mechanics of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ectype.config.sections import Count, Section

__all__ = ["MonitorConfig", "OptimizerConfig", "PlayerOptimizerConfig", "RunConfig", "TrainConfig"]


DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Share of a running mean that is kept in each update."""
MAX_BATCH = 1_000_000
MAX_SEED = 2**32 - 1
"""The largest seed that NumPy and scikit-learn accept."""


class PlayerOptimizerConfig(Section):
    """Settings of one player's optimizer; None takes the common setting."""

    lr: float | None = Field(default=None, gt=0, le=1000)
    betas: tuple[DecayRate, DecayRate] | None = None
    weight_decay: float | None = Field(default=None, ge=0, le=1000)
    clip: float | None = Field(default=None, gt=0, le=1e9)


class OptimizerConfig(Section):
    """How the weights of all players are updated."""

    name: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    lr: float = Field(default=1e-3, gt=0, le=1000)
    """Learning rate after the warm-up."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """Decay rates of the running means of gradients and squared gradients."""
    eps: float = Field(default=1e-8, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1000)
    clip: float | None = Field(default=None, gt=0, le=1e9)
    """Maximum norm of a player's gradient; None does not clip."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the learning rate changes after warm-up and hold."""
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """Fraction of the budget over which the learning rate rises linearly from 0."""
    hold: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the remaining budget over which the learning rate stays constant before it falls."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end as a fraction of `lr`, if the schedule is not constant."""
    players: dict[str, PlayerOptimizerConfig] = Field(default={})
    """Settings that differ for a player, by its name: {critic: {lr: 1e-4}}."""

    def for_player(self, player: str) -> OptimizerConfig:
        """Return the settings of one player."""
        own = self.players.get(player, PlayerOptimizerConfig())
        return self.model_copy(update=own.model_dump(exclude_none=True))


class TrainConfig(Section):
    """The training budget, batch size, seed and numerical precision."""

    images: Annotated[Count, Field(gt=0)] = 1_000_000
    """Budget: number of images shown, counted with repetition."""
    minutes: float | None = Field(default=None, gt=0, le=1e7)
    """A budget in minutes instead. It is converted into images before the first step, by timing a copy."""
    batch: int = Field(default=128, ge=1, le=MAX_BATCH)
    """Images per update, over all processes and micro-batches."""
    ema_images: Annotated[Count, Field(ge=0)] = 0
    """Half-life, in images, of the exponential moving average of the weights; 0 for none. It is at most a twentieth of
    the images seen so far, so that short runs do not keep their initial weights in the average."""
    prior: Literal["none", "flow"] = "none"
    """What samples of an autoencoder are drawn from. flow: a flow on its codes, trained after it within the same
    budget."""
    prior_share: float = Field(default=0.35, gt=0, lt=1)
    """Fraction of the budget that is spent on the flow, if there is one. It is taken from `minutes`, and added to
    `images`, which are those of the autoencoder."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Seed of everything random: initial weights, order of the images, augmentation, noise."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of convolutions and matrix products. auto: bf16 on CUDA. On a CPU with units for it, a run of more than
    a minute times both at its start, and takes bf16 if it is faster and its losses are nearly the same; else fp32."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    channels_last: bool | Literal["auto"] = "auto"
    """Whether the channels of a pixel are adjacent in memory. auto: on CUDA; on a CPU, a run of more than a minute
    times both at its start."""
    deterministic: bool = False
    """Use deterministic kernels only, so that runs on CUDA repeat exactly."""

    @property
    def model_minutes(self) -> float | None:
        """The part of `minutes` in which the model itself is trained; the rest is for its prior."""
        if self.minutes is None or self.prior == "none":
            return self.minutes
        return self.minutes * (1 - self.prior_share)

    def minutes_on_codes(self, share: float, seconds: float) -> float | None:
        """The part of `minutes` for a model of codes: a share of them, or what their autoencoder has left, if more.

        Args:
            share: Fraction of the budget.
            seconds: How long the autoencoder was trained.
        """
        if self.minutes is None:
            return None
        return round(max(self.minutes * share, self.minutes - seconds / 60), 3)


class MonitorConfig(Section):
    """When the model is checked on held-out images, and when training stops."""

    every: Literal["auto", "epoch"] | Annotated[Count, Field(gt=0)] = "auto"
    """Images between two checks. auto: chosen once, from a timed check, so that checks take less than a tenth of the
    time. epoch: the number of training images, or 100 updates if that is more."""
    patience: int | None = Field(default=10, ge=1, le=1_000_000)
    """Stop after this many checks without a new best; None trains to the end of the budget."""
    stretch: float = Field(default=0.0, ge=0, le=1e6)
    """Do not stop before the images seen have grown by this factor since the last best: at 1, a run stops only when it
    has doubled without improvement. The distance of samples falls as a power of the images seen, so that a fixed number
    of checks becomes an ever smaller part of a run."""
    min_delta: Literal["auto"] | Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """How much lower a value has to be to count as better, in the unit of the monitored metric. auto: twice the
    spread of the metric between two sets of real images, measured once at the start; 0 if it has no such spread."""
    smoothing: int = Field(default=1, ge=1, le=10_000)
    """Number of checks over which the metric is averaged before it is compared."""
    images: Annotated[Count, Field(ge=1)] = 5000
    """Maximum number of held-out or generated images per check."""
    metric: Literal["auto", "loss", "samples"] = "auto"
    """What is measured. loss: the loss on held-out images. samples: the distance between samples and held-out images.
    auto: the loss where it tells how good a model is, else samples, for GANs and flows."""
    features: str = "auto"
    """The features in which generated images are compared with real ones: auto, classifier, efficientnet, inception,
    dinov2 or pixels."""
    on_collapse: Literal["stop", "warn", "rollback"] = "warn"
    """What happens when a generator has collapsed: stop; warn and continue; or restart from the last healthy checkpoint
    with the advice applied (at most three times)."""


class RunConfig(Section):
    """The mechanics of a run. They may change when a run is resumed, without changing what it computes."""

    device: str = "auto"
    """cpu, cuda, mps or auto: the first of cuda, mps and cpu that is available."""
    threads: int | None = Field(default=None, ge=1, le=4096)
    """Number of CPU threads that PyTorch computes with. None: PyTorch's choice, one per physical core or
    OMP_NUM_THREADS if that is set; or one, where a run of more than a minute finds at its start that this is faster.
    Other programs on the machine, and runs of `compare` and `study`, which divide the cores, need a number. Results are
    bit-equal only with the same number."""
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_BATCH)] | None = "auto"
    """Images per forward pass on one device; None: the whole batch. auto: as many as fit into memory, measured once at
    the start. If memory runs out later, it is halved and training continues."""
    checkpoint_activations: bool = False
    """Store only the inputs of a network's blocks and recompute their activations for the gradient: needs less memory
    and about a third more time."""
    log_every: float = Field(default=2.0, ge=0, le=86_400)
    """Minimum number of seconds between two lines of metrics."""
    pictures: int = Field(default=16, ge=0, le=10_000)
    """Number of images in a grid of samples or reconstructions; 0 for no grids."""
    keep_last: int = Field(default=2, ge=1, le=1_000_000)
    """Number of newest checkpoints that are kept."""
    keep_best: bool = True
    """Keep the best checkpoint."""
    keep_every: Annotated[Count, Field(gt=0)] | None = None
    """Also keep one checkpoint per this many images."""
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default=[], max_length=3)
    """Where metrics, pictures, recipe, model and results are logged as well: tensorboard, wandb, mlflow. Each needs the
    extra of its name."""
    evaluation: Literal["full", "quick"] = "full"
    """How the run is measured at its end. quick: on at most 1,000 test images, by as many samples, and without a bound
    on the likelihood."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, value: Any) -> Any:
        """Read a section of an earlier version, which had a key for TensorBoard alone."""
        if not isinstance(value, Mapping) or not isinstance(value.get("tensorboard"), bool):
            return value
        rest = {key: each for key, each in value.items() if key != "tensorboard"}
        loggers = rest.get("loggers", [])
        if value["tensorboard"] and isinstance(loggers, list) and "tensorboard" not in loggers:
            rest["loggers"] = ["tensorboard", *loggers]
        return rest

    @field_validator("loggers", mode="before")
    @classmethod
    def _one_logger(cls, value: Any) -> Any:
        """Accept the name of one logger instead of a list, and each name once."""
        return [value] if isinstance(value, str) else list(dict.fromkeys(value)) if _is_words(value) else value


def _is_words(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
