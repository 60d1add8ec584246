"""Chunks of tokens and their weights against the formula in float64 and against where AUTOMATIC1111 cuts."""

import numpy as np
import pytest
import torch
from kit import conditioning, hidden_states
from models import WORDS

from customize import families
from customize.errors import InputError
from customize.families.prompt_encoding import Word, chunks, cut
from customize.families.stable_diffusion import StableDiffusion
from customize.prompts import parse, plain

COMMA, OTHER = 7, 10


def load(path) -> StableDiffusion:
    return families.load(families.locate(str(path)))


@pytest.fixture
def family(tiny_epsilon):
    return load(tiny_epsilon)


@pytest.fixture(scope="module")
def demo():
    return load("demo")


def spans(prompt: str):
    (clause,) = parse(prompt).clauses
    return clause.at(0, 1)


def words(count: int) -> str:
    return " ".join(WORDS[i % len(WORDS)] for i in range(count))


@torch.no_grad()
def encoded(family, *prompts: str) -> torch.Tensor:
    return hidden_states(family.encode_prompts([spans(prompt) for prompt in prompts]))


def ids(family, *prompts: str) -> list[list[int]]:
    """The tokens of each prompt between start and end, filled to a chunk each."""
    length = family.tokenizer.model_max_length - 2
    vocabulary, end = family.tokenizer.get_vocab(), family.tokenizer.eos_token_id
    tokens = [[vocabulary[f"{word}</w>"] for word in prompt.split()] for prompt in prompts]
    return [[family.tokenizer.bos_token_id, *row, *[end] * (length + 1 - len(row))] for row in tokens]


def with_a_mean(family):
    """Hidden states with a mean, as those of trained encoders have one."""
    family.text_encoder.final_layer_norm.bias.fill_(-0.3)
    return family


@pytest.mark.parametrize("text", ["", "a", "a photo of a small dog, painting", "zebra é 猫", words(75)])
def test_one_chunk_without_weights_equals_the_text_encoder(family, text):
    with torch.no_grad():
        found, alone = family.encode_prompts([plain(text).clauses[0].at(0, 1)]), family.encode_prompts([text])
        assert torch.equal(hidden_states(found), hidden_states(alone))


@pytest.mark.parametrize("text", ["", "a photo of a red circle, oil painting", "a" + " red" * 29])
def test_one_chunk_of_the_demo_without_weights_equals_the_text_encoder(demo, text):
    assert torch.equal(encoded(demo, text), hidden_states(demo.encode_prompts([text])))
    assert encoded(demo, text).shape == (1, 32, demo.text_encoder.config.hidden_size)


def test_a_long_prompt_continues_in_another_chunk(demo):
    assert encoded(demo, "a" + " red" * 30).shape[1] == 2 * 32


def test_weights_multiply_and_the_mean_is_restored(family):
    """h' = w h mean(h) / mean(w h) with tokens, weights and means written out by hand, in float64."""
    with_a_mean(family).text_encoder.double()
    found = encoded(family, "a (small dog:1.5) [on the] ((car:0.4) and) BREAK big toy").numpy()[0]
    weights = [1, 1, 1.5, 1.5, 1 / 1.1, 1 / 1.1, 0.4 * 1.1, 1.1]
    rows = ids(family, "a small dog on the car and", "big toy")
    expected = [family.text_encoder(torch.tensor([row]))[0][0].detach().numpy() for row in rows]
    assert expected[0].shape == (77, 32)
    weighted = expected[0].copy()
    for i in range(8):
        weighted[i] *= weights[i]
    expected[0] = weighted * (expected[0].sum() / weighted.sum())
    np.testing.assert_allclose(found[:77], expected[0], rtol=1e-11)
    assert not np.allclose(found[:77], weighted, rtol=1e-3) and np.isclose(found[:77].mean(), expected[0].mean())
    np.testing.assert_array_equal(found[77:], expected[1])  # a chunk of its own: the weights of the other change nothing


@pytest.mark.parametrize("weight", [1.5, 0.5, 0, -1, 100])
def test_a_mean_of_zero_is_not_restored_to_noise(family, weight):
    ratio = encoded(family, f"a ({words(70)}:{weight}) dog")[0, 0] / encoded(family, f"a {words(70)} dog")[0, 0]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
    assert min(1 / max(weight, 1), 1) - 1e-4 < ratio[0] < 10 + 1e-4


def test_half_precision_is_weighted_in_single(family):
    with_a_mean(family).text_encoder.bfloat16()
    found = encoded(family, "a (dog:1.3)")
    assert found.dtype == torch.bfloat16
    states = encoded(family, "a dog").float()
    weights = torch.ones(77, 1)
    weights[2] = 1.3
    expected = weights * states * states.mean() / (weights * states).mean()
    assert torch.equal(found, expected.bfloat16()) or torch.allclose(found.float(), expected, rtol=2**-8)


def test_prompts_of_one_call_have_one_length(family):
    long, short = encoded(family, words(80), "a dog")
    assert len(long) == len(short) == 2 * 77
    assert torch.equal(short, torch.cat([*encoded(family, "a dog"), *encoded(family, "")]))
    assert torch.equal(long, encoded(family, words(80))[0])


def test_break_starts_a_chunk(family):
    found = encoded(family, "a dog BREAK a cat")[0]
    assert torch.equal(found, torch.cat([*encoded(family, "a dog"), *encoded(family, "a cat")]))
    parts = [encoded(family, text) for text in ("a", "", "b")]
    assert torch.equal(encoded(family, "a BREAK BREAK b"), torch.cat(parts, dim=1))


def test_each_different_chunk_is_encoded_once(family, monkeypatch):
    asked, encoder = [], family.text_encoders[0]
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda input_ids, skip: asked.append(input_ids) or encode(input_ids, skip))
    encoded(family, "a dog BREAK a cat", "a cat", "a dog", "a (dog:1.0)")
    assert [tuple(rows.shape) for rows in asked] == [(1, 77)] * 3  # with the empty one


def runs(*lengths: int | None) -> list[Word | None]:
    """Words of one token: as many as each length says, commas between them; None is a BREAK."""
    found: list[Word | None] = []
    for i, length in enumerate(lengths):
        if i and None not in lengths[i - 1 : i + 1]:
            found.append(Word((COMMA,), 1.0))
        found += [None] if length is None else [Word((OTHER,), 1.0)] * length
    return found


# where tokenize_line of modules/sd_hijack_clip.py (version 1.10, comma_padding_backtrack 20) cuts the same tokens
CUTS = [
    (75, (), [0]),
    (75, (75,), [75]),
    (75, (76,), [75, 1]),
    (75, (60, 14), [75]),
    (75, (60, 15), [61, 15]),
    (75, (55, 20), [56, 20]),
    (75, (54, 21), [75, 1]),
    (75, (74, 5), [75, 5]),
    (75, (75, 5), [75, 6]),
    (75, (60, 14, 3), [75, 4]),
    (75, (70, 80, 30), [71, 75, 36]),
    (30, (12, 40), [13, 30, 10]),
    (75, (None,), [0]),
    (75, (3, None), [3]),
    (75, (None, 3), [0, 3]),
    (75, (3, None, None, 2), [3, 0, 2]),
    (75, (75, None, 2), [75, 2]),
    (75, (60, 3, None, 76), [64, 75, 1]),
]


@pytest.mark.parametrize(("size", "lengths", "expected"), CUTS)
def test_chunks_are_cut_at_commas(size, lengths, expected):
    found = cut(runs(*lengths), size, COMMA)
    assert list(map(len, found)) == expected
    assert [token for chunk in found for token, _ in chunk] == [word.input_ids[0] for word in runs(*lengths) if word]


def test_a_word_of_many_tokens_does_not_follow_what_moves_where_it_does_not_fit():
    for length, expected in ((60, [61, 74]), (70, [61, 14, 70])):
        found = cut([*runs(60, 14), Word((OTHER,) * length, 1.0)], 75, COMMA)
        assert list(map(len, found)) == expected


def test_the_comma_is_the_tokenizers(family, demo):
    assert list(map(len, tokens_of(family, words(60) + ", " + words(15)))) == [61, 15]
    assert list(map(len, tokens_of(demo, "red " * 20 + ", " + "red " * 10))) == [21, 10]


def tokens_of(family, prompt: str) -> list[list[int]]:
    special = set(family.tokenizer.all_special_ids)
    return [
        [token for token in chunk.input_ids if token not in special] for chunk in chunks(family.text_encoders[0], spans(prompt))
    ]


def test_a_learned_word_keeps_together_and_takes_weights(family):
    family.text_encoders[0].add_tokens("<cat>", torch.randn(3, 32, generator=torch.Generator().manual_seed(0)))
    first = len(family.tokenizer) - 3
    (chunk,) = chunks(family.text_encoders[0], spans("a (<cat>:1.3) dog"))
    assert chunk.input_ids[2:5] == (first, first + 1, first + 2) and chunk.weights[:7] == (1, 1, 1.3, 1.3, 1.3, 1, 1)
    plain_chunk, weighted = (encoded(family, prompt) for prompt in ("a <cat> dog", "a (<cat>:1.3) dog"))
    assert torch.equal(plain_chunk, hidden_states(family.encode_prompts(["a <cat> dog"])))
    ratio = weighted / plain_chunk
    torch.testing.assert_close(ratio[0, 2:5] / 1.3, ratio[0, :1].expand(3, -1), rtol=1e-4, atol=1e-4)
    assert list(map(len, tokens_of(family, words(73) + " <cat> dog"))) == [73, 4]
    assert list(map(len, tokens_of(family, words(60) + ", " + words(13) + " <cat>"))) == [61, 16]


def test_a_learned_word_longer_than_a_chunk_is_refused():
    family = load("demo")
    family.text_encoders[0].add_tokens("<long>", torch.zeros(31, family.text_encoder.config.hidden_size))
    with pytest.raises(InputError, match="31 vectors"):
        encoded(family, "a <long>")


def test_the_unet_reads_several_chunks(family):
    latents, timesteps = torch.zeros(1, 4, 8, 8), torch.tensor([10])
    with torch.no_grad():
        answers = [
            family.predict(latents, timesteps, conditioning(encoded(family, prompt))).prediction
            for prompt in ("a dog", "a dog BREAK a cat")
        ]
    assert answers[0].shape == answers[1].shape and not torch.equal(*answers)
