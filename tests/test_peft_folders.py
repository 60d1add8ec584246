"""Folders that peft's own `save_pretrained` writes load with their configuration, and compute what peft computes."""

import copy

import pytest
import torch
from kit import conditioning
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model

from customize import families
from customize.weights.learned_weights import find_learned
from customize.weights.load_adapters import add_adapters

TO = ["to_q", "to_v", "ff.net.0.proj"]
CONFIGS = {
    "LoRA": LoraConfig(r=4, lora_alpha=6, target_modules=TO),
    "rsLoRA, ranks and alphas by pattern": LoraConfig(
        r=4, lora_alpha=6, target_modules=TO, use_rslora=True, rank_pattern={"to_v": 2}, alpha_pattern={"ff.net.0.proj": 1}
    ),
    "DoRA": LoraConfig(r=4, lora_alpha=6, target_modules=TO, use_dora=True),
    "LoRA with biases": LoraConfig(r=4, lora_alpha=6, target_modules=["to_out.0", "ff.net.2"], lora_bias=True),
    "LoRA of convolutions": LoraConfig(r=4, lora_alpha=6, target_modules=["conv1", "proj_in"]),
    "LoHa": LoHaConfig(r=4, alpha=3, target_modules=TO + ["conv1"]),
    "LoHa with a core": LoHaConfig(r=4, alpha=3, target_modules=["conv1"], use_effective_conv2d=True),
    "LoKr": LoKrConfig(r=4, alpha=3, target_modules=TO + ["conv1"]),
    "LoKr, both factors, with a core": LoKrConfig(
        r=2, alpha=3, target_modules=[*TO, "conv1"], decompose_both=True, use_effective_conv2d=True
    ),
    "LoKr, full": LoKrConfig(r=64, alpha=16, target_modules=TO),
    "IA3": IA3Config(target_modules=["to_k", "to_out.0", "ff.net.2"], feedforward_modules=["ff.net.2"]),
    "OFT": OFTConfig(r=0, oft_block_size=8, target_modules=["to_q", "ff.net.0.proj"]),
    "OFT, exact and shared": OFTConfig(
        r=0, oft_block_size=8, target_modules=["to_q", "ff.net.0.proj"], use_cayley_neumann=False, block_share=True
    ),
}


@pytest.fixture(scope="module")
def family(tiny_epsilon):
    return families.load(families.locate(str(tiny_epsilon)))


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_of_peft_computes_what_peft_computes(family, tiny_epsilon, tmp_path, name):
    torch.manual_seed(0)
    theirs = get_peft_model(copy.deepcopy(family.unet), copy.deepcopy(CONFIGS[name]))
    for key, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * (0.02 if "oft" in key or "magnitude" in key else 0.1))
    theirs.save_pretrained(tmp_path)
    own = copy.deepcopy(family)
    [adapter], notes = add_adapters(own, find_learned(str(tiny_epsilon), [(tmp_path, 1.0)]).files, partial=False)
    adapter.set_scale(1.0)
    hidden, latents = torch.randn(1, 8, 32), torch.randn(1, 4, 8, 8)
    ours = own.predict(latents, torch.tensor([400]), conditioning(hidden)).prediction
    expected = theirs.eval()(latents, torch.tensor([400]), hidden).sample
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    plain = family.predict(latents, torch.tensor([400]), conditioning(hidden)).prediction
    assert notes == [] and (ours - plain).abs().max() > 1e-3
