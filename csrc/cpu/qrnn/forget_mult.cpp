#include "../../forget_mult.h"

#include <atomic>
#include <numeric>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "forget_mult_kernel.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kStateBytes = 256 << 10;       // of a piece's running states, which stay in L2
constexpr int64_t kLeastUnits = 64;              // of a piece: shorter runs of memory are read slowly
constexpr int64_t kPiecesPerThread = 3;          // cores are not always equally fast
constexpr int64_t kElementsPerThread = 1 << 14;  // below this a thread costs more than it saves

int64_t parts(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

// work(piece) for pieces that together are all columns, on whichever thread is free. Whole rows where there are enough
// of them: a thread then reads memory in one stream.
template <typename Work>
void for_columns(const ForgetMultSizes& s, int64_t rows, int64_t lanes, int64_t state_bytes, const Work& work) {
  if (rows == 0) return;
  int64_t threads = std::min(team_threads(), std::max<int64_t>(1, rows * s.hidden / kElementsPerThread));
  const int64_t wanted = threads == 1 ? 1 : threads * kPiecesPerThread;
  const int64_t fitting = std::max<int64_t>(1, kStateBytes / (s.hidden * state_bytes));
  const int64_t row_parts = std::min(s.batch, std::max(parts(s.batch, fitting), wanted));
  const int64_t vectors = parts(s.hidden, lanes);
  const int64_t unit_parts = std::max<int64_t>(1, std::min(parts(wanted, row_parts), s.hidden / kLeastUnits));
  const int64_t pieces = unit_parts * row_parts;
  threads = std::min(threads, pieces);
  std::atomic<int64_t> taken{0};
  parallel_for(threads, 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
      const int64_t r = i / unit_parts, u = i % unit_parts;  // the longest sequences first
      work(Columns{s.batch * r / row_parts, s.batch * (r + 1) / row_parts, vectors * u / unit_parts * lanes,
                   std::min(s.hidden, vectors * (u + 1) / unit_parts * lanes)});
    }
  });
}

ForgetMultSizes make_sizes(const ForgetMultInputs& a, const std::vector<int64_t>& offsets) {
  return {a.steps(), a.batch(), a.hidden(), elements<int64_t>(a.batch_sizes), offsets.data(), a.output_gate};
}

template <typename E>
ForgetMultResult forward(const ForgetMultInputs& a, const PoolInputs* pool, ForgetMultKept kept) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.gates), state_dtype = state_dtype_of(a.gates);
  const std::vector<int64_t> offsets = row_offsets(a.batch_sizes);
  const Tensor gates = as_contiguous(a.gates);
  const auto when = [&](bool wanted, ScalarType of) {
    return new_tensor(wanted ? Shape({a.rows(), a.hidden()}) : Shape({0}), of);
  };
  const Tensor output = when(kept.output, dtype), cells = when(kept.cells, state_dtype);
  const Tensor h_n = new_tensor({a.batch(), a.hidden()}, dtype), c = copied(a.c0, state_dtype);
  ForgetMultForward<E> args{};
  args.sizes = make_sizes(a, offsets);
  args.gates = elements<E>(gates);
  args.output = kept.output ? mutable_elements<E>(output) : nullptr;
  args.h_n = mutable_elements<E>(h_n);
  args.cells = kept.cells ? mutable_elements<Acc>(cells) : nullptr;
  args.c = mutable_elements<Acc>(c);
  PooledState pooled{new_tensor({0}, ScalarType::Double), new_tensor({0}, state_dtype),
                     new_tensor({0}, ScalarType::Int)};
  OptionalTensor count, pool_from;
  if (pool != nullptr) {
    pooled = copied_pool(*pool, state_dtype);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
    args.pool = {mutable_elements<double>(pooled.total), mutable_elements<Acc>(pooled.maximum),
                 mutable_elements<int32_t>(pooled.argmax), elements<int64_t>(count), elements<int64_t>(pool_from)};
  }
  const ForgetMultKernels<E>& kernels = forget_mult_kernels<E>();
  for_columns(args.sizes, a.rows(), kernels.lanes, sizeof(Acc),
              [&](const Columns& piece) { kernels.forward(args, piece); });
  return {output, h_n, converted(c, dtype_of(a.c0)), cells, pooled.total, pooled.maximum, pooled.argmax};
}

template <typename E>
std::tuple<Tensor, Tensor> backward(const ForgetMultGradients& grads, const ForgetMultInputs& a, const PoolInputs* pool,
                                    int64_t bptt, const Tensor& saved_cells, std::array<bool, 2> needs) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.gates), state_dtype = state_dtype_of(a.gates);
  const std::vector<int64_t> offsets = row_offsets(a.batch_sizes);
  const Tensor gates = as_contiguous(a.gates), cells = as_contiguous(saved_cells), c0 = converted(a.c0, state_dtype);
  const OptionalTensor grad_output = converted(grads.output, dtype), grad_h_n = converted(grads.h_n, dtype);
  const Tensor grad_c = grads.c_n.has_value() ? copied(*grads.c_n, state_dtype) : zeros(c0.sizes(), state_dtype, c0);
  const Tensor grad_gates = new_tensor(gates.sizes(), dtype);
  ForgetMultBackward<E> args{};
  args.sizes = make_sizes(a, offsets);
  args.bptt = bptt;
  args.gates = elements<E>(gates);
  args.cells = elements<Acc>(cells);
  args.c0 = elements<Acc>(c0);
  args.grad_output = elements<E>(grad_output);
  args.grad_h_n = elements<E>(grad_h_n);
  args.grad_c = mutable_elements<Acc>(grad_c);
  args.grad_gates = mutable_elements<E>(grad_gates);
  OptionalTensor total, maximum, argmax, count, pool_from;
  std::vector<int64_t> document(a.batch());
  if (pool != nullptr) {
    std::iota(document.begin(), document.end(), 0);
    total = converted(pool->total, state_dtype);
    maximum = as_contiguous(pool->maximum);
    argmax = as_contiguous(pool->argmax);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
    args.pool = {elements<Acc>(total), elements<Acc>(maximum),   elements<int32_t>(argmax),
                 document.data(),      elements<int64_t>(count), elements<int64_t>(pool_from)};
  }
  const ForgetMultKernels<E>& kernels = forget_mult_kernels<E>();
  for_columns(args.sizes, a.rows(), kernels.lanes, sizeof(Acc),
              [&](const Columns& piece) { kernels.backward(args, piece); });
  return {needs[0] ? grad_gates : new_tensor({0}, dtype),
          needs[1] ? converted(grad_c, dtype_of(a.c0)) : new_tensor({0}, dtype_of(a.c0))};
}

ForgetMultResult run_forward(const ForgetMultInputs& a, const PoolInputs* pool, ForgetMultKept kept) {
  return for_dtype("ulmfit_fast.ops.forget_mult", dtype_of(a.gates),
                   [&]<typename T>() { return forward<typename ElementOf<T>::type>(a, pool, kept); });
}

std::tuple<Tensor, Tensor> run_backward(const ForgetMultGradients& grads, const ForgetMultInputs& a,
                                        const PoolInputs* pool, int64_t bptt, const Tensor& cells,
                                        std::array<bool, 2> needs) {
  return for_dtype("ulmfit_fast.ops.forget_mult_backward", dtype_of(a.gates), [&]<typename T>() {
    return backward<typename ElementOf<T>::type>(grads, a, pool, bptt, cells, needs);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("forget_mult", TORCH_BOX(&forget_mult_op<run_forward>));
  m.impl("forget_mult_backward", TORCH_BOX(&forget_mult_backward_op<run_backward>));
}

}  // namespace ulmfit_fast
