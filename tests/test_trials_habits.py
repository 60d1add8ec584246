"""Command lines as people type them, and what they are answered: exit status, one report, its first point, the remedy.

Everything is tried in one process, with all that a command checks before torch is imported. Nothing may be written.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from customize import __main__
from customize.cli import main
from customize.cli.commands import check_inference, check_training
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.inference import InferenceSettings

ROOT = Path(__file__).parent.parent
MODELS = {
    "train_dreambooth": (DreamBoothSettings, check_training),
    "train_textual_inversion": (TextualInversionSettings, check_training),
    "infer": (InferenceSettings, check_inference),
}
DB = "train_dreambooth --instance_data_dir my_cat --instance_prompt 'sks cat'"
TI = "train_textual_inversion --train_data_dir my_cat --placeholder_token '<cat>' --initializer_token cat"
CAT = "infer --prompt 'a cat'"
FILES = {
    "dog.toml": 'instance_data_dir = "my_cat"\ninstance_prompt = "sks cat"\nmax_train_steps = 500\nlearning_rate = 1e-4\n',
    "word.toml": 'train_data_dir = "my_cat"\nplaceholder_token = "<cat>"\ninitializer_token = "cat"\n',
    "draw.toml": 'prompt = ["a cat"]\nguidance_scale = 5\nnum_images = 2\n',
    "none.toml": 'prompt = ["None"]\n',
    "windows.toml": 'instance_data_dir = "C:\\Users\\me\\cat"\ninstance_prompt = "sks cat"\n',
    "temp.toml": 'instance_data_dir = "C:\\temp\\new"\ninstance_prompt = "sks cat"\n',
    "curly.toml": "instance_prompt = “sks cat”\n",
    "inner_curly.toml": 'instance_data_dir = "my_cat"\ninstance_prompt = "“sks cat”"\n',
    "bare.toml": "instance_prompt = a photo of sks cat\n",
    "colon.toml": "seed = 1\nrank: 8\n",
    "python.toml": "train_text_encoder = True\n",
    "null.toml": "snr_gamma = None\n",
    "twice.toml": "[train]\nseed = 1\nseed = 2\n",
    "comma.toml": "seed = 1\nlearning_rate = 0,0001\n",
    "point.toml": "learning_rate = .5\n",
    "open.toml": 'instance_prompt = "sks cat\nseed = 1\n',
    "config.json": '{"seed": 1}\n',
    "named.toml": '{"seed": 1}\n',
    "job.yaml": "job: extension\nconfig:\n  name: cat\n",
    "shell.toml": "python train_dreambooth.py --rank 8\n",
    "kohya.toml": 'network_dim = 8\nnetwork_alpha = 4\nunet_lr = 1e-4\noptimizer_type = "AdamW8bit"\nxformers = true\n',
    "dataset.toml": '[general]\nenable_bucket = true\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "img"\n',
    "types.toml": 'seed = "x"\nmax_train_steps = 1.5\n',
    "tabs.toml": "\t[train]\n\tseed\t=\t3\t# comment\n",
    "prompts.txt": "a cat\na dog\n",
    "cat.zip": "PK",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder as a beginner has it."""
    desk = tmp_path_factory.mktemp("desk")
    for name, text in FILES.items():
        (desk / name).write_text(text, encoding="utf-8")
    (desk / "utf16.toml").write_text("seed = 3\n", encoding="utf-16")
    (desk / "marked.toml").write_text("seed = 3\r\n", encoding="utf-8-sig")
    for folder in ("my_cat", "kohya/cats", "Photos Of Rex"):
        (desk / folder).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (64, 64), (index * 60, 90, 30)).save(desk / folder / f"{index}.png")
    (desk / "empty").mkdir()
    (desk / "runs/cat/checkpoints").mkdir(parents=True)
    (desk / "runs/cat/config.toml").write_text(FILES["dog.toml"])
    return desk


def tree(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def tried(line, capsys):
    """Exit status, what stood on stderr, and the settings with which the command would have run."""
    words = shlex.split(line) if isinstance(line, str) else line
    model, check = MODELS[words[0]]
    seen = []

    def run(settings):
        check(settings)
        seen.append(settings)

    status = main.main(model, run, words[1:], check)
    out, error = capsys.readouterr()
    assert "Traceback" not in error and "\x1b" not in error
    return status, error, seen[0] if seen else None


def refused(identity, line, first, remedy, count=1):
    return pytest.param(line, first, remedy, count, id=identity)


REFUSED = [
    refused("folder and prompt without flags", "train_dreambooth my_cat 'sks cat'", 'my_cat "sks cat": do not belong',
            'did you mean --instance_data_dir my_cat --instance_prompt "sks cat"?'),
    refused("prompt and folder the other way round", "train_dreambooth 'sks cat' my_cat", '"sks cat" my_cat: do not belong',
            'did you mean --instance_prompt "sks cat" --instance_data_dir my_cat?'),
    refused("misspelt folder without a flag", "train_dreambooth my_kat 'sks cat'", "my_kat", "--instance_data_dir my_cat"),
    refused("a prompt without a flag", "infer 'a cat'", '"a cat": does not belong', 'did you mean --prompt "a cat"?'),
    refused("a prompt of one word", "infer cat", "cat: does not belong", "did you mean --prompt cat?"),
    refused("prompt and image without flags", "infer 'a cat' my_cat/0.png", '"a cat" my_cat/0.png', "--image my_cat/0.png"),
    refused("a stray word behind a configuration", "train_dreambooth dog.toml extra", "extra: does not belong", "quotes"),
    refused("an unquoted prompt", "train_dreambooth --instance_data_dir my_cat --instance_prompt a photo of sks cat",
            "photo of sks cat: do not belong", 'did you mean --instance_prompt "a photo of sks cat"?'),
    refused("an unquoted prompt for infer.py", "infer --prompt a cat in the snow", "--prompt: has 5 values of one word each",
            'did you mean --prompt "a cat in the snow"?'),
    refused("two unquoted words", "infer --prompt a cat", "--prompt: has 2 values", 'did you mean --prompt "a cat"?'),
    refused("no flags and no quotes", "infer a cat in the snow", 'in the snow": does not', '--prompt "a cat in the snow"?'),
    refused("a folder and no quotes", "train_dreambooth my_cat a sks cat", 'my_cat "a sks cat": do not belong',
            "--instance_data_dir my_cat"),
    refused("one dash and a name that is none", f"{CAT} -x 3", "-x: is read as a value of --prompt", "write --x for a flag"),
    refused("a size that is none", f"{CAT} --width 500", "--width: 500 is not", "did you mean 496?"),
    refused("a rate without its minus", f"{DB} --lr 1e4", "--lr: 10000.0 is not", "did you mean 1e-4?"),
    refused("--resume alone", f"{DB} --resume", "--resume: has no value", "write --resume=latest"),
    refused("a weight of no prior", f"{DB} --prior_loss_weight 2", "--prior_loss_weight: has no effect", "images or teacher"),
    refused("a word of two words", TI.replace("'<cat>'", "'my cat'"), "--placeholder_token", "such as <cat-toy>"),
    refused("two configurations", "train_dreambooth dog.toml draw.toml", "draw.toml: is a second CONFIG.toml", "into one file"),
    refused("a comma between prompts", "infer --prompt 'a cat' , 'a dog'", '"," is read as a value', "leave it out"),
    refused("an output called as a file", f"{CAT} --output cat.png", "cat.png looks like a file name", "such as cat"),
    refused("words with a comma", TI.replace("'<cat>'", "'<cat>,<dog>'"), "contains a comma", "such as <cat-toy>"),
    refused("an image as initializer", TI.replace("token cat", "token cat.jpg"), '"cat.jpg" is a file', "words"),
    refused("a scale with a comma", f"{CAT} --weights cat.safetensors:0,8", "--weights", "did you mean cat.safetensors:0.8?"),
    refused("both sides in one", f"{CAT} --size 512x512", "--size: width and height", "--width 512 --height 512"),
    refused("two samplers", f"{CAT} --sampler DDIM --scheduler Euler", "--scheduler: and --sampler both set", "keep one"),
    refused("a schedule alone", f"{CAT} --schedule_type Karras", "--schedule_type", 'as in --scheduler "DPM++ 2M Karras"'),
    refused("memory of SDXL", f"{CAT} --medvram-sdxl", "--medvram_sdxl", "--vae_tiling"),
    refused("an unquoted folder", "train_dreambooth --instance_data_dir Photos Of Rex --instance_prompt 'sks cat'",
            "Of Rex: do not belong", 'did you mean --instance_data_dir "Photos Of Rex"?'),
    refused("name=value without dashes", "infer --prompt x --seed 1 steps=20", "steps=20", "did you mean --steps=20?"),
    refused("a folder where the prompt belongs", "train_dreambooth --instance_data_dir my_cat --instance_prompt my_cat/",
            "--instance_prompt", "--instance_data_dir"),
    refused("misspelt folder", DB.replace("my_cat", "my_kat"), "instance_data_dir my_kat: does not exist",
            "did you mean my_cat? (it contains 3 images)"),
    refused("a blank for an underscore", DB.replace("my_cat", "'my cat'"), "instance_data_dir my cat", "did you mean my_cat?"),
    refused("another case", DB.replace("my_cat", "My_Cat"), "instance_data_dir My_Cat", "did you mean my_cat?"),
    refused("underscores for blanks", DB.replace("my_cat", "photos-of-rex"), "photos-of-rex", "did you mean Photos Of Rex?"),
    refused("a trailing comma", DB.replace("my_cat", "my_cat,"), "my_cat,", "did you mean my_cat?"),
    refused("a slash too many", DB.replace("my_cat", "/my_cat"), "/my_cat", "did you mean my_cat?"),
    refused("a folder too many", DB.replace("my_cat", "desk/my_cat"), "desk/my_cat", "did you mean my_cat?"),
    refused("backslashes", DB.replace("my_cat", "'.\\my_cat'"), "my_cat: does not exist", "did you mean"),
    refused("a path of Windows", DB.replace("my_cat", "'C:\\Users\\me\\cat'"), "C:\\Users\\me\\cat", "/mnt/c/Users/me/cat"),
    refused("a variable in single quotes", DB.replace("my_cat", "'$DATA/cat'"), "$DATA/cat", "did not replace $DATA"),
    refused("a variable of Windows", DB.replace("my_cat", "'%USERPROFILE%/cat'"), "%USERPROFILE%", "did not replace"),
    refused("an address", DB.replace("my_cat", "https://example.com/cat"), "example.com", "download it first"),
    refused("one level up", DB.replace("my_cat", "kohya"), "kohya: contains no images", "did you mean kohya/cats?"),
    refused("an image where a folder is wanted", DB.replace("my_cat", "my_cat/0.png"), "is a file, not a folder",
            "did you mean its folder, my_cat? (it contains 3 images)"),
    refused("an archive", DB.replace("my_cat", "cat.zip"), "cat.zip: is a file", "unpack it"),
    refused("a configuration where a folder is wanted", DB.replace("my_cat", "dog.toml"), "dog.toml: is a file", "comes first"),
    refused("an image alone", "train_dreambooth my_cat/0.png --instance_prompt 'sks cat'", "my_cat/0.png",
            "did you mean --instance_data_dir my_cat?"),
    refused("a folder where an image is wanted", f"{CAT} --image my_cat", "my_cat: is a folder, not an image", "my_cat/0.png"),
    refused("an image of another ending", f"{CAT} --image my_cat/0.jpg", "my_cat/0.jpg: does not exist", "my_cat/0.png"),
    refused("weights that are not there", f"{CAT} --weights runs/dog", "no file or folder runs/dog", "runs"),
    refused("weights of images", f"{CAT} --weights my_cat", "my_cat contains no", "it contains 3 images"),
    refused("a learned file as initializer", TI.replace("token cat", "token runs/learned_embeds.safetensors"),
            "--initializer_token", "known words to start from"),
    refused("a file of prompts as prompt", "infer --prompt prompts.txt", "--prompt", "words", None),
    refused("a training's configuration for infer.py", "infer dog.toml", "dog.toml: is a configuration of train_dreambooth.py",
            "run `python train_dreambooth.py dog.toml`"),
    refused("words' configuration for infer.py", "infer word.toml", "word.toml: is a configuration of train_textual", "run `"),
    refused("a run's configuration for infer.py", "infer runs/cat/config.toml", "is a configuration of train_dreambooth.py",
            '--weights runs/cat --prompt "a prompt"'),
    refused("infer.py's configuration for a training", "train_dreambooth draw.toml", "is a configuration of infer.py",
            "infer.py"),
    refused("the other training's configuration", "train_dreambooth word.toml", "of train_textual_inversion.py", "run `"),
    refused("the other training's, too", "train_textual_inversion dog.toml", "of train_dreambooth.py", "run `"),
    refused("a configuration with backslashes", "train_dreambooth windows.toml", "windows.toml:1: is not TOML: a backslash",
            "instance_data_dir = 'C:/Users/me/cat'"),
    refused("backslashes that are escapes", "train_dreambooth temp.toml", "temp.toml:1: instance_data_dir", "forward slashes"),
    refused("typographic quotes in a configuration", "train_dreambooth curly.toml", "the quotes are typographic",
            'instance_prompt = "sks cat"'),
    refused("a text without quotes", "train_dreambooth bare.toml", "bare.toml:1", 'instance_prompt = "a photo of sks cat"'),
    refused("a colon for =", "train_dreambooth colon.toml", "colon.toml:2", "write rank = 8"),
    refused("True of Python", "train_dreambooth python.toml", "python.toml:1", "write train_text_encoder = true"),
    refused("None of Python", "train_dreambooth null.toml", "null.toml:1", 'snr_gamma = "none"'),
    refused("a name twice", "train_dreambooth twice.toml", "twice.toml:3: is not TOML: seed is given twice", "keep one"),
    refused("a decimal comma", "train_dreambooth comma.toml", "comma.toml:2", "learning_rate = 0.0001"),
    refused("a point without zero", "train_dreambooth point.toml", "point.toml:1", "learning_rate = 0.5"),
    refused("an open quote", "train_dreambooth open.toml", "open.toml:1: is not TOML: a quote is not closed", "close it"),
    refused("JSON", "train_dreambooth config.json", "config.json: is not TOML: it is JSON", "max_train_steps = 500"),
    refused("JSON called TOML", "train_dreambooth named.toml", "named.toml: is not TOML: it is JSON", "max_train_steps = 500"),
    refused("YAML", "train_dreambooth job.yaml", "job.yaml: is not TOML: it is YAML", "max_train_steps = 500"),
    refused("a command in a file", "train_dreambooth shell.toml", "it is a command", "max_train_steps = 500"),
    refused("a data set of sd-scripts", "train_dreambooth dataset.toml", "is a dataset configuration of sd-scripts", "img"),
    refused("values of the wrong type", f"{DB.replace('train_dreambooth', 'train_dreambooth types.toml')}",
            "types.toml:1: seed", "give a valid value", 2),
    refused("a configuration that is not there", "train_dreambooth dogs.toml", "dogs.toml: does not exist",
            "did you mean dog.toml?"),
    refused("a misspelt configuration of ours", "train_dreambooth demo_dreambooth_lra.toml", "demo_dreambooth_lra.toml",
            "did you mean demo_dreambooth_lora?"),
    refused("an image as configuration", "train_dreambooth --config my_cat/0.png --instance_prompt x", "my_cat/0.png", "my_cat"),
    refused("a folder as configuration", "train_dreambooth --config runs/cat", "runs/cat: is a run folder",
            "runs/cat/config.toml --resume_from_checkpoint latest", None),
    refused("--stpes", f"{CAT} --stpes 3", "--stpes: is not a setting", "did you mean num_inference_steps?"),
    refused("--learning-rat", f"{DB} --learning-rat 1", "--learning_rat: is not a setting", "did you mean learning_rate?"),
    refused("nothing near", f"{CAT} --quux 3", "--quux: is not a setting", "--help lists all settings"),
    refused("a setting of another command", f"{CAT} --rank 3", "--rank: is not a setting of infer.py",
            "a setting of train_dreambooth.py"),
    refused("another program's name, wrong command", f"{CAT} --network_dim 3", "--network_dim", "it is rank"),
    refused("1,000 steps", f"{DB} --steps 1,000", '--steps: "1,000" is not', "did you mean 1000?"),
    refused("1e3 steps", f"{DB} --max_train_steps 1e3", "--max_train_steps", "did you mean 1000?"),
    refused("0,0001", f"{DB} --lr 0,0001", "--lr", "did you mean 0.0001?"),
    refused("512x512", f"{DB} --resolution 512x512", "--resolution", "did you mean 512?"),
    refused("a trailing comma behind a number", f"{DB} --seed 3,", "--seed", "did you mean 3?"),
    refused("50%", f"{DB} --caption_dropout 50%", "--caption_dropout", "did you mean 0.5?"),
    refused("buckets of widths", f"{DB} --aspect_ratio_buckets 512x768", "aspect_ratio_buckets", "832,1216"),
    refused("another optimizer", f"{DB} --optimizer_type DAdaptAdam", "--optimizer_type", "prodigy"),
    refused("low memory", f"{CAT} --lowvram", "--lowvram", "--vae_tiling"),
    refused("regularisation images", f"{DB} --reg_data_dir reg", "class_data_dir", "prior_preservation = images"),
    refused("a setting and its other name", f"{DB} --adapter lora --rank 4 --network_dim 8", "--network_dim",
            "keep one of the two"),
    refused("trace switched off", f"{CAT} --trace_page --no-trace", "--trace_page", "trace"),
    refused("a bracket that is not closed", "infer --prompt 'a (red car'",
            "prompt: ( is not closed\n      a (red car\n        ^\n",
            "add )"),
    refused("fp16 and all else at once", f"{DB.replace('my_cat', 'my_kat')} --fp16 --report_to wandb", "my_kat",
            "did you mean", 3),
    refused("no flag for anything", "train_textual_inversion my_cat '<cat>'", 'my_cat "<cat>": do not', "--placeholder_token", 2),
]  # fmt: skip


@pytest.mark.parametrize("line, first, remedy, count", REFUSED)
def test_refused(line, first, remedy, count, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    monkeypatch.setattr("customize.device.nvidia_card", lambda: "")
    monkeypatch.setattr("customize.settings.environment.GPU_FILES", ())
    before = tree(desk)
    status, error, settings = tried(line, capsys)
    assert status == 2 and settings is None, error
    head = next(line for line in error.split("\n") if "in the input; nothing was written" in line)
    if count:
        assert f": {count} problem{'s' * (count > 1)} in the input" in head, error
    assert first in error and remedy in error, error
    assert not error.partition(head)[0] or "note: " in error.partition(head)[0]
    assert tree(desk) == before


def read_as(identity, line, note, **meaning):
    return pytest.param(line, note, meaning, id=identity)


UNDERSTOOD = [
    read_as("kohya's flags",
            f"{DB} --network_module=networks.lora --network_dim=8 --network_alpha=4 --unet_lr=1e-4 --max_train_epochs=2",
            "read ", adapter="lora", rank=8, lora_alpha=4.0, num_train_epochs=2, learning_rate=1e-4),
    read_as("kohya's configuration", f"train_dreambooth kohya.toml {DB.partition(' ')[2]}", "xformers has no effect",
            rank=8, adapter="lora", optimizer="adamw_8bit"),
    read_as("OneTrainer's names", f"{DB} --epochs 2 --batch_size 2 --lora_rank 4 --train_dtype BFLOAT_16", "read ",
            num_train_epochs=2, train_batch_size=2, rank=4, mixed_precision="bf16"),
    read_as("SimpleTuner's names", f"{DB} --model_type lora --lora_rank 4 --validation_guidance 5", "read ", adapter="lora",
            rank=4),
    read_as("A1111's names", f"{CAT} --steps 20 --cfg_scale 5 --negative ugly --batch_count 2", "read ",
            num_inference_steps=20, guidance_scale=5.0, negative_prompt="ugly", num_images=2),
    read_as("ComfyUI's names", f"{CAT} --cfg 5 --sampler_name DDIMScheduler", "read ",
            guidance_scale=5.0, scheduler="DDIMScheduler"),
    read_as("the first scripts' names", f"{CAT} --W 64 --H 64 --n_iter 2 --ddim_steps 5 --outdir here", "read ",
            width=64, height=64),
    read_as("dashes of a word processor", "infer –prompt cat —seed 3", "is read as --prompt", prompt=("cat",), seed=3),
    read_as("a minus sign", f"{CAT} \u2212seed 3", "is read as --seed", seed=3),
    read_as("full-width letters", f"{CAT} －－ｓｅｅｄ ３", "is read as --seed", seed=3),
    read_as("letters of InvokeAI", ["infer", "-p", "a cat", "-n", "2", "-W", "64", "-H", "64", "-s", "5", "-S", "3", "-C", "4"],
            "-W is read as --width", num_images=2, width=64, height=64, num_inference_steps=5, seed=3, guidance_scale=4.0),
    read_as("three dashes", f"{CAT} ---seed 3", "is read as --seed", seed=3),
    read_as("= twice", f"{CAT} --seed==3", "", seed=3),
    read_as("ComfyUI's schedule", f"{CAT} --sampler_name dpmpp_2m --scheduler karras", "scheduler = dpmpp_2m Karras",
            scheduler="dpmpp_2m Karras"),
    read_as("A1111's schedule", f"{CAT} --sampler 'DPM++ 2M' --schedule_type Automatic", "read ", scheduler="DPM++ 2M"),
    read_as("full-width brackets", TI.replace("<cat>", "＜cat＞"), "read as <cat>", placeholder_token=("<cat>",)),
    read_as("--lora alone", f"{DB} --lora --lora_rank 8", "adapter = lora", adapter="lora", rank=8),
    read_as("a sweep of two settings", f"{CAT} --sweep guidance_scale=1,2 seed=1..4", "",
            sweep=("guidance_scale=1,2", "seed=1..4")),
    read_as("a value that begins with a dash", "infer --prompt cat --negative_prompt -text", "", negative_prompt="-text"),
    read_as("one dash", f"{CAT} -seed 3 -steps 5", "is read as --seed", seed=3, num_inference_steps=5),
    read_as("a slash", f"{CAT} /seed 3", "is read as --seed", seed=3),
    read_as("a colon", f"{CAT} --seed:3", "is read as --seed=3", seed=3),
    read_as("blanks around =", f"{CAT} --seed = 3", "is read as", seed=3),
    read_as("a blank before the value", f"{CAT} --seed= 3", "is read as --seed=3", seed=3),
    read_as("a blank behind the name", f"{CAT} --seed =3", "is read as --seed=3", seed=3),
    read_as("capitals", f"{CAT} --Seed 3", "is read as --seed", seed=3),
    read_as("a hard blank", f"{CAT} --seed\u00a03", "is read as --seed=3", seed=3),
    read_as("a zero-width blank in a flag", f"{CAT} --se\u200bed 3", "is read as --seed", seed=3),
    read_as("a zero-width blank in a prompt", "infer --prompt 'a c\u200bat'", "invisible characters", prompt=("a cat",)),
    read_as("a hard blank in a prompt", "infer --prompt 'a\u00a0cat'", "special blanks", prompt=("a cat",)),
    read_as("a mark of direction before a path", f"{CAT} --image \u202amy_cat/0.png", "invisible", image="my_cat/0.png"),
    read_as("typographic quotes around", "infer --prompt=“cat”", "the quotes “ ” around the value", prompt=("cat",)),
    read_as("typographic quotes around two words", "infer --prompt “a cat” --seed 3", "read as one text", prompt=("a cat",)),
    read_as("guillemets", "infer --prompt '«a cat»'", "the quotes « » around the value", prompt=("a cat",)),
    read_as("low quotes", "infer --prompt '„a cat“'", "the quotes „ “ around the value", prompt=("a cat",)),
    read_as("quotes that survived", "infer --prompt '\"a cat\"'", "the quotes \" \" around the value", prompt=("a cat",)),
    read_as("single quotes of cmd", ["infer", "--prompt", "'a", "cat'"], "read as one text", prompt=("a cat",)),
    read_as("quotes around a folder", DB.replace("my_cat", "“my_cat”"), "the quotes", instance_data_dir="my_cat"),
    read_as("quotes inside a prompt", "infer --prompt 'a “big” cat'", "are kept as part of the text", prompt=("a “big” cat",)),
    read_as("quotes around the learned word", "train_dreambooth --instance_data_dir my_cat --instance_prompt=“sks”",
            "the quotes “ ” around the value", instance_prompt="sks"),
    read_as("quotes within the quotes of a file", "train_dreambooth inner_curly.toml", "the quotes “ ” around the value",
            instance_prompt="sks cat"),
    read_as("a backslash that joined lines", ["infer", "--prompt", "a cat", "\\", "--seed", "3"], "line continuation", seed=3),
    read_as("a backslash with a blank behind it", ["infer", "--prompt", "a cat", " --seed", "3"], "read as --seed", seed=3),
    read_as("a caret of cmd", ["infer", "--prompt", "a cat", "^", "--seed", "3"], "line continuation", seed=3),
    read_as("carriage returns", ["infer", "--prompt", "a cat\r", "--seed", "3\r"], "carriage returns", prompt=("a cat",), seed=3),
    read_as("a file's address", DB.replace("my_cat", "file://{desk}/my_cat"), "read as ", instance_prompt="sks cat"),
    read_as("a blank behind a folder", DB.replace("my_cat", "'my_cat '"), "surrounding blanks", instance_data_dir="my_cat"),
    read_as("a slash behind a folder", DB.replace("my_cat", "my_cat/"), "", instance_data_dir="my_cat/"),
    read_as("half for a number format", f"{DB} --mixed_precision bfloat16", "", mixed_precision="bf16"),
    read_as("yes and off", f"{CAT} --trace yes --plain_prompt off", "", trace=True, plain_prompt=False),
    read_as("capitals of a choice", f"{DB} --lr_scheduler COSINE", "", lr_scheduler="cosine"),
    read_as("a page of the trace", f"{CAT} --trace_page", "trace_page needs trace", trace=True, trace_page=True),
    read_as("epochs over the file's steps", "train_dreambooth dog.toml --epochs 3", "precedence over max_train_steps = 500 from",
            num_train_epochs=3, max_train_steps=None),
    read_as("epochs beside steps", f"{DB} --epochs 3 --steps 7", "num_train_epochs has no effect", max_train_steps=7),
    read_as("no samples", f"{DB} --validation_prompt none", "", validation_prompt=()),
    read_as("prompts unset", "infer draw.toml --prompt none --lesson forward --image my_cat/0.png", "", prompt=()),
    read_as("none among prompts", "infer draw.toml --prompt none 'a dog'", "", prompt=("none", "a dog")),
    read_as("none as the prompt of a file", "infer none.toml", "", prompt=("None",)),
    read_as("a list unset", "infer draw.toml --weights none", "", weights=(), prompt=("a cat",)),
    read_as("UTF-16", "infer utf16.toml --prompt cat", "", seed=3),
    read_as("a byte order mark", "infer marked.toml --prompt cat", "", seed=3),
    read_as("tabs", "infer tabs.toml --prompt cat", "", seed=3),
    read_as("--config", "infer --config draw.toml", "", num_images=2),
    read_as("a configuration of ours by name", "train_dreambooth demo_dreambooth_lora", "included configuration", adapter="lora"),
]  # fmt: skip


@pytest.mark.parametrize("line, note, meaning", UNDERSTOOD)
def test_understood(line, note, meaning, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    before = tree(desk)
    line = line.replace("{desk}", str(desk)) if isinstance(line, str) else line
    status, error, settings = tried(line, capsys)
    assert status == 0 and settings is not None, error
    assert {name: getattr(settings, name) for name in meaning} == meaning
    assert note in error and (note or "note: " not in error or "read --" in error), error
    assert tree(desk) == before


@pytest.mark.parametrize(
    "words, status, output",
    [
        pytest.param("verify runs/none", 2, ["runs/none: no such folder", "in runs: cat"], id="verify nothing"),
        pytest.param("verify run", 2, ["run: no such folder", "did you mean runs?"], id="verify a misspelt folder"),
        pytest.param("verify runs", 2, ["is not a run folder", "did you mean runs/cat?"], id="verify one level up"),
        pytest.param("verify my_cat", 2, ["my_cat: is not a run folder", "give the folder of a run"], id="verify images"),
        pytest.param("verify dog.toml", 2, ["is a file, not a run folder"], id="verify a file"),
        pytest.param(
            "check my_cat/0.png", 2, ["my_cat/0.png: is an image", "did you mean its folder, my_cat?"], id="check an image"
        ),
        pytest.param("check none.png", 2, ["none.png: does not exist"], id="check an image that is not there"),
        pytest.param("check my_kat", 2, ["is neither", "did you mean my_cat? (it contains 3 images)"], id="check misspelt"),
        pytest.param("check runs/cat", 2, ["is a run folder", "did you mean runs/cat/config.toml?"], id="check a run"),
        pytest.param("check draw.toml", 2, ["is a configuration of infer.py"], id="check infer.py's configuration"),
        pytest.param("check windows.toml", 2, ["a backslash in double quotes"], id="check backslashes"),
        pytest.param("check kohya", 2, ["did you mean kohya/cats?"], id="check one level up"),
        pytest.param("check my_cat", 0, ["training would start"], id="check images"),
        pytest.param("chek my_cat", 2, ['unknown command "chek": did you mean check?'], id="a misspelt command"),
        pytest.param("train my_cat", 2, ["did you mean train_dreambooth?"], id="a command of another name"),
    ],
)
def test_other_commands(words, status, output, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    before = tree(desk)
    assert __main__.main(shlex.split(words)) == status
    out, error = capsys.readouterr()
    assert "Traceback" not in error and "DAMAGED" not in out
    assert all(part in out + error for part in output), out + error
    assert tree(desk) == before


def test_one_kind_of_problem_in_many_files_is_one_problem(desk, tmp_path, monkeypatch, capsys):
    for index in range(300):
        Image.new("RGB", (16, 16), (index % 256, index // 256, 7)).save(tmp_path / f"{index:03}.png")
        (tmp_path / f"{index:03}.jpg").write_bytes(b"")
    status, error, _ = tried(f"train_dreambooth --instance_data_dir {tmp_path} --instance_prompt 'sks cat'", capsys)
    counted, *lines = error.splitlines()
    assert status == 2 and counted == "images checked: image 600 of 600", error
    assert lines[0].startswith("train_dreambooth.py: 1 problem") and len(lines) == 4, error
    assert "000.jpg" in lines[1] and lines[2].startswith("      and 299 more with the same problem: ") and "289 more" in lines[2]


def test_refusals_of_words_do_not_import_torch(desk):
    code = (
        "import sys; from customize.__main__ import main\n"
        "for line in (['infer', 'a cat'], ['train_dreambooth', 'my_kat', 'sks cat'], ['infer', 'dog.toml'], ['verify', 'no']):\n"
        "    assert main(line) == 2\n"
        "print('torch' in sys.modules, 'diffusers' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=desk, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0 and done.stdout.endswith("False False False\n"), done.stderr
