"""The files for containers name what exists: folders, extras, the versions of torch, and a command that the program reads."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = ["Dockerfile", "deploy/huggingface_space/Dockerfile"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(params=FILES)
def text(request) -> str:
    return (ROOT / request.param).read_text().replace("\\\n", "")


def lines_of(text: str, instruction: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith(f"{instruction} ")]


def test_torch_is_of_the_versions_that_the_package_takes(text):
    [torch] = [each for each in PROJECT["dependencies"] if each.startswith("torch>")]
    assert re.findall(r'"(torch[<>][^"]*)"', text) == [torch]


def test_the_extra_exists(text):
    [extra] = re.findall(r"\[(\w+)\]", " ".join(lines_of(text, "RUN")))
    assert extra in PROJECT["optional-dependencies"]


def test_the_command_is_one_of_ours_and_its_port_is_open(text):
    from customize.__main__ import COMMANDS
    from customize.cli.front.serve import PASSWORD, parser

    [command], [port] = lines_of(text, "CMD"), lines_of(text, "EXPOSE")
    program, name, *arguments = json.loads(command)
    given = parser().read(arguments)
    assert program in PROJECT["scripts"] and name in COMMANDS
    assert (given.port, given.listen) == (int(port), "0.0.0.0") and PASSWORD in text


def test_everything_that_the_build_needs_is_sent_to_it():
    ignored = (ROOT / ".dockerignore").read_text().split()
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "customize", "configs"}
    assert not needed & set(ignored) and all((ROOT / name).exists() for name in needed)


def test_the_space_has_its_port_and_the_variable_of_the_base_model():
    from customize.teach.bases import VARIABLE

    front = (ROOT / "deploy/huggingface_space/README.md").read_text().split("---\n")[1]
    facts = dict(line.split(": ", 1) for line in front.splitlines())
    assert facts["sdk"] == "docker" and len(facts["short_description"]) <= 60
    docker = (ROOT / FILES[1]).read_text()
    assert lines_of(docker, "EXPOSE") == [facts["app_port"]] and f"{VARIABLE}=demo" in docker
