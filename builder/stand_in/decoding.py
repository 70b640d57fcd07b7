"""Train the autoencoder's decoder to turn the encoder's cosines back into pixels."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from .images import TrainingImages
from .stage import Stage


def train_decoder(vae: AutoencoderKL, steps: int, seed: int, folder: Path) -> None:
    """Train `vae.decoder` in place on the mean squared error of pixels from -1 to 1."""

    def loss_of(step: int) -> torch.Tensor:
        side, count = ((48, 12), (64, 8), (96, 4))[step % 3]
        pixels = TrainingImages(seed * 1_000_003 + step).batch(count, side, side) * 2 - 1
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mode()
        loss: torch.Tensor = (vae.decode(latents).sample - pixels).square().mean()
        return loss

    Stage("decoder", vae, vae.decoder.parameters(), 3e-3, steps, folder).run(loss_of)
