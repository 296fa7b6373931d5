"""Where events go, one file each."""
