"""Every method on random weights of the real Stable Diffusion 1.5 and 2.1, and those of small results on SDXL: two steps, the
result saved, and loaded by infer.py.

Slow: an hour on two cores, 20 GB of disk, 16 GB of memory. CUSTOMIZE_MODELS names a folder for the models, so that they are
built once.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit import write_images

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import peak_memory

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
METHODS = {
    "textual_inversion": [
        "train_textual_inversion.py",
        "--placeholder_token",
        "<new>",
        "--initializer_token",
        "dog",
        "--num_vectors",
        "2",
    ],
    "lora": ["train_dreambooth.py", "--adapter", "lora", "--instance_prompt", "a photo of sks dog", "--rank", "4"],
    "full": ["train_dreambooth.py", "--instance_prompt", "a photo of sks dog", "--use_8bit_adam", "--gradient_checkpointing"],
}
PROMPTS = {"textual_inversion": "a photo of <new>"}


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return Path(os.environ.get("CUSTOMIZE_MODELS") or tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=["sd15", "sd21"])
def model(request, models) -> Path:
    folder = models / request.param
    if not folder.exists():
        single = ["--single_file", str(folder.with_suffix(".safetensors")), "--dtype", "float16"]
        python("benchmarks/random_models.py", request.param, str(folder), *single)
    return folder


@pytest.fixture(scope="module")
def xl_model(models) -> Path:
    folder = models / "sdxl"
    if not folder.exists():
        python("benchmarks/random_models.py", "sdxl", str(folder))
    return folder


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize("method", METHODS)
def test_two_steps_saved_and_loaded(method, form, model, tmp_path):
    base = model if form == "folder" else model.with_suffix(".safetensors")
    script, *arguments = METHODS[method]
    data = "--train_data_dir" if method == "textual_inversion" else "--instance_data_dir"
    image_folder = write_images(tmp_path / "pictures", size=(128, 128))
    sizes = ["--resolution", "128", "--max_train_steps", "2", "--train_batch_size", "1", "--report_to", "none"]
    out = tmp_path / "run"
    output = python(
        script,
        "--pretrained_model_name_or_path",
        str(base),
        data,
        str(image_folder),
        "--output_dir",
        str(out),
        *sizes,
        *arguments,
    )
    assert "verified: predictions differ by" in output
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    drawn = ["--num_inference_steps", "2", "--height", "64", "--width", "64"]
    prompt = PROMPTS.get(method, "a photo of sks dog")
    python("infer.py", "--weights", str(out), "--prompt", prompt, "--output_dir", str(tmp_path / "images"), *drawn)
    assert (tmp_path / "images/000.png").is_file()


@pytest.mark.parametrize("job", ["textual_inversion", "lora", "lora_16"])
def test_a_run_on_sdxl_in_bf16_stays_below_9_gb(job, xl_model, tmp_path):
    """From loading to the verified result; and so does the image that is generated with it."""
    given = [str(xl_model), job, "--mixed_precision", "bf16", "--steps", "1"]
    for cost in peak_memory.measure(job, peak_memory.parser().parse_args(given), tmp_path):
        assert cost.peak < 9e9
    assert (tmp_path / "drawn/000.png").is_file()
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 1
