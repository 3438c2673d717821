"""Who gets the card next: pure, driven by events, and tested without a clock."""
