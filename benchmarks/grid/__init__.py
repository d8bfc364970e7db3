"""The grid of recurrent training steps: one module per library, each with the same names.

``VERSIONS``: what was installed. ``FORMS``: the library's ways of writing it, by name, each a pair:
a sentence for the report, and ``build(problem) -> Training``, two functions. ``step()`` trains once
and returns the loss; ``gradients()``, called after the first step, returns what that found, in the
layout of ``problem.py``. A module may add ``remark(form, problem)``, on what a form came to, and
``look_up(problem)``, the seconds that its cache takes.

The subtle thing is fairness, as in ``sides``: each library gets the quickest form that its users
would write. Where that depends on the machine or the size, the worker tries both.
"""
