# SPDX-License-Identifier: Apache-2.0
"""Hints about device memory, for programs that run under `greenboost run`.

    import greenboost
    greenboost.pinned(kv_cache)            # never leaves VRAM once there
    greenboost.hot(model.lm_head.weight)   # stays in VRAM as long as there is room
    greenboost.cold(optimizer_state)       # first to leave VRAM
    greenboost.forget(kv_cache)            # takes an earlier hint back

What is hinted: a torch tensor or module, anything with `__cuda_array_interface__` (CuPy, numba), a
JAX array, or a pair (address, bytes). Each call returns True when the hint was taken and False when
it was not: without GreenBoost (`present()` is False then), and for memory that is not its own.
Hints steer; they change no result and promise nothing. Needs nothing but ctypes.
"""

import ctypes

__all__ = ["present", "hot", "cold", "pinned", "forget"]

_NONE, _HOT, _COLD, _PINNED = range(4)


def _find():
    try:
        function = ctypes.CDLL(None).greenboost_hint_v1
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function


_function = _find()


def present():
    """True when this process runs under GreenBoost."""
    return _function is not None


def _dense_bytes(interface):
    shape = interface["shape"]
    item = int(interface["typestr"][2:])
    strides = interface.get("strides")
    if 0 in shape:
        return 0
    if strides is None:
        total = item
        for length in shape:
            total *= length
        return total
    if any(stride < 0 for stride in strides):
        raise ValueError("arrays with negative strides have no single range")
    return item + sum((length - 1) * stride for length, stride in zip(shape, strides))


def _ranges(what):
    """(address, bytes) of every piece of device memory behind `what`."""
    if isinstance(what, tuple) and len(what) == 2 and all(isinstance(part, int) for part in what):
        return [what]
    if callable(getattr(what, "parameters", None)):  # a torch module
        tensors = list(what.parameters()) + list(what.buffers())
        return [piece for tensor in tensors for piece in _ranges(tensor)]
    if callable(getattr(what, "untyped_storage", None)):  # a torch tensor
        if not what.is_cuda:
            return []
        item = what.element_size()
        reach = sum((size - 1) * step for size, step in zip(what.size(), what.stride()))
        return [(what.data_ptr(), (reach + 1) * item if what.numel() > 0 else 0)]
    if callable(getattr(what, "unsafe_buffer_pointer", None)):  # a JAX array on one device
        return [(what.unsafe_buffer_pointer(), what.nbytes)]
    interface = getattr(what, "__cuda_array_interface__", None)
    if interface is not None:
        return [(interface["data"][0], _dense_bytes(interface))]
    raise TypeError(f"{type(what).__name__} is no tensor, module, array or (address, bytes)")


def _hint(what, kind):
    ranges = [piece for piece in _ranges(what) if piece[1] > 0]
    if _function is None or not ranges:
        return False
    taken = [_function(address, size, kind) == 0 for address, size in ranges]
    return all(taken)


def hot(what):
    """Keep in VRAM as long as there is room."""
    return _hint(what, _HOT)


def cold(what):
    """First to leave VRAM."""
    return _hint(what, _COLD)


def pinned(what):
    """Never leaves VRAM once there."""
    return _hint(what, _PINNED)


def forget(what):
    """Takes an earlier hint back."""
    return _hint(what, _NONE)
