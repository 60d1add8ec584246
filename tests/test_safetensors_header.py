"""Headers of safetensors files: valid ones are read, invalid ones are refused before anything is loaded."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from customize.errors import InputError
from customize.storage import safetensors_header
from customize.storage.safetensors_header import MAX_HEADER_BYTES, Header, TensorInfo, read_header, refuse_not_finite

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
        ({"a": A, "b": B}, 31, "wrong size"),
        ({"a": A, "b": B}, 33, "wrong size"),
        ({"a": A, "b": B | {"data_offsets": [16, 24]}}, 24, "bytes of 'b' overlap"),
        ({"a": A, "b": B | {"data_offsets": [28, 36]}}, 36, "bytes of 'b' come after a gap"),
        ({"a": A | {"data_offsets": [4, 28]}}, 28, "bytes of 'a' come after a gap"),
        ({"a": A | {"shape": [2, 4]}}, 24, "bytes of 'a' do not fit"),
        ({"a": A | {"dtype": "F16"}}, 24, "bytes of 'a' do not fit"),
        ({"a": A | {"data_offsets": [24, 0]}}, 24, "bytes of 'a' come after a gap"),
        ({"a": A | {"data_offsets": [-24, 0]}}, 24, "not whole numbers of at least 0"),
        ({"a": A | {"shape": [True, 6]}}, 24, "not whole numbers"),
        ({"a": A | {"shape": [2.0, 3]}}, 24, "not whole numbers"),
        ({"a": A | {"shape": [1 << 63, 0]}}, 24, "not whole numbers"),
        ({"a": A | {"shape": [1 << 62] * 33}}, 24, "'a' has 33 axes"),
        ({"a": A | {"shape": [1 << 31, 1 << 31]}}, 24, "do not fit its shape"),
        ({"a": A, "__metadata__": {"x": 1}}, 24, "metadata is not an object of strings"),
        ({"\x1b[31m" + "x" * 1000: A | {"dtype": "Q"}}, 24, "contains '\\x1b[31mxxx"),
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
        (b"\xff\xfe{}", 24, "damaged header: it is not UTF-8"),
        (b"[" * 100_000, 0, "damaged header: brackets are nested too deeply"),
        (b'{"a": ' * 100_000, 0, "damaged header: brackets are nested too deeply"),
        (b'{"a": {}, "b": {}, "b": {}}', 0, "damaged header: 'b' occurs twice"),
        (b'{"a": {"dtype": "F32", "shape": [6], "shape": [6], "data_offsets": [0, 24]}}', 24, "'shape' occurs twice"),
        (b'{"__metadata__": {}, "__metadata__": {}}', 0, "'__metadata__' occurs twice"),
        (b"1" * 5000, 0, "it is not JSON"),
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
    assert f"not a {'' if content.startswith(b'<') else 'complete '}safetensors file" in refusal(file)


def test_a_header_beyond_the_limit_is_not_read(tmp_path):
    file = tmp_path / "x.safetensors"
    with open(file, "wb") as stream:
        stream.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        stream.truncate(MAX_HEADER_BYTES + 9)
    assert "header of 25,000,001 bytes, more than 25,000,000" in refusal(file)


def test_many_names_with_a_duplicate_at_the_end(tmp_path):
    text = "{" + ",".join(f'"{number}":0' for number in range(200_000)) + ',"199999":0}'
    assert "'199999' occurs twice" in refusal(write(tmp_path / "x.safetensors", text.encode(), 0))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_found_wherever_they_are(tmp_path, monkeypatch, dtype, value):
    monkeypatch.setattr(safetensors_header, "CHUNK", 8)
    finite = np.array([0, -0.0, 1, np.finfo(dtype).max, np.finfo(dtype).min, np.finfo(dtype).tiny / 2], dtype)
    for place in (0, 3, 7, 8, 15, 16):
        tensors = {"a": np.resize(finite, 17), "b": np.zeros(3, np.int64) - 1, "c": finite}
        save_file(tensors, tmp_path / "fine.safetensors")
        refuse_not_finite(tmp_path / "fine.safetensors", read_header(tmp_path / "fine.safetensors"))
        tensors["a"][place] = value
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(InputError, match="NaN or infinity in 1 of 3 tensors, such as 'a'"):
            refuse_not_finite(tmp_path / "x.safetensors", read_header(tmp_path / "x.safetensors"))


def test_nan_and_infinity_in_bfloat16(tmp_path):
    """Its bits are the upper half of float32's."""
    for bits, word in ((0x7F7F, None), (0x7F80, "NaN"), (0xFF80, "NaN"), (0x7FC0, "NaN"), (0x8000, None)):
        header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
        file = tmp_path / "x.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0" + bits.to_bytes(2, "little"))
        if word is None:
            refuse_not_finite(file, read_header(file))
        else:
            with pytest.raises(InputError, match=word):
                refuse_not_finite(file, read_header(file))


def test_refuses_pickles_under_another_name(tmp_path):
    for content in (b"PK\x03\x04" + bytes(60), *(pickle.dumps({"a": 1}, protocol) for protocol in range(2, 6))):
        file = tmp_path / "x.safetensors"
        file.write_bytes(content)
        assert "is a pickle" in refusal(file)


def test_refuses_paths_that_are_not_files(tmp_path):
    assert "not a regular file" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / "missing.safetensors")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        assert "not a regular file" in refusal(tmp_path / "pipe.safetensors")
