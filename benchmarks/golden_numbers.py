"""Records the exact results of training and generation, and compares another version of the code with them.

    python benchmarks/golden_numbers.py record before.json              on the commit to compare with
    python benchmarks/golden_numbers.py compare before.json             on another commit, on the same machine
    python benchmarks/golden_numbers.py compare before.json --only tiny

It uses only the three commands, so modules may move. Training: 20 steps of every method, on `demo` and on a tiny random
v-prediction model; records the losses of all steps and a hash of each trained tensor. Images: a hash of the pixels. Results are
reproducible on the same processor with the same version of torch.
"""

import argparse
import hashlib
import io
import json
import os
import runpy
import shlex
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}

WORDS = "--captions templates --placeholder_token <new> --initializer_token toy --num_vectors 2 --learning_rate 5e-3"
SUBJECT = '--captions prompt --instance_prompt "a photo of sks dog"'
LORA = f"{SUBJECT} --learning_rate 1e-3 --adapter lora --rank 4 --lora_alpha 2"
PRIOR = '--class_prompt "a photo of dog" --prior_preservation'
METHODS = {
    "textual_inversion": ("train_textual_inversion.py", WORDS),
    "directional": ("train_textual_inversion.py", f"{WORDS} --normalize_embedding"),
    "lora": ("train_dreambooth.py", f"{LORA} --random_flip --crop_variants 3 --snr_gamma 5 --noise_offset 0.1"),
    "lora_text_encoder": ("train_dreambooth.py", f"{LORA} --train_text_encoder --lora_dropout 0.1 --caption_dropout 0.2"),
    "dora": ("train_dreambooth.py", f"{LORA} --use_dora"),
    "rslora": ("train_dreambooth.py", f"{LORA} --use_rslora --lora_targets attention feed-forward"),
    "full": ("train_dreambooth.py", f"{SUBJECT} --learning_rate 1e-5 --train_text_encoder"),
    "prior_images": ("train_dreambooth.py", f"{LORA} {PRIOR} images --num_class_images 2 --class_data_dir CLASS"),
    "prior_teacher": ("train_dreambooth.py", f"{LORA} {PRIOR} teacher --gradient_accumulation_steps 2"),
}
SAMPLERS = """DDIM|DDPM|PNDM|LMS|LMS Karras|Euler|Euler a|Heun|DPM2|DPM2 a|DPM++ 2M|DPM++ 2M Karras|DPM++ 2M SDE|DPM++ SDE
DPM++ 2S|UniPC|DEIS|LCM|TCD|PLMS|DPM++ 3M SDE""".replace("\n", "|").split("|")
DRAWINGS = {
    **{f"sampler {name}": f'--prompt "a dog on the beach" --scheduler "{name}" --num_inference_steps 8' for name in SAMPLERS},
    "guidance 1": '--prompt "a fox" --guidance_scale 1',
    "negative": '--prompt "a fox" --negative_prompt "snow" --guidance_rescale 0.7 --num_images 2 --batch_size 2',
    "weights of words": '--prompt "a (red:1.4) car and a [blue] house"',
    "schedule": '--prompt "a [dog:cat:0.4] in the [snow|forest]"',
    "AND": '--prompt "a dog AND the snow:0.7 AND a beach"',
    "long": f'--prompt "{", ".join(["a small red house on the beach with a dog"] * 12)}"',
    "BREAK": '--prompt "a dog BREAK in the snow" --clip_skip 1',
    "between": '--prompt "a dog" "a house" --between 0.4 --interpolation spherical',
    "img2img": '--prompt "a cat" --image START --strength 0.6',
    "img2img Heun": '--prompt "a cat" --image START --strength 0.5 --scheduler Heun',
    "img2img chain": '--prompt "a cat" --image START --strength 0.4 --chain 2',
    "hires": '--prompt "a cat" --hires_scale 2',
    "inpainting": '--prompt "a cat" --image START --mask_image MASK --mask_blur 3',
    "RePaint": '--prompt "a cat" --image START --mask_image MASK --num_resamples 2 --jump_length 3 --scheduler DDPM',
    "anagram": '--prompt "a dog" "a house" --illusion anagram --view identity flip',
    "looking glass": '--prompt "a dog" "a house" --illusion looking_glass --view identity rotate_180',
    "hybrid": '--prompt "a dog" "a house" --illusion hybrid',
    "hybrid of an image": '--prompt "a house" --illusion hybrid --image START --image_part low',
    "sweep": '--prompt "a dog" --sweep guidance_scale=1,4 seed=1..2',
    "trace and attention": '--prompt "a dog in the snow" --trace --attention',
    "learned weights": '--prompt "a photo of sks dog" --weights LORA:0.7',
    "learned word": '--prompt "a photo of <new>" --weights WORDS',
    "like": "--like IMAGE",
}  # fmt: skip


def call(script: str, arguments: str) -> None:
    """Runs one command in a forked child; prints its output if it fails."""
    if not (child := os.fork()):
        output, status = io.StringIO(), 1
        sys.argv = [script, *shlex.split(arguments)]
        try:
            with redirect_stdout(output), redirect_stderr(output):
                runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            output.write(traceback.format_exc())
        if status:
            print(script, arguments, output.getvalue(), sep="\n", flush=True)
        sys.stdout.flush()
        os._exit(status)
    if os.waitpid(child, 0)[1]:
        print(f"{script} failed", flush=True)


def tensors(run: Path) -> dict[str, str]:
    """A hash of every tensor of a run's result."""
    from safetensors import safe_open

    found = {}
    files = [*run.glob("*.safetensors"), *run.glob("unet/*.safetensors"), *run.glob("text_encoder/*.safetensors")]
    for file in sorted(files):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118
                data = handle.get_tensor(name).contiguous()
                found[f"{file.relative_to(run)} {name}"] = hashlib.sha256(data.numpy().tobytes()).hexdigest()[:16]
    return found


def pixels(folder: Path) -> dict[str, str]:
    """A hash of the pixels of every image of a folder."""
    from PIL import Image

    digests = {}
    for file in sorted(folder.rglob("*.png")):
        with Image.open(file) as image:
            digests[str(file.relative_to(folder))] = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()[:16]
    return digests


def drawn_files(folder: Path) -> None:
    """Writes an input image and a mask."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64), 2).save(folder / "start.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 20:60] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def numbers(only: str) -> dict[str, dict]:
    """All results, by the name of the job."""
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    tiny_stable_diffusion = import_module("models").tiny_stable_diffusion

    [photos] = ROOT.glob("customize/**/examples/subject")
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        drawn_files(folder)
        bases = {"demo": "demo", "tiny": str(tiny_stable_diffusion(folder / "tiny", prediction_type="v_prediction"))}
        for base, source in bases.items():
            model = f'--pretrained_model_name_or_path "{source}" --seed 3'
            for method, (script, own) in METHODS.items():
                if only in (job := f"{base} {method}"):
                    begin, run = time.perf_counter(), folder / job.replace(" ", "_")
                    data = "--train_data_dir" if "textual" in script else "--instance_data_dir"
                    fixed = "--max_train_steps 20 --train_batch_size 2 --report_to none --validation_prompt none"
                    own = own.replace("CLASS", str(folder / f"{base}_class"))
                    call(script, f'{own} {model} {data} "{photos}" {fixed} --output_dir "{run}"')
                    lines = (run / "log.jsonl").read_text().splitlines()
                    results[job] = {"losses": [json.loads(line)["loss"] for line in lines], "tensors": tensors(run)}
                    print(f"{job}: {time.perf_counter() - begin:.1f} s", flush=True)
            places = {"START": folder / "start.png", "MASK": folder / "mask.png"}
            places |= {"LORA": folder / f"{base}_lora", "WORDS": folder / f"{base}_textual_inversion"}
            places |= {"IMAGE": folder / f"{base}_img2img/000.png"}
            for drawing, own in DRAWINGS.items():
                if only in (job := f"{base} {drawing}"):
                    output = folder / job.replace(" ", "_")
                    for word, place in places.items():
                        own = own.replace(word, str(place))
                    steps = "" if "--num_inference_steps" in own or "--like" in own else "--num_inference_steps 10"
                    base_model = "" if "--like" in own or "--weights" in own else model
                    call("infer.py", f'{own} {base_model} {steps} --output_dir "{output}"')
                    results[job] = {"pixels": pixels(output)}
            print(f"{base}: {len(results)} jobs", flush=True)
    return results


def main() -> None:
    """Records, or compares and prints the differences; exit status 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=lambda path: Path(path).absolute())
    parser.add_argument("--only", default="", help="only jobs whose names contain this")
    arguments = parser.parse_args()
    found = numbers(arguments.only)
    if arguments.action == "record":
        arguments.file.write_text(json.dumps(found, indent=1) + "\n")
        return
    before = json.loads(arguments.file.read_text())
    if missing := found.keys() - before.keys():
        raise SystemExit(f"not recorded in {arguments.file}: {', '.join(sorted(missing))}")
    different = [job for job, values in found.items() if before[job] != values]
    for job in different:
        for kind in found[job]:
            old, new = before[job][kind], found[job][kind]
            if kind == "losses":
                print(f"{job}: losses {old[:3]} ... are now {new[:3]} ..." if old != new else f"{job}: losses are equal")
            else:
                changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
                print(f"{job}: {len(changed)} of {len(new)} {kind} differ: {', '.join(changed[:3])}")
    print(f"{len(found) - len(different)} of {len(found)} jobs are equal, bit for bit")
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
