"""The seam to C: the only package that imports the extension module."""
