"""Counts what it costs to encode captions in the steps, where their tags are drawn, beside keeping all of them encoded.

    python benchmarks/caption_costs.py

For each base model: the operations of its text encoders for one caption beside those of a training step of the UNet for one
image (forward, and backward at twice that), the memory of the text encoders in 16 bits, and that of one encoded caption. Networks
are on the meta device, so that nothing is computed or downloaded.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

CONFIGS = Path(__file__).parents[1] / "customize/families/configs"
SIDES = {"sd15": 64, "sd21": 96, "sdxl": 128}
"""Height and width of the latents at each model's own resolution."""
TOKENS = 77


def operations(network: torch.nn.Module, *inputs, **more) -> int:
    """Multiplications and additions of one forward pass."""
    with FlopCounterMode(display=False) as counter:
        network(*inputs, **more)
    return counter.get_total_flops()


def main() -> None:
    """Print a line for each base model."""
    with torch.device("meta"), torch.no_grad():
        for name, side in SIDES.items():
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS / name / "unet"))
            width = unet.config.cross_attention_dim
            encoders = [
                CLIPTextModel(CLIPTextConfig.from_pretrained(folder)) for folder in sorted((CONFIGS / name).glob("text_encoder*"))
            ]
            text = sum(operations(each, torch.ones(1, TOKENS, dtype=torch.long)) for each in encoders)
            added = {"text_embeds": torch.ones(1, 1280), "time_ids": torch.ones(1, 6)} if name == "sdxl" else None
            inputs = (torch.ones(1, 4, side, side), torch.ones(1), torch.ones(1, TOKENS, width))
            step = 3 * operations(unet, *inputs, added_cond_kwargs=added)
            bytes_of = sum(2 * parameter.numel() for each in encoders for parameter in each.parameters())
            print(
                f"{name}: a caption {text / 1e9:.1f} G, a step {step / 1e9:,.0f} G operations ({text / step:.2%}); "
                f"text encoders {bytes_of / 2**20:,.0f} MiB, an encoded caption {TOKENS * width * 4 / 2**10:.0f} KiB"
            )


if __name__ == "__main__":
    main()
