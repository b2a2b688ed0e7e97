"""The compiled extension `hcnn_fast._C` and the folder map; the rest is in pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from setuptools import Extension, find_packages, setup

OLDEST_TORCH = (2, 11)  # as in pyproject.toml; one build serves this version and all later ones
COMPILING = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}
INSTALL = "pip install --no-build-isolation -e ."

CXX_FLAGS = [
    "-O3",
    "-std=c++20",
    "-fopenmp",
    "-ffp-contract=off",  # the same rounding in every backend
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
SANITIZER_FLAGS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-g1",
    "-O1",
]
NVCC_FLAGS = [
    "-O3",
    "-std=c++20",
    "--fmad=false",
    "--expt-relaxed-constexpr",  # numeric_limits in device code
    "-DUSE_CUDA",  # opens the stable ABI's CUDA functions
    "-Xcompiler=-fvisibility=hidden,-ffp-contract=off,-Wall",
]


def stop(message: str) -> NoReturn:
    raise SystemExit(f"hcnn_fast: {message}")


def sources(folder: str, pattern: str) -> list[str]:
    return sorted(path.as_posix() for path in Path(folder).glob(pattern))


def check_torch() -> None:
    """Stop in one line, before pip fetches gigabytes, where torch is not there to build against."""
    if importlib.util.find_spec("torch") is None:
        stop(
            "torch is needed to build and this environment (or pip's isolated one) has none; run: "
            f"pip install torch ninja setuptools wheel && {INSTALL}"
        )


def check_compiler() -> None:
    compiler = os.environ.get("CXX", "g++").split()[0]
    if shutil.which(compiler) is None:
        stop(f"the C++ compiler {compiler!r} is not found; install g++ (Debian: apt install g++)")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        stop(f"{header} is missing; install Python's headers (Debian: apt install {package})")


def nvcc_failure(nvcc: Path) -> str | None:
    """What nvcc says, in a line, when it cannot compile a trivial file with this host compiler."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cu")
        source.write_text("#include <cuda_runtime.h>\n__global__ void probe() {}\n")
        command = [str(nvcc), "-std=c++20", "-c", str(source), "-o", str(Path(folder, "probe.o"))]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")


def cuda_refusal(files: list[str]) -> str | None:
    """Why the CUDA sources are not compiled, with the remedy; None where they can be."""
    import torch
    from torch.utils import cpp_extension

    if not files:
        return "no CUDA sources in this version"
    if torch.version.cuda is None:
        return "torch has no CUDA; install a CUDA build of torch"
    major = torch.version.cuda.split(".")[0]
    nvcc = Path(cpp_extension.CUDA_HOME or "", "bin", "nvcc")
    if not nvcc.exists():
        return f"nvcc not found; install the CUDA {major} compiler or set CUDA_HOME"
    told = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", told)
    if release is None or release[1] != major:
        found = release[0] if release else "of unknown version"
        return f"nvcc is {found} and torch was built for CUDA {torch.version.cuda}; set CUDA_HOME"
    failure = nvcc_failure(nvcc)
    return f"nvcc cannot compile: {failure}" if failure else None


def link_cudart(major: str, home: str) -> list[str]:
    """Flags for CUDA's run-time library, which may be in the nvidia pip packages alone."""
    import torch

    packages = Path(torch.__file__).parents[1] / "nvidia"
    folders = [*sorted(packages.glob("*/lib")), Path(home, "lib64"), Path(home, "lib")]
    for name in (f"libcudart.so.{major}", "libcudart_static.a"):
        for folder in folders:
            if (folder / name).exists():
                return [f"-L{folder}", f"-l:{name}", "-lrt", "-ldl", "-lpthread"]
    return ["-lcudart"]


def extension() -> tuple[list[Extension], dict[str, Any]]:
    """The extension and its build command, with CUDA where there are sources and a compiler."""
    check_compiler()
    sanitized = os.environ.get("HCNN_FAST_SANITIZE") == "1"  # `make asan`
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension

    class IncrementalBuild(BuildExtension):
        """Keeps objects between builds, editable ones too: ninja compiles only what changed."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = "build/objects-sanitized" if sanitized else "build/objects"

    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        stop(f"torch {torch.__version__} is too old; pip install 'torch>=2.11', then {INSTALL}")

    wish = os.environ.get("HCNN_FAST_BUILD_CUDA", "")
    if wish not in ("", "0", "1"):
        stop(f"HCNN_FAST_BUILD_CUDA is {wish!r}, expected '0', '1' or unset")
    cuda_files = sources("csrc", "cuda/*.cu")
    reason = "HCNN_FAST_BUILD_CUDA was 0; unset it" if wish == "0" else cuda_refusal(cuda_files)
    if sanitized:
        reason = "built for the sanitizers of the CPU's compiler; rebuild without"
    if wish == "1" and reason is not None:
        stop(f"HCNN_FAST_BUILD_CUDA=1 but {reason}")
    with_cuda = reason is None
    archs = ""
    if with_cuda:
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0;9.0+PTX"
        os.environ["TORCH_CUDA_ARCH_LIST"] = archs
    # What a C string and a command line cannot hold is left out of the report.
    reason_text = re.sub(r"[^\w .,;:=+/()<>-]", "'", reason or "")

    defines = [
        "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000".format(*OLDEST_TORCH),
        f"-DHCNN_FAST_WITH_CUDA={int(with_cuda)}",
    ]
    strings = [
        f'-DHCNN_FAST_CUDA_ARCHS="{archs}"',
        f'-DHCNN_FAST_CUDA_REASON="{reason_text}"',
    ]
    built = CppExtension(
        "hcnn_fast._C",
        sources("csrc", "*.cpp") + sources("csrc", "cpu/*.cpp") + cuda_files * with_cuda,
        depends=sources("csrc", "**/*.h") + sources("csrc", "**/*.cuh"),
        extra_compile_args={
            "cxx": CXX_FLAGS + SANITIZER_FLAGS * sanitized + defines + strings,
            "nvcc": NVCC_FLAGS + defines,
        },
        extra_link_args=["-fopenmp", *SANITIZER_FLAGS[:1] * sanitized],
        py_limited_api=True,
    )
    if with_cuda:
        built.libraries += ["c10_cuda", "torch_cuda"]
        built.extra_link_args += link_cudart(torch.version.cuda.split(".")[0], CUDA_HOME)
    # torch's headers are system headers: the warnings are for ours.
    for flags in built.extra_compile_args.values():
        for folder in built.include_dirs:
            flags += ["-isystem", folder]
    built.include_dirs = []
    return [built], {"build_ext": IncrementalBuild}


command = set(sys.argv[1:])
if command & (COMPILING | {"dist_info"}):
    check_torch()
modules, commands = extension() if command & COMPILING else ([], {})

setup(
    packages=[*find_packages(include=["hcnn_fast", "hcnn_fast.*"]), "hcnn_fast.kernels"],
    package_dir={"hcnn_fast.kernels": "kernels"},
    package_data={"hcnn_fast": ["py.typed", "models/weights/*", "data/samples/*"]},
    ext_modules=modules,
    cmdclass=commands,
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
