"""Fuzzing of the parsers that read other people's files.

A harness for each parser is in ``fuzz.harnesses``; ``python -m fuzz`` (``make fuzz``) runs them
under atheris. Without atheris the harnesses work all the same, over one input at a time.
"""
