"""Which failures mean that memory ran out; every library says it in its own way."""

from typing import Final

from osamd.errors import OutOfMemoryError

# ONNX Runtime's arena, its allocation on the CPU and on CUDA, the driver, C++ and OpenCV.
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
# Messages can quote what a caller sent; where it failed stands in front.
LOOKED_AT: Final = 2000


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this failure, or what it was raised from, says that memory ran out."""
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
    # Only native libraries speak of it in words; an error of ours is what it says it is.
    is_native = type(error).__module__.partition(".")[0] in {"onnxruntime", "cv2"} or type(error) is RuntimeError
    text = str(error)[:LOOKED_AT].lower()
    return is_native and any(sign in text for sign in SIGNS)
