"""Statistics of ImageNet's training images, by which images in files are normalised. Imports nothing."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB, scale 0 to 1
MEAN_COLOUR: tuple[int, int, int] = (124, 116, 104)
"""The mean on 0..255, rounded: what fills padding and holes of uint8 images, close to 0 once normalised."""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of RGB values on the scale 0 to 1 (rows R, G, B; a column each), as fb.resnet.torch has them."""
