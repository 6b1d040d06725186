"""What can be said of a face (glasses, a smile, ...): the format of CelebA, a network, its training and its use."""
