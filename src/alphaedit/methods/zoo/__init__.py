"""One file a method; a method is found here by its name."""
