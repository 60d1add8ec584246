"""Cross-attention maps of the words of a prompt. Tang et al. 2023, "What the DAAM: Interpreting Stable Diffusion Using Cross
Attention".

At each position of the latents, every head of a cross-attention layer distributes its attention over the tokens of the prompt:
softmax(q k^T / sqrt(d)). A map is the mean of these probabilities over all heads and layers (the paper uses the sum), so the
maps of all L tokens, including start and end, sum to 1 at each position.

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
from customize.inference.estimates import Composed, Conditional, Estimate, Guided, Mixed, Thresholded, WithChannels
from customize.inference.explain.contact_sheet import contact_sheet, gif, stacked, steadily
from customize.inference.explain.trace import MOST_FRAMES, few_colours, in_colours, spread
from customize.inference.prompt_estimates import Changing
from customize.inference.sampler import StepResult
from customize.inference.step import Step
from customize.prompts import Span

COLD_TO_HOT = ((20, 11, 53), (101, 21, 110), (188, 55, 84), (242, 125, 36), (250, 193, 39), (252, 255, 190))
"""Colours at equal distances."""
OPACITY = 0.35, 0.8
"""Opacity of the coldest and of the hottest colour over the image."""
LEVELS = 64
WORDS_IN_A_ROW, LARGEST, LARGEST_MOVING = 8, 256, 128


@dataclass(frozen=True)
class Word:
    """A word, the number of equal words before it, and the indices in 0..L-1 of its tokens."""

    text: str
    number: int
    places: tuple[int, ...]


def words(family: Family, spans: Sequence[Span]) -> list[Word]:
    """The words of a prompt in order, as the tokenizer splits them: in lower case, and "high-res" is two words.

    A placeholder token is one word, however many vectors it has. Punctuation, start, end and padding belong to no word.
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
    """The attention maps of one image: [S, N, H, W] float32, a map of each of the N words at each evaluation."""

    words: tuple[str, ...]
    maps: Tensor


class AttentionMaps:
    """Records the maps of one call of `Pipeline.generate`:

        with AttentionMaps(family, prompts) as maps:
            images = pipeline.generate(prompts, record=maps)
        maps.of(0).words, maps.of(0).maps

    Recording does not change the images: the layers keep their own attention processors. Adapters of `to_q` and `to_k` are
    included. Records the evaluations of the prompts, one per image, not those of the negative prompts; if AND or `mixed` join
    several, those of part number `part`.

    num_inference_steps, plain_prompt: as passed to `generate`, for prompts that change and for brackets.
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
        self.recorded: list[list[Tensor]] = [[] for _ in self.layers]
        self.known: dict[tuple[Span, ...], list[Word]] = {}
        self.steps: list[list[dict[tuple[str, int], Tensor]]] = [[] for _ in prompts]

    def __enter__(self) -> "AttentionMaps":
        pairs = zip(self.layers, self.recorded, strict=True)
        self.hooks = [layer.register_forward_pre_hook(recording_hook(into), with_kwargs=True) for layer, into in pairs]
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def __call__(self, result: StepResult) -> None:
        """Collects what the layers recorded since the last evaluation. Raises ValueError as `is_of_prompts`."""
        places = [place for place, positive in enumerate(is_of_prompts(result.estimate, result.step)) if positive]
        first, count = places[self.part] * len(self.clauses), len(self.clauses)
        self.size = result.model_input.shape[2:]
        maps = averaged([torch.cat(recorded)[first : first + count] for recorded in self.recorded], self.size)
        for recorded in self.recorded:
            recorded.clear()
        for clause, steps, tokens in zip(self.clauses, self.steps, maps, strict=True):
            total = self.num_inference_steps or result.step.count
            spans = clause.at(result.step.index * total // result.step.count, total)
            if spans not in self.known:
                self.known[spans] = words(self.family, spans)
            steps.append({(word.text, word.number): tokens[list(word.places)].sum(0).cpu() for word in self.known[spans]})

    def of(self, image: int) -> WordMaps:
        """The maps of one image. The map of a word is 0 at steps whose prompt does not contain it."""
        steps = self.steps[image]
        names = list(dict.fromkeys(name for step in steps for name in step))
        maps = torch.zeros(len(steps), len(names), *self.size)
        for filled, step in zip(maps, steps, strict=True):
            for name, tokens in step.items():
                filled[names.index(name)] = tokens
        return WordMaps(tuple(text for text, _ in names), maps)


def cross_attention(family: Family) -> list[Attention]:
    """The cross-attention layers of the UNet, without those of the mid block (the coarsest), as in the paper."""
    named = family.denoiser.named_modules()
    return [m for name, m in named if isinstance(m, Attention) and m.is_cross_attention and "mid_block" not in name]


def recording_hook(recorded: list[Tensor]) -> Callable:
    """A hook that appends a layer's attention probabilities [rows, h * w, L], averaged over its heads, to `recorded`."""

    def record(layer: Attention, args: tuple, options: dict) -> None:
        query, key = layer.to_q(args[0]), layer.to_k(options["encoder_hidden_states"])
        query, key = (layer.head_to_batch_dim(tensor.float()) for tensor in (query, key))
        recorded.append(layer.get_attention_scores(query, key).unflatten(0, (-1, layer.heads)).mean(1))

    return record


def is_of_prompts(estimate: Estimate, step: Step, positive: bool = True) -> list[bool]:
    """For each input of the estimate, in order, whether it belongs to a prompt or to a negative prompt.

    Raises ValueError for estimates that transform the latents (illusions).
    """
    match estimate:
        case Conditional():
            return [positive]
        case Changing():
            return is_of_prompts(estimate.now(step), step, positive)
        case WithChannels() | Thresholded():
            return is_of_prompts(estimate.estimate, step, positive)
        case Guided():
            return is_of_prompts(estimate.negative, step, False) + is_of_prompts(estimate.positive, step, positive)
        case Composed():
            parts = [each for part, _ in estimate.parts for each in is_of_prompts(part, step, positive)]
            return is_of_prompts(estimate.negative, step, False) + parts
        case Mixed():
            return [each for part in estimate.estimates for each in is_of_prompts(part, step, positive)]
    raise ValueError(f"attention maps are not supported for {type(estimate).__name__}")


def averaged(layers: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The mean [B, L, H, W] of the layers' maps [B, h * w, L], each resized to `size` (H, W).

    Bilinear interpolation preserves the sum over the tokens; the paper's bicubic interpolation can be negative.
    """
    shapes = {h * w: (h, w) for level in range(12) for h, w in [[-(-side // 2**level) for side in size]]}
    maps = [layer.transpose(1, 2).unflatten(2, shapes[layer.shape[1]]) for layer in layers]
    return torch.stack([F.interpolate(each, tuple(size), mode="bilinear") for each in maps]).mean(0)


def heat_colours() -> np.ndarray:
    """[LEVELS, 4] uint8: red, green, blue and opacity, from cold to hot."""
    heat = np.linspace(0, 1, LEVELS)
    channels = [np.interp(heat, np.linspace(0, 1, len(COLD_TO_HOT)), channel) for channel in zip(*COLD_TO_HOT, strict=True)]
    return np.stack([*channels, 255 * np.interp(heat, (0, 1), OPACITY)], -1).round().astype(np.uint8)


def heat_levels(maps: Tensor) -> np.ndarray:
    """[..., N, H, W] -> uint8 in 0..LEVELS-1, scaled from each word's lowest probability to its highest."""
    dims = [dim for dim in range(maps.ndim) if dim != maps.ndim - 3]
    lowest, highest = maps.amin(dims, keepdim=True), maps.amax(dims, keepdim=True)
    heat = (maps - lowest) / (highest - lowest).clamp(min=torch.finfo(maps.dtype).tiny)
    return (heat * (LEVELS - 1)).round().to(torch.uint8).numpy()


def overlay(image: Image.Image, levels: np.ndarray) -> Image.Image:
    """The image in grey with a heat map over it. levels: [H, W], see `heat_levels`."""
    smooth = Image.fromarray(levels).resize(image.size, Image.Resampling.BICUBIC)
    heat = Image.fromarray(heat_colours()[np.asarray(smooth).clip(0, LEVELS - 1)], "RGBA")
    return Image.alpha_composite(image.convert("L").convert("RGBA"), heat).convert("RGB")


def heat_sheet(image: Image.Image, words: Sequence[str], levels: np.ndarray, largest: int = LARGEST) -> Image.Image:
    """The image, and beside it the heat map of each word. levels: [N, H, W]; largest: maximum side of an image, in pixels."""
    small = image.copy()
    small.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    images, labels = [small, *(overlay(small, each) for each in levels)], ["", *words]
    rows = range(0, len(images), WORDS_IN_A_ROW)
    return stacked([contact_sheet([images[i : i + WORDS_IN_A_ROW]], labels[i : i + WORDS_IN_A_ROW]) for i in rows])


def heat_gif(image: Image.Image, word_maps: WordMaps) -> bytes:
    """The sheet of `heat_sheet` as an animation over the evaluations."""
    levels = heat_levels(word_maps.maps)[spread(len(word_maps.maps), MOST_FRAMES)]
    sheets = [np.asarray(heat_sheet(image, word_maps.words, each, LARGEST_MOVING)) for each in levels]
    indices, palette = few_colours(np.stack(sheets))
    return gif([in_colours(frame, palette) for frame in indices], steadily(len(indices)))
