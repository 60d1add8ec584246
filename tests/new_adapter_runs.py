"""Runs with an adapter that the package does not have, `new_adapter/loha.py`, in a process of its own.

Settings are made when `customize.cli.flags.settings_by_command` is imported, so the adapter must be found before.
Usage: new_adapter_runs.py BASE IMAGES FOLDER
"""

import json
import sys
from pathlib import Path

import customize.adapters

customize.adapters.__path__.append(str(Path(__file__).with_name("new_adapter")))

from kit import prepared, settings_for, train_loop  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from customize.cli.commands import infer, train_dreambooth  # noqa: E402

PROMPT = "a photo of sks dog"


def train(settings) -> int:
    """The exit status of the command with these settings."""
    path = Path(settings.output_dir).with_suffix(".toml")
    path.write_text(settings.to_toml())
    return train_dreambooth([str(path)])


def picture(pipeline):
    """The latents of one image."""
    return pipeline.generate(PROMPT, num_inference_steps=3, seeds=2, output_type="latent")


def run(base: Path, images: Path, folder: Path) -> None:
    """Trains, generates and writes what the tests look at into the folder."""
    from PIL import Image

    from customize.inference.pipeline import Pipeline
    from customize.inference.pipeline_loading import load_pipeline

    own = {"adapter": "loha", "rank": 4, "lora_alpha": 3.0, "train_text_encoder": True, "learning_rate": 0.05}
    teacher = {"prior_preservation": "teacher", "class_prompt": "a photo of dog"}
    plain = settings_for("loha", base, images, folder / "plain", **own)
    status = {
        "plain": train(plain),
        "teacher": train(settings_for("loha", base, images, folder / "teacher", **own, **teacher)),
        "onward": train_dreambooth(
            f"--init_weights {folder}/plain --instance_data_dir {images} --instance_prompt sks --max_train_steps 1 "
            f"--learning_rate 1e-12 --adam_weight_decay 0 --report_to none --validation_prompt none "
            f"--output_dir {folder}/onward".split()
        ),
        "infer": infer(
            ["--weights", f"{folder}/plain", "--prompt", PROMPT, "--num_inference_steps", "3", "--seed", "2",
             "--output_dir", f"{folder}/images"]
        ),
    }  # fmt: skip

    context, training = prepared(plain.model_copy(update={"output_dir": str(folder / "unused")}))
    train_loop(plain, training, context.accelerator, plain.max_train_steps)
    training.method.eval()
    loaded = load_pipeline(None, [(folder / "plain", 1.0)])
    latents = {
        "in memory": picture(Pipeline(context.family)),
        "loaded": picture(loaded),
        "half": picture(load_pipeline(None, [(folder / "plain", 0.5)])),
        "beside": picture(load_pipeline(None, [(folder / "plain", 0.5), (folder / "teacher", 0.5)])),
        "checkpoint": picture(load_pipeline(None, [(folder / "plain" / "checkpoints" / "step-000006", 1.0)])),
        "base": picture(load_pipeline(str(base))),
    }
    with training.method.adapter.disabled(*training.method.children()):
        latents["disabled"] = picture(Pipeline(context.family))
    save_file(latents, folder / "latents.safetensors")
    loaded.decode(latents["loaded"])[0].save(folder / "loaded.png")
    [image] = (folder / "images").glob("*.png")
    status["pixels equal"] = Image.open(image).tobytes() == Image.open(folder / "loaded.png").tobytes()
    (folder / "status.json").write_text(json.dumps(status))


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:]))
