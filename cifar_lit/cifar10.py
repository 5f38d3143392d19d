"""What CIFAR-10 is: class names in label order, the shape of an image, statistics of the training pixels."""

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
NUM_CLASSES = len(CLASS_NAMES)

IMAGE_SIZE = 32
IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)
"""Height, width, channels (RGB)."""

MEAN = (0.4914, 0.4822, 0.4465)
"""Mean of the training pixels per channel, on the scale 0..1."""

STD = (0.2470, 0.2435, 0.2616)
"""Standard deviation of the training pixels per channel, on the scale 0..1."""
