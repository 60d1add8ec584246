"""Masks of the subject: given ones, the shape that a coarse map points to, and what the base model and a segmenter see."""

import numpy as np
import pytest
import torch
from models import tiny_tokenizer
from PIL import Image, ImageDraw
from torch.nn import functional as F
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessor

from customize.data.examples import Example
from customize.data.findings import Findings
from customize.data.folder import list_folder
from customize.evaluation import masks
from customize.evaluation.masks import SubjectMask, given, overlays, shape, word_maps
from customize.evaluation.masks.segmenter import SEEN, Segmenter
from customize.evaluation.scorers.base_model import BaseModelScorer
from customize.families import load
from customize.families.source import DEMO, locate
from customize.inference.explain.attention import cross_attention

SUBJECT = DEMO.parent / "examples" / "subject"


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def disc(size: tuple[int, int], seed: int = 0) -> tuple[Image.Image, np.ndarray]:
    """A red disc on green, both with noise, and where it is."""
    truth = Image.new("L", size)
    ImageDraw.Draw(truth).ellipse((size[0] * 0.3, size[1] * 0.2, size[0] * 0.7, size[1] * 0.7), fill=255)
    colours = np.where(np.asarray(truth)[..., None] > 0, (200, 60, 50), (70, 160, 80))
    noisy = colours + np.random.default_rng(seed).normal(0, 6, colours.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), np.asarray(truth) > 0


def test_threshold_leaves_the_most_variance_between_two_groups():
    values = np.random.default_rng(0).normal(size=500) + np.repeat([0, 4], [350, 150])
    threshold, share = shape.otsu(values)
    counts, edges = np.histogram(values, shape.BINS)
    binned = np.repeat((edges[:-1] + edges[1:]) / 2, counts)
    between = []
    for edge in edges[1:-1]:
        low, high = binned[binned < edge], binned[binned > edge]
        between.append(len(low) * len(high) / len(binned) ** 2 * (high.mean() - low.mean()) ** 2)
    assert share == pytest.approx(max(between) / binned.var())
    assert threshold == pytest.approx(edges[1 + int(np.argmax(between))])
    assert shape.otsu(np.ones((3, 3))) == (1.0, 0.0)


def test_walk_solves_the_equations_of_each_pixel():
    generator = np.random.default_rng(0)
    colours, likely = generator.random((4, 5, 3)), generator.random((2, 4, 5))
    walked, stop = shape.walk(colours, likely), shape.REACH / 25
    pairs = [((y, x), (y + a, x + b)) for y in range(4) for x in range(5) for a, b in ((0, 1), (1, 0)) if y + a < 4 and x + b < 5]
    apart = {pair: float(((colours[pair[0]] - colours[pair[1]]) ** 2).sum()) for pair in pairs}
    mean = np.mean(list(apart.values()))
    for number in range(2):
        left = stop * (walked[number] - likely[number])
        for (one, other), difference in apart.items():
            flow = (np.exp(-shape.EDGES * difference / mean) + shape.WEAKEST) * (walked[number][one] - walked[number][other])
            left[one] += flow
            left[other] -= flow
        assert np.abs(left).max() < 1e-9


@pytest.mark.parametrize("size", [(96, 96), (300, 150)])
def test_shape_of_a_coarse_map_follows_the_edges(size):
    image, truth = disc(size)
    coarse = np.asarray(Image.fromarray(truth.astype(np.float32)).resize((8, 8), Image.Resampling.BOX))
    found, nothing = shape.shapes_of(image, [coarse, np.zeros((8, 8))])
    mask = masks.accepted(image, found, "attention")
    assert mask.pixels.shape == truth.shape and iou(mask.pixels, truth) > 0.95
    assert nothing.confidence == 0 and masks.accepted(image, nothing, "attention").pixels is None
    shares = masks.patches([mask, SubjectMask.none("")], 16)
    left = (size[0] - size[1]) // 2
    square = mask.pixels[:, left : left + size[1]]
    cells = [[cell.mean() for cell in np.array_split(row, 4, 1)] for row in np.array_split(square, 4, 0)]
    assert np.abs(shares[0] - np.ravel(cells)).max() < 0.03 and (shares[1] == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3000, 2000)])
def test_any_size_of_image_has_a_shape(size):
    image = Image.new("L", size, 90)
    (found,) = shape.shapes_of(image, [np.arange(4.0).reshape(2, 2)])
    mask = masks.accepted(image, found._replace(confidence=1.0), "attention")
    assert mask.pixels is None or max(mask.pixels.shape) <= masks.LARGEST


def example_of(path) -> Example:
    with Image.open(path) as image:
        return Example(path.name, ("",), "instance", path, image.size, "")


def test_given_masks_are_read_and_wrong_ones_refused(tmp_path):
    image, truth = disc((60, 40))
    white = Image.fromarray(truth)
    cut_out = image.copy()
    cut_out.putalpha(white.convert("L"))
    opaque = image.copy()
    opaque.putalpha(255)
    drawings = {"file": white, "size": white.resize((30, 20)), "black": Image.new("L", (60, 40))}
    names = ["file", "alpha", "opaque", "none", "size", "black"]
    for name in names:
        {"alpha": cut_out, "opaque": opaque}.get(name, image).save(tmp_path / f"{name}.png")
    for name, drawn in drawings.items():
        drawn.save(tmp_path / f"{name}-mask.png")
    found = Findings()
    listing = list_folder(tmp_path, "train_data_dir", found)
    assert listing.images == tuple(sorted(f"{name}.png" for name in names)) and len(listing.masks) == 3
    assert "masks of images, not images to learn (3)" in found.remarks[0]
    read = given.given_masks([example_of(tmp_path / f"{name}.png") for name in names], None, found)
    assert [mask and mask.origin for mask in read] == ["file", "alpha", None, None, None, None]
    assert (read[0].pixels == truth).all() and (read[1].pixels == truth).all()
    assert [problem.what for problem in found.problems] == [
        "has 30 x 20 pixels, the image size.png 60 x 40",
        "is a mask in which nothing is white",
    ]
    found, folder = Findings(), tmp_path / "masks"
    folder.mkdir()
    white.save(folder / "none.webp", lossless=True)
    read = given.given_masks([example_of(tmp_path / "none.png")], folder, found)
    assert read[0].origin == "file" and (read[0].pixels == truth).all() and not found.problems
    given.given_masks([example_of(tmp_path / "opaque.png")], folder, found)
    assert found.problems[0].what == "has no mask for any of the images"


@pytest.fixture(scope="module")
def demo() -> BaseModelScorer:
    family = load(locate("demo"))
    return BaseModelScorer(family, family.encode_prompts)


def test_demo_sees_a_subject_that_it_was_not_trained_on(demo, tmp_path):
    photos = [Image.open(SUBJECT / f"{number}.png").convert("RGB") for number in (1, 2, 4)]
    found = masks.subject_masks(photos, "toy", demo)
    for photo, mask in zip(photos, found, strict=True):
        pixels = np.asarray(photo).astype(int)
        far = np.abs(pixels - pixels[4, 4]).max(-1) > 60  # the background is plain
        assert mask.origin == "attention" and iou(mask.pixels, far) > 0.8
    blank = masks.subject_masks([Image.new("RGB", (64, 64), "white")], "toy", demo)[0]
    assert blank.pixels is None and blank.reason
    assert masks.subject_masks(photos[:1], "robot", demo)[0].pixels is None  # a word that it does not know
    assert masks.subject_masks(photos[:1], " ", demo)[0].reason == "there is no class word"
    written = overlays.write_overlays(tmp_path, [("1/a.png", photos[0]), ("b.png", photos[1])], [found[0], blank])
    assert written == [tmp_path / "evaluation" / "masks" / "1" / "a.png.png"]
    shown = np.asarray(Image.open(written[0]))
    assert (shown[20:24, 2:6].std(-1) == 0).all() and np.abs(shown.astype(int) - overlays.LINE).sum(-1).min() == 0


@torch.no_grad()
@pytest.mark.parametrize("model", ["tiny_epsilon", "tiny_xl"])
def test_maps_are_the_attention_to_the_word(model, request):
    family = load(locate(str(request.getfixturevalue(model))))
    base = BaseModelScorer(family, family.encode_prompts)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 48, 3), dtype=np.uint8))
    conditioning = family.encode_prompts(["a photo of a red car", "a photo"])
    places = [place for word in word_maps.last_words(base, "a photo of a red car", "red car") for place in word.places]
    assert places == [5, 6]
    given_to, layers = [], cross_attention(family)
    hook = layers[-1].register_forward_pre_hook(
        lambda _, args, options: given_to.append((args[0], options["encoder_hidden_states"])), with_kwargs=True
    )
    maps, change = word_maps.attention_and_change(base, image, conditioning, places)
    hook.remove()
    assert len(maps) == len(layers) and change.shape == maps.shape[1:] == (6, 12)
    hidden, text = given_to[0]  # of the prompt with the word; the second is that of the other
    query, key = (
        tensor.unflatten(-1, (layers[-1].heads, -1)).transpose(1, 2)
        for tensor in (layers[-1].to_q(hidden), layers[-1].to_k(text))
    )
    attention = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)[..., places].sum(-1).mean(1)
    assert len(given_to) == 2 and len(attention) == len(word_maps.TIMES)
    level = 12 * 6 // attention.shape[1]
    attention = attention.view(-1, 1, 6 // round(level**0.5), 12 // round(level**0.5))
    assert torch.allclose(maps[-1], F.interpolate(attention, (6, 12), mode="bilinear").mean((0, 1)), atol=1e-6)
    assert change.mean().item() == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_a_segmenter_in_a_folder_gives_the_probabilities_of_stock_transformers(tmp_path):
    torch.manual_seed(0)
    part = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    tokenizer = tiny_tokenizer()
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id, **part)
    config = CLIPSegConfig(
        text_config=text, vision_config=dict(image_size=32, patch_size=8, **part), projection_dim=32,
        extract_layers=[0, 1, 2], reduce_dim=16, decoder_num_attention_heads=2, decoder_intermediate_size=32,
    )  # fmt: skip
    stock = CLIPSegForImageSegmentation(config).eval()
    stock.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    processor = ViTImageProcessor(
        size=dict(height=32, width=32), resample=3, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    )
    processor.save_pretrained(tmp_path)
    image, truth = disc((64, 40))
    inputs = tokenizer(["a red dog"], return_tensors="pt")
    expected = stock(**inputs, pixel_values=processor(image, return_tensors="pt").pixel_values).logits.sigmoid().view(1, 32, 32)
    segmenter = Segmenter(tmp_path)
    segmenter.network.load_state_dict(stock.state_dict())
    (found,) = segmenter.maps([image], "a red dog")
    assert expected.max() >= SEEN and found.shape == (1, 32, 32)
    assert np.abs(found - expected.numpy()).max() < 1e-4

    class Sure:
        def maps(self, images, word):
            return [truth[None].astype(np.float32) for _ in images]

    given_mask = SubjectMask(truth, "file", 1.0)
    one, other = masks.subject_masks([image, image], "dog", None, [given_mask, None], Sure())
    assert one is given_mask and other.origin == "segmenter" and iou(other.pixels, truth) > 0.95
