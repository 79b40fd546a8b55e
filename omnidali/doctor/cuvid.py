"""NVIDIA's driver and its video decoder, asked through their C interfaces: no package is needed.

Structures and numbers are those of cuviddec.h of the Video Codec SDK 13 and of cuda.h.
"""

import ctypes
from dataclasses import dataclass

CUDA_LIBRARY = "libcuda.so.1"
CODECS = {"mpeg4": 2, "h264": 4, "mjpeg": 5, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
CHROMAS = {"4:2:0": 1, "4:2:2": 2, "4:4:4": 3}
DEPTHS = (8, 10, 12)
_ATTRIBUTES = {"major": 75, "minor": 76, "multiprocessors": 16}


class _Caps(ctypes.Structure):
    """CUVIDDECODECAPS."""

    _fields_ = [
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("depth_above_8", ctypes.c_uint),
        ("reserved1", ctypes.c_uint * 3),
        ("is_supported", ctypes.c_ubyte),
        ("engines", ctypes.c_ubyte),
        ("output_formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_blocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("has_histogram", ctypes.c_ubyte),
        ("counter_depth", ctypes.c_ubyte),
        ("max_bins", ctypes.c_ushort),
        ("reserved3", ctypes.c_uint * 10),
    ]


@dataclass(frozen=True)
class DecoderLimits:
    """What NVDEC takes of a codec, a chroma format and a bit depth.

    Attributes:
        is_supported: whether it decodes it at all; else the others are 0.
        engines: how many NVDECs can.
        smallest: width and height, pixels.
        largest: likewise.
        blocks: most macroblocks of 16x16 pixels of a picture.
    """

    is_supported: bool
    engines: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    blocks: int


class DriverError(RuntimeError):
    """A call of the driver failed."""


class Driver:
    """The driver with a context on one device.

    Args:
        cuda: libcuda, loaded.
        device: number of the device.

    Raises:
        DriverError: if the driver or the device does not work.
    """

    def __init__(self, cuda: ctypes.CDLL, device: int = 0):
        self._cuda = cuda
        self._call("cuInit", 0)
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        self._handle = handle
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._call("cuCtxSetCurrent", context)

    @property
    def cuda_version(self) -> str:
        """The newest CUDA that the driver can run."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    @property
    def device_count(self) -> int:
        """How many devices this process may use."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    @property
    def device_name(self) -> str:
        """Of the device."""
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._handle)
        return name.value.decode(errors="replace")

    @property
    def memory(self) -> int:
        """Bytes of the device."""
        size = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(size), self._handle)
        return size.value

    def attribute(self, name: str) -> int:
        """``major`` and ``minor`` of the compute capability, or ``multiprocessors``."""
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), _ATTRIBUTES[name], self._handle)
        return value.value

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status:
            raise DriverError(f"{name} failed: {self._error_name(status)}")

    def _error_name(self, status: int) -> str:
        text = ctypes.c_char_p()
        failed = self._cuda.cuGetErrorName(status, ctypes.byref(text))
        return f"error {status}" if failed or not text.value else text.value.decode()


def decoder_limits(
    cuvid: ctypes.CDLL, codec: str, chroma: str = "4:2:0", depth: int = 8
) -> DecoderLimits:
    """What NVDEC takes; a :class:`Driver` must have made its context current.

    Args:
        cuvid: libnvcuvid, loaded.
        codec: a key of ``CODECS``.
        chroma: a key of ``CHROMAS``.
        depth: bits of a sample.

    Raises:
        DriverError: if the question fails.
    """
    caps = _Caps(codec=CODECS[codec], chroma=CHROMAS[chroma], depth_above_8=depth - 8)
    status = cuvid.cuvidGetDecoderCaps(ctypes.byref(caps))
    if status:
        raise DriverError(f"cuvidGetDecoderCaps failed: error {status}")
    return DecoderLimits(
        is_supported=bool(caps.is_supported),
        engines=caps.engines,
        smallest=(caps.min_width, caps.min_height),
        largest=(caps.max_width, caps.max_height),
        blocks=caps.max_blocks,
    )
