"""What a board tells about itself."""
