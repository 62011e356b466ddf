"""Building images, and the store that keeps them."""
