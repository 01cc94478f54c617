// Rows are copied and added by torch's threads; there is little to compute and much to move. Limit: memory bandwidth.
#include "../../embedding.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

#include "../runtime/elements.h"
#include "../runtime/memory.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kElementsPerTask = 1 << 15;
constexpr int64_t kFeaturesPerTask = 64;  // of backward: whole cache lines

// Sums and masks of rows in scalar_t.
template <typename T>
using Wide = Accumulator<typename ElementOf<T>::type>;

void check_tokens(const at::Tensor& tokens, int64_t known) {
  const auto* token = elements<int64_t>(tokens);
  for (int64_t n = 0; n < tokens.numel(); ++n)
    TORCH_CHECK_INDEX(token[n] >= 0 && token[n] < known, "ulmfit_fast.ops.embedding: tokens[", n, "] must be in [0, ",
                      known, "), got ", token[n]);
}

at::Tensor embedding_cpu(const at::Tensor& tokens, const at::Tensor& weight, const OptionalTensor& mask) {
  check_embedding("ulmfit_fast.ops.embedding", tokens, weight, mask);
  const at::Tensor ids = tokens.contiguous(), from = weight.contiguous();
  const at::Tensor scale = mask.has_value() ? mask->contiguous() : at::Tensor();
  check_tokens(ids, weight.size(0));
  const int64_t features = from.size(1);
  const at::Tensor output = new_tensor({ids.size(0), features}, from.options());
  ULMFIT_DISPATCH("ulmfit_fast.ops.embedding", from.scalar_type(), [&] {
    const auto* token = elements<int64_t>(ids);
    const auto* row = elements<scalar_t>(from);
    const auto* by = elements<Wide<scalar_t>>(scale);
    auto* to = mutable_elements<scalar_t>(output);
    at::parallel_for(0, ids.size(0), std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(features, 1)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t n = begin; n < end; ++n) {
                         const scalar_t* x = row + token[n] * features;
                         scalar_t* out = to + n * features;
                         if (by == nullptr) {
                           std::memcpy(out, x, features * sizeof(scalar_t));
                           continue;
                         }
                         const Wide<scalar_t> factor = by[token[n]];
                         for (int64_t j = 0; j < features; ++j)
                           out[j] = static_cast<scalar_t>(static_cast<Wide<scalar_t>>(x[j]) * factor);
                       }
                     });
  });
  return output;
}

// A thread owns some of the features: of every token it adds the rows in order.
at::Tensor embedding_backward_cpu(const at::Tensor& grad, const at::Tensor& tokens, const OptionalTensor& mask,
                                  int64_t known) {
  constexpr const char* kFunction = "ulmfit_fast.ops.embedding_backward";
  check_embedding_backward(grad, tokens, mask, known);
  const at::Tensor ids = tokens.contiguous(), from = grad.contiguous();
  const at::Tensor scale = mask.has_value() ? mask->contiguous() : at::Tensor();
  check_tokens(ids, known);
  const int64_t features = from.size(1);
  const at::Tensor result = new_tensor({known, features}, from.options());
  ULMFIT_DISPATCH(kFunction, from.scalar_type(), [&] {
    using Acc = Wide<scalar_t>;
    const auto* token = elements<int64_t>(ids);
    const auto* row = elements<scalar_t>(from);
    const auto* by = elements<Acc>(scale);
    // Sums of half precision rows are float32 until all are in.
    at::Tensor sums = result;
    if constexpr (!std::is_same_v<Acc, scalar_t>)
      sums = new_tensor({known, features}, from.options().dtype(at::kFloat));
    auto* to = mutable_elements<Acc>(sums);
    at::parallel_for(0, known, std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(features, 1)),
                     [&](int64_t begin, int64_t end) {
                       std::memset(to + begin * features, 0, (end - begin) * features * sizeof(Acc));
                     });
    at::parallel_for(0, (features + kFeaturesPerTask - 1) / kFeaturesPerTask, 1, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kFeaturesPerTask, last = std::min(end * kFeaturesPerTask, features);
      for (int64_t n = 0; n < ids.size(0); ++n) {
        const Acc factor = by == nullptr ? Acc{1} : by[token[n]];
        const scalar_t* x = row + n * features;
        Acc* out = to + token[n] * features;
        for (int64_t j = first; j < last; ++j) out[j] += static_cast<Acc>(x[j]) * factor;
      }
    });
    if constexpr (!std::is_same_v<Acc, scalar_t>) result.copy_(sums);
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("embedding", &embedding_cpu);
  m.impl("embedding_backward", &embedding_backward_cpu);
}

}  // namespace ulmfit_fast
