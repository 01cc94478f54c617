// Tensors in, kernel arguments out: what lstm and lstm_pool share on CPU. Arguments are checked by then.
#pragma once

#include "../lstm_pool.h"

namespace ulmfit_fast {

// What forward leaves besides its results; the rest comes back empty.
enum class Keep : int64_t {
  kNothing,   // lstm: the output only; lstm_pool: no states at all
  kStates,    // output and cells of every step
  kBackward,  // also the gates: all that backward needs
};

struct ForwardResult {
  at::Tensor output, h_n, c_n, gates, cells;
  at::Tensor total, maximum, argmax;  // with a pool
};

// `pool` is null without pooling; its tensors are not changed.
ForwardResult run_lstm_forward(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep);

// What forward kept.
struct Saved {
  const at::Tensor &output, &gates, &cells;
};

// Gradients of forward's results; none flows into those that are absent.
struct ResultGradients {
  const OptionalTensor &output, &h_n, &c_n;
};

using Backward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// The gradients in the order of the schema, those nobody needs empty. With `pool` the argmax is the one after the call,
// total and maximum are gradients. Gradients do not cross multiples of `bptt` steps, if that is positive.
Backward run_lstm_backward(const char* function, const ResultGradients& grads, const LstmInputs& a,
                           const PoolInputs* pool, bool reverse, int64_t bptt, const Saved& saved,
                           std::array<bool, 6> needs);

}  // namespace ulmfit_fast
