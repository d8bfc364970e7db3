"""Seven whole models and one training step of each: one module per library, with the same names.

``VERSIONS``: what was installed. ``FORMS``: the library's ways of writing a step, by name, each a
pair: a sentence for the report, and ``build(problem) -> Training``, as in ``grid``. ``gradients()``
of a Training returns what the first step found for the weights in ``problem.compared``, in
PyTorch's layout.

The subtle thing is fairness, as in ``sides``: each library gets the quickest form that its users
would write. PyTorch packs what is ragged, JAX masks it and compiles the whole step.
"""
