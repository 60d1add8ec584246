"""The header of a safetensors file: what is read, and what is refused before anything is loaded."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from customize.errors import InputError
from customize.safetensors_header import Header, TensorInfo, read_header

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}


def write(file: Path, header: object, num_bytes: int = 32) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(num_bytes))
    return file


def refusal(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_header(file)
    (problem,) = caught.value.problems
    assert problem.where == str(file) and problem.remedy
    return problem.what


def test_reads_what_the_library_wrote(tmp_path):
    tensors = {"a": np.ones((2, 3), np.float32), "b.c": np.zeros((0, 5), np.int64), "d": np.float16(1)[None]}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "base_model": "demo"})
    assert read_header(tmp_path / "x.safetensors") == Header(
        {"a": TensorInfo("F32", (2, 3)), "b.c": TensorInfo("I64", (0, 5)), "d": TensorInfo("F16", (1,))},
        {"format": "pt", "base_model": "demo"},
    )


def test_reads_a_file_without_tensors_or_metadata(tmp_path):
    assert read_header(write(tmp_path / "x", {}, 0)) == Header({}, {})


def test_reads_scalars_and_padding_of_the_header(tmp_path):
    text = json.dumps({"a": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}}).encode() + b"    "
    assert read_header(write(tmp_path / "x", text, 8)).tensors == {"a": TensorInfo("F64", ())}


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_a_length_that_begins_as_a_pickle_does_is_read(tmp_path, length):
    text = json.dumps({"a": A}).encode().ljust(length)
    assert read_header(write(tmp_path / "x", text, 24)).tensors == {"a": TensorInfo("F32", (2, 3))}


@pytest.mark.parametrize(
    "header, num_bytes, what",
    [
        ({"a": A, "b": B}, 31, "not whole"),
        ({"a": A, "b": B}, 33, "not whole"),
        ({"a": A, "b": B | {"data_offsets": [16, 24]}}, 24, "bytes of 'b' do not fit"),  # overlap
        ({"a": A, "b": B | {"data_offsets": [28, 36]}}, 36, "bytes of 'b' do not fit"),  # gap
        ({"a": A | {"data_offsets": [4, 28]}}, 28, "bytes of 'a' do not fit"),  # gap at the start
        ({"a": A | {"shape": [2, 4]}}, 24, "bytes of 'a' do not fit"),
        ({"a": A | {"dtype": "F16"}}, 24, "bytes of 'a' do not fit"),
        ({"a": A | {"data_offsets": [24, 0]}}, 24, "bytes of 'a' do not fit"),
        ({"a": A | {"dtype": "Q4"}}, 24, "unknown dtype 'Q4'"),
        ({"a": A | {"shape": [2], "data_offsets": [0, 8]}, "b": A | {"shape": [-1], "data_offsets": [8, 4]}}, 4, "'b'"),
        (b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 24]}}', 24, "damaged header"),
        ({"a": A | {"shape": None}}, 24, "damaged header"),
        ({"a": A | {"shape": ["x"]}}, 24, "damaged header"),
        ({"a": A | {"data_offsets": [0, 12, 24]}}, 24, "damaged header"),
        ({"a": {"dtype": "F32", "shape": [2, 3]}}, 24, "damaged header"),
        ({"a": A, "__metadata__": ["pt"]}, 24, "damaged header"),
        ({"a": 1}, 0, "damaged header"),
        ([A], 24, "damaged header"),
        (b"", 24, "damaged header"),
        (b'{"a": ', 24, "damaged header"),
        (b"\xff\xfe{}", 24, "damaged header"),
        (b"[" * 100_000, 0, "damaged header"),
    ],
)
def test_refuses_a_header_that_does_not_fit(tmp_path, header, num_bytes, what):
    assert what in refusal(write(tmp_path / "x.safetensors", header, num_bytes))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08\0\0", (100).to_bytes(8, "little") + b"{}", b"\xff" * 64, b"<!DOCTYPE html><html>not found</html>"],
    ids=["empty", "three bytes", "longer than the file", "all ones", "web page"],
)
def test_refuses_a_wrong_length(tmp_path, content):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    assert "no whole safetensors file" in refusal(file)


def test_refuses_pickles_under_another_name(tmp_path):
    for content in (b"PK\x03\x04" + bytes(60), *(pickle.dumps({"a": 1}, protocol) for protocol in range(2, 6))):
        file = tmp_path / "x.safetensors"
        file.write_bytes(content)
        assert "is a pickle" in refusal(file)


def test_refuses_what_is_no_file(tmp_path):
    assert "not a regular file" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / "missing.safetensors")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        assert "not a regular file" in refusal(tmp_path / "pipe.safetensors")
