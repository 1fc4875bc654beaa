"""The host
========

The machine under test, in three rooms: ``facts`` (what is there), ``observe`` (what happens there
during a run) and ``changes`` (what a run changes, and undoes). Each imports those before it alone.
:class:`~kvmtest.host.machine.Machine` has every fact, each looked up once; all files of the host
are reached through a :class:`~kvmtest.host.tree.Tree`.
"""
