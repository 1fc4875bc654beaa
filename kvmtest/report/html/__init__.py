"""HTML: the page of a run, and the matrix page of several runs.

A page is one file, without scripts and without anything from the network. Jinja2, the extra
``html``, escapes all that comes from evidence.
"""
