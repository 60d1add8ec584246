"""The embedding files of textual inversion in the programs that read them, by their rules, restated here.

Sources: A1111 modules/textual_inversion/textual_inversion.py and Forge backend/text_processing/textual_inversion.py
(create_embedding_from_data), ComfyUI comfy/sd1_clip.py (load_embed), InvokeAI backend/textual_inversion.py and
model_manager/configs/textual_inversion.py. Stock diffusers reads the files itself.
"""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from test_metadata import result
from test_model_file import small_configs  # noqa: F401
from torch import Tensor

KEYS = {"sd15": ("clip_l",), "sd21": ("clip_h",), "sdxl": ("clip_l", "clip_g")}
"""ComfyUI's names of the text encoders."""


def a1111(tensors: dict[str, Tensor]) -> list[Tensor]:
    """Of A1111 and Forge: the vectors of each encoder."""
    if "clip_g" in tensors and "clip_l" in tensors:
        return [tensors["clip_l"], tensors["clip_g"]]
    assert len(tensors) == 1, "embedding file has multiple terms in it"
    [vectors] = tensors.values()
    return [vectors[None] if vectors.dim() == 1 else vectors]


def comfyui(tensors: dict[str, Tensor], key: str) -> Tensor:
    vectors = tensors[key] if key in tensors else next(iter(tensors.values()))
    return vectors[None] if vectors.dim() == 1 else vectors


def invokeai(tensors: dict[str, Tensor]) -> tuple[int, list[Tensor]]:
    """The width by which the base model is recognised, and the vectors of each encoder."""
    if "emb_params" in tensors:
        return tensors["emb_params"].shape[-1], [tensors["emb_params"]]
    if "clip_g" in tensors:
        return tensors["clip_g"].shape[-1], [tensors["clip_l"], tensors["clip_g"]]
    first = next(iter(tensors.values()))
    return first.shape[0], [first[None] if first.dim() == 1 else first]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("version", KEYS)
def test_every_program_reads_the_learned_vectors(version, count, bases, tmp_path):
    [file] = result("textual_inversion", bases / version, tmp_path, num_vectors=(count,))
    tensors = load_file(file)
    kind = StableDiffusionXLPipeline if version == "sdxl" else StableDiffusionPipeline
    pipe = kind.from_pretrained(bases / version)
    if version == "sdxl":
        pipe.load_textual_inversion(tensors["clip_l"], "<new>", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
        pipe.load_textual_inversion(tensors["clip_g"], "<new>", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
        encoders = [(pipe.text_encoder, pipe.tokenizer), (pipe.text_encoder_2, pipe.tokenizer_2)]
    else:
        pipe.load_textual_inversion(str(file))
        encoders = [(pipe.text_encoder, pipe.tokenizer)]
    words = ["<new>", *(f"<new>_{number}" for number in range(1, count))]
    expected = [
        encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(words)].detach() for encoder, tokenizer in encoders
    ]
    assert all(vectors.shape[0] == count for vectors in expected)
    for found in (a1111(tensors), [comfyui(tensors, key) for key in KEYS[version]]):
        assert all(torch.equal(own, theirs) for own, theirs in zip(found, expected, strict=True))
    width, found = invokeai(tensors)
    assert all(torch.equal(own, theirs) for own, theirs in zip(found, expected, strict=True))
    recognised = count == 1 or version == "sdxl"  # InvokeAI takes the number of vectors for their width otherwise
    assert (width == expected[-1].shape[-1]) == recognised


def test_the_layout_of_a1111_is_recognised_by_invokeai(bases, tmp_path):
    from customize.cli.convert import main

    [file] = result("textual_inversion", bases / "sd15", tmp_path, num_vectors=(3,))
    assert main([str(file), str(Path(tmp_path / "new.safetensors")), "--layout", "a1111"]) == 0
    width, [vectors] = invokeai(load_file(tmp_path / "new.safetensors"))
    assert width == 32 and torch.equal(vectors, a1111(load_file(file))[0])
