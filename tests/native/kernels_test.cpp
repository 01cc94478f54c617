// The CPU kernels without torch: sizes that no block divides, every grid, against plain loops in double. Meant to run
// under the sanitizers (`make native-test`); exits 1 at the first difference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../csrc/cpu/lstm/chunks.h"
#include "../../csrc/cpu/lstm/dropconnect_kernel.h"
#include "../../csrc/cpu/lstm/lstm_kernel.h"
#include "../../csrc/cpu/runtime/dispatch.h"
#include "../../csrc/cpu/runtime/workspace.h"
#include "checks.h"

using namespace ulmfit_fast;

namespace {

// Sum, maximum and its step over the states that the kernel itself computed.
template <typename E, typename Acc>
void require_pooled(const Problem& problem, const Sizes& s, const std::vector<E>& output,
                    const std::vector<int64_t>& first_step, const std::vector<int64_t>& pool_from,
                    const std::vector<double>& total, const std::vector<Acc>& maximum,
                    const std::vector<int32_t>& argmax) {
  for (int64_t r = 0; r < s.batch; ++r) {
    for (int64_t k = 0; k < s.output; ++k) {
      double sum = 0;
      Acc largest = -INFINITY;
      int64_t at = -1;
      for (int64_t t = 0; t < s.steps && r < problem.batch_sizes[t]; ++t) {
        const auto state = static_cast<Acc>(to_double(output[(s.offsets[t] + r) * s.output + k]));
        if (first_step[r] + t < pool_from[r]) continue;
        sum += state;
        if (state > largest) at = first_step[r] + t;
        largest = std::max(largest, state);
      }
      const int64_t j = r * s.output + k;
      if (total[j] == sum && maximum[j] == largest && argmax[j] == at) continue;
      std::fprintf(stderr, "row %ld, unit %ld pooled to %g, %g at %d; expected %g, %g at %ld\n", static_cast<long>(r),
                   static_cast<long>(k), double(total[j]), double(maximum[j]), argmax[j], double(sum), double(largest),
                   static_cast<long>(at));
      std::exit(1);
    }
  }
}

// `forward` again on weights that were packed before.
template <typename E, typename Acc>
void require_same_when_packed(const Problem& problem, LstmForward<E> forward, std::vector<Acc> c,
                              const std::vector<E>& output) {
  const LstmKernels<E>& kernels = lstm_kernels<E>();
  const auto aligned = [](std::vector<std::byte>& block) {
    return block.data() + 64 - reinterpret_cast<uintptr_t>(block.data()) % 64;
  };
  std::vector<std::byte> packed(kernels.packed_bytes(forward.sizes) + 64);
  LstmPack<E> pack{};
  pack.sizes = forward.sizes;
  pack.slices = problem.threads;
  pack.weight_ih = forward.weight_ih;
  pack.weight_hh = forward.weight_hh;
  pack.weight_hr = forward.weight_hr;
  pack.packed = aligned(packed);
  std::vector<std::byte> buffers(kernels.pack_scratch(pack) + 64);
  pack.scratch = aligned(buffers);
  run_team(pack, pack.slices, problem.threads, kernels.pack);

  std::vector<E> again(output.size());
  forward.packed = pack.packed;
  forward.weight_ih = {};
  forward.weight_hh = {};
  forward.weight_hr = nullptr;
  forward.output = again.data();
  forward.c = c.data();
  std::vector<std::byte> scratch(kernels.forward_scratch(forward) + 64);
  forward.scratch = aligned(scratch);
  run_team(forward, problem.grid.slices(), problem.threads, kernels.forward);
  if (std::memcmp(again.data(), output.data(), output.size() * sizeof(E)) == 0) return;
  std::fprintf(stderr, "packed weights give other states\n");
  std::exit(1);
}

template <typename E>
void check(const Problem& problem, double tolerance) {
  using Acc = Accumulator<E>;
  const Sizes s(problem);
  const int64_t gates = 4 * s.hidden;
  std::mt19937 generator(1);
  const auto input = random_values<E>(generator, s.rows * s.input, 1),
             h0 = random_values<E>(generator, s.batch * s.output, 1);
  const auto weight_ih = random_values<E>(generator, gates * s.input, 0.3);
  const auto weight_hh = random_values<E>(generator, gates * s.output, 0.3);
  const auto weight_hr = random_values<E>(generator, problem.projection * s.hidden, 0.3);
  const auto grad_output = random_values<E>(generator, s.rows * s.output, 1);
  const auto grad_h_n = random_values<E>(generator, s.batch * s.output, 1);
  const auto c0 = random_values<Acc>(generator, s.batch * s.hidden, 1), bias = random_values<Acc>(generator, gates, 1);
  const auto grad_c_n = random_values<Acc>(generator, s.batch * s.hidden, 1);

  std::vector<int64_t> first_step(s.batch), pool_from(s.batch);
  for (int64_t r = 0; r < s.batch; ++r) {
    first_step[r] = 3 + r % 4;
    pool_from[r] = r % 3 == 0 ? 0 : first_step[r] + r % 2;
  }
  std::vector<double> total(s.batch * s.output, 0);
  std::vector<Acc> maximum(s.batch * s.output, -INFINITY);
  std::vector<int32_t> argmax(s.batch * s.output, -1);
  const auto grad_total = random_values<Acc>(generator, total.size(), 1);
  const auto grad_maximum = random_values<Acc>(generator, total.size(), 1);

  std::vector<E> output(s.rows * s.output), saved_gates(s.rows * gates), grad_input(s.rows * s.input);
  std::vector<E> grad_h(problem.projection > 0 ? s.rows * s.output : 0);
  std::vector<E> grad_weight_ih(weight_ih.size()), grad_weight_hh(weight_hh.size()), grad_bias(gates);
  std::vector<E> h_n(s.batch * s.output);
  std::vector<Acc> cells(s.rows * s.hidden), c = c0;
  const LstmSizes sizes{s.steps,
                        s.rows,
                        s.batch,
                        s.input,
                        s.hidden,
                        s.output,
                        problem.projection > 0,
                        problem.reverse,
                        problem.batch_sizes.data(),
                        s.offsets.data()};
  const DropConnect dropconnect{problem.p, 7};
  const LstmKernels<E>& kernels = lstm_kernels<E>();

  LstmForward<E> forward{};
  forward.sizes = sizes;
  forward.dropconnect = dropconnect;
  forward.grid = problem.grid;
  forward.input = input.data();
  forward.h0 = h0.data();
  forward.weight_ih.own = weight_ih.data();
  forward.weight_hh.own = weight_hh.data();
  forward.weight_hr = problem.projection > 0 ? weight_hr.data() : nullptr;
  forward.bias = bias.data();
  forward.keep_output = true;
  forward.output = output.data();
  forward.h_n = h_n.data();
  forward.gates = saved_gates.data();
  forward.cells = cells.data();
  forward.c = c.data();
  {
    std::vector<std::byte> scratch(kernels.forward_scratch(forward) + 64);  // exact, unlike a kept block
    forward.scratch = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
    run_team(forward, problem.grid.slices(), problem.threads, kernels.forward);
    if (problem.p == 0) require_same_when_packed(problem, forward, c0, output);
    if (problem.pooled) {  // again, the states going nowhere but into the pool
      std::vector<E> two_steps(2 * s.batch * s.output);
      c = c0;
      forward.keep_output = false;
      forward.output = two_steps.data();
      forward.pool = {total.data(), maximum.data(), argmax.data(), first_step.data(), pool_from.data()};
      run_team(forward, problem.grid.slices(), problem.threads, kernels.forward);
      require_pooled(problem, s, output, first_step, pool_from, total, maximum, argmax);
    }
  }
  std::vector<double> grad_states = doubles(grad_output);
  if (problem.pooled) {
    std::fill(grad_states.begin(), grad_states.end(), 0);
    add_pool_gradient(grad_states, s, problem, grad_total, grad_maximum, argmax, first_step, pool_from);
  }
  const Expected expected =
      compute(problem, {doubles(input), doubles(h0), doubles(c0), doubles(weight_ih), doubles(weight_hh),
                        doubles(weight_hr), doubles(bias), grad_states, doubles(grad_h_n), doubles(grad_c_n)});
  require_near("output", output, expected.output, tolerance);
  require_near("h_n", h_n, expected.h_n, tolerance);
  require_near("c_n", c, expected.c_n, tolerance);

  // Chunks start from the states that the step before them left.
  const Chunks chunks =
      make_chunks(problem.batch_sizes.data(), s.offsets.data(), s.steps, problem.bptt > 0 ? problem.bptt : s.steps);
  std::vector<E> start_h, end_grad_h(chunks.count() * s.output);
  std::vector<Acc> start_c, grad_c(chunks.count() * s.hidden);
  std::vector<int64_t> chunk_step, chunk_from;
  for (int64_t q = 0; q < chunks.count(); ++q) {
    const int64_t r = chunks.sequence[q], step = chunks.first_step[q];
    const E* h = step == 0 ? &h0[r * s.output] : &output[(s.offsets[step - 1] + r) * s.output];
    const Acc* cell = step == 0 ? &c0[r * s.hidden] : &cells[(s.offsets[step - 1] + r) * s.hidden];
    start_h.insert(start_h.end(), h, h + s.output);
    start_c.insert(start_c.end(), cell, cell + s.hidden);
    chunk_step.push_back(first_step[r] + step);
    chunk_from.push_back(pool_from[r]);
  }
  for (int64_t r = 0; r < s.batch; ++r) {
    std::copy_n(&grad_h_n[r * s.output], s.output, &end_grad_h[chunks.sequence_end[r] * s.output]);
    std::copy_n(&grad_c_n[r * s.hidden], s.hidden, &grad_c[chunks.sequence_end[r] * s.hidden]);
  }
  std::vector<E> grad_h0(chunks.count() * s.output);

  LstmBackward<E> backward{};
  backward.sizes = sizes;
  backward.sizes.steps = static_cast<int64_t>(chunks.batch_sizes.size());
  backward.sizes.batch = chunks.count();
  backward.sizes.batch_sizes = chunks.batch_sizes.data();
  backward.sizes.offsets = chunks.offsets.data();
  backward.storage = chunks.storage.data();
  if (problem.pooled)
    backward.pool = {grad_total.data(),      grad_maximum.data(), argmax.data(),
                     chunks.sequence.data(), chunk_step.data(),   chunk_from.data()};
  backward.dropconnect = dropconnect;
  backward.grid = problem.grid;
  backward.input = input.data();
  backward.h0 = start_h.data();
  backward.c0 = start_c.data();
  backward.weight_ih.own = weight_ih.data();
  backward.weight_hh.own = weight_hh.data();
  backward.weight_hr = forward.weight_hr;
  backward.output = output.data();
  backward.gates = saved_gates.data();
  backward.cells = cells.data();
  backward.grad_output = problem.pooled ? nullptr : grad_output.data();
  backward.grad_h_n = end_grad_h.data();
  backward.grad_c = grad_c.data();
  backward.grad_h = problem.projection > 0 ? grad_h.data() : nullptr;
  backward.grad_h0 = grad_h0.data();
  backward.grad_input = grad_input.data();
  backward.grad_weight_ih.own = grad_weight_ih.data();
  backward.grad_weight_hh.own = grad_weight_hh.data();
  backward.grad_bias.own = grad_bias.data();
  {
    std::vector<std::byte> scratch(kernels.backward_scratch(backward) + 64);
    backward.scratch = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
    run_team(backward, problem.grid.slices(), problem.threads, kernels.backward);
  }
  require_near("grad_input", grad_input, expected.grad_input, tolerance);
  std::vector<E> first_grad_h0;
  std::vector<Acc> first_grad_c;
  for (const int64_t q : chunks.sequence_begin) {
    first_grad_h0.insert(first_grad_h0.end(), &grad_h0[q * s.output], &grad_h0[q * s.output] + s.output);
    first_grad_c.insert(first_grad_c.end(), &grad_c[q * s.hidden], &grad_c[q * s.hidden] + s.hidden);
  }
  require_near("grad_h0", first_grad_h0, expected.grad_h0, tolerance);
  require_near("grad_c0", first_grad_c, expected.grad_c0, tolerance);
  require_near("grad_weight_ih", grad_weight_ih, expected.grad_weight_ih, tolerance);
  require_near("grad_weight_hh", grad_weight_hh, expected.grad_weight_hh, tolerance);
  require_near("grad_bias", grad_bias, expected.grad_bias, tolerance);
}

// Blocks of an earlier size must not keep those of the present one from being kept.
void check_kept_memory() {
  const auto use = [](int64_t megabytes) { return Workspace(megabytes << 20).data(); };
  use(400);
  const std::byte* first = use(200);
  if (use(200) == first) return;
  std::fprintf(stderr, "a block that was just given back is not used again\n");
  std::exit(1);
}

}  // namespace

int main() {
  check_kept_memory();
  check_team();
  check_cross_entropy();
  check_cuda_geometry();
  check_fused_step_plan();
  check_quantized();
  check_qrnn();
  const Problem problems[] = {
      {{1}, 1, 1, 0, false, 0.0, {1, 1}, 1},
      {{9, 8}, 1, 1, 0, false, 0.5, {1, 1}, 1},  // half a group of bfloat16, several tiles of rows
      {{3, 2, 1}, 5, 7, 0, false, 0.5, {1, 1}, 1},
      {{9, 9, 4, 1, 1}, 3, 33, 0, true, 0.3, {1, 2}, 2},
      {{7, 7, 7, 2}, 17, 19, 5, false, 0.5, {1, 2}, 2},
      {{13, 13, 6, 5}, 18, 35, 9, true, 0.0, {2, 2}, 4},
      {{20, 20, 14, 7}, 11, 50, 0, false, 0.4, {3, 2}, 4},                // fewer threads than slices
      {std::vector<int64_t>(520, 5), 9, 21, 0, false, 0.2, {1, 2}, 2},    // three chunks of rows of any kind
      {std::vector<int64_t>(260, 10), 32, 16, 0, false, 0.3, {1, 2}, 2},  // their sums where the gradients lie
      {std::vector<int64_t>(120, 13), 5, 19, 0, false, 0.3, {2, 2}, 4},  // slices whose chunks begin at different steps
      {std::vector<int64_t>(120, 13), 5, 19, 4, true, 0.3, {2, 2}, 3},
      {{2, 2}, 70, 80, 0, false, 0.5, {1, 3}, 3},
      {{3, 3, 1}, 6, 70, 66, false, 0.0, {1, 3}, 3},   // packed, a projection's panels are not cut as a slice cuts them
      {{14, 13, 2}, 3, 67, 0, false, 0.5, {2, 2}, 3},  // a mask in pieces, a thread with two slices
      {{5, 4, 4, 2, 1, 1, 1}, 6, 19, 0, false, 0.3, {1, 2}, 2, true, 3},
      {{9, 9, 8, 8, 3}, 6, 37, 0, false, 0.3, {2, 2}, 4, true, 2},
      {{6, 6, 5, 2}, 9, 21, 0, false, 0.0, {1, 1}, 1, false, 1},
      {{13, 7, 2}, 4803, 3, 0, false, 0.0, {1, 1}, 1},  // panels so deep that they are cut into slabs
      {{600}, 5, 19, 0, false, 0.3, {1, 2}, 2},         // one step of more rows than a chunk
      {{110, 101, 7}, 3, 9, 0, false, 0.5, {1, 2}, 2},  // more rows than backward fetches lines for
  };
  for (const Problem& problem : problems) {
    check<float>(problem, 2e-5);
    check<double>(problem, 1e-12);
    check<Bfloat16>(problem, 3e-2);
  }
  std::printf("kernels_test: %s, %zu problems in three types\n", isa_name(active_isa()), std::size(problems));
  return 0;
}
