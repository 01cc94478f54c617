// The QRNN's recurrence: c_t = f z + (1 - f) c_{t-1}, h_t = o c_t (common/forget_mult.h).
//
// One thread owns one unit of one row and loops over the steps, or over a chunk of them where columns are few. What a
// chunk does to the state that it begins with is c -> decay c + gain: one launch computes these, one runs through the
// chunks, and one computes the chunks, each from its state. Neighbouring threads read neighbouring units. Limit: memory
// bandwidth; with few columns the latency of a chunk's loop. Deterministic: no thread sums over others.
#include "../common/forget_mult.h"
#include "forget_mult_kernels.h"
#include "launch.cuh"

namespace ulmfit_fast::cuda {
namespace {

template <typename Acc>
__device__ Acc sigmoid(Acc x) {
  return Acc(1) / (Acc(1) + exp(-x));
}

// A column, and the steps of a chunk of it.
struct Place {
  int64_t chunk, column, row, unit, begin, end;

  __device__ explicit Place(const QrnnRun& run) {
    const int64_t index = thread_index();
    chunk = index / run.columns();
    column = index % run.columns();
    row = column / run.hidden;
    unit = column % run.hidden;
    begin = run.steps * chunk / run.chunks;
    end = run.steps * (chunk + 1) / run.chunks;
  }
  __device__ bool inside(const QrnnRun& run) const { return chunk < run.chunks; }
};

template <typename E>
__device__ QrnnGates<Accumulator<E>> gates_at(const E* gates, const QrnnRun& run, int64_t row, int64_t unit) {
  using Acc = Accumulator<E>;
  const E* from = gates + row * (run.output_gate ? 3 : 2) * run.hidden + unit;
  return {::tanh(static_cast<Acc>(from[0])), sigmoid(static_cast<Acc>(from[run.hidden])),
          run.output_gate ? sigmoid(static_cast<Acc>(from[2 * run.hidden])) : Acc(1)};
}

__device__ inline int64_t packed_row(const QrnnRun& run, const Place& at, int64_t step) {
  return run.first_row + step * run.rows + at.row;
}

// What each chunk does to the state that it begins with.
template <typename E>
__global__ void forward_summary_kernel(QrnnForward<E> a) {
  using Acc = Accumulator<E>;
  const Place at(a.run);
  if (!at.inside(a.run)) return;
  Acc decay = 1, gain = 0;
  for (int64_t step = at.begin; step < at.end; ++step) {
    const QrnnGates<Acc> gate = gates_at(a.gates, a.run, packed_row(a.run, at, step), at.unit);
    decay *= 1 - gate.f;
    gain = qrnn_cell(gate, gain);
  }
  a.scratch[thread_index()] = decay;
  a.scratch[a.run.chunks * a.run.columns() + thread_index()] = gain;
}

// From these the state that each chunk begins with, in the place of the gain. `backwards`: from the last chunk on.
template <typename Acc>
__global__ void chunk_states_kernel(Acc* scratch, const Acc* first, int64_t columns, int64_t chunks, bool backwards) {
  const int64_t column = thread_index();
  if (column >= columns) return;
  Acc state = first[column];
  for (int64_t i = 0; i < chunks; ++i) {
    const int64_t index = (backwards ? chunks - 1 - i : i) * columns + column;
    const Acc decay = scratch[index];
    Acc* gain = scratch + chunks * columns + index;
    const Acc next = decay * state + *gain;
    *gain = state;
    state = next;
  }
}

template <typename E>
__global__ void forward_kernel(QrnnForward<E> a) {
  using Acc = Accumulator<E>;
  const Place at(a.run);
  if (!at.inside(a.run)) return;
  const int64_t hidden = a.run.hidden;
  Acc cell = a.run.chunks == 1 ? a.c[at.column] : a.scratch[a.run.chunks * a.run.columns() + thread_index()];
  E h = static_cast<E>(Acc(0));
  for (int64_t step = at.begin; step < at.end; ++step) {
    const int64_t row = packed_row(a.run, at, step);
    const QrnnGates<Acc> gate = gates_at(a.gates, a.run, row, at.unit);
    cell = qrnn_cell(gate, cell);
    h = static_cast<E>(gate.o * cell);
    a.output[row * hidden + at.unit] = h;
    if (a.cells != nullptr) a.cells[row * hidden + at.unit] = cell;
  }
  if (at.chunk + 1 < a.run.chunks) return;
  a.c[at.column] = cell;
  a.h_n[at.column] = h;
}

template <typename E>
__global__ void pool_kernel(QrnnPool<E> a) {
  using Acc = Accumulator<E>;
  const int64_t column = thread_index();
  if (column >= a.run.columns()) return;
  const int64_t r = column / a.run.hidden, first = a.count[r] + a.run.first_step, from = a.pool_from[r];
  double total = a.total[column];
  Acc maximum = a.maximum[column];
  int32_t argmax = a.argmax[column];
  for (int64_t step = 0; step < a.run.steps; ++step) {
    if (first + step < from) continue;
    const auto h = static_cast<Acc>(a.output[a.run.first_row * a.run.hidden + step * a.run.columns() + column]);
    total += h;
    if (h > maximum) {
      maximum = h;
      argmax = static_cast<int32_t>(first + step);
    }
  }
  a.total[column] = total;
  a.maximum[column] = maximum;
  a.argmax[column] = argmax;
}

// What flows into h of a step from outside the recurrence.
template <typename E>
__device__ Accumulator<E> grad_of_output(const QrnnBackward<E>& a, const Place& at, int64_t step, int64_t row) {
  using Acc = Accumulator<E>;
  Acc grad = a.grad_output != nullptr ? static_cast<Acc>(a.grad_output[row * a.run.hidden + at.unit]) : Acc(0);
  if (a.grad_h_n != nullptr && step + 1 == a.run.steps && at.row >= a.going_on)
    grad += static_cast<Acc>(a.grad_h_n[at.column]);
  if (a.argmax == nullptr) return grad;
  const int64_t of_document = a.count[at.row] + a.run.first_step + step;
  if (of_document < a.pool_from[at.row]) return grad;
  if (a.grad_total != nullptr) grad += a.grad_total[at.column];
  if (a.grad_maximum != nullptr && a.argmax[at.column] == of_document) grad += a.grad_maximum[at.column];
  return grad;
}

// Whether gradients stop between a step and the one before it.
template <typename E>
__device__ bool cut_before(const QrnnBackward<E>& a, int64_t step) {
  const int64_t t = a.run.first_step + step;
  return a.bptt > 0 && t > 0 && t % a.bptt == 0;
}

template <typename E>
__global__ void backward_summary_kernel(QrnnBackward<E> a) {
  using Acc = Accumulator<E>;
  const Place at(a.run);
  if (!at.inside(a.run)) return;
  Acc decay = 1, gain = 0;
  for (int64_t step = at.end - 1; step >= at.begin; --step) {
    const int64_t row = packed_row(a.run, at, step);
    const QrnnGates<Acc> gate = gates_at(a.gates, a.run, row, at.unit);
    const Acc kept = cut_before(a, step) ? Acc(0) : 1 - gate.f;
    gain = kept * (gain + gate.o * grad_of_output(a, at, step, row));
    decay *= kept;
  }
  a.scratch[thread_index()] = decay;
  a.scratch[a.run.chunks * a.run.columns() + thread_index()] = gain;
}

template <typename E>
__global__ void backward_kernel(QrnnBackward<E> a) {
  using Acc = Accumulator<E>;
  const Place at(a.run);
  if (!at.inside(a.run)) return;
  const int64_t hidden = a.run.hidden;
  Acc grad_c = a.run.chunks == 1 ? a.grad_c[at.column] : a.scratch[a.run.chunks * a.run.columns() + thread_index()];
  for (int64_t step = at.end - 1; step >= at.begin; --step) {
    const int64_t row = packed_row(a.run, at, step);
    Acc previous;
    if (step > 0)
      previous = a.cells[(row - a.run.rows) * hidden + at.unit];
    else if (a.previous_row >= 0)
      previous = a.cells[(a.previous_row + at.row) * hidden + at.unit];
    else
      previous = a.c0[at.column];
    const QrnnGradient<Acc> grad =
        qrnn_backward(gates_at(a.gates, a.run, row, at.unit), a.cells[row * hidden + at.unit], previous,
                      grad_of_output(a, at, step, row), grad_c);
    E* to = a.grad_gates + row * (a.run.output_gate ? 3 : 2) * hidden + at.unit;
    to[0] = static_cast<E>(grad.z);
    to[hidden] = static_cast<E>(grad.f);
    if (a.run.output_gate) to[2 * hidden] = static_cast<E>(grad.o);
    grad_c = cut_before(a, step) ? Acc(0) : grad.cell_previous;
  }
  if (at.chunk == 0) a.grad_c[at.column] = grad_c;
}

}  // namespace

template <typename E>
void forward_run(cudaStream_t stream, const QrnnForward<E>& run) {
  const int64_t columns = run.run.columns(), chunks = run.run.chunks;
  if (chunks > 1) {
    launch(stream, forward_summary_kernel<E>, chunks * columns, run);
    launch(stream, chunk_states_kernel<Accumulator<E>>, columns, run.scratch, run.c, columns, chunks, false);
  }
  launch(stream, forward_kernel<E>, chunks * columns, run);
}

template <typename E>
void pool_run(cudaStream_t stream, const QrnnPool<E>& run) {
  launch(stream, pool_kernel<E>, run.run.columns(), run);
}

template <typename E>
void backward_run(cudaStream_t stream, const QrnnBackward<E>& run) {
  const int64_t columns = run.run.columns(), chunks = run.run.chunks;
  if (chunks > 1) {
    launch(stream, backward_summary_kernel<E>, chunks * columns, run);
    launch(stream, chunk_states_kernel<Accumulator<E>>, columns, run.scratch, run.grad_c, columns, chunks, true);
  }
  launch(stream, backward_kernel<E>, chunks * columns, run);
}

#define INSTANTIATE(E)                                            \
  template void forward_run(cudaStream_t, const QrnnForward<E>&); \
  template void pool_run(cudaStream_t, const QrnnPool<E>&);       \
  template void backward_run(cudaStream_t, const QrnnBackward<E>&);
ULMFIT_FOR_ELEMENTS(INSTANTIATE)

}  // namespace ulmfit_fast::cuda
