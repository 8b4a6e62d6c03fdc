"""The kinds of networks that a recipe builds from registered modules, and the check of what these return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, model_serializer, model_validator
from torch import Tensor, nn

from ectype.config.schema import DataInfo, Side
from ectype.core.errors import ModelError
from ectype.nets.coder import CoderConfig
from ectype.nets.conv import ConvConfig
from ectype.nets.critics import CriticConfig, CriticFeatures
from ectype.nets.generators import GeneratorConfig
from ectype.nets.registered import build_registered, error_text

__all__ = ["RegisteredCoderConfig", "RegisteredCriticConfig", "RegisteredGeneratorConfig"]

BATCH = 2
"""Images in the forward pass that checks shapes."""
DEFAULT_LATENT_DIM = 64


# ── Checks of shapes ─────────────────────────────────────────────────────────────────────────────────────────────────


def _output_shape(role: str, name: str, module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that a module returns for inputs [2, *shape]; None where it cannot be tried without values."""
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.empty(0).device
    inputs = torch.zeros(BATCH, *shape, device=device)
    modes = {part: part.training for part in module.modules()}
    module.eval()  # batch statistics stay as they are
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = module(inputs)
    except Exception as error:
        if device.type == "meta":
            return None
        raise ModelError(
            f"the {role} '{name}' fails on an input of shape {list(inputs.shape)} ({type(error).__name__}: "
            f"{error_text(error)})."
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    if not isinstance(output, Tensor):
        raise ModelError(f"the {role} '{name}' returns a {type(output).__name__}: it must return one tensor.")
    return tuple(output.shape)


def _checked(
    role: str, name: str, module: nn.Module, shape: tuple[int, ...], wanted: tuple[int, ...], fix: Callable[..., str]
) -> nn.Module:
    """The module, after a check that it returns [b, *wanted] for [b, *shape]. Raises `ModelError`."""
    found = _output_shape(role, name, module, shape)
    if found is not None and found != (BATCH, *wanted):
        raise ModelError(
            f"the {role} '{name}' returns {_batched(found)} for an input of {_batched((BATCH, *shape))}, and must "
            f"return {_batched((BATCH, *wanted))}{fix(found)}."
        )
    return module


def _batched(shape: tuple[int, ...]) -> str:
    """A shape as text, its batch as b."""
    return f"[{', '.join(['b' if shape[0] == BATCH else str(shape[0]), *map(str, shape[1:])])}]" if shape else "[]"


# ── Kinds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class RegisteredCoderConfig(CoderConfig):
    """Your own encoder, decoder or both, by the names they were registered under; see `register_module`.

    >>> config = RegisteredCoderConfig.model_validate({"kind": "registered", "encoder": "mine", "latent_dim": 8})
    >>> config.model_dump(include={"kind", "encoder_name", "latent_dim"})
    {'kind': 'registered', 'encoder': 'mine', 'latent_dim': 8}
    """

    # The keys are called encoder and decoder; so are the methods.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    kind: Literal["registered"] = "registered"
    encoder_name: str | None = Field(default=None, alias="encoder")
    """Name of a registered module; None takes the encoder of `base`."""
    decoder_name: str | None = Field(default=None, alias="decoder")
    """Name of a registered module; None takes the decoder of `base`."""
    latent_dim: int | None = Field(default=None, ge=1, le=1_000_000)
    """Length of the code where it is a vector. None: as `base` has it, or 64."""
    latent: tuple[Side, Side, Side] | None = None
    """Channels, height and width of the code where it is a map."""
    base: CoderConfig | None = None
    """The network whose encoder or decoder is used where none is named; None for the convolutional one."""

    @model_validator(mode="after")
    def _names_one(self) -> RegisteredCoderConfig:
        if self.encoder_name is None and self.decoder_name is None:
            raise ValueError("kind=registered needs the name of a registered encoder or decoder: set encoder=NAME")
        return self

    @model_serializer(mode="wrap")
    def _with_keys(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key.removesuffix("_name"): value for key, value in handler(self).items()}

    def _base(self) -> CoderConfig:
        """The base with this code, where it has such keys."""
        base = self.base or ConvConfig(latent_dim=DEFAULT_LATENT_DIM)
        fields = type(base).model_fields
        given = {"latent_dim": self.latent_dim, "latent": self.latent}
        return base.model_copy(
            update={key: value for key, value in given.items() if value is not None and key in fields}
        )

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        """The shape of a code. Raises `ModelError` where the part that is taken from `base` has another one."""
        if self.encoder_name is not None and self.decoder_name is not None:
            return self.latent or (self.latent_dim or DEFAULT_LATENT_DIM,)
        shape = self._base().code_shape(info)
        wanted = self.latent or (shape if self.latent_dim is None else (self.latent_dim,))
        if shape != wanted:
            raise ModelError(
                f"net.base ({self._base().kind}) has codes of shape {list(shape)}, and net says {list(wanted)}: leave "
                "net.latent_dim and net.latent out, or register both encoder and decoder."
            )
        return shape

    def encoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        if self.encoder_name is None:
            return self._base().encoder(info, params_per_element)
        channels, *rest = self.code_shape(info)
        module = build_registered(self.encoder_name, info)

        def fix(found: tuple[int, ...]) -> str:
            why = "" if params_per_element == 1 else f", {params_per_element} values for each element of the code"
            _, first, *others = (*found, 0)[: max(2, len(found))]
            if len(found) in (2, 4) and first and first % params_per_element == 0:
                code = [first // params_per_element, *others]
                key = f"net.latent_dim={code[0]}" if len(found) == 2 else f"net.latent={code}"
                why += f": set {key}, or change the module"
            return why

        return _checked("encoder", self.encoder_name, module, info.shape, (params_per_element * channels, *rest), fix)

    def decoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        if self.decoder_name is None:
            return self._base().decoder(info, params_per_element)
        module = build_registered(self.decoder_name, info)
        why = (
            ""
            if params_per_element == 1
            else f", {params_per_element} values for each channel, as the likelihood needs them"
        )
        shape = (params_per_element * info.channels, *info.size)
        return _checked("decoder", self.decoder_name, module, self.code_shape(info), shape, lambda _: why)


class RegisteredGeneratorConfig(GeneratorConfig):
    """Your own generator, by the name it was registered under; see `register_module`."""

    kind: Literal["registered"] = "registered"
    name: str

    def build(self, in_features: int, info: DataInfo) -> nn.Module:
        module = build_registered(self.name, info)
        return _checked("generator", self.name, module, (in_features,), info.shape, lambda _: "")


class RegisteredCriticConfig(CriticConfig):
    """Your own critic, by the name it was registered under; see `register_module`.

    Its function gets a `DataInfo` with the channels of its input: those of the images, times the images that it sees
    together, and one for each value of a label.
    """

    kind: Literal["registered"] = "registered"
    name: str

    def build(self, channels: int, size: tuple[int, int], extra: int) -> CriticFeatures:
        return _Critic(self.name, DataInfo(channels + extra, size))


class _Critic(CriticFeatures):
    """A user's critic: scores, or features that a linear layer turns into scores."""

    def __init__(self, name: str, info: DataInfo) -> None:
        super().__init__()
        self.body = build_registered(name, info)
        found = _output_shape("critic", name, self.body, info.shape)
        if found is None or len(found) not in (1, 2, 4) or found[0] != BATCH:
            said = "no output" if found is None else _batched(found)
            raise ModelError(
                f"the critic '{name}' returns {said} for images of {_batched((BATCH, *info.shape))}, and must return "
                "scores [b], [b, 1] or [b, 1, y, x], or features [b, f]."
            )
        self.num_features = 1 if len(found) == 1 else found[1]
        self.returns_scores = self.num_features == 1

    def forward(self, image: Float[Tensor, "b c h w"], extra: Float[Tensor, "b e"] | None) -> Float[Tensor, "b *p f"]:
        """Features of each image, or of each position if the module returns maps."""
        if extra is not None:
            planes = extra[:, :, None, None].expand(-1, -1, *image.shape[2:])
            image = torch.cat([image, planes], dim=1)
        found = self.body(image)
        return found.flatten(2).transpose(1, 2) if found.ndim == 4 else found.view(len(image), self.num_features)
