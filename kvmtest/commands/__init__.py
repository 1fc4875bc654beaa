"""The commands
============

A module for each command of ``kvmtest``. Its ``add`` adds the command's parser, and the function
beside it runs the command and returns the exit status. The command line imports all of them at
every start, so that they import at their top only what takes no time.
"""
