"""ComfyUI on the same card: a proxy before it, and its share of the card."""
