"""A classifier made ready for a search, without touching the caller's."""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.config import Precision
from hcnn_fast.engine.batch_sizes import filled, filled_size
from hcnn_fast.engine.captured_passes import CapturedPasses
from hcnn_fast.engine.compilation import Compiled
from hcnn_fast.engine.folding import fold_batch_norms
from hcnn_fast.engine.graphs import can_capture
from hcnn_fast.engine.im2col import use_im2col
from hcnn_fast.engine.inputs import Classifier, as_logits
from hcnn_fast.engine.layers import GreyConv2d, replace_grey_convolutions
from hcnn_fast.engine.memory import in_batches, plan_batch_size
from hcnn_fast.engine.rectifier import FEWEST_ROWS, IntegerRectifier
from hcnn_fast.engine.slopes import Forward
from hcnn_fast.engine.winograd import with_winograd_convolutions

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively: AMX, AVX512-BF16, or sm_80 on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    amx_or_avx512 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and bool(amx_or_avx512)


def resolve_precision(precision: Precision, x: Tensor) -> Precision:
    """The arithmetic of the search: "auto" is bfloat16 where the device multiplies it natively."""
    if precision != "auto":
        return precision
    return "bfloat16" if x.dtype == torch.float32 and native_bfloat16(x.device) else "float32"


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the parameters' memory but asks for no gradients.

    Buffers are copied, so that even a layer that updates one leaves the caller's alone.

    Raises:
        ValueError: the model cannot be copied and is in training mode.
    """
    # Parameters made in inference mode cannot take part in a backward pass: those are copied.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.clone() if p.is_inference() else p.detach(), requires_grad=False)
        for p in model.parameters()
    }
    try:
        frozen = copy.deepcopy(model, memo)
        if {id(module) for module in model.modules()} & {id(module) for module in frozen.modules()}:
            raise TypeError("its copies share modules with it")
    except Exception as error:
        if any(module.training for module in model.modules()):
            raise ValueError(
                f"model is in training mode and cannot be copied ({error}), expected model.eval()"
            ) from error
        return model
    return frozen.eval()


def channels_last(
    frozen: nn.Module,
    image: Tensor,  # [0 or 1, *image]
    original: nn.Module,
) -> nn.Module:
    """The frozen copy with convolution weights in channels-last order, which convolves faster.

    A model that asks its feature maps for the other order (with `view`, say) keeps it. So does a
    model that could not be copied: its weights are the caller's.
    """
    maps = any(isinstance(module, nn.Conv2d) for module in frozen.modules())
    if frozen is original or not maps or not len(image):
        return frozen
    reordered = copy.deepcopy(frozen).to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            reordered(image)
    except RuntimeError:
        return frozen
    return reordered


class Passes:
    """Logits of a model in the precision of a search.

    Args:
        model: gives the logits.
        dtype: what products are made in; None: as the model does.
        integers: whether ReLU is computed on integers.
        few_sizes: whether batches are filled up to a few sizes; see `engine.batch_sizes`.
    """

    def __init__(
        self,
        model: Classifier,
        dtype: torch.dtype | None,
        *,
        integers: bool = False,
        few_sizes: bool,
    ) -> None:
        self.model, self.dtype, self.integers = model, dtype, integers
        self.few_sizes = few_sizes

    def __call__(self, z: Tensor) -> Tensor:
        """Logits [B, C] at z [B, *image]."""
        return filled(self._logits, z, filled_size(len(z)) if self.few_sizes else len(z))

    def _logits(self, z: Tensor) -> Tensor:
        context: Any = contextlib.nullcontext()
        if self.dtype is not None:
            # Weights have been cast already, and a captured pass may not find its input so.
            context = torch.autocast(z.device.type, dtype=self.dtype, cache_enabled=False)
        integers = self.integers and len(z) >= FEWEST_ROWS
        with context, IntegerRectifier() if integers else contextlib.nullcontext():
            return as_logits(self.model(z), len(z))


class PreparedModel:
    """Logits of a classifier, in full precision or in the precision of the search.

    Args:
        model: nn.Module or callable, images [B, *image] to logits [B, C].
        precision: "float32" (the dtype of the images), "bfloat16" or "float16" for `fast`.
        image: an image to try layouts on, or none (then `classes` is not known).
        room: bytes that convolutions by the compiled extension may take; 0: there are none.
        compiled: whether torch.compile makes `fast`; then no operation of the extension does.
        captured: whether small batches of `fast` are replayed as CUDA graphs, on a GPU.

    Attributes:
        lowered: whether `fast` has another precision than `exact`.
        is_copy: whether it stands apart from the caller's model.
        folded: BatchNorm layers that the layers before them compute as well.
        unfolded: why other BatchNorm layers are left, or None where none is.
        exact: logits [B, C] at z [B, *image] in the model's own precision.
        plain: the same in the precision of the search.
        fast: `plain`, for one backward pass each. So is `exact` where passes are captured.
        winograd: convolutions of `fast` that take a quarter of the products.
    """

    def __init__(
        self,
        model: Classifier,
        precision: Precision,
        image: Tensor,  # [0 or 1, *image]
        room: int = 0,
        *,
        compiled: bool = False,
        captured: bool = False,
    ) -> None:
        self._exact: Classifier = model
        self.folded = 0
        self.unfolded: str | None = None
        self.winograd = 0
        if isinstance(model, nn.Module):
            folded = fold_batch_norms(frozen_copy(model), image, model)
            self.folded, self.unfolded = folded.folded, folded.unfolded
            self._exact = channels_last(folded.model, image, model)
        self.is_copy = self._exact is not model
        self._dtype = DTYPES.get(precision)
        self.lowered = self._dtype is not None
        lower: nn.Module | None = None
        if isinstance(self._exact, nn.Module):
            on_cpu = self.is_copy and image.device.type == "cpu"
            if on_cpu:
                replace_grey_convolutions(self._exact)
            if self._dtype is not None:
                lower = self._lower(self._exact, self._dtype)
                if on_cpu and native_bfloat16(image.device):
                    use_im2col(lower)
            if on_cpu and room and not compiled:
                changed = with_winograd_convolutions(self._exact, image, room)
                self._exact = changed.model
                self.winograd = 0 if self.lowered else changed.layers
        self._fast = self._exact if lower is None else lower
        self._image = image[:1]
        few_sizes = self.is_copy and image.device.type == "cpu"
        self.exact: Forward = Passes(self._exact, None, few_sizes=few_sizes)
        self.plain = Passes(
            Compiled(self._fast) if compiled else self._fast,
            self._dtype,
            few_sizes=few_sizes and not compiled,  # one code serves batches of all sizes
            integers=self._dtype == torch.bfloat16
            and not compiled
            and image.device.type == "cpu"
            and native_bfloat16(image.device),
        )
        self.fast: Forward = self.plain
        if captured and self.is_copy and len(image) and can_capture(image.device):
            self.fast = CapturedPasses(self.plain, self._image)
            self.exact = CapturedPasses(self.exact, self._image)

    @functools.cached_property
    def classes(self) -> int:
        """C, from one pass of one image."""
        found: list[int] = []
        with torch.no_grad():
            in_batches(1, 1, lambda begin, end: found.append(self.exact(self._image).shape[1]))
        return found[0]

    @functools.cached_property
    def planned_batch(self) -> int:
        """Candidates per pass, from what one image takes and the memory that is free now."""
        return plan_batch_size(self.fast, self._image)

    @staticmethod
    def _lower(model: nn.Module, dtype: torch.dtype) -> nn.Module:
        """A copy whose products have their weights in `dtype` already, so no step casts them."""
        lowered = frozen_copy(model)
        if lowered is model:
            return model
        for module in lowered.modules():
            if isinstance(module, _WEIGHTED):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)
            if isinstance(module, GreyConv2d):
                module.lower()
        return lowered

    @functools.cached_property
    def copies(self) -> nn.ModuleList:
        """The modules that stand for the caller's model."""
        both = {id(m): m for m in (self._exact, self._fast) if isinstance(m, nn.Module)}
        return nn.ModuleList(both.values())
