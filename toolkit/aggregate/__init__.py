"""From the labels of images to one image per cluster."""
