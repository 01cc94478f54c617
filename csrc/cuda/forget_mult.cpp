// forget_mult on CUDA: a launch for each run of steps with equally many rows. Nothing waits for the device.
#include "../forget_mult.h"

#include "forget_mult_kernels.h"
#include "geometry.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

using namespace cuda;

template <typename T>
const T* pointer(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

std::vector<QrnnRun> runs_of(const ForgetMultInputs& a) {
  const int64_t* sizes = a.batch_sizes.const_data_ptr<int64_t>();
  std::vector<QrnnRun> runs;
  int64_t row = 0;
  for (int64_t t = 0; t < a.steps() && sizes[t] > 0;) {
    QrnnRun run{t, 0, sizes[t], row, a.hidden(), 1, a.output_gate};
    while (t < a.steps() && sizes[t] == run.rows) ++t;
    run.steps = t - run.first_step;
    run.chunks = scan_chunks(run.columns(), run.steps);
    row += run.steps * run.rows;
    runs.push_back(run);
  }
  return runs;
}

// For whichever run needs most; runs follow each other on one stream.
Tensor scratch_for(const std::vector<QrnnRun>& runs, ScalarType dtype, const Tensor& like) {
  int64_t most = 0;
  for (const QrnnRun& run : runs) most = std::max(most, run.chunks > 1 ? 2 * run.chunks * run.columns() : 0);
  return empty({most}, dtype, like);
}

template <typename E>
ForgetMultResult forward(const ForgetMultInputs& a, const PoolInputs* pool, ForgetMultKept kept) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.gates), state_dtype = state_dtype_of(a.gates);
  const cudaStream_t stream = stream_of(a.gates);
  const std::vector<QrnnRun> runs = runs_of(a);
  const Tensor gates = as_contiguous(a.gates), scratch = scratch_for(runs, state_dtype, a.gates);
  const auto nothing = [&](ScalarType of) { return empty({0}, of, a.gates); };
  const Tensor output = empty({a.rows(), a.hidden()}, dtype, a.gates);
  const Tensor cells = kept.cells ? empty({a.rows(), a.hidden()}, state_dtype, a.gates) : nothing(state_dtype);
  const Tensor h_n = empty({a.batch(), a.hidden()}, dtype, a.gates), c = copied(a.c0, state_dtype);
  PooledState pooled{nothing(ScalarType::Double), nothing(state_dtype), nothing(ScalarType::Int)};
  OptionalTensor count, pool_from;
  if (pool != nullptr) {
    pooled = copied_pool(*pool, state_dtype);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
  }
  for (const QrnnRun& run : runs) {
    forward_run<E>(stream, {run, gates.const_data_ptr<E>(), output.mutable_data_ptr<E>(), h_n.mutable_data_ptr<E>(),
                            kept.cells ? cells.mutable_data_ptr<Acc>() : nullptr, c.mutable_data_ptr<Acc>(),
                            scratch.mutable_data_ptr<Acc>()});
    if (pool == nullptr) continue;
    pool_run<E>(stream, {run, output.const_data_ptr<E>(), pooled.total.mutable_data_ptr<double>(),
                         pooled.maximum.mutable_data_ptr<Acc>(), pooled.argmax.mutable_data_ptr<int32_t>(),
                         count->const_data_ptr<int64_t>(), pool_from->const_data_ptr<int64_t>()});
  }
  return {kept.output ? output : nothing(dtype),
          h_n,
          converted(c, dtype_of(a.c0)),
          cells,
          pooled.total,
          pooled.maximum,
          pooled.argmax};
}

template <typename E>
std::tuple<Tensor, Tensor> backward(const ForgetMultGradients& grads, const ForgetMultInputs& a, const PoolInputs* pool,
                                    int64_t bptt, const Tensor& saved_cells, std::array<bool, 2> needs) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.gates), state_dtype = state_dtype_of(a.gates);
  const cudaStream_t stream = stream_of(a.gates);
  const std::vector<QrnnRun> runs = runs_of(a);
  const Tensor gates = as_contiguous(a.gates), cells = as_contiguous(saved_cells), c0 = converted(a.c0, state_dtype);
  const Tensor scratch = scratch_for(runs, state_dtype, a.gates);
  const OptionalTensor grad_output = converted(grads.output, dtype), grad_h_n = converted(grads.h_n, dtype);
  const Tensor grad_c = grads.c_n.has_value() ? copied(*grads.c_n, state_dtype) : zeros(c0.sizes(), state_dtype, c0);
  const Tensor grad_gates = empty(gates.sizes(), dtype, gates);
  OptionalTensor total, maximum, argmax, count, pool_from;
  if (pool != nullptr) {
    total = converted(pool->total, state_dtype);
    maximum = as_contiguous(pool->maximum);
    argmax = as_contiguous(pool->argmax);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
  }
  for (size_t i = runs.size(); i-- > 0;) {
    const QrnnRun& run = runs[i];
    QrnnBackward<E> args{};
    args.run = run;
    args.going_on = i + 1 < runs.size() ? runs[i + 1].rows : 0;
    args.bptt = bptt;
    args.previous_row = i > 0 ? runs[i - 1].first_row + (runs[i - 1].steps - 1) * runs[i - 1].rows : -1;
    args.gates = gates.const_data_ptr<E>();
    args.cells = cells.const_data_ptr<Acc>();
    args.c0 = c0.const_data_ptr<Acc>();
    args.grad_output = pointer<E>(grad_output);
    args.grad_h_n = pointer<E>(grad_h_n);
    args.grad_total = pointer<Acc>(total);
    args.grad_maximum = pointer<Acc>(maximum);
    args.argmax = pointer<int32_t>(argmax);
    args.count = pointer<int64_t>(count);
    args.pool_from = pointer<int64_t>(pool_from);
    args.grad_c = grad_c.mutable_data_ptr<Acc>();
    args.grad_gates = grad_gates.mutable_data_ptr<E>();
    args.scratch = scratch.mutable_data_ptr<Acc>();
    backward_run<E>(stream, args);
  }
  return {needs[0] ? grad_gates : empty({0}, dtype, gates),
          needs[1] ? converted(grad_c, dtype_of(a.c0)) : empty({0}, dtype_of(a.c0), gates)};
}

ForgetMultResult run_forward(const ForgetMultInputs& a, const PoolInputs* pool, ForgetMultKept kept) {
  const DeviceGuard guard(a.gates);
  return for_dtype("ulmfit_fast.ops.forget_mult", dtype_of(a.gates),
                   [&]<typename T>() { return forward<T>(a, pool, kept); });
}

std::tuple<Tensor, Tensor> run_backward(const ForgetMultGradients& grads, const ForgetMultInputs& a,
                                        const PoolInputs* pool, int64_t bptt, const Tensor& cells,
                                        std::array<bool, 2> needs) {
  const DeviceGuard guard(a.gates);
  return for_dtype("ulmfit_fast.ops.forget_mult_backward", dtype_of(a.gates),
                   [&]<typename T>() { return backward<T>(grads, a, pool, bptt, cells, needs); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("forget_mult", TORCH_BOX(&forget_mult_op<run_forward>));
  m.impl("forget_mult_backward", TORCH_BOX(&forget_mult_backward_op<run_backward>));
}

}  // namespace ulmfit_fast
