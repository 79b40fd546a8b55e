"""Values that several packages share."""

# Mean and standard deviation of ImageNet's RGB values on the scale 0..255, as in the reference's
# recipes.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# NVIDIA's decoder of videos, and the setting by which a container gets it.
CUVID_LIBRARY = "libnvcuvid.so.1"
VIDEO_CAPABILITY = "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
