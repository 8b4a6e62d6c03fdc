"""Generators of other packages on 64-px color images, for as many CPU seconds as ours. Runs without Ectype.

    pictures.py vae|dcgan|diffusion|gmm IMAGES.npy CPU_SECONDS NUM_SAMPLES SEED SAMPLES.npy

IMAGES.npy holds training images [n, 3, 64, 64] uint8; samples are written in the same form. The last line printed is
JSON with the CPU seconds of training and the updates made.

vae: pythae's VAE with its convolutional networks for CelebA, by its own trainer. dcgan: networks and settings of
PyTorch's example (Radford et al. 2016). diffusion: the U-Net of denoising-diffusion-pytorch in pixels, narrower than in
its README, whose width allows a few updates a minute on a CPU. gmm: scikit-learn's Gaussian mixture on 64 principal
components.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIZE = 64
Sampler = Callable[[int], Tensor]
Layers = list[nn.Module]


class Budget:
    """CPU seconds of this process and its threads, from the first time it is asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.begun, self.updates = seconds, self._now(), 0

    def _now(self) -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    @property
    def used(self) -> float:
        """Seconds so far."""
        return self._now() - self.begun

    def update(self) -> bool:
        """Count an update, and return whether there is time for another one."""
        self.updates += 1
        return self.used < self.seconds


def batches(images: Tensor, size: int) -> Any:
    """Yield shuffled batches in [0, 1] for ever."""
    while True:
        for rows in torch.randperm(len(images)).split(size):
            if len(rows) == size:
                yield images[rows].float() / 255


class TimeIsUp(Exception):
    """Ends pythae's trainer, which counts epochs."""


def vae(images: Tensor, budget: Budget) -> Sampler:
    """Train pythae's VAE with a code of 64 and its trainer's default settings, but for the batch of 64."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.nn.benchmarks.celeba import Decoder_Conv_AE_CELEBA, Encoder_Conv_VAE_CELEBA
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Clock(TrainingCallback):
        def on_train_step_end(self, *_: object, **__: object) -> None:
            if not budget.update():
                raise TimeIsUp

    config = VAEConfig(input_dim=(3, SIZE, SIZE), latent_dim=64, reconstruction_loss="mse")
    model = VAE(config, encoder=Encoder_Conv_VAE_CELEBA(config), decoder=Decoder_Conv_AE_CELEBA(config))
    data = BaseDataset(images.float() / 255, torch.ones(len(images)))
    with tempfile.TemporaryDirectory() as place:
        settings = BaseTrainerConfig(
            output_dir=place, num_epochs=100_000, learning_rate=1e-4, per_device_train_batch_size=64, no_cuda=True
        )
        trainer = BaseTrainer(model, data, training_config=settings, callbacks=[Clock()])
        try:
            trainer.train()
        except TimeIsUp:
            model = trainer.model.eval()
    return lambda n: model.decoder(torch.randn(n, 64)).reconstruction


def dcgan(images: Tensor, budget: Budget) -> Sampler:
    """Train a DCGAN: 64 channels at full width, noise of 100, Adam with rate 2e-4 and β₁ = 0.5, batches of 64."""

    def block(
        before: int, after: int, *, up: bool, stride: int = 2, pad: int = 1, norm: bool = True
    ) -> list[nn.Module]:
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        act = nn.ReLU() if up else nn.LeakyReLU(0.2)
        return [kind(before, after, 4, stride, pad, bias=False), *([nn.BatchNorm2d(after)] if norm else []), act]

    up, down = (512, 256, 128, 64), (64, 128, 256, 512)
    made = block(100, up[0], up=True, stride=1, pad=0)
    for before, after in itertools.pairwise(up):
        made += block(before, after, up=True)
    generator = nn.Sequential(*made, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())
    seen = block(3, down[0], up=False, norm=False)
    for before, after in itertools.pairwise(down):
        seen += block(before, after, up=False)
    critic = nn.Sequential(*seen, nn.Conv2d(512, 1, 4, bias=False), nn.Flatten(0))
    for module in (*generator.modules(), *critic.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.02)
    players = [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (generator, critic)]
    loss = nn.BCEWithLogitsLoss()
    for real in batches(images, 64):
        ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
        fake = generator(torch.randn(len(real), 100, 1, 1))
        players[1].zero_grad()
        (loss(critic(2 * real - 1), ones) + loss(critic(fake.detach()), zeros)).backward()
        players[1].step()
        players[0].zero_grad()
        loss(critic(fake), ones).backward()
        players[0].step()
        if not budget.update():
            break
    generator.eval()
    return lambda n: (generator(torch.randn(n, 100, 1, 1)) + 1) / 2


def diffusion(images: Tensor, budget: Budget) -> Sampler:
    """Train a diffusion model in pixels; 20 steps of DDIM draw its samples."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    net = Unet(dim=32, dim_mults=(1, 2, 4), flash_attn=False)
    model = GaussianDiffusion(net, image_size=SIZE, timesteps=1000, sampling_timesteps=20)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4, betas=(0.9, 0.99))
    average = {key: value.clone() for key, value in model.state_dict().items()}
    for real in batches(images, 16):
        optimizer.zero_grad()
        model(real).backward()
        optimizer.step()
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                average[key].lerp_(value, max(0.005, 1 / (budget.updates / 10 + 2)))
        if not budget.update():
            break
    model.load_state_dict(average)
    return lambda n: model.eval().sample(batch_size=n)


def gmm(images: Tensor, budget: Budget) -> Sampler:
    """Fit a Gaussian mixture of 20 components on the codes of PCA."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    flat = images.flatten(1).numpy().astype(np.float32) / 255
    pca = PCA(64, svd_solver="randomized", random_state=0).fit(flat)
    mixture = GaussianMixture(20, random_state=0, reg_covar=1e-4).fit(pca.transform(flat))
    budget.update()

    def sample(n: int) -> Tensor:
        mixture.random_state = int(torch.randint(2**31, ()))
        made = pca.inverse_transform(mixture.sample(n)[0].astype(np.float32))
        return torch.from_numpy(made).float().view(n, 3, SIZE, SIZE)

    return sample


def main() -> None:
    """Train, and write samples."""
    name, source, seconds, n, seed, out = sys.argv[1:]
    torch.manual_seed(int(seed))
    budget = Budget(float(seconds))
    makers = {"vae": vae, "dcgan": dcgan, "diffusion": diffusion, "gmm": gmm}
    sample = makers[name](torch.from_numpy(np.load(source)), budget)
    used = budget.used
    with torch.no_grad():
        parts = [sample(size) for size in [100] * (int(n) // 100) + [int(n) % 100] * bool(int(n) % 100)]
    np.save(Path(out), (torch.cat(parts).clamp(0, 1) * 255).round().byte().numpy())
    print(json.dumps({"cpu": used, "updates": budget.updates}))


if __name__ == "__main__":
    main()
