"""Where each word of the prompt looks: cross-attention maps. Tang et al. 2023, "What the DAAM: Interpreting Stable
Diffusion Using Cross Attention".

At each place of the latents, every head of a cross-attention layer shares its attention out among the tokens of the
prompt: softmax(q k^T / sqrt(d)). A map is the mean of these probabilities over all heads and layers (the paper takes the
sum), so that the maps of all L tokens, start and end among them, sum to 1 at each place.

B images, C latent channels, H W latent height and width, L tokens, S evaluations, N words; h w height and width in a layer.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from customize import prompts as grammar
from customize.families.base import Family
from customize.families.prompt_encoding import chunks
from customize.inference.estimates import Composed, Conditional, Estimate, Guided, Mixed, WithChannels
from customize.inference.explain.contact_sheet import contact_sheet, gif, stacked
from customize.inference.explain.trace import MOST_FRAMES, few_colours, in_colours, spread
from customize.inference.prompt_estimates import Changing
from customize.inference.sampler import StepResult
from customize.inference.step import Step
from customize.prompts import Span

COLD_TO_HOT = ((20, 11, 53), (101, 21, 110), (188, 55, 84), (242, 125, 36), (250, 193, 39), (252, 255, 190))
"""Colours at equal distances."""
OPACITY = 0.35, 0.8
"""How much of the picture the coldest and the hottest colour hide."""
LEVELS = 64
WORDS_IN_A_ROW, LARGEST, LARGEST_MOVING = 8, 256, 128


@dataclass(frozen=True)
class Word:
    """A word, how many of the same stand in the prompt before it, and the places in 0..L-1 of the tokens that it became."""

    text: str
    number: int
    places: tuple[int, ...]


def words(family: Family, spans: Sequence[Span]) -> list[Word]:
    """The words of a prompt, in order, as the tokenizer parts them: small letters, and "high-res" is two.

    A learned placeholder is one word, however many vectors stand for it. Tokens of mere punctuation belong to no word, nor
    do start, end and padding.
    """
    encoder, found = family.text_encoders[0], []
    tokenizer = encoder.tokenizer
    learned = {tokens[0]: (placeholder, len(tokens)) for placeholder, tokens in encoder.placeholders.items()}
    for number, chunk in enumerate(chunks(encoder, spans)):
        input_ids = chunk.input_ids[: chunk.input_ids.index(tokenizer.eos_token_id, 1)]
        tokens = tokenizer.convert_ids_to_tokens(input_ids)
        place = 1
        while place < len(tokens):
            text, length = learned.get(tokens[place], ("", 0))
            if not length:
                ends = (i for i, token in enumerate(tokens[place:], 1) if token.endswith("</w>"))
                length = next(ends, len(tokens) - place)
                text = tokenizer.decode(input_ids[place : place + length]).strip()
            if text in encoder.placeholders or set(text) - set(string.punctuation):
                first = number * len(chunk.input_ids) + place
                same = sum(word.text == text for word in found)
                found.append(Word(text, same, tuple(range(first, first + length))))
            place += length
    return found


@dataclass(frozen=True)
class WordMaps:
    """Where the words of one picture's prompt look: a map [S, N, H, W] of the N words at each evaluation, float32."""

    words: tuple[str, ...]
    maps: Tensor


class AttentionMaps:
    """Records the maps of one call of `Pipeline.generate`:

        with AttentionMaps(family, prompts) as maps:
            pictures = pipeline.generate(prompts, record=maps)
        maps.of(0).words, maps.of(0).maps

    It only looks on: the layers' own processors make the pictures, which are the same with and without it, and learned
    weights beside `to_q` and `to_k` count. Followed is what the network is asked about the prompts, one per picture, not
    about the negative ones; where AND or `mixed` join several, part number `part`.

    num_inference_steps, plain_prompt: as `generate` is given them, for prompts that change and for brackets.
    """

    def __init__(
        self,
        family: Family,
        prompts: Sequence[str],
        *,
        part: int = 0,
        num_inference_steps: int | None = None,
        plain_prompt: bool = False,
    ):
        parse = grammar.plain if plain_prompt else grammar.parse
        clauses = [parse(prompt).clauses for prompt in prompts]
        self.clauses = [each[min(part, len(each) - 1)] for each in clauses]
        self.family, self.part, self.num_inference_steps = family, part, num_inference_steps
        self.layers = cross_attention(family)
        self.looked: list[list[Tensor]] = [[] for _ in self.layers]
        self.known: dict[tuple[Span, ...], list[Word]] = {}
        self.steps: list[list[dict[tuple[str, int], Tensor]]] = [[] for _ in prompts]

    def __enter__(self) -> "AttentionMaps":
        pairs = zip(self.layers, self.looked, strict=True)
        self.hooks = [layer.register_forward_pre_hook(looking(looked), with_kwargs=True) for layer, looked in pairs]
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def __call__(self, result: StepResult) -> None:
        """Takes what the layers have seen since the last evaluation. Raises ValueError as `about_prompts`."""
        places = [place for place, its in enumerate(about_prompts(result.estimate, result.step)) if its]
        first, count = places[self.part] * len(self.clauses), len(self.clauses)
        self.size = result.model_input.shape[2:]
        maps = averaged([torch.cat(looked)[first : first + count] for looked in self.looked], self.size)
        for looked in self.looked:
            looked.clear()
        for clause, steps, tokens in zip(self.clauses, self.steps, maps, strict=True):
            of = self.num_inference_steps or result.step.count
            spans = clause.at(result.step.index * of // result.step.count, of)
            if spans not in self.known:
                self.known[spans] = words(self.family, spans)
            steps.append({(word.text, word.number): tokens[list(word.places)].sum(0).cpu() for word in self.known[spans]})

    def of(self, image: int) -> WordMaps:
        """One picture's maps. At steps at which its prompt lacks a word, that looks nowhere."""
        steps = self.steps[image]
        names = list(dict.fromkeys(name for step in steps for name in step))
        maps = torch.zeros(len(steps), len(names), *self.size)
        for filled, step in zip(maps, steps, strict=True):
            for name, tokens in step.items():
                filled[names.index(name)] = tokens
        return WordMaps(tuple(text for text, _ in names), maps)


def cross_attention(family: Family) -> list[Attention]:
    """The layers of the UNet that attend to the prompt but for those in its middle, the coarsest, as in the paper."""
    named = family.denoiser.named_modules()
    return [m for name, m in named if isinstance(m, Attention) and m.is_cross_attention and "mid_block" not in name]


def looking(looked: list[Tensor]) -> Callable:
    """A hook that adds a layer's probabilities [rows, h * w, L], the mean of its heads, to `looked` at each of its calls."""

    def look(layer: Attention, args: tuple, options: dict) -> None:
        query, key = layer.to_q(args[0]), layer.to_k(options["encoder_hidden_states"])
        query, key = (layer.head_to_batch_dim(tensor.float()) for tensor in (query, key))
        looked.append(layer.get_attention_scores(query, key).unflatten(0, (-1, layer.heads)).mean(1))

    return look


def about_prompts(estimate: Estimate, step: Step, positive: bool = True) -> list[bool]:
    """For each of the estimate's questions, in order: is it about a prompt, or about a negative one?

    Raises ValueError for estimates that show the network something else than the picture (illusions).
    """
    match estimate:
        case Conditional():
            return [positive]
        case Changing():
            return about_prompts(estimate.now(step), step, positive)
        case WithChannels():
            return about_prompts(estimate.estimate, step, positive)
        case Guided():
            return about_prompts(estimate.negative, step, False) + about_prompts(estimate.positive, step, positive)
        case Composed():
            parts = [its for part, _ in estimate.parts for its in about_prompts(part, step, positive)]
            return about_prompts(estimate.negative, step, False) + parts
        case Mixed():
            return [its for part in estimate.estimates for its in about_prompts(part, step, positive)]
    raise ValueError(f"where words look is not known for {type(estimate).__name__}")


def averaged(layers: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The mean [B, L, H, W] of layers' maps [B, h * w, L], each brought to `size` (H, W).

    Bilinear, which keeps what the tokens sum to; the paper's bicubic goes below 0.
    """
    shapes = {h * w: (h, w) for level in range(12) for h, w in [[-(-side // 2**level) for side in size]]}
    maps = [layer.transpose(1, 2).unflatten(2, shapes[layer.shape[1]]) for layer in layers]
    return torch.stack([F.interpolate(each, tuple(size), mode="bilinear") for each in maps]).mean(0)


def heat_colours() -> np.ndarray:
    """[LEVELS, 4]: red, green, blue and opacity, 0 to 255, from cold to hot."""
    heat = np.linspace(0, 1, LEVELS)
    channels = [np.interp(heat, np.linspace(0, 1, len(COLD_TO_HOT)), channel) for channel in zip(*COLD_TO_HOT, strict=True)]
    return np.stack([*channels, 255 * np.interp(heat, (0, 1), OPACITY)], -1).round().astype(np.uint8)


def heat_levels(maps: Tensor) -> np.ndarray:
    """[..., N, H, W] -> 0 to LEVELS - 1, each word's lowest probability to its highest, over all that is given."""
    dims = [dim for dim in range(maps.ndim) if dim != maps.ndim - 3]
    lowest, highest = maps.amin(dims, keepdim=True), maps.amax(dims, keepdim=True)
    heat = (maps - lowest) / (highest - lowest).clamp(min=torch.finfo(maps.dtype).tiny)
    return (heat * (LEVELS - 1)).round().to(torch.uint8).numpy()


def overlay(image: Image.Image, levels: np.ndarray) -> Image.Image:
    """The picture without its colours under a map in others. levels: [H, W], see `heat_levels`."""
    smooth = Image.fromarray(levels).resize(image.size, Image.Resampling.BICUBIC)
    heat = Image.fromarray(heat_colours()[np.asarray(smooth).clip(0, LEVELS - 1)], "RGBA")
    return Image.alpha_composite(image.convert("L").convert("RGBA"), heat).convert("RGB")


def heat_sheet(image: Image.Image, words: Sequence[str], levels: np.ndarray, largest: int = LARGEST) -> Image.Image:
    """The picture, and beside it once for each word where that looks. levels: [N, H, W]; largest: side of a picture."""
    small = image.copy()
    small.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    images, labels = [small, *(overlay(small, each) for each in levels)], ["", *words]
    rows = range(0, len(images), WORDS_IN_A_ROW)
    return stacked([contact_sheet([images[i : i + WORDS_IN_A_ROW]], labels[i : i + WORDS_IN_A_ROW]) for i in rows])


def heat_gif(image: Image.Image, word_maps: WordMaps) -> bytes:
    """The sheet as an animation over the evaluations."""
    levels = heat_levels(word_maps.maps)[spread(len(word_maps.maps), MOST_FRAMES)]
    sheets = [np.asarray(heat_sheet(image, word_maps.words, each, LARGEST_MOVING)) for each in levels]
    indices, palette = few_colours(np.stack(sheets))
    return gif([in_colours(frame, palette) for frame in indices])
