"""The reference of colours: FFmpeg's exact conversion."""

import subprocess

import numpy as np


def ffmpeg_rgb(path, width, height):
    """The first frame by FFmpeg's exact conversion."""
    flags = "accurate_rnd+full_chroma_int+full_chroma_inp+bilinear"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        path,
        "-frames:v",
        "1",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-sws_flags",
        flags,
        "-",
    ]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)
