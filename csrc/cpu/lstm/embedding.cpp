// Rows are copied and added by torch's threads; there is little to compute and much to move. Limit: memory bandwidth.
#include "../../embedding.h"

#include <algorithm>
#include <cstring>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kElementsPerTask = 1 << 15;
constexpr int64_t kFeaturesPerTask = 64;  // of backward: whole cache lines

// Sums and masks of rows of T.
template <typename T>
using Wide = Accumulator<typename ElementOf<T>::type>;

void check_tokens(const Tensor& tokens, int64_t known) {
  const auto* token = elements<int64_t>(tokens);
  for (int64_t n = 0; n < tokens.numel(); ++n)
    ULMFIT_CHECK_INDEX(token[n] >= 0 && token[n] < known, "ulmfit_fast.ops.embedding: tokens[", n, "] must be in [0, ",
                       known, "), got ", token[n]);
}

Tensor embedding_cpu(const Tensor& tokens, const Tensor& weight, const OptionalTensor& mask) {
  check_embedding("ulmfit_fast.ops.embedding", tokens, weight, mask);
  const Tensor ids = as_contiguous(tokens), from = as_contiguous(weight);
  const OptionalTensor scale = as_contiguous(mask);
  check_tokens(ids, weight.size(0));
  const int64_t features = from.size(1);
  const Tensor output = new_tensor({ids.size(0), features}, dtype_of(from));
  for_dtype("ulmfit_fast.ops.embedding", dtype_of(from), [&]<typename T>() {
    const auto* token = elements<int64_t>(ids);
    const auto* row = elements<T>(from);
    const auto* by = elements<Wide<T>>(scale);
    auto* to = mutable_elements<T>(output);
    parallel_for(ids.size(0), std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(features, 1)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t n = begin; n < end; ++n) {
                     const T* x = row + token[n] * features;
                     T* out = to + n * features;
                     if (by == nullptr) {
                       std::memcpy(out, x, features * sizeof(T));
                       continue;
                     }
                     const Wide<T> factor = by[token[n]];
                     for (int64_t j = 0; j < features; ++j)
                       out[j] = static_cast<T>(static_cast<Wide<T>>(x[j]) * factor);
                   }
                 });
  });
  return output;
}

// A thread owns some of the features: of every token it adds the rows in order.
Tensor embedding_backward_cpu(const Tensor& grad, const Tensor& tokens, const OptionalTensor& mask, int64_t known) {
  constexpr const char* kFunction = "ulmfit_fast.ops.embedding_backward";
  check_embedding_backward(grad, tokens, mask, known);
  const Tensor ids = as_contiguous(tokens), from = as_contiguous(grad);
  const OptionalTensor scale = as_contiguous(mask);
  check_tokens(ids, known);
  const int64_t features = from.size(1);
  Tensor result = new_tensor({known, features}, dtype_of(from));
  for_dtype(kFunction, dtype_of(from), [&]<typename T>() {
    using Acc = Wide<T>;
    const auto* token = elements<int64_t>(ids);
    const auto* row = elements<T>(from);
    const auto* by = elements<Acc>(scale);
    // Sums of half precision rows are float32 until all are in.
    Tensor sums = result;
    if constexpr (!std::is_same_v<Acc, T>) sums = new_tensor({known, features}, ScalarType::Float);
    auto* to = mutable_elements<Acc>(sums);
    parallel_for(known, std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(features, 1)),
                 [&](int64_t begin, int64_t end) {
                   std::memset(to + begin * features, 0, (end - begin) * features * sizeof(Acc));
                 });
    parallel_for((features + kFeaturesPerTask - 1) / kFeaturesPerTask, 1, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kFeaturesPerTask, last = std::min(end * kFeaturesPerTask, features);
      for (int64_t n = 0; n < ids.size(0); ++n) {
        const Acc factor = by == nullptr ? Acc{1} : by[token[n]];
        const T* x = row + n * features;
        Acc* out = to + token[n] * features;
        for (int64_t j = first; j < last; ++j) out[j] += static_cast<Acc>(x[j]) * factor;
      }
    });
    if constexpr (!std::is_same_v<Acc, T>) torch::stable::copy_(result, sums);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("embedding", TORCH_BOX(&embedding_cpu));
  m.impl("embedding_backward", TORCH_BOX(&embedding_backward_cpu));
}

}  // namespace ulmfit_fast
