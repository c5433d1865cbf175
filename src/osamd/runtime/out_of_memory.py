"""Recognise out-of-memory failures, which every library reports differently."""

from typing import Final

from osamd.errors import OutOfMemoryError

# From ONNX Runtime's arena, CPU and CUDA allocators, the driver, C++ and OpenCV.
SIGNS: Final = (
    "failed to allocate memory",
    "available memory of",
    "out of memory",
    "cudaerrormemoryallocation",
    "cuda failure 2:",
    "bad_alloc",
    "bad allocation",
    "insufficient memory",
)
# Messages may quote input from the caller; the reason comes first.
LOOKED_AT: Final = 2000


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this failure, or its cause, is an out-of-memory error."""
    seen: set[int] = set()
    failure: BaseException | None = error
    while failure is not None and id(failure) not in seen:
        if _says_so(failure):
            return True
        seen.add(id(failure))
        failure = failure.__cause__
    return False


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    # Only native libraries report it as text; osamd's own errors have a type.
    is_native = type(error).__module__.partition(".")[0] in {"onnxruntime", "cv2"} or type(error) is RuntimeError
    text = str(error)[:LOOKED_AT].lower()
    return is_native and any(sign in text for sign in SIGNS)
