"""The pipeline: a traced step, its derivative, passes, loops, storage, and a program, in order.

Each pass is a function ``Graph -> Graph``, and ``SIMPLIFY`` and ``FUSE`` are their order; what is
no longer needed drops out, since nothing reads it. Where machine code is to be had, the graph is
first made into fewer and larger pieces of work; a graph of which kernels can do no loop stays as
NumPy does it best.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..kernels import settings
from ..kernels.machine import Machine, NotCompiled, machine_of, threads, warn_once
from . import storage
from .emit.program import Program, write
from .ir import Graph
from .passes.distribute import distribute
from .passes.fuse import copy_irregular, fuse_into_loops, push_slices, put_products_first
from .passes.rows import Proof, prove
from .passes.rowwise import Rowwise, fuse_rows, pick_early, sum_places
from .passes.schedule import Scheduled, schedule_loops
from .passes.simplify import (
    canonicalize,
    fold_constants,
    own_carries,
    put_rows_in_front,
    subtract_negatives,
)
from .passes.slices import join_slices
from .passes.turn import put_rows_first
from .plan import Plan
from .stages import ONCE
from .trace import Step, Wanted, derive, differentiable

SIMPLIFY = (
    canonicalize,
    put_rows_in_front,
    fold_constants,
    join_slices,
    fold_constants,
    join_slices,
    subtract_negatives,
    own_carries,
)
FUSE = (put_products_first, push_slices, copy_irregular)
ROWWISE = (pick_early, sum_places)


def through(passes: Sequence[Callable[[Graph], Graph]], graph: Graph) -> Graph:
    """A graph after passes."""
    for each in passes:
        graph = each(graph)
    return graph


def compile_step(
    step: Step,
    wanted: Wanted,
    rows: int | None,
    ragged: bool,
    no_kernels: str | None = None,
) -> Plan:
    """The plan of a traced step; ``no_kernels`` is a reason to do without machine code.

    Raises Mixed for rows that end at steps of their own and are not independent.
    """
    start = time.perf_counter()
    machine = machine_of(step.trace.backend)
    assert machine is not None  # whoever traced the step has seen to it
    traced = step.graph
    depends = differentiable(traced, wanted, ragged)
    no_kernels = no_kernels or why_not(traced, machine)
    if no_kernels is None:
        step = step._replace(graph=put_rows_first(traced, rows))
    graph = derive(step, wanted) if any(depends) else step.graph
    graph = through(SIMPLIFY, graph)
    loops = Scheduled({}, [])
    if no_kernels is None:
        fused = through(FUSE, graph)
        proof = prove(fused, rows, ragged)
        if proof.mixed is None:
            distribution = distribute(fused, proof.extents, ragged, by_kernels=True)
            distribution = fuse_into_loops(distribution, machine.compiler)
            loops = schedule_loops(distribution, machine.compiler)
    if not loops.schedules:
        proof = prove(graph, rows, ragged)
        if ragged and proof.mixed is not None:
            raise proof.mixed
        distribution = distribute(graph, proof.extents, ragged)
    places = storage.assign(distribution, loops)
    program = write(distribution, loops, places, step.trace.backend)
    try:
        functions = functions_of(program, machine)
    except NotCompiled as error:
        again = step._replace(graph=traced)
        return compile_step(again, wanted, rows, ragged, warn_once(str(error)))
    return Plan(
        graph=traced,
        output=step.output,
        draws=step.trace.draws,
        constants=step.trace.constants,
        backend=step.trace.backend,
        wanted=wanted,
        depends=depends,
        rows=rows,
        proof=proof,
        distribution=distribution,
        scheduled=loops,
        storage=places,
        program=program,
        functions=functions,
        machine=machine,
        no_kernels=no_kernels,
        preparation_seconds=time.perf_counter() - start,
    )


def compile_function(step: Step, wanted: Wanted) -> Plan:
    """The plan of a traced function: of a step that there is one of.

    Every array is there once, and captured ones are arguments like the others.
    """
    start = time.perf_counter()
    machine = machine_of(step.trace.backend)
    assert machine is not None  # whoever traced the function has seen to it
    depends = differentiable(step.graph, wanted, False)
    graph = derive(step, wanted) if any(depends) else step.graph
    graph = replace(graph, dxs=(*graph.dxs, *graph.dcaptured), dcaptured=())
    graph = through(SIMPLIFY, graph)
    no_kernels = why_not(graph, machine)
    if no_kernels is None:
        graph = through(ROWWISE, graph)
    extents = dict.fromkeys(graph.values(), ONCE)
    if no_kernels is None:
        cheap = Rowwise(graph.values(), machine.compiler).cheap
        distribution = fuse_rows(distribute(graph, extents, False, cheap=cheap), machine.compiler)
    else:
        distribution = distribute(graph, extents, False)
    loops = Scheduled({}, [])
    places = storage.assign(distribution, loops, whole=True)
    program = write(distribution, loops, places, step.trace.backend, whole=True)
    return Plan(
        graph=step.graph,
        output=step.output,
        draws=step.trace.draws,
        constants=step.trace.constants,
        backend=step.trace.backend,
        wanted=wanted,
        depends=depends,
        rows=None,
        proof=Proof(extents, None),
        distribution=distribution,
        scheduled=loops,
        storage=places,
        program=program,
        functions=functions_of(program, machine),
        machine=machine,
        no_kernels=no_kernels,
        whole=True,
        preparation_seconds=time.perf_counter() - start,
    )


def why_not(graph: Graph, machine: Machine) -> str | None:
    """None if the loops of a graph may be machine code, else the reason why not."""
    if settings.switch("TINYGRAD_RNN_JIT") is False:
        return f"TINYGRAD_RNN_JIT={os.environ['TINYGRAD_RNN_JIT']} asks for the NumPy program"
    floating = machine.compiler.DTYPES - {"bool"}
    if not any(value.dtype.name in floating for value in graph.results):
        return f"kernels are for {' and '.join(sorted(floating))}"
    reason = machine.compiler.available()
    return None if reason is None else warn_once(reason)


def functions_of(program: Program, machine: Machine) -> dict[str, Any]:
    """The functions of a program; raises NotCompiled if its loops do not compile."""
    names: dict[str, Any] = {"np": machine.np, "inf": math.inf, "nan": math.nan, **program.given}
    if program.loops:
        try:
            loops = machine.compiler.compile(program.loops)
        except Exception as error:  # of many kinds: the compiler's own
            raise NotCompiled(f"{type(error).__name__}: {error}") from error
        names |= {f"loop_{number}": loop for number, loop in enumerate(loops)}
        names["threads"], names["gemm"] = threads, machine.gemm
    exec(compile(program.source, "<plan>", "exec"), names)
    # Taken out of what they know by name, or plan and code would go with the garbage collector.
    return {name: names.pop(name) for name in ("forward", "backward") if name in names}
