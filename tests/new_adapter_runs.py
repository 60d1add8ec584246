"""Runs with adapters that the package does not have, those in `new_adapter/`, in a process of their own.

Settings are made when `customize.cli.flags.settings_by_command` is imported, so the adapters must be found before.
Usage: new_adapter_runs.py BASE IMAGES FOLDER
"""

import json
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import customize.adapters

customize.adapters.__path__.append(str(Path(__file__).with_name("new_adapter")))
sys.path.append(str(Path(__file__).parents[1] / "docs"))

from adapters_of_others import TEXT, UNET, File, diffusers  # noqa: E402
from kit import prepared, settings_for, train_loop  # noqa: E402
from make_settings import row  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from customize.cli.commands import infer, train_dreambooth  # noqa: E402
from customize.cli.flags.settings_from_files import read_settings  # noqa: E402
from customize.cli.main import help_text  # noqa: E402
from customize.errors import InputError  # noqa: E402
from customize.evaluation.learned_change import kept, relative_change  # noqa: E402
from customize.inference.pipeline import Pipeline  # noqa: E402
from customize.inference.pipeline_loading import load_pipeline  # noqa: E402
from customize.methods import DreamBoothSettings  # noqa: E402
from customize.settings.field import table  # noqa: E402

PROMPT = "a photo of sks dog"
OWN = {"train_text_encoder": True, "learning_rate": 0.05, "checkpointing_steps": 2}
HADAMARD = {**OWN, "adapter": "hadamard", "lora_alpha": 3.0, "max_train_steps": 4}
IA3 = {
    **OWN, "adapter": "ia3", "lora_targets": ("attention", "conv1"), "max_train_steps": 4,
    "prior_preservation": "teacher", "class_prompt": "a photo of dog",
}  # fmt: skip


def train(settings, *more: str) -> int:
    """The exit status of the command with these settings."""
    path = Path(settings.output_dir).with_suffix(".toml")
    path.write_text(settings.to_toml())
    return train_dreambooth([str(path), *more])


def latents_of(pipeline):
    """The latents of one image."""
    return pipeline.generate(PROMPT, num_inference_steps=3, seeds=2, output_type="latent")


def in_memory(settings, folder: Path):
    """(network that was trained without the command, its method, how much its weights changed)."""
    context, training = prepared(settings.model_copy(update={"output_dir": str(folder / "unused")}))
    start = kept(training.method)
    train_loop(settings, training, context.accelerator, settings.max_train_steps)
    training.method.eval()
    return Pipeline(context.family), training.method, relative_change(training.method, start, kept(training.method))


def hadamard(base: Path, images: Path, folder: Path):
    """What is seen of LoHa: exit statuses, latents."""
    run = folder / "hadamard"
    settings = settings_for("hadamard", base, images, run, **HADAMARD)
    status = {
        "trained": train(settings),
        "trained on": train_dreambooth(
            f"--init_weights {run} --instance_data_dir {images} --instance_prompt sks --max_train_steps 1 "
            f"--learning_rate 1e-12 --adam_weight_decay 0 --report_to none --validation_prompt none "
            f"--output_dir {folder}/onward".split()
        ),
        "generated": infer(
            f"--weights {run} --num_inference_steps 3 --seed 2 --output_dir {folder}/images --prompt".split() + [PROMPT]
        ),
    }
    trained, method, _ = in_memory(settings, folder)
    pipeline = load_pipeline(None, [(run, 1.0)])
    latents = {"in memory": latents_of(trained), "loaded": latents_of(pipeline)}
    pipeline.decode(latents["loaded"])[0].save(folder / "loaded.png")
    pipeline.weights.scales = (0.5,)
    latents |= {
        "half": latents_of(pipeline),
        "beside": latents_of(load_pipeline(None, [(run, 0.5), (folder / "onward", 0.5)])),
        "checkpoint": latents_of(load_pipeline(None, [(run / "checkpoints/step-000004", 1.0)])),
        "base": latents_of(load_pipeline(str(base))),
    }
    with method.adapter.disabled(*method.children()):
        latents["disabled"] = latents_of(trained)
    return status, latents


def ia3(base: Path, images: Path, folder: Path):
    """What is seen of (IA)^3: exit statuses and numbers, latents. The run is stopped after two steps, and resumed."""
    run = folder / "ia3"
    settings = settings_for("ia3", base, images, run, **IA3)
    status = {
        "trained": train(settings.model_copy(update={"max_train_steps": 2})),
        "resumed": train(settings, "--resume_from_checkpoint", "latest"),
    }
    trained, method, status["change"] = in_memory(settings, folder)
    pipeline = load_pipeline(None, [(run, 1.0)])
    latents = {"in memory": latents_of(trained), "loaded": latents_of(pipeline)}
    for name, scale in (("half", 0.5), ("none", 0.0), ("again", 1.0)):
        pipeline.weights.scales = (scale,)
        latents[name] = latents_of(pipeline)
    with method.adapter.disabled(*method.children()):
        latents["disabled"] = latents_of(trained)
    own = {"instance_prompt": "a photo of sks dog", "instance_data_dir": str(images), "output_dir": str(folder / "unused")}
    onward = read_settings(DreamBoothSettings, init_weights=str(run), validation_prompt=None, report_to=("none",), **own)
    context, training = prepared(onward)
    training.method.eval()
    latents["onward"] = latents_of(Pipeline(context.family))
    status |= {"onward": [onward.adapter, onward.learning_rate, onward.lora_targets, onward.train_text_encoder]}

    lora = File().lora(UNET | TEXT, diffusers, ("lora_A.weight", "lora_B.weight")).write(folder / "lora.safetensors")
    latents["beside"] = latents_of(load_pipeline(str(base), [(lora, 0.7), (run, 0.5)]))
    merge = f"--pretrained_model_name_or_path {base} --weights {lora}:0.7 {run}:0.5 --merge".split()
    status["merged"] = infer([*merge, f"{folder}/merged"])
    with redirect_stderr(StringIO()) as refusal:
        status["refused"] = infer([*merge, f"{folder}/merged.safetensors"]), refusal.getvalue()
    status["learning rates"] = table(DreamBoothSettings)["learning_rate"].default_text
    return status | of_rank(base, images, folder), latents


def of_rank(base: Path, images: Path, folder: Path):
    """What is known of a setting whose default and range differ between adapters."""
    ranks = {}
    for adapter in ("lora", "hadamard", "none"):
        for rank in (None, 64, 65):
            given = {"adapter": adapter, **({"rank": rank} if rank else {})}
            try:
                settings = DreamBoothSettings(instance_prompt="a photo of sks dog", instance_data_dir=str(images), **given)
                ranks[f"{adapter} {rank}"] = settings.values().get("rank")
            except InputError as error:
                ranks[f"{adapter} {rank}"] = str(error)
    schema = DreamBoothSettings.model_json_schema()["properties"]["rank"]
    line = next(line for line in help_text(DreamBoothSettings).split("--") if line.startswith("rank"))
    return {"ranks": ranks, "schema": schema, "help": " ".join(line.split()), "page": row("rank", schema)}


if __name__ == "__main__":
    *sources, folder = map(Path, sys.argv[1:])
    for runs in (hadamard, ia3):
        status, latents = runs(*sources, folder)
        (folder / f"{runs.__name__}.json").write_text(json.dumps(status))
        save_file(latents, folder / f"{runs.__name__}.safetensors")
