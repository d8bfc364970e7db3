"""One module per library, each with the same names, so that the worker need not know which it runs.

``VERSIONS``: what was installed; ``FORM``: which of the library's ways of writing it was chosen.
``lstm(data)`` and ``chain(operation, arrays)`` return two functions: ``forward()`` builds the graph
and returns what must live until ``backward(that)``, which returns the loss and the gradients.
``held(forward, data)`` says how many bytes the graph holds between the two.

The subtle thing is fairness: each library gets the quickest form that its users would write, tried
out and named in FORM, never a transcript of ours.
"""
