"""The Triton kernels beside their slow twin, pixel for pixel: on a GPU if there is one, else by Triton's interpreter.

tests/conftest.py chooses. What the interpreter cannot show, that the kernels compile for a GPU, is a test of its own.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.launches import KernelLoader, strong_views
from data import kernels
from data.augment import Move, normalized_values
from data.randaugment import LISTS, Operations, apply_operations
from tests.data.test_loader import assert_same, photographs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("magnitude", [4, 14])
@pytest.mark.parametrize("side", [32, 28, 96])
@pytest.mark.parametrize("which", list(LISTS))
def test_each_operation_gives_the_pixels_of_its_twin(which, side, magnitude):
    """Smooth, noisy, one-coloured and grey images, both directions, squares of CutoutAbs anywhere."""
    images = photographs(3 if side < 96 else 2, side).to(DEVICE)
    images[1] = images[1, :1]  # grey, as all images of the digits and Fashion-MNIST are
    images[0, :, : side // 2] = 77
    names = list(LISTS[which])
    codes = torch.arange(len(names), device=DEVICE).repeat_interleave(len(images))
    generator = torch.Generator().manual_seed(0)
    negative = torch.randint(0, 2, codes.shape, generator=generator).to(DEVICE)
    centres = torch.rand(len(codes), 2, generator=generator).to(DEVICE) if which == "published" else None
    index = torch.arange(len(images), device=DEVICE).repeat(len(names))
    drawn = Operations(codes[None], negative[None], None if centres is None else centres[None])
    made = kernels.rand_augmented([(images, index)], drawn, magnitude=magnitude, which=which, size=side)
    twin = apply_operations(images[index], codes, negative, magnitude, which=which, centre=centres)
    differ = (made != twin).flatten(1).any(1)
    assert not differ.any(), {names[code] for code in codes[differ].tolist()}


@pytest.mark.parametrize("augment", ["fixmatch", "published"])
@pytest.mark.parametrize(
    ("side", "full", "flip", "num_ops"),
    [(32, 32, True, 3), (28, 28, False, 2), (32, 96, True, 3), (32, 32, False, 0)],
)
def test_batches_by_the_kernels_are_those_of_whole_batch_operations(augment, side, full, flip, num_ops):
    """Every pixel of every view, and the state of the generator after each batch."""
    sets = (photographs(9, side), torch.arange(9), photographs(20, side))
    larger: dict[str, Any] = (
        {"full_x": photographs(9, full), "full_u": photographs(20, full)} if full > side else {}
    )

    def loader(compiled: bool) -> KernelLoader:
        return KernelLoader(
            *sets, views_x=("weak", "strong"), views_u=("strong", "weak"), batch_size=8,
            mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), flip=flip, augment=augment, num_ops=num_ops, magnitude=9,
            device=DEVICE, seed=1, compiled=compiled, prefetch=False, **larger,
        )  # fmt: skip

    twin, ours = loader(False), loader(True)
    assert ours.notice == ""
    for _ in range(1 if full > side else 2):
        assert_same(ours.next(), twin.next())
        assert torch.equal(ours.state_dict()["generator"], twin.state_dict()["generator"])


def test_enlarged_views_are_rounded_as_torch_rounds():
    """Halves go to the even neighbour."""
    values = (torch.arange(2 * 255, device=DEVICE) / 2).repeat(7)[: 3 * 32 * 32].view(1, 3, 32, 32)
    still = Move(torch.zeros(2, 1, 1, dtype=torch.int64, device=DEVICE), None)
    one_to_one = normalized_values(*(torch.full((3,), v, device=DEVICE) for v in (0.0, 1 / 255)))
    views = kernels.moved_views([(values, None)], still, None, normal=one_to_one, augment="fixmatch")
    assert torch.equal(views.round(), values.round())


@pytest.mark.parametrize("method", [("weak",), ("strong",)])  # FixMatch, ReMixMatch
@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("augment", list(LISTS))
def test_a_whole_strong_view_takes_at_most_a_dozen_launches(augment, side, method):
    assert strong_views(augment, compiled=True, views_x=method, side=side) <= 12


def checked(monkeypatch, rand_augmented) -> str:
    """What a loader says of kernels whose operations are `rand_augmented`."""
    monkeypatch.setattr(kernels, "rand_augmented", rand_augmented)
    images = photographs(5, 32)
    loader = KernelLoader(
        images, torch.arange(5), images, views_x=("weak",), views_u=("strong",), batch_size=4, mean=(0.5,) * 3,
        std=(0.2,) * 3, flip=True, device=DEVICE, seed=0, prefetch=False,
    )  # fmt: skip
    return loader._fault()


def test_kernels_that_make_other_pixels_or_do_not_run_are_told_from_those_that_agree(monkeypatch):
    right = kernels.rand_augmented

    def one_off(*arguments, **named):
        views = right(*arguments, **named)
        views[3, 2] ^= 1
        return views

    def broken(*arguments, **named):
        raise RuntimeError("ptxas fatal\nand much more")

    monkeypatch.setattr("data.loader.CHECKED", 16)
    assert checked(monkeypatch, right) == ""
    assert (
        checked(monkeypatch, one_off) == "the strong views of the Triton kernels differ from those of PyTorch"
    )
    assert checked(monkeypatch, broken) == "the Triton kernels do not run here (RuntimeError: ptxas fatal)"


COMPILE = """
import subprocess, sys, tempfile
from pathlib import Path
from typing import Any
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from data import kernels

TYPES = {"images": "*u8", "index": "*i64", "codes": "*i64", "negative": "*i64", "centres": "*fp32", "kinds": "*i32",
         "affine": "*fp32", "factors": "*fp32", "tones": "*u8", "half_side": "fp32", "side": "i32", "batch": "i32",
         "first": "i32", "shift": "*i64", "mirrored": "*i1", "centre": "*fp32", "normal": "*fp32"}
AUGMENT, FINISH = (kernels._augment, {"ROUNDS": 3}), (kernels._finish, {})
CASES = [  # kernel, architecture, side, warps, other types, what is not there, reflects
    (*AUGMENT, 90, 32, 4, {"out": "*u8"}, [], None),
    (*AUGMENT, 80, 96, 32, {"out": "*fp32"}, ["centres"], None),
    (*FINISH, 90, 32, 4, {"out": "*fp32"}, ["centre"], True),
    (*FINISH, 80, 32, 4, {"out": "*fp32", "images": "*fp32"}, ["index", "mirrored"], False),
]
for kernel, constants, arch, side, warps, types, absent, reflects in CASES:
    constants = constants | {"HEIGHT": side, "WIDTH": side, "BLOCK": triton.next_power_of_2(side * side)}
    constants |= dict.fromkeys(absent) | ({} if reflects is None else {"REFLECT": reflects})
    names = kernel.arg_names
    kinds = {n: "constexpr" if n in constants else (TYPES | types)[n] for n in names}
    source = ASTSource(kernel, kinds, {(names.index(n),): value for n, value in constants.items()})
    done = triton.compile(source, target=GPUTarget("cuda", arch, 32),
                          options={"num_warps": warps, "enable_fp_fusion": False})
    file = Path(tempfile.mkdtemp()) / "kernel.cubin"
    file.write_bytes(done.asm["cubin"])
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    machine_code = subprocess.run([tools / "nvdisasm", "-c", file], capture_output=True, text=True, check=True)
    print(kernel.__name__, arch, done.metadata.shared, machine_code.stdout.count("FFMA"))
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a100_and_h100_without_fused_multiply_adds(tmp_path):
    """By Triton's own compiler, which needs no GPU, in each of the forms that a loader launches them in.

    A fused multiply-add rounds once where the twin rounds twice.
    """
    environment = os.environ | {
        "TRITON_CACHE_DIR": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    compiled = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in compiled] == [
        ["_augment", "90"], ["_augment", "80"], ["_finish", "90"], ["_finish", "80"]
    ]  # fmt: skip
    for *_, shared, fused in compiled:
        assert int(shared) <= 48 * 1024  # bytes that every GPU gives to one program
        assert int(fused) == 0
