"""The boundary to C: the only package that imports the extension module."""
