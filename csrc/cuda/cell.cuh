// What a thread does for one unit of one row once the recurrent product is there.
#pragma once

#include "../common/cell.h"
#include "lstm_kernels.h"

namespace ulmfit_fast::cuda {

template <typename Acc>
struct Math {
  __device__ static Acc sigmoid(Acc x) { return Acc(1) / (Acc(1) + exp(-x)); }
  __device__ static Acc tanh(Acc x) { return ::tanh(x); }
};

// What a cell takes beside the recurrent product.
template <typename Acc>
struct CellInputs {
  Acc pre[4];  // of the gates, so far
  Acc c;       // of the step before
};

// Of row r of a step and one unit, without c.
template <typename E>
__device__ inline CellInputs<Accumulator<E>> gate_inputs(const ForwardStep<E>& a, int64_t r, int64_t unit) {
  CellInputs<Accumulator<E>> inputs;
  for (int gate = 0; gate < 4; ++gate) {
    const int64_t column = gate * a.hidden + unit;
    inputs.pre[gate] = a.from_input[(a.first_row + r) * 4 * a.hidden + column];
    if (a.bias != nullptr) inputs.pre[gate] += a.bias[column];
  }
  return inputs;
}

template <typename E>
__device__ inline CellInputs<Accumulator<E>> cell_inputs(const ForwardStep<E>& a, int64_t r, int64_t unit) {
  CellInputs<Accumulator<E>> inputs = gate_inputs(a, r, unit);
  inputs.c = a.c[r * a.hidden + unit];
  return inputs;
}

// What a cell gives.
template <typename E>
struct CellResult {
  Gates<Accumulator<E>> gate;
  Accumulator<E> c;
  E h;
};

// `from_state`: h_{t-1} W_hh^T of its four gates.
template <typename E>
__device__ inline CellResult<E> cell_result(const CellInputs<Accumulator<E>>& inputs,
                                            const Accumulator<E> (&from_state)[4]) {
  using Acc = Accumulator<E>;
  Acc pre[4];
  for (int gate = 0; gate < 4; ++gate) pre[gate] = inputs.pre[gate] + from_state[gate];
  CellResult<E> result;
  result.gate = activate<Math<Acc>>(pre[0], pre[1], pre[2], pre[3]);
  result.c = cell_state(result.gate, inputs.c);
  result.h = static_cast<E>(result.gate.o * Math<Acc>::tanh(result.c));
  return result;
}

// All that no later step reads: the output, what backward needs, the pooled state.
template <typename E>
__device__ inline void keep_cell(const ForwardStep<E>& a, int64_t r, int64_t unit, const CellResult<E>& result) {
  using Acc = Accumulator<E>;
  const int64_t index = r * a.hidden + unit, row = a.first_row + r;
  if (a.output != nullptr) a.output[(a.output_row + r) * a.hidden + unit] = result.h;
  if (a.cells != nullptr) a.cells[row * a.hidden + unit] = result.c;
  if (a.gates != nullptr) {
    E* saved = a.gates + row * 4 * a.hidden + unit;
    saved[0] = static_cast<E>(result.gate.i);
    saved[a.hidden] = static_cast<E>(result.gate.f);
    saved[2 * a.hidden] = static_cast<E>(result.gate.g);
    saved[3 * a.hidden] = static_cast<E>(result.gate.o);
  }
  if (a.pool.total == nullptr) return;
  const int64_t step = a.pool.count[r] + a.step;
  if (step < a.pool.pool_from[r]) return;
  const Acc state = static_cast<Acc>(result.h);
  a.pool.total[index] += state;
  if (state > a.pool.maximum[index]) {
    a.pool.maximum[index] = state;
    a.pool.argmax[index] = static_cast<int32_t>(step);
  }
}

template <typename E>
__device__ inline void forward_cell(const ForwardStep<E>& a, int64_t r, int64_t unit,
                                    const CellInputs<Accumulator<E>>& inputs, const Accumulator<E> (&from_state)[4]) {
  const CellResult<E> result = cell_result<E>(inputs, from_state);
  a.c[r * a.hidden + unit] = result.c;
  a.cell_output[r * a.hidden + unit] = result.h;
  keep_cell(a, r, unit, result);
}

}  // namespace ulmfit_fast::cuda
