// The LSTM's pointwise kernels: one thread owns one unit of one row of one step. Matrix products come from outside.
// Limit: memory bandwidth, and the launches themselves. Deterministic: no thread sums over others.
#include <algorithm>

#include "../common/philox.h"
#include "cell.cuh"
#include "launch.cuh"

namespace ulmfit_fast::cuda {
namespace {

template <typename E>
__global__ void drop_kernel(E* dropped, const E* weight, const int64_t* seed, int64_t seed_value, uint64_t threshold,
                            double scale, int64_t elements) {
  const int64_t counter = thread_index();
  if (counter * 4 >= elements) return;
  uint32_t bits[4];
  philox4x32(static_cast<uint64_t>(seed != nullptr ? *seed : seed_value), static_cast<uint64_t>(counter), bits);
  for (int64_t i = counter * 4; i < elements && i < counter * 4 + 4; ++i) {
    const auto value = static_cast<Accumulator<E>>(weight[i]) * static_cast<Accumulator<E>>(scale);
    dropped[i] = bits[i % 4] >= threshold ? static_cast<E>(value) : static_cast<E>(0);
  }
}

template <typename E>
__global__ void forward_step_kernel(ForwardStep<E> a) {
  const int64_t index = thread_index();
  if (index >= a.rows * a.hidden) return;
  const int64_t r = index / a.hidden, unit = index % a.hidden;
  Accumulator<E> from_state[4];
  for (int gate = 0; gate < 4; ++gate) from_state[gate] = a.from_state[(4 * r + gate) * a.hidden + unit];
  forward_cell(a, r, unit, cell_inputs(a, r, unit), from_state);
}

// A thread's row in one of the groups.
template <int most>
struct Place {
  int64_t position, column;  // position: among the rows of all groups
  const StepRows* group;     // null: beyond the last row
  int64_t r;                 // row of the group, and so the sequence

  __device__ Place(const StepGroups<most>& groups, int64_t width) {
    const int64_t index = thread_index();
    position = groups.groups[0].begin + index / width;
    column = index % width;
    int low = 0, high = groups.count;  // the last group that begins at or before it
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (groups.groups[middle].begin <= position ? low : high) = middle;
    }
    group = position < groups.end ? &groups.groups[low] : nullptr;
    r = position - groups.groups[low].begin;
  }
};

template <typename E>
__device__ Accumulator<E> gradient_of_h(const StateGradient<E>& a, const StepRows& group, int64_t r, int64_t column) {
  using Acc = Accumulator<E>;
  const int64_t row = group.row + r, index = r * a.width + column;
  Acc grad = a.grad_output != nullptr ? static_cast<Acc>(a.grad_output[row * a.width + column]) : Acc(0);
  if (a.argmax != nullptr) {
    const int64_t step = a.count[r] + group.step;
    if (step >= a.pool_from[r]) {
      if (a.grad_total != nullptr) grad += a.grad_total[index];
      if (a.grad_maximum != nullptr && a.argmax[index] == step) grad += a.grad_maximum[index];
    }
  }
  if (r < group.continued) {
    Acc sum = 0;
    for (int64_t part = 0; part < a.parts; ++part)
      sum += a.from_next[part * a.part_elements + (group.next + r) * a.width + column];
    grad += sum * a.scale;
  } else if (r >= group.going_on && a.grad_h_n != nullptr)
    grad += static_cast<Acc>(a.grad_h_n[index]);
  return grad;
}

template <typename E, int most>
__global__ void state_gradient_kernel(const __grid_constant__ StateGradient<E> a, E* packed, E* together,
                                      const __grid_constant__ StepGroups<most> groups) {
  const Place<most> at(groups, a.width);
  if (at.group == nullptr) return;
  const E grad = static_cast<E>(gradient_of_h(a, *at.group, at.r, at.column));
  packed[(at.group->row + at.r) * a.width + at.column] = grad;
  if (together != nullptr) together[at.position * a.width + at.column] = grad;
}

template <typename E>
__device__ void store_gates(E* gates, int64_t hidden, const Gates<Accumulator<E>>& grad) {
  gates[0] = static_cast<E>(grad.i);
  gates[hidden] = static_cast<E>(grad.f);
  gates[2 * hidden] = static_cast<E>(grad.g);
  gates[3 * hidden] = static_cast<E>(grad.o);
}

template <typename E, int most>
__global__ void backward_step_kernel(const __grid_constant__ BackwardStep<E> a,
                                     const __grid_constant__ StepGroups<most> groups) {
  using Acc = Accumulator<E>;
  const int64_t hidden = a.hidden;
  const Place<most> at(groups, hidden);
  if (at.group == nullptr) return;
  const StepRows& group = *at.group;
  const int64_t r = at.r, unit = at.column, row = group.row + r;
  const E* saved = a.gates + row * 4 * hidden + unit;
  const Gates<Acc> gate = {static_cast<Acc>(saved[0]), static_cast<Acc>(saved[hidden]),
                           static_cast<Acc>(saved[2 * hidden]), static_cast<Acc>(saved[3 * hidden])};
  const Acc previous =
      r < group.continuing ? a.cells[(group.previous_row + r) * hidden + unit] : a.c0[r * hidden + unit];
  const Acc grad_output = a.grad_cell_output != nullptr ? a.grad_cell_output[at.position * hidden + unit]
                                                        : gradient_of_h(a.state, group, r, unit);
  Acc* grad_c = a.grad_c + (group.state + r) * hidden + unit;
  Acc from_next = 0;
  if (r < group.continued)
    from_next = *grad_c;
  else if (r >= group.going_on && a.grad_c_n != nullptr)
    from_next = a.grad_c_n[r * hidden + unit];
  const CellGradient<Acc> grad =
      cell_backward<Math<Acc>>(gate, a.cells[row * hidden + unit], previous, grad_output, from_next);
  *grad_c = grad.cell_previous;
  store_gates(a.grad_gates + row * 4 * hidden + unit, hidden, grad.pre_activation);
  if (a.together != nullptr) store_gates(a.together + at.position * 4 * hidden + unit, hidden, grad.pre_activation);
  if (a.first != nullptr && r >= group.continuing)
    store_gates(a.first + r * 4 * hidden + unit, hidden, grad.pre_activation);
}

// launch_groups(groups, rows) for as many groups at a time as a launch takes. Where there is one, its launch carries no
// room for more.
template <typename Launch>
void for_groups(const StepRows* all, int count, int64_t rows, const Launch& launch_groups) {
  const auto launch_some = [&]<int most>(int first, int some) {
    StepGroups<most> groups{};
    groups.count = some;
    groups.end = first + some < count ? all[first + some].begin : rows;
    std::copy_n(all + first, some, groups.groups);
    launch_groups(groups, groups.end - groups.groups[0].begin);
  };
  if (count == 1)
    launch_some.template operator()<1>(0, 1);
  else
    for (int first = 0; first < count; first += kMostGroups)
      launch_some.template operator()<kMostGroups>(first, std::min(kMostGroups, count - first));
}

}  // namespace

template <typename E>
void drop(cudaStream_t stream, E* dropped, const E* weight, const int64_t* seed, int64_t seed_value, uint64_t threshold,
          double scale, int64_t elements) {
  launch(stream, drop_kernel<E>, (elements + 3) / 4, dropped, weight, seed, seed_value, threshold, scale, elements);
}

template <typename E>
void forward_step(cudaStream_t stream, const ForwardStep<E>& step) {
  launch(stream, forward_step_kernel<E>, step.rows * step.hidden, step);
}

template <typename E>
void state_gradient(cudaStream_t stream, const StateGradient<E>& gradient, E* packed, E* together,
                    const StepRows* groups, int count, int64_t rows) {
  for_groups(groups, count, rows, [&]<int most>(const StepGroups<most>& some, int64_t of_them) {
    launch(stream, state_gradient_kernel<E, most>, of_them * gradient.width, gradient, packed, together, some);
  });
}

template <typename E>
void backward_step(cudaStream_t stream, const BackwardStep<E>& step, const StepRows* groups, int count, int64_t rows) {
  for_groups(groups, count, rows, [&]<int most>(const StepGroups<most>& some, int64_t of_them) {
    launch(stream, backward_step_kernel<E, most>, of_them * step.hidden, step, some);
  });
}

#define INSTANTIATE(E)                                                                                        \
  template void drop(cudaStream_t, E*, const E*, const int64_t*, int64_t, uint64_t, double, int64_t);         \
  template void forward_step(cudaStream_t, const ForwardStep<E>&);                                            \
  template void state_gradient(cudaStream_t, const StateGradient<E>&, E*, E*, const StepRows*, int, int64_t); \
  template void backward_step(cudaStream_t, const BackwardStep<E>&, const StepRows*, int, int64_t);
ULMFIT_FOR_ELEMENTS(INSTANTIATE)

}  // namespace ulmfit_fast::cuda
