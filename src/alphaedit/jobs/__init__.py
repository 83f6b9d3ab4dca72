"""What people ask of the package as a whole: edit, evaluate, tune, trace, export, experiment.

A job is one function, `run(request, *, progress, cancel)`: a request and a result are frozen and
typed. The command line parses, checks where it may write, and prints; other front ends call the
same jobs. Modules here are quick to import: what a job needs is imported when it runs.
"""
