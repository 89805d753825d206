"""The pages of the reference, and the schema for editors, generated from the code. They are not part of the
proxy. `make docs` writes them, and tests hold the committed files to the code.
"""
