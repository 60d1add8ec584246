"""Complete models as single files: read by stock diffusers and by us like the folder, in the names of the published files.

The names and shapes have an independent reference in `benchmarks.ldm_layout`, and counts of the published files. The models are
tiny; their configurations take the place of the project's.
"""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from kit import prepared, settings_for
from models import change, project_configurations_from
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ldm_layout import to_ldm
from customize.errors import InputError
from customize.evaluation import run_integrity, verify_result
from customize.families import load, locate
from customize.families.base import Placement
from customize.families.files import autoencoder, clip_tokenizer, ldm_header, original_layout, single_file
from customize.families.files.clip_tokenizer import END
from customize.families.files.ldm_header import CLIP, CLIP_G, CLIP_L, CONFIGS, OPEN_CLIP, UNET, VAE, Layout
from customize.families.files.scheduler import load_scheduler
from customize.families.files.single_file import original_tensors
from customize.families.loading import CLASSES
from customize.families.specs import recognised
from customize.families.stable_diffusion import StableDiffusion
from customize.families.stable_diffusion_xl import CLASSES as XL_CLASSES
from customize.families.stable_diffusion_xl import StableDiffusionXL
from customize.families.whole_models.model_file import layout_of, save_model_file
from customize.families.whole_models.pipeline_folder import save_pipeline
from customize.inference import load_pipeline
from customize.inference.run import command
from customize.settings.inference import InferenceSettings
from customize.storage.run_folder import MODEL
from customize.storage.safetensors_header import BITS, read_header
from customize.storage.tensor_files import PRECISIONS
from customize.training import dry_run, model_card, preflight
from customize.weights.learned_weights import find_learned
from customize.weights.tools.models import convert_model

ONE_OF_THREE = [*(pytest.param(name, marks=pytest.mark.slow) for name in ("sd15", "sd21")), "sdxl"]
VERSIONS = ("sd15", "sd21", "sdxl")
PARTS = {"sd15": tuple(CLASSES), "sd21": tuple(CLASSES), "sdxl": tuple(XL_CLASSES)}
ABOUT = {"customize": "{}"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.fixture(scope="module", autouse=True)
def small_configs(bases):
    """The tiny models' configurations and vocabulary in place of the project's."""

    with project_configurations_from(bases, ldm_header, original_layout, autoencoder):
        yield


def written(folder: Path, family, precision="fp32") -> Path:
    """The family as a single file."""
    return save_model_file(folder / "x.safetensors", family, ABOUT, precision)[0]


def assert_equal(found, expected) -> None:
    """The same tensors, bit for bit."""
    assert found.components.keys() == expected.components.keys()
    for part, network in expected.components.items():
        own, theirs = found.components[part].state_dict(), network.state_dict()
        assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("version", VERSIONS)
def test_folder_to_file_to_folder_is_bit_equal(version, bases, tmp_path):
    family = load(locate(str(bases / version)))
    file = written(tmp_path, family)
    again = load(locate(str(file)))
    assert_equal(again, family)
    assert (again.prediction_type, again.resolution) == (family.prediction_type, 16)
    assert torch.equal(again.schedule.alphas_cumprod, family.schedule.alphas_cumprod)
    (tmp_path / "folder").mkdir()
    save_pipeline(tmp_path / "folder", again, ABOUT)
    for path in sorted((bases / version).glob("*/*.safetensors")):
        theirs, own = load_file(path), load_file(tmp_path / "folder" / path.relative_to(bases / version))
        assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("version", VERSIONS)
def test_stock_diffusers_reads_the_file_and_draws_the_same(version, bases, tmp_path):
    family = load(locate(str(bases / version)))
    file = written(tmp_path, family)
    kind = StableDiffusionXLPipeline if version == "sdxl" else StableDiffusionPipeline
    own = {"safety_checker": None, "feature_extractor": None} if version != "sdxl" else {"add_watermarker": False}
    theirs = kind.from_single_file(str(file), config=str(bases / version), local_files_only=True, **own)
    assert_equal_modules(theirs, family)
    ours = load_pipeline(str(file))
    theirs.scheduler = type(ours.family.scheduler).from_config(ours.family.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": 7.5}
    expected = theirs("a picture of toy dog", generator=torch.Generator().manual_seed(2), **options).images
    torch.testing.assert_close(ours.generate("a picture of toy dog", seeds=2, **options), expected, rtol=0, atol=1e-4)


def assert_equal_modules(pipeline, family) -> None:
    for part, network in family.components.items():
        own, theirs = getattr(pipeline, part).state_dict(), network.state_dict()
        assert own.keys() == theirs.keys() and not [name for name in theirs if not torch.equal(own[name], theirs[name])], part


def on_meta(version: str) -> dict[str, torch.nn.Module]:
    """The networks of the real architecture, without memory."""
    kinds = XL_CLASSES if version == "sdxl" else CLASSES
    found = {}
    for part, kind in kinds.items():
        with init_empty_weights():
            if part.startswith("text"):
                found[part] = kind(CLIPTextConfig.from_pretrained(CONFIGS / version, subfolder=part))
            else:
                found[part] = kind.from_config(kind.load_config(CONFIGS / version, subfolder=part))
    return found


@pytest.mark.parametrize(("version", "tensors"), [("sd15", (686, 248, 197)), ("sd21", (686, 248, 23 * 12 + 4)),
                                                  ("sdxl", (1680, 248, 197 + 32 * 12 + 5))])  # fmt: skip
def test_the_names_and_shapes_are_those_of_the_published_files(version, tensors):
    networks = on_meta(version)
    text_encoders = {
        "sd15": {"text_encoder": CLIP}, "sd21": {"text_encoder": OPEN_CLIP},
        "sdxl": {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G},
    }[version]  # fmt: skip
    layout = Layout(CONFIGS / version, "epsilon", 512, 4, text_encoders)
    found = {name: tuple(tensor.shape) for name, tensor in original_tensors(networks, layout)}
    expected = {name: tuple(tensor.shape) for name, tensor in to_ldm(**networks).items()}
    positions = {name: found.pop(name) for name in [*found] if name.endswith("position_ids")}
    assert found == expected and all(shape == (1, 77) for shape in positions.values())
    counts = [sum(name.startswith(prefix) for name in found) for prefix in (UNET, VAE)]
    assert (*counts, len(found) + len(positions) - sum(counts)) == tensors


@pytest.mark.parametrize("version", VERSIONS)
def test_zero_snr_and_v_prediction_are_marked(version, bases, tmp_path):
    folder = shutil.copytree(bases / version, tmp_path / version)
    change(folder / "scheduler/scheduler_config.json", prediction_type="v_prediction", _class_name="DDIMScheduler", **ZERO_SNR)
    family = load(locate(str(folder)))
    file = written(tmp_path, family)
    assert {"v_pred", "ztsnr"} & read_header(file).tensors.keys() == ({"v_pred", "ztsnr"} if version == "sdxl" else {"ztsnr"})
    again = load(locate(str(file)))
    assert again.prediction_type == "v_prediction"
    torch.testing.assert_close(again.schedule.alphas_cumprod, family.schedule.alphas_cumprod, rtol=0, atol=0)


def test_numbers_beyond_fp16_stay_in_fp32_and_every_number_is_aligned(bases, tmp_path):
    family = load(locate(str(bases / "sdxl")))
    family.unet.conv_in.bias.data[0] = 70_000.0
    file = written(tmp_path, family, precision="fp16")
    tensors, header = load_file(file), read_header(file)
    assert tensors[f"{UNET}input_blocks.0.0.bias"][0] == 70_000
    kinds = {torch.float16, torch.float32, torch.int64}
    assert {tensor.dtype for tensor in tensors.values()} == kinds and header.metadata["modelspec.resolution"] == "16x16"
    start = file.stat().st_size - sum(tensor.nbytes for tensor in tensors.values())
    assert all((info.begin - start) % (BITS[info.dtype] // 8) == 0 for info in header.tensors.values())
    assert sum(tensor.dtype == torch.float32 for tensor in tensors.values()) == 1
    for name, tensor in to_ldm(**family.components).items():
        if name != f"{UNET}input_blocks.0.0.bias":
            assert torch.equal(tensors[name], tensor.detach().half()), name


def settings(bases, image_folder, output, version="sdxl", **changes):
    own = {"save_model_as": "safetensors", "max_train_steps": 2, "random_flip": False, "crop_variants": 1}
    return settings_for("full", bases / version, image_folder, output, **{**own, **changes})


@pytest.mark.parametrize("version", ONE_OF_THREE)
@pytest.mark.parametrize("precision", ["bf16"])
def test_a_run_ends_in_one_file_that_is_a_base_model(version, precision, bases, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = settings(bases, image_folder, tmp_path / "run", version, save_precision=precision)
    run = preflight.run(own)
    assert {path.name for path in run.iterdir()} == {
        ".customize-files.jsonl", ".lock", "checkpoints", "README.md", "config.toml", "customize.json", "log.jsonl",
        "manifest.json", MODEL,
    }  # fmt: skip
    assert all(finding.intact for finding in run_integrity.verify(run))
    dtypes = {tensor.dtype for tensor in load_file(run / MODEL).values()} - {torch.int64}
    assert dtypes == {PRECISIONS[precision]}
    options = {"num_inference_steps": 2, "seeds": 1, "output_type": "latent"}
    pipelines = [load_pipeline(None, [(run, 1.0)]), load_pipeline(str(run)), load_pipeline(str(run / MODEL)),
                 load_pipeline(None, [(run / MODEL, 1.0)]), load_pipeline(str(bases / version))]  # fmt: skip
    images = [pipeline.generate("a photo of sks dog", **options) for pipeline in pipelines]
    assert all(torch.equal(image, images[0]) for image in images[1:4]) and not torch.equal(images[0], images[4])
    assert [pipeline.trigger_words for pipeline in pipelines] == 4 * [("a photo of sks dog",)] + [()]
    [line] = find_learned(None, [(run, 1.0)]).summaries
    assert "complete model (dreambooth)" in line and "trigger words: a photo of sks dog" in line


def test_the_dry_run_knows_the_size(bases, image_folder, tmp_path):
    context, training = prepared(own := settings(bases, image_folder, tmp_path / "run", save_precision="fp16"))
    metadata = model_card.metadata(own, training.method, context.family, 2)
    expected = dry_run.result_sizes(own, training, context, metadata)
    [file] = training.method.save(tmp_path, metadata)
    assert expected.keys() == {MODEL, "customize.json"}
    assert 0 <= file.stat().st_size - expected[MODEL] < 2000


def test_a_changed_file_is_not_accepted(bases, image_folder, tmp_path):
    context, training = prepared(own := settings(bases, image_folder, tmp_path / "run"))
    training.method.eval().save(tmp_path, model_card.metadata(own, training.method, context.family, 2))
    tensors = load_file(tmp_path / MODEL)
    save_file({**tensors, f"{VAE}decoder.conv_in.bias": tensors[f"{VAE}decoder.conv_in.bias"] + 1}, tmp_path / MODEL)
    with pytest.raises(OSError, match="does not contain the trained weights: decoder.conv_in.bias"):
        verify_result.check(tmp_path, context.family, "a photo of sks dog")


NOISE = ("scheduler/scheduler_config.json", {"beta_end": 0.02})
NOT_WRITTEN = {
    "wider": ("sdxl", "unet/config.json", {"block_out_channels": [32, 96]}, "block_out_channels of its unet is [32, 96]"),
    "another activation": (
        "sdxl",
        "text_encoder_2/config.json",
        {"hidden_act": "quick_gelu"},
        "hidden_act of its text_encoder_2",
    ),
    "another scale": ("sd15", "vae/config.json", {"scaling_factor": 0.5}, "scaling_factor of its vae is 0.5, not 0.18215"),
    "more words": ("sd15", "text_encoder/config.json", {"vocab_size": 700}, "vocab_size of its text_encoder is 700"),
    "other noise": ("sd21", *NOISE, "beta_end of its scheduler is 0.02, not 0.012"),
    "zero SNR": ("sd15", NOISE[0], ZERO_SNR, "predicts epsilon with zero terminal SNR"),
}


@pytest.mark.parametrize("kind", NOT_WRITTEN)
def test_models_that_no_single_file_can_hold_are_refused(kind, bases):
    version, file, values, what = NOT_WRITTEN[kind]
    spec, configs = recognised(bases / version), original_layout.configurations(bases / version, PARTS[version])
    spec.single_file_layout(configs, "x")
    configs[file.partition("/")[0]] |= values
    with pytest.raises(InputError) as caught:
        spec.single_file_layout(configs, "x")
    assert what in str(caught.value) and caught.value.problems[0].where == "save_model_as"


def test_they_are_refused_before_anything_is_loaded(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(original_layout, "CONFIGS", CONFIGS)
    monkeypatch.setattr("customize.families.load", lambda *_: pytest.fail("a model was loaded"))
    own = settings_for("full", Path("demo"), image_folder, tmp_path / "run", save_model_as="safetensors")
    with pytest.raises(InputError, match="demo does not fit a single file"):
        preflight.run(own)
    preflight.check(settings_for("lora", Path("demo"), image_folder, tmp_path / "run", save_model_as="safetensors"))


def test_a_model_of_the_user_is_never_replaced(bases, image_folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MODEL).write_bytes(b"mine")
    for more in ({}, {"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}):
        with pytest.raises(InputError, match=MODEL):
            preflight.check(settings(bases, image_folder, tmp_path / "run", **more))
    assert (tmp_path / "run" / MODEL).read_bytes() == b"mine"


def test_another_autoencoder_fits_too_or_is_refused_before_the_first_step(bases, image_folder, tmp_path):
    vae = shutil.copytree(bases / "sd15/vae", tmp_path / "vae")
    family = prepared(settings(bases, image_folder, tmp_path / "run", "sd15", vae=str(vae)))[0].family
    assert layout_of(family).config.name == "sd15"
    change(vae / "config.json", scaling_factor=0.13025)
    with pytest.raises(InputError, match="scaling_factor of its vae is 0.13025, not 0.18215"):
        prepared(settings(bases, image_folder, tmp_path / "run", "sd15", vae=str(vae)))


def test_a_resumed_run_keeps_the_form_of_its_result(bases, image_folder, tmp_path):
    own = settings(bases, image_folder, tmp_path / "run", "sd15", save_precision="fp16")
    preflight.run(own)
    resumed = own.model_copy(update={"resume_from_checkpoint": "latest"})
    with pytest.raises(InputError, match="has a result in the form of safetensors"):
        preflight.run(resumed.model_copy(update={"save_model_as": "diffusers"}))
    before = load_file(tmp_path / "run" / MODEL)
    preflight.run(resumed.model_copy(update={"save_precision": "fp32"}))  # the same result, written anew
    after = load_file(tmp_path / "run" / MODEL)
    assert all(torch.equal(before[name], tensor.to(before[name].dtype)) for name, tensor in after.items())
    assert {tensor.dtype for tensor in after.values()} == {torch.float32, torch.int64}
    assert not (tmp_path / "run/model_index.json").exists()


def test_a_merged_model_is_one_file(bases, image_folder, tmp_path):
    lora = {"rank": 2, "max_train_steps": 2, "output_dir": str(tmp_path / "lora")}
    run = preflight.run(settings_for("lora", bases / "sdxl", image_folder, tmp_path / "lora", **lora))
    given = {"weights": (f"{run}:0.5",), "save_model_as": "safetensors"}
    command.run(InferenceSettings(**given, merge=str(tmp_path / "merged.safetensors")))
    options = {"num_inference_steps": 2, "seeds": 1, "output_type": "latent"}
    images = [
        each.generate("a photo of sks dog", **options)
        for each in (load_pipeline(str(tmp_path / "merged.safetensors")), load_pipeline(None, [(run, 0.5)]))
    ]
    torch.testing.assert_close(*images, rtol=0, atol=1e-4)
    assert find_learned(str(tmp_path / "merged.safetensors"), []).trigger_words == ("a photo of sks dog",)
    with pytest.raises(InputError, match="already exists"):
        command.run(InferenceSettings(**given, merge=str(tmp_path / "merged.safetensors")))
    with pytest.raises(InputError, match="no .safetensors file"):
        command.run(InferenceSettings(**given, merge=str(tmp_path / "merged")))
    words = {"max_train_steps": 1, "num_vectors": (1,)}
    word = preflight.run(settings_for("textual_inversion", bases / "sdxl", image_folder, tmp_path / "word", **words))
    with pytest.raises(InputError, match="no vocabulary of its own"):
        command.run(InferenceSettings(**{**given, "weights": (str(word),)}, merge=str(tmp_path / "other.safetensors")))


@pytest.mark.parametrize("version", ONE_OF_THREE)
def test_convert_there_and_back_is_bit_equal(version, bases, tmp_path):
    from customize.cli.convert import main

    file, folder = tmp_path / "model.safetensors", tmp_path / "model"
    assert main([str(bases / version), str(file)]) == 0 and main([str(file), str(folder)]) == 0
    for path in sorted((bases / version).glob("*/*.safetensors")):
        theirs, own = load_file(path), load_file(folder / path.relative_to(bases / version))
        assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in theirs)
    half, again = tmp_path / "half.safetensors", tmp_path / "again.safetensors"
    assert main([str(folder), str(half), "--save_precision", "fp16"]) == 0 and main([str(half), str(again)]) == 0
    first, second = load_file(half), load_file(again)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert {tensor.dtype for tensor in second.values()} <= {torch.float16, torch.int64}
    assert main([str(folder), str(file)]) == 2 and main([str(file), str(folder)]) == 2
    assert main([str(folder), str(file), "--overwrite"]) == 0 and main([str(file), str(folder), "--overwrite"]) == 0
    (folder / "letter.txt").write_text("mine")
    assert main([str(file), str(folder), "--overwrite"]) == 2 and main([str(file), str(tmp_path)]) == 2
    assert main([str(bases / version), str(tmp_path / "x.safetensors"), "--layout", "kohya"]) == 2
    assert not (tmp_path / "x.safetensors").exists()


def test_a_write_that_fails_leaves_the_old_file(bases, tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    convert_model(str(bases / "sd15"), file)
    before, entries = file.read_bytes(), sorted(tmp_path.iterdir())

    def half_written(path, *_):
        path.write_bytes(before[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("customize.families.whole_models.model_file.write_tensors", half_written)
    with pytest.raises(OSError, match="disk full"):
        convert_model(str(bases / "sd15"), file, "fp16", overwrite=True)
    assert file.read_bytes() == before and sorted(tmp_path.iterdir()) == entries


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_weight_of_the_real_architecture_is_read_back_and_by_stock(version, tmp_path, monkeypatch):
    """In float16: 2 GB for 1.x and 2.x, 7 GB for SDXL, and as much memory three times."""
    for module in (ldm_header, original_layout, autoencoder):
        monkeypatch.setattr(module, "CONFIGS", CONFIGS)
    monkeypatch.setattr(single_file, "clip_tokenizer", clip_tokenizer.clip_tokenizer)
    networks = on_meta(version)
    for network in networks.values():
        network.to(torch.float16).to_empty(device="cpu")
        for parameter in network.parameters():
            parameter.data.normal_()
    is_xl = version == "sdxl"
    kind, stock = (StableDiffusionXL, StableDiffusionXLPipeline) if is_xl else (StableDiffusion, StableDiffusionPipeline)
    pads = {"sd15": [END], "sd21": ["!"], "sdxl": [END, "!"]}[version]
    tokenizers = {f"tokenizer{'_2' * number}": clip_tokenizer.clip_tokenizer(pad) for number, pad in enumerate(pads)}
    family = kind("x", tmp_path, **networks, **tokenizers, scheduler=load_scheduler(CONFIGS / version))
    file = written(tmp_path, family, "fp16")
    again = load(locate(str(file)), Placement(dtype=torch.float16, in_float32=()))
    assert all(tensor.dtype == torch.float16 for tensor in again.unet.state_dict().values())
    assert_equal_modules(again, family)
    del again
    config = shutil.copytree(CONFIGS / version, tmp_path / "config")
    family.pipeline().save_config(config)
    theirs = stock.from_single_file(
        str(file), config=str(config), local_files_only=True, torch_dtype=torch.float16, **tokenizers,
        **({} if is_xl else {"safety_checker": None, "feature_extractor": None}),
    )  # fmt: skip
    file.unlink()  # pytest keeps the folders of three runs
    assert_equal_modules(theirs, family)
