"""From photographs to descriptor files: faces found, cropped, aligned, embedded."""
