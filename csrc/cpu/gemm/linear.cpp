#include "../../linear.h"

#include <atomic>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "linear_kernel.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kLeastRows = 48;        // of a piece of work: to pack its panel takes as long as some 3 rows
constexpr double kWorkPerThread = 500e3;  // multiply-adds; below it a thread costs more than it saves

template <typename E>
void multiply(const LinearInputs& a, const Tensor& output) {
  const Tensor input = as_contiguous(a.input), weight = as_contiguous(a.weight);
  const OptionalTensor bias = converted(a.bias, state_dtype_of(input));
  const Linear<E> args{a.rows(),
                       a.depth(),
                       a.columns(),
                       a.transposed,
                       elements<E>(input),
                       weight_elements<E>(weight),
                       elements<Accumulator<E>>(bias),
                       mutable_elements<E>(output)};
  const LinearKernels<E>& kernels = linear_kernels<E>();
  const int64_t panels = kernels.panels(args);
  const double work = static_cast<double>(a.rows() + 3) * static_cast<double>(a.depth() * a.columns());
  const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(work / kWorkPerThread));
  // Panels alone, unless there are too few of them to go round evenly.
  int64_t threads = std::min(team_threads(), most), row_parts = 1;
  while (panels * row_parts < 4 * threads && a.rows() / (2 * row_parts) >= kLeastRows) row_parts *= 2;
  threads = std::min(threads, panels * row_parts);
  std::atomic<int64_t> taken{0};
  const int64_t bytes = kernels.scratch(args);
  parallel_for(threads, 1, [&](int64_t, int64_t) {
    const Workspace scratch(bytes);
    for (int64_t i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < panels * row_parts;) {
      const int64_t part = i % row_parts;
      kernels.run(args, i / row_parts, a.rows() * part / row_parts, a.rows() * (part + 1) / row_parts, scratch.data());
    }
  });
}

Tensor linear_cpu(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, bool transposed) {
  const LinearInputs a{input, weight, bias, transposed};
  check_linear(a);
  const Tensor output = new_tensor({a.rows(), a.columns()}, dtype_of(input));
  if (output.numel() == 0) return output;
  for_dtype("ulmfit_fast.ops.linear", dtype_of(input),
            [&]<typename T>() { multiply<typename ElementOf<T>::type>(a, output); });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear_cpu));
}

}  // namespace ulmfit_fast
