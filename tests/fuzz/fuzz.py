"""Coverage-guided fuzzing of every parser that reads what others wrote (atheris, libFuzzer's way).

    pip install atheris
    python tests/fuzz/fuzz.py TARGET [CORPUS_FOLDER] [-max_total_time=90] [other options of libFuzzer]

Whatever the bytes, a target ends with a result that its assertions accept, or with our own InputError. Anything else (another
exception, more than 5 s, more than 1 GiB) is a finding: libFuzzer writes its bytes to crash-...; turn them into a test.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
with atheris.instrument_imports(include=["customize", "tomllib", "json", "csv"]):
    from customize.cli import main as cli
    from customize.data.captions import caption_files
    from customize.data.findings import Findings
    from customize.data.images.image_file import open_image
    from customize.errors import InputError
    from customize.inference.metadata.read_png import read_generation_info
    from customize.methods import DreamBoothSettings, TextualInversionSettings
    from customize.prompts import parse
    from customize.settings.files import toml_file
    from customize.settings.inference import InferenceSettings
    from customize.storage.safetensors_header import BITS, read_header, refuse_not_finite

FILE = Path(tempfile.mkdtemp(prefix="fuzz")) / "file"
HEAVIEST = 1000.0


def captions(data: bytes) -> None:
    """NAME.txt, metadata.jsonl and metadata.csv, by the first byte."""
    name = ("metadata.jsonl", "metadata.csv", "a.txt")[data[0] % 3] if data else "a.txt"
    (FILE.parent / name).write_bytes(data[1:])
    found = Findings()
    read, used = caption_files.read_captions(FILE.parent, ("a.png", "b.png"), (name,), "text", found)
    assert used == {name} and set(read) <= {"a.png", "b.png"}
    assert all(caption.text == caption.text.strip() != "" and caption.text.encode() for each in read.values() for caption in each)
    assert all(problem.where.isprintable() and problem.what.isprintable() for problem in found.problems)


def config(data: bytes) -> None:
    """CONFIG.toml, up to the settings of a command."""
    file = FILE.with_suffix(".toml")
    file.write_bytes(data)
    toml_file.read(str(file))
    for model in (TextualInversionSettings, DreamBoothSettings, InferenceSettings):
        try:
            settings, _ = cli.read(model, [str(file)])
        except InputError:
            continue
        text = settings.to_toml()
        file.write_text(text, encoding="utf-8")
        assert cli.read(model, [str(file)])[0] == settings
        file.write_bytes(data)


def flags(data: bytes) -> None:
    """Words of a command line, with line breaks between them."""
    words = data.decode("utf-8", "replace").split("\n")
    for model in (TextualInversionSettings, DreamBoothSettings, InferenceSettings):
        try:
            cli.read(model, [word for word in words if not word.endswith(".toml")])
        except InputError:
            continue


def prompt(data: bytes) -> None:
    """The grammar of prompts, and what it says at each step."""
    text = data.decode("utf-8", "replace")[:5000]
    for clause in parse(text).clauses:
        assert abs(clause.weight) <= HEAVIEST
        for step in (0, 1, 9):
            spans = clause.at(step, 10)
            assert all(abs(span.weight) < float("inf") for span in spans)


def header(data: bytes) -> None:
    """The header of a safetensors file; what it lets pass, the library must be able to read."""
    from safetensors import safe_open

    FILE.write_bytes(data)
    read = read_header(FILE)
    assert all(info.dtype in BITS for info in read.tensors.values())
    with safe_open(FILE, framework="np") as file:
        assert set(file.keys()) == set(read.tensors)
        assert all(tuple(file.get_slice(name).get_shape()) == info.shape for name, info in read.tensors.items())
    refuse_not_finite(FILE, read)


def header_json(data: bytes) -> None:
    """The same with a length that fits, so that the bytes are the JSON and the tensors."""
    text, _, tensors = data.partition(b"\n")
    header(len(text).to_bytes(8, "little") + text + tensors)


def picture(data: bytes) -> None:
    """A picture file."""
    image = open_image(data)
    assert image.mode == "RGB" and max(image.size) < 10 * min(image.size) and image.width * image.height <= 64_000_000


def image_metadata(data: bytes) -> None:
    """What a PNG says of itself: the name of a text chunk, a line break, its text."""
    import corpus

    name, _, text = data.partition(b"\n")
    name = (b"customize", b"parameters", b"prompt")[name[0] % 3] if name else b"customize"
    FILE.with_suffix(".png").write_bytes(corpus.png(1, 1, 8, 0, b"\0\0", corpus.chunk(b"tEXt", name + b"\0" + text)))
    result = read_generation_info(FILE.with_suffix(".png"))
    assert all(note.isprintable() for note in result.notes)
    InferenceSettings(**{"prompt": "x", **{name: value for name, value in result.settings.items() if value not in ((), "")}})


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (captions, config, flags, prompt, header, header_json, picture, image_metadata)
}
SEEDS: dict[str, list[bytes]] = {
    "captions": [
        b'\0{"file_name": "a.png", "text": ["x", "y"]}\n',
        b'\1file_name,text\na.png,"x ""y"""\n',
        b"\2a cat\n\xef\xbb\xbf",
    ],
    "config": [
        b'[data]\ninstance_data_dir = "x"\ninstance_prompt = "a dog"\nlearning_rate = 1e-4\n',
        b'placeholder_token = ["<x>"]\ninitializer_token = "toy"\ntrain_data_dir = "x"\n',
        b'prompt = ["a", "b"]\nseed = 3\nsweep = "seed=1..4"\nweights = "x.safetensors:0.5"\n',
    ],
    "flags": [b"--instance_prompt\na dog\n--rank=4\n--no-random_flip\n--learning_rate\n1e-4", b"--prompt\na\n--sweep\nseed=1..3"],
    "prompt": [b"a (cat:1.3) [dog:bear:0.4] AND [a|b|c] :2 BREAK \\(x\\) [[y]] (z:[1:1.4:0.5])"],
    "header_json": [b'{"__metadata__":{"a":"b"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}\n\0\0\0\0'],
    "image_metadata": [
        b'\0\n{"settings":{"prompt":["x"],"seed":1},"base_model":"demo","weights":[],"versions":{},"batch":[0,1]}',
        b"\1\na dog\nNegative prompt: b\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512",
        b'\2\n{"3":{"class_type":"KSampler","inputs":{"seed":1,"steps":20,"cfg":8,"sampler_name":"euler","positive":["6",0]}},'
        b'"6":{"class_type":"CLIPTextEncode","inputs":{"text":"a dog"}}}',
    ],
}


def seeds(name: str) -> list[bytes]:
    if name in ("picture", "header"):
        from test_hostile_files import seeds as files

        return [content for key, content in files().items() if (key == "safetensors") == (name == "header")]
    return SEEDS[name]


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"{__doc__}\ntargets: {', '.join(TARGETS)}")
    options = [word for word in sys.argv[2:] if word.startswith("-")]
    folders = [word for word in sys.argv[2:] if not word.startswith("-")]
    start = Path(tempfile.mkdtemp(prefix="seeds"))
    for number, content in enumerate(seeds(name)):
        (start / str(number)).write_bytes(content)

    def run(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except InputError:
            pass

    atheris.Setup([sys.argv[0], *folders, str(start), "-timeout=5", "-rss_limit_mb=1024", *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
