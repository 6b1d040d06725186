"""From descriptor files to the reduced, scaled matrix."""
