"""pythae's default fully connected VAE, trained by its own trainer. Runs in pythae's environment, never imports ectype.

pythae_vae.py train IMAGES.npy FOLDER EPOCHS SEED       trains, and prints what that took
pythae_vae.py judge IMAGES.npy MODEL NOISE.npy OUT.npz  writes what a trained model makes of images: mean, log_variance,
                                                        and expected, decoded from the one draw with that noise
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, AutoModel, VAEConfig
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback


def read(images: str) -> torch.Tensor:
    """[n, 1, 28, 28] in [0, 1], the way that pythae wants them."""
    return torch.from_numpy(np.load(images)).float().div_(255)


def now() -> tuple[float, float]:
    """Wall and CPU seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Wall and CPU seconds since then."""
    return tuple(b - a for a, b in zip(began, now(), strict=True))


class Clock(TrainingCallback):
    """Wall and CPU seconds of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        """Note the time."""
        self.began = now()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        """Note what it took."""
        self.epochs.append(since(self.began))


def train(images: str, folder: str, epochs: str, seed: str) -> None:
    """Default network and trainer. Batch 128 and rate 1e-3 are given: both are twice or ten times the defaults."""
    data = read(images)
    began = now()
    torch.manual_seed(int(seed))
    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="mse"))
    config = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=int(epochs),
        learning_rate=1e-3,
        per_device_train_batch_size=128,
        seed=int(seed),
        no_cuda=True,
    )
    clock = Clock()
    trainer = BaseTrainer(model, BaseDataset(data, torch.ones(len(data))), training_config=config, callbacks=[clock])
    trainer.train()
    wall, cpu = since(began)
    place = Path(trainer.training_dir) / "final_model"
    print(json.dumps({"wall": wall, "cpu": cpu, "epochs": clock.epochs, "model": str(place)}))


def judge(images: str, model: str, noise: str, out: str) -> None:
    """What the figure of quality is computed from, elsewhere and for all contestants alike."""
    trained = AutoModel.load_from_folder(model).eval()
    with torch.no_grad():
        found = trained.encoder(read(images))
        mean, log_variance = found.embedding, found.log_covariance
        code = mean + torch.exp(0.5 * log_variance) * torch.from_numpy(np.load(noise))
        expected = trained.decoder(code)["reconstruction"]
    np.savez(out, mean=mean, log_variance=log_variance, expected=expected.view(len(mean), 1, 28, 28))


if __name__ == "__main__":
    {"train": train, "judge": judge}[sys.argv[1]](*sys.argv[2:])
