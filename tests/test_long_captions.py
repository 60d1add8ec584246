"""Captions that the text encoder cannot read at once, against chunks cut by hand."""

import pytest
import torch
from kit import METHODS, conditioning, hidden_states, prepared, settings_for, write_images

from customize.diffusion.predictions import add_noise

LONG = " ".join(["a photo of the small sks dog in the red house"] * 9)  # 90 tokens
LONGER = " ".join(["a small dog"] * 60)  # 180


def by_hand(family, text: str, count: int) -> torch.Tensor:
    """[count * 77, D]: 75 tokens at a time between start and end, filled up with empty ones."""
    tokenizer = family.tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.convert_tokens_to_ids(",</w>") not in ids, "commas may move a cut"
    rows = [ids[start : start + 75] for start in range(0, 75 * count, 75)]
    rows = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in rows]
    rows = [row + [tokenizer.pad_token_id] * (77 - len(row)) for row in rows]
    return torch.cat([family.text_encoder(torch.tensor([row]), return_dict=False)[0][0] for row in rows])


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("captioned"), 3)
    for number, text in enumerate((LONG, "a photo of sks dog", LONGER)):
        (folder / f"{number}.txt").write_text(f"{text} <new>")
    return folder


def settings(method, tiny, folder, out, **changes):
    return settings_for(method, tiny, folder, out, **{"train_batch_size": 3, "max_train_steps": 2, **changes})


@pytest.mark.parametrize("method", [*METHODS, "text encoder"])
def test_the_loss_is_that_of_chunks_cut_by_hand(method, tiny_epsilon, captioned, tmp_path):
    changes = {"train_text_encoder": True} if method == "text encoder" else {}
    kind = "lora" if method == "text encoder" else method
    context, training = prepared(settings(kind, tiny_epsilon, captioned, tmp_path / "out", **changes))
    assert any("read in chunks" in note and "0.png (" in note for note in context.examples.notes), context.examples.notes
    family, batch = context.family, training.dataset.deal(0, range(3))[0]
    family.text_encoder.to("cpu")
    texts = [family.text_encoders[0].expand(prompt) for prompt in batch.prompts]
    by_chunks = torch.stack([by_hand(family, text, 3) for text in texts])
    noisy = add_noise(batch.latents, batch.noise, *family.schedule.alpha_sigma(batch.timesteps))
    with torch.no_grad():
        prediction = family.predict(noisy, batch.timesteps, conditioning(by_chunks)).prediction
        reference = ((prediction - batch.noise) ** 2).mean(dim=(1, 2, 3)) * batch.loss_weights
    loss = training.method(batch)
    assert torch.allclose(loss, reference, rtol=1e-5, atol=1e-6)
    loss.sum().backward()
    gradients = [each.grad for each in training.method.trainable_state_dict().values() if each.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_caption_means_the_same_whatever_is_in_its_batch(tiny_epsilon, captioned, tmp_path):
    for changes in ({}, {"train_text_encoder": True}):
        context, training = prepared(settings("lora", tiny_epsilon, captioned, tmp_path / "out", **changes))
        captions = [example.captions[0] for example in context.examples.instances]
        together = hidden_states(training.condition(captions))
        assert together.shape == (3, 3 * 77, 32)
        for index, caption in enumerate(captions):
            assert torch.equal(hidden_states(training.condition([caption]))[0], together[index])


def test_long_sample_prompts_do_not_change_training(tiny_epsilon, tmp_path):
    folder = write_images(tmp_path / "set")
    for changes in ({}, {"train_text_encoder": True}):
        plain = prepared(settings("lora", tiny_epsilon, folder, tmp_path / "one", **changes))[1]
        looked = settings("lora", tiny_epsilon, folder, tmp_path / "two", validation_prompt=(LONGER,), **changes)
        beside = prepared(looked)[1]
        assert torch.equal(*(hidden_states(each.condition(["a photo of sks dog"])) for each in (plain, beside)))
        assert hidden_states(beside.condition([LONGER, ""])).shape == (2, 3 * 77, 32)


def test_training_and_generation_encode_captions_equally(tiny_epsilon, captioned, tmp_path):
    from customize.inference.pipeline import Pipeline
    from customize.prompts import Span

    context, training = prepared(settings("lora", tiny_epsilon, captioned, tmp_path / "out"))
    context.family.text_encoder.to("cpu")
    drawn = Pipeline(context.family).conditioning([(Span(LONG + " <new>"),), (Span(LONGER + " <new>"),)])
    assert torch.equal(*map(hidden_states, (training.condition([LONG + " <new>", LONGER + " <new>"]), drawn)))
