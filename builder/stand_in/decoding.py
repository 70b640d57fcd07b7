"""How the autoencoder's decoder is learnt: to give back the pixels that the cosines leave."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from pictures import Pictures
from schooling import Stage


def learn_decoder(vae: AutoencoderKL, steps: int, seed: int, folder: Path) -> None:
    """Train `vae.decoder` in place by the mean squared error of pixels (-1 to 1)."""

    def loss_of(step: int) -> torch.Tensor:
        side, count = ((48, 12), (64, 8), (96, 4))[step % 3]
        pixels = Pictures(seed * 1_000_003 + step).batch(count, side, side) * 2 - 1
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mode()
        loss: torch.Tensor = (vae.decode(latents).sample - pixels).square().mean()
        return loss

    Stage("decoder", vae, vae.decoder.parameters(), 3e-3, steps, folder).run(loss_of)
