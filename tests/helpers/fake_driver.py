"""Stand-ins for NVIDIA's driver and its video decoder, as ctypes loads them."""

import ctypes


class FakeCuda:
    """libcuda of a machine with one GPU.

    Args:
        fails: name of a function that fails.
    """

    def __init__(self, fails=None):
        self.fails = fails

    def _set(self, name, pointer, value):
        if name == self.fails:
            return 100
        pointer._obj.value = value
        return 0

    def cuInit(self, flags):
        return 100 if self.fails == "cuInit" else 0

    def cuGetErrorName(self, status, text):
        text._obj.value = b"CUDA_ERROR_NO_DEVICE"
        return 0 if status == 100 else 1

    def cuDeviceGet(self, handle, number):
        return self._set("cuDeviceGet", handle, number)

    def cuDevicePrimaryCtxRetain(self, context, handle):
        return self._set("cuDevicePrimaryCtxRetain", context, 4096)

    def cuCtxSetCurrent(self, context):
        return 0 if context.value == 4096 else 201

    def cuDriverGetVersion(self, version):
        return self._set("cuDriverGetVersion", version, 13010)

    def cuDeviceGetCount(self, count):
        return self._set("cuDeviceGetCount", count, 2)

    def cuDeviceGetName(self, name, size, handle):
        name.value = b"NVIDIA Stand-in"
        return 0

    def cuDeviceTotalMem_v2(self, size, handle):
        return self._set("cuDeviceTotalMem_v2", size, 141 << 30)

    def cuDeviceGetAttribute(self, value, attribute, handle):
        return self._set("cuDeviceGetAttribute", value, {75: 9, 76: 0, 16: 132}[attribute])


class FakeCuvid:
    """libnvcuvid of an H200: no AV1, and 4:4:4 of HEVC alone.

    Args:
        fails_at: number of a codec for which the question fails.
    """

    def __init__(self, fails_at=None):
        self.fails_at = fails_at

    def cuvidGetDecoderCaps(self, pointer):
        caps = pointer._obj
        assert ctypes.sizeof(caps) == 88  # as in NVIDIA's header
        if caps.codec == self.fails_at:
            return 1
        is_known = caps.chroma == 1 or (caps.codec, caps.chroma) == (8, 3)
        has_depth = caps.depth_above_8 == 0 or caps.codec in (8, 10)
        caps.is_supported = is_known and has_depth and caps.codec != 11
        if caps.is_supported:
            caps.engines = 7
            caps.min_width = caps.min_height = 144 if caps.codec == 8 else 48
            caps.max_width = caps.max_height = 8192
            caps.max_blocks = 262144
        return 0
