// The LSTM's pointwise kernels: one thread owns one unit of one row of one step. Matrix products come from outside.
// Limit: memory bandwidth, and the launches themselves. Deterministic: no thread sums over others.
#include "../common/cell.h"
#include "../common/philox.h"
#include "launch.cuh"
#include "lstm_kernels.h"

namespace ulmfit_fast::cuda {
namespace {

template <typename Acc>
struct Math {
  __device__ static Acc sigmoid(Acc x) { return Acc(1) / (Acc(1) + exp(-x)); }
  __device__ static Acc tanh(Acc x) { return ::tanh(x); }
};

template <typename E>
__global__ void drop_kernel(E* dropped, const E* weight, const int64_t* seed, uint64_t threshold, double scale,
                            int64_t elements) {
  const int64_t counter = thread_index();
  if (counter * 4 >= elements) return;
  uint32_t bits[4];
  philox4x32(static_cast<uint64_t>(*seed), static_cast<uint64_t>(counter), bits);
  for (int64_t i = counter * 4; i < elements && i < counter * 4 + 4; ++i) {
    const auto value = static_cast<Accumulator<E>>(weight[i]) * static_cast<Accumulator<E>>(scale);
    dropped[i] = bits[i % 4] >= threshold ? static_cast<E>(value) : static_cast<E>(0);
  }
}

template <typename E>
__global__ void forward_step_kernel(ForwardStep<E> a) {
  using Acc = Accumulator<E>;
  const int64_t index = thread_index();
  if (index >= a.rows * a.hidden) return;
  const int64_t r = index / a.hidden, unit = index % a.hidden, row = a.first_row + r;
  Acc pre[4];
  for (int gate = 0; gate < 4; ++gate) {
    const int64_t column = gate * a.hidden + unit;
    pre[gate] = a.from_input[row * 4 * a.hidden + column] + a.from_state[r * 4 * a.hidden + column];
    if (a.bias != nullptr) pre[gate] += a.bias[column];
  }
  const Gates<Acc> gate = activate<Math<Acc>>(pre[0], pre[1], pre[2], pre[3]);
  const Acc cell = cell_state(gate, a.c[index]);
  const E h = static_cast<E>(gate.o * Math<Acc>::tanh(cell));
  a.c[index] = cell;
  a.cell_output[index] = h;
  if (a.output != nullptr) a.output[row * a.hidden + unit] = h;
  if (a.cells != nullptr) a.cells[row * a.hidden + unit] = cell;
  if (a.gates != nullptr) {
    E* saved = a.gates + row * 4 * a.hidden + unit;
    saved[0] = static_cast<E>(gate.i);
    saved[a.hidden] = static_cast<E>(gate.f);
    saved[2 * a.hidden] = static_cast<E>(gate.g);
    saved[3 * a.hidden] = static_cast<E>(gate.o);
  }
  if (a.pool.total == nullptr) return;
  const int64_t step = a.pool.count[r] + a.step;
  if (step < a.pool.pool_from[r]) return;
  const Acc state = static_cast<Acc>(h);
  a.pool.total[index] += state;
  if (state > a.pool.maximum[index]) {
    a.pool.maximum[index] = state;
    a.pool.argmax[index] = static_cast<int32_t>(step);
  }
}

template <typename E>
__global__ void state_gradient_kernel(StateGradient<E> a) {
  using Acc = Accumulator<E>;
  const int64_t index = thread_index();
  if (index >= a.rows * a.width) return;
  const int64_t r = index / a.width, row = a.first_row + r, column = index % a.width;
  Acc grad = a.grad_output != nullptr ? static_cast<Acc>(a.grad_output[row * a.width + column]) : Acc(0);
  if (a.argmax != nullptr) {
    const int64_t step = a.count[r] + a.step;
    if (step >= a.pool_from[r]) {
      if (a.grad_total != nullptr) grad += a.grad_total[index];
      if (a.grad_maximum != nullptr && a.argmax[index] == step) grad += a.grad_maximum[index];
    }
  }
  if (r >= a.continued) {
    if (a.grad_h_n != nullptr) grad += static_cast<Acc>(a.grad_h_n[index]);
  } else if (a.from_next != nullptr) {
    grad += a.from_next[index];
  }
  a.grad_h[index] = grad;
  if (a.stored != nullptr) a.stored[row * a.width + column] = static_cast<E>(grad);
}

template <typename E>
__global__ void backward_step_kernel(BackwardStep<E> a) {
  using Acc = Accumulator<E>;
  const int64_t index = thread_index();
  if (index >= a.rows * a.hidden) return;
  const int64_t r = index / a.hidden, unit = index % a.hidden, row = a.first_row + r;
  const E* saved = a.gates + row * 4 * a.hidden + unit;
  const Gates<Acc> gate = {static_cast<Acc>(saved[0]), static_cast<Acc>(saved[a.hidden]),
                           static_cast<Acc>(saved[2 * a.hidden]), static_cast<Acc>(saved[3 * a.hidden])};
  const Acc previous = r < a.continuing ? a.cells[(a.previous_row + r) * a.hidden + unit] : a.c0[index];
  const Acc from_next = r < a.cut_rows ? Acc(0) : a.grad_c[index];
  const CellGradient<Acc> grad =
      cell_backward<Math<Acc>>(gate, a.cells[row * a.hidden + unit], previous, a.grad_cell_output[index], from_next);
  a.grad_c[index] = grad.cell_previous;
  E* out = a.grad_gates + row * 4 * a.hidden + unit;
  out[0] = static_cast<E>(grad.pre_activation.i);
  out[a.hidden] = static_cast<E>(grad.pre_activation.f);
  out[2 * a.hidden] = static_cast<E>(grad.pre_activation.g);
  out[3 * a.hidden] = static_cast<E>(grad.pre_activation.o);
}

}  // namespace

template <typename E>
void drop(cudaStream_t stream, E* dropped, const E* weight, const int64_t* seed, uint64_t threshold, double scale,
          int64_t elements) {
  launch(stream, drop_kernel<E>, (elements + 3) / 4, dropped, weight, seed, threshold, scale, elements);
}

template <typename E>
void forward_step(cudaStream_t stream, const ForwardStep<E>& step) {
  launch(stream, forward_step_kernel<E>, step.rows * step.hidden, step);
}

template <typename E>
void state_gradient(cudaStream_t stream, const StateGradient<E>& gradient) {
  launch(stream, state_gradient_kernel<E>, gradient.rows * gradient.width, gradient);
}

template <typename E>
void backward_step(cudaStream_t stream, const BackwardStep<E>& step) {
  launch(stream, backward_step_kernel<E>, step.rows * step.hidden, step);
}

#define INSTANTIATE(E)                                                                       \
  template void drop(cudaStream_t, E*, const E*, const int64_t*, uint64_t, double, int64_t); \
  template void forward_step(cudaStream_t, const ForwardStep<E>&);                           \
  template void state_gradient(cudaStream_t, const StateGradient<E>&);                       \
  template void backward_step(cudaStream_t, const BackwardStep<E>&);
ULMFIT_FOR_ELEMENTS(INSTANTIATE)

}  // namespace ulmfit_fast::cuda
