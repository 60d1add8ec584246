"""Runs the training commands in forked children of a process that imports once, so a complete run takes a second. Requests and
responses are lines of JSON on standard input and output. A request may name a moment at which the child is killed or signalled.
"""

import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Any


class ForkServer:
    """The client. Forking is unsafe with threads, so the server has one thread."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self, command: str, arguments: list[str], moment: str = "", number: int = 1, action: str = "SIGKILL", **limits: Any
    ) -> tuple[int, str]:
        """Returns (exit status, output) of `train_COMMAND.py ARGUMENTS`; the status is negative for a signal.

        limits: `after`, seconds until SIGKILL; `asleep`, seconds until SIGCONT after SIGSTOP; `file_size`, the largest file in
        bytes; `umask`. With `port`, two processes train together and connect at that port; `environment`: variables.
        """
        assert self.process.stdin and self.process.stdout
        request = {"command": command, "arguments": arguments, "moment": moment, "number": number, "action": action, **limits}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        response = json.loads(self.process.stdout.readline())
        return response["status"], response["output"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def set_trap(moment: str, number: int, action: str) -> None:
    """Triggers `action` in this process when the moment is reached for the `number`-th time."""
    import torch

    from customize.data.samples import latents_cache
    from customize.evaluation import verify_result
    from customize.evaluation.picture_probe import PictureProbe
    from customize.methods.method import DenoisingMethod
    from customize.optim.learning_rates import LearningRates
    from customize.storage import checkpoint, manifest
    from customize.training import callbacks, class_images
    from customize.training.callbacks import Checkpoints

    place, name = {
        "in a step": (LearningRates, "set"),
        "inside a checkpoint": (manifest, "write"),
        "after a checkpoint": (checkpoint, "prune"),
        "at the end of a step": (Checkpoints, "after_step"),
        "in the loss": (DenoisingMethod, "forward"),
        "in the bar": (callbacks.Progress, "after_step"),
        "in the result": (verify_result, "check"),
        "at a class picture": (class_images, "write_image"),
        "inside an evaluation": (PictureProbe, "values"),
        "at a cached latent": (latents_cache, "write_bytes"),
    }[moment]
    original, calls = getattr(place, name), 0

    def trapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and action.startswith("errno "):
            raise OSError(int(action.split()[1]), "raised by the test", "a file")
        if calls == number and action == "memory":
            raise torch.OutOfMemoryError("out of memory")
        if calls == number and action.startswith("remove "):
            shutil.rmtree(action.removeprefix("remove "))
        if calls == number and action.startswith("SIG"):
            for name in action.split():
                os.kill(os.getpid(), getattr(signal, name))
        if calls == number + 1 and action == "nan, then SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        return result * float("nan") if calls == number and action.startswith("nan") else result

    setattr(place, name, trapped)


def serve() -> None:
    import torch
    from PIL import Image

    import customize.adapters.full
    import customize.adapters.lora
    import customize.families.loading
    import customize.families.whole_models.pipeline_folder
    import customize.training.preflight
    import customize.training.run  # noqa: F401
    from customize.cli.commands import run_training
    from customize.cli.main import main
    from customize.evaluation import probe_loss
    from customize.families.trigger_words import merge_ranks
    from customize.inference.run.command import run as run_inference
    from customize.methods import DreamBoothSettings, TextualInversionSettings
    from customize.settings.inference import InferenceSettings

    probe_loss.LEAST = 2  # of the change that a run reports, most of a short run's time
    Image.init()
    merge_ranks()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # so that the final garbage collection of each child skips the imported modules
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # to wait for it with a time limit
    models = {"textual_inversion": TextualInversionSettings, "dreambooth": DreamBoothSettings, "infer": InferenceSettings}
    for line in sys.stdin:
        request = json.loads(line)
        output = os.memfd_create("output")
        other = os.fork() if "port" in request else None
        if other == 0 or not (child := os.fork()):
            if other is not None:
                rank = {"RANK": str(int(other == 0)), "LOCAL_RANK": str(int(other == 0)), "WORLD_SIZE": "2"}
                meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(request["port"]), "ACCELERATE_USE_CPU": "true"}
                os.environ |= {**rank, **meeting}
            os.environ |= request.get("environment", {})
            os.dup2(output, 1)
            os.dup2(output, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            if "file_size" in request:
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], resource.RLIM_INFINITY))
            if "umask" in request:
                os.umask(request["umask"])
            if request["moment"]:
                set_trap(request["moment"], request["number"], request["action"])
            run = run_inference if request["command"] == "infer" else run_training
            status = main(models[request["command"]], run, request["arguments"])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        if "after" in request and signal.sigtimedwait({signal.SIGCHLD}, request["after"]) is None:
            os.kill(child, signal.SIGKILL)
        if "asleep" in request:
            assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
            time.sleep(request["asleep"])
            os.kill(child, signal.SIGCONT)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if other:
            status = status or os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
        os.lseek(output, 0, os.SEEK_SET)
        with os.fdopen(output, "rb") as file:
            text = file.read().decode(errors="replace")
        print(json.dumps({"status": status, "output": text}), flush=True)


if __name__ == "__main__":
    serve()
