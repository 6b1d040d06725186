"""The few vector instructions that the compiler does not find in a loop by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # float32 values that one comparison takes; columns of a tile are padded to a multiple


@intrinsic
def reaching(
    _context: Any, tile: Any, at: Any, offsets: Any, thresholds: Any, column: Any, offset: Any, threshold: Any
) -> Any:
    """Compare `LANES` entries of a tile with the thresholds of their row and of their columns.

    Returns a bit mask, uint32: with ``v = (tile[at + b] + offsets[column + b]) + offset``, bit b says whether v is at
    least ``threshold``, and bit ``LANES + b`` whether it is at least ``thresholds[column + b]``. All arrays are
    one-dimensional, contiguous, float32.
    """
    signature = types.uint32(tile, types.intp, offsets, thresholds, types.intp, types.float32, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), LANES)

        def load(argument: int, index: Any) -> Any:
            array = context.make_array(signature.args[argument])(context, builder, arguments[argument])
            pointer = builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())
            values = builder.load(pointer)
            values.align = 4
            return values

        def spread(value: Any) -> Any:
            undefined = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            return builder.shuffle_vector(first, undefined, zeros)

        _, at, _, _, column, offset, threshold = arguments
        values = builder.fadd(builder.fadd(load(0, at), load(2, column)), spread(offset))
        rows = builder.fcmp_ordered(">=", values, spread(threshold))
        columns = builder.fcmp_ordered(">=", values, load(3, column))
        low, high = (builder.zext(builder.bitcast(m, ir.IntType(LANES)), ir.IntType(32)) for m in (rows, columns))
        return builder.or_(low, builder.shl(high, ir.Constant(ir.IntType(32), LANES)))

    return signature, generate


@intrinsic
def lowest_bit(_context: Any, _mask: Any) -> Any:
    """Return the position of the lowest bit that is set in a mask, uint32, that is not zero."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), generate


@intrinsic
def float_bits(_context: Any, _value: Any) -> Any:
    """Return the bits of a float32 as uint32; for values that are not negative they sort as the values do."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def bits_float(_context: Any, _value: Any) -> Any:
    """Return the float32 that has these bits, uint32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _lane_distance(_context: Any, matrix: Any, i: Any, other: Any, j: Any) -> Any:
    """Return the squared distance of row i of one matrix to row j of another, of at least `LANES` columns."""
    signature = types.float64(matrix, types.intp, other, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = ir.FloatType() if signature.args[0].dtype == types.float32 else ir.DoubleType()
        narrow, wide = ir.VectorType(value, LANES), ir.VectorType(ir.DoubleType(), LANES)
        rows = []
        for position in (0, 2):
            array = context.make_array(signature.args[position])(context, builder, arguments[position])
            columns = builder.extract_value(array.shape, 1)
            rows.append(builder.gep(array.data, [builder.mul(arguments[position + 1], columns)]))

        def squares(at: Any) -> Any:
            values = []
            for row in rows:
                loaded = builder.load(builder.bitcast(builder.gep(row, [at]), narrow.as_pointer()))
                loaded.align = 4
                values.append(loaded if value == wide.element else builder.fpext(loaded, wide))
            difference = builder.fsub(*values)
            return builder.fmul(difference, difference)

        intp = columns.type
        total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * LANES))
        lanes = ir.Constant(intp, LANES)
        whole = builder.udiv(columns, lanes)
        with cgutils.for_range(builder, whole) as loop:
            builder.store(builder.fadd(builder.load(total), squares(builder.mul(loop.index, lanes))), total)
        # The last lanes overlap what is counted already: those lanes are zeroed.
        counted = builder.sub(lanes, builder.urem(columns, lanes))
        last = squares(builder.sub(columns, lanes))
        places = ir.Constant(ir.VectorType(intp, LANES), list(range(LANES)))
        undefined = ir.Constant(places.type, ir.Undefined)
        spread = builder.shuffle_vector(
            builder.insert_element(undefined, counted, ir.Constant(ir.IntType(32), 0)),
            undefined,
            ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES),
        )
        new = builder.icmp_unsigned(">=", places, spread)
        vector = builder.fadd(builder.load(total), builder.select(new, last, ir.Constant(wide, [0.0] * LANES)))
        width = LANES
        while width > 1:
            width //= 2
            halves = [
                builder.shuffle_vector(
                    vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
                )
                for start in (0, width)
            ]
            vector = builder.fadd(*halves)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return signature, generate


@intrinsic
def prefetch_row(_context: Any, matrix: Any, i: Any) -> Any:
    """Ask for row i of a matrix, so that it is in the cache when it is needed."""
    signature = types.void(matrix, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        columns = builder.extract_value(array.shape, 1)
        per_line = ir.Constant(columns.type, 64 // (signature.args[0].dtype.bitwidth // 8))
        row = builder.gep(array.data, [builder.mul(arguments[1], columns)])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        lines = builder.udiv(builder.add(columns, builder.sub(per_line, ir.Constant(columns.type, 1))), per_line)
        with cgutils.for_range(builder, lines) as loop:
            address = builder.bitcast(builder.gep(row, [builder.mul(loop.index, per_line)]), byte)
            builder.call(function, [address, *(ir.Constant(number, v) for v in (0, 3, 1))])
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True, inline="always")
def squared_distance(X, i, Y, j):  # type: ignore[no-untyped-def]
    """Return the squared distance of row i of X to row j of Y, float64, from differences.

    The terms are always added in the same order, so a pair has one distance: ``(i, j)`` and ``(j, i)`` agree, and
    every kernel sees the same bits. X and Y are C-contiguous, of one dtype, float32 or float64.
    """
    n_features = X.shape[1]
    if n_features >= LANES:
        return _lane_distance(X, i, Y, j)
    total = 0.0
    for feature in range(n_features):
        difference = np.float64(X[i, feature]) - np.float64(Y[j, feature])
        total += difference * difference
    return total
