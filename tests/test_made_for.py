"""Weights of another base model are refused by name before a model is loaded: by width and by names, in every layout."""

import json

import pytest
import torch
from adapters_of_others import diffusers, kohya, processor
from safetensors.torch import save_file

from customize import families
from customize.errors import InputError
from customize.weights.learned_weights import find_learned
from customize.weights.load_weights import add_embeddings, read_tensors

TITLES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
KEY = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
ORIGINAL = "input_blocks.4.1.transformer_blocks.0.attn2.to_k"
ENDS = "lora_down.weight lora_up.weight"
PEFT = "lora_A.weight lora_B.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders and a file with no more than what tells the versions of base models apart."""
    made = {}
    for width, title in TITLES.items():
        made[width] = folder = tmp_path_factory.mktemp(title.replace(" ", ""))
        pipeline = "StableDiffusionXLPipeline" if width == 2048 else "StableDiffusionPipeline"
        (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        (folder / "unet").mkdir()
        size = {"addition_embed_type": "text_time"} if width == 2048 else {}
        (folder / "unet/config.json").write_text(json.dumps({"cross_attention_dim": width, **size}))
    return made


def lora(name: str, width: int, ends: str = ENDS, joint: str = ".") -> dict[str, tuple[int, ...]]:
    first, second = ends.split()
    return {f"{name}{joint}{first}": (4, width), f"{name}{joint}{second}": (640, 4)}


LAYOUTS = {
    "kohya": lambda width: lora(kohya(KEY), width),
    "kohya, original names": lambda width: lora(f"lora_unet_{ORIGINAL}".replace(".", "_"), width),
    "LyCORIS": lambda width: lora(f"lycoris_{KEY}".replace(".", "_"), width),
    "diffusers": lambda width: lora(diffusers(KEY), width, PEFT),
    "diffusers 0.23": lambda width: lora(diffusers(KEY), width, "lora.down.weight lora.up.weight"),
    "diffusers before 0.22": lambda width: lora(processor(KEY), width, "down.weight up.weight"),
    "peft": lambda width: lora(f"base_model.model.{KEY}", width, PEFT),
    "ComfyUI": lambda width: lora(f"diffusion_model.{ORIGINAL}", width, PEFT),
    "difference": lambda width: {f"{kohya(KEY)}.diff": (640, width)},
    "LoHa": lambda width: {f"{kohya(KEY)}.hada_w{i}_{x}": {"a": (640, 4), "b": (4, width)}[x] for i in "12" for x in "ab"},
    "embedding": lambda width: {"clip_l": (2, 768), "clip_g": (2, 1280)} if width == 2048 else {"emb_params": (2, width)},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_another_version_is_refused_by_name_in_every_layout(bases, tmp_path, layout):
    for theirs in TITLES:
        path = tmp_path / f"{theirs}.safetensors"
        save_file({name: torch.zeros(shape) for name, shape in LAYOUTS[layout](theirs).items()}, path)
        for ours, base in bases.items():
            if ours == theirs:
                assert len(find_learned(str(base), [(path, 1.0)]).files) == 1
                continue
            with pytest.raises(InputError) as caught:
                find_learned(str(base), [(path, 1.0)])
            [problem] = caught.value.problems
            named = TITLES[theirs] if 2048 not in (ours, theirs) else ("Stable Diffusion" if theirs != 2048 else "SDXL")
            assert (
                f"was learned on {named}" in problem.what and f"{base} is " in problem.what and "give weights" in problem.remedy
            )


@pytest.mark.parametrize("theirs, ours", [(768, 1024), (1024, 768)])
def test_a_text_encoder_alone_tells_its_version(bases, tmp_path, theirs, ours):
    path = tmp_path / "text.safetensors"
    tensors = lora("lora_te_text_model_encoder_layers_0_self_attn_q_proj", theirs)
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    assert find_learned(str(bases[theirs]), [(path, 1.0)]).files
    with pytest.raises(InputError, match=f"was learned on {TITLES[theirs]}; .* is {TITLES[ours]}"):
        find_learned(str(bases[ours]), [(path, 1.0)])


def test_the_first_text_encoder_of_sdxl_is_not_taken_for_that_of_another(bases, tmp_path):
    path = tmp_path / "text.safetensors"
    tensors = lora("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 768)
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    assert find_learned(str(bases[2048]), [(path, 1.0)]).files


@pytest.mark.parametrize("tensors, title", [
    ({"emb_params": 768}, "Stable Diffusion 1.x"), ({"emb_params": 1024}, "Stable Diffusion 2.x"),
    ({"clip_l": 768, "clip_g": 1280}, "SDXL"), ({"emb_params": 5}, "another base model"),
])  # fmt: skip
def test_an_embedding_for_a_base_model_that_is_not_here_is_refused_by_name_when_it_is_loaded(
    tiny_epsilon, tmp_path, tensors, title
):
    family = families.load(families.locate(str(tiny_epsilon)))
    save_file({name: torch.zeros(2, width) for name, width in tensors.items()}, tmp_path / "toy.safetensors")
    [file] = find_learned("someone/model", [(tmp_path / "toy.safetensors", 1.0)]).files
    with pytest.raises(InputError, match=f"it was learned on {title}"):
        add_embeddings(family, file, read_tensors(file))
