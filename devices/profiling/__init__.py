"""What `edgernn profile` and `edgernn compare` are made of."""
