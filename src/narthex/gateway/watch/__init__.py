"""What the gateway tells about itself: figures, a line for each request, events, health."""
