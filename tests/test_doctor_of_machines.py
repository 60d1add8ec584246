"""`customize doctor`: what it finds on machines that this one is not, and that it asks torch in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from customize.cli.front import doctor_command
from customize.machine import hardware as machines
from customize.machine import hub_check, packages, report, torch_check
from customize.machine.finding import Finding
from customize.machine.hardware import Card, Hardware, TorchBuild, nvidia_card_of

GIB = 1 << 30
FOR_CUDA = TorchBuild("2.13.0", "13.0", None)
CPU = {"name": "CPU (1 thread)", "missing": "no GPU found", "remedy": "", "computes": True}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Puts another machine in place of this one: what nvidia-smi prints, the build of torch, and what torch answers."""
    monkeypatch.setattr(machines, "DRM", tmp_path / "drm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(smi: str = "", build: TorchBuild | None = FOR_CUDA, answer: dict | None = None):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ncat <<'X'\n{smi}\nX\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        for room in (machines, report):
            monkeypatch.setattr(room, "torch_build", lambda: build)
        monkeypatch.setattr(torch_check, "ask", lambda: answer or CPU)

    return put


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {each.name: each for each in findings}


def test_lines_of_nvidia_smi_are_cards():
    line = "NVIDIA GeForce RTX 3060, 12288, 11000, 560.35.03, 8.6"
    assert nvidia_card_of(line) == Card("NVIDIA GeForce RTX 3060", 12 * GIB, 11000 << 20, "560.35.03", (8, 6))
    assert nvidia_card_of("Tesla T4, 15360, [N/A], 535.1, [N/A]") == Card("Tesla T4", 15 * GIB, None, "535.1", None)
    for strange in ("", "No devices were found", "a, b, c, d, e"):
        assert nvidia_card_of(strange) is None


@pytest.mark.parametrize(
    "capability, build, expected",
    [
        ("8.6", FOR_CUDA, Hardware("cuda", "RTX 3060", 12 * GIB, True)),
        ("7.5", FOR_CUDA, Hardware("cuda", "RTX 3060", 12 * GIB, False)),
        ("8.6", TorchBuild("2.13.0+cpu", None, None), None),
        ("8.6", None, None),
    ],
)
def test_the_device_is_the_card_only_where_torch_was_built_for_it(capability, build, expected, machine):
    machine(f"RTX 3060, 12288, 11000, 560.35, {capability}", build)
    found = machines.hardware()
    assert found == expected if expected else found.kind == "cpu" and found.memory == psutil.virtual_memory().total


def test_a_card_that_is_hidden_is_not_used(machine, monkeypatch):
    machine("RTX 3060, 12288, 11000, 560.35, 8.6")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machines.hardware().kind == "cpu"


def test_cards_of_amd_are_read_from_the_kernel(machine, tmp_path):
    device = tmp_path / "drm" / "card0" / "device"
    device.mkdir(parents=True)
    for name, value in (("vram_total", 16 * GIB), ("vram_used", GIB)):
        (device / f"mem_info_{name}").write_text(f"{value}\n")
    machine("", TorchBuild("2.13.0", None, "6.4"))
    assert [*machines.amd_cards()] == [Card("AMD GPU", 16 * GIB, 15 * GIB)]
    assert machines.hardware() == Hardware("cuda", "AMD GPU", 16 * GIB, True)


def test_a_card_that_torch_does_not_use_is_a_warning_with_the_remedy(machine):
    reason = {"missing": "RTX 3060 found, but torch is a build without CUDA", "remedy": "pip install torch"}
    machine("RTX 3060, 12288, 11000, 560.35, 8.6", TorchBuild("2.13.0+cpu", None, None), {**CPU, **reason})
    found = by_name(report.examine())
    assert found["torch"].value == "2.13.0+cpu, built without CUDA"
    assert found["device"].status == "warning" and found["device"].remedy == "pip install torch"
    assert found["card"].value == "RTX 3060, 12 GiB, 10.7 GiB free, driver 560.35" and found["card"].status == "ok"


@pytest.mark.parametrize(
    "build, answer, name, words",
    [
        (None, CPU, "torch", "not installed"),
        (TorchBuild("2.13.0", None, None), {"error": "libcudart.so: cannot open\x1b[31m"}, "torch", r"cannot be used: libcudart"),
        (FOR_CUDA, {**CPU, "missing": "", "computes": False, "reason": "no kernel image"}, "device", "no kernel"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_an_error_and_exit_status_2(build, answer, name, words, machine, capsys):
    machine("", build, answer)
    found = by_name(report.examine())[name]
    assert found.status == "error" and words in found.value and found.remedy and "\x1b" not in found.value
    assert not report.works([found]) and report.works([Finding("a", "b", "warning")])
    assert doctor_command.main(["--json"]) == 2
    assert {"name": name, "value": found.value, "status": "error", "remedy": found.remedy} in json.loads(capsys.readouterr().out)


def test_full_and_small_cards_are_warnings():
    assert report.judged(Card("a", 4 * GIB))[0] == "warning" and report.judged(Card("a", 24 * GIB, 2 * GIB))[0] == "warning"
    assert report.judged(Card("a", 8 * GIB, 7 * GIB)) == ()


def test_packages_of_other_versions_are_named(monkeypatch):
    from packaging.requirements import Requirement

    needed = [Requirement(each) for each in ("pillow>=99", "numpy", "no-such-package>=1", 'gone; extra == "docs"')]
    monkeypatch.setattr(packages, "requirements", lambda: needed)
    found = by_name([*packages.findings()])
    assert found["pillow"].status == "warning" and found["pillow"].remedy == 'pip install "pillow>=99"'
    assert found["no-such-package"] == Finding("no-such-package", "not installed", "error", 'pip install "no-such-package>=1"')
    assert found["packages"].value.startswith("1 as needed") and "gone" not in found


def test_the_hub_is_not_asked_offline_and_a_dead_one_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_check.connection().value == "not asked: HF_HUB_OFFLINE is set"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub_check.connection().status == "warning" and "does not answer" in hub_check.connection().value
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x").write_bytes(b"x" * 2048)
    (tmp_path / "token").write_text("hf_secret")
    found = by_name([*hub_check.findings()])
    assert found["hub's cache"].value == f"{tmp_path / 'hub'}: 1 model, 2 KiB" and found["hub's token"].value == "there is one"
    assert "secret" not in str(found)


def test_torch_is_asked_in_another_process_and_says_what_it_uses():
    code = (
        "import sys; from customize.machine import report, torch_check; answer = torch_check.ask()\n"
        "print(answer['name'].split()[0], answer['computes'], 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split()[1:] == ["True", "False"], done.stderr


def test_an_answer_that_is_none_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "status 1" in torch_check.ask()["error"]
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    assert torch_check.ask()["error"] == "it answered nothing"
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert "No such file" in torch_check.ask()["error"]
