// The persistent kernel's own source with blocks as threads, their flags as std::atomic_ref, against plain loops in
// double. ThreadSanitizer then sees every access of one block to what another wrote (`make native-test`).
#include "cuda_on_host/language.h"
// Before all that is below.
#include "../../csrc/cuda/lstm_persistent_kernel.cuh"
#include "checks.h"

using namespace ulmfit_fast;
using c10::BFloat16;

namespace {

constexpr int64_t kInputs = 3;

struct Shape {
  std::vector<int64_t> batch_sizes;
  int64_t hidden;
  bool reversed;
  double p;
  bool pooled;
  int64_t steps_of_launch;  // 0: all of them in one
};

std::vector<BFloat16> narrow(const std::vector<double>& values) {
  std::vector<BFloat16> result;
  for (const double value : values) result.push_back(BFloat16(static_cast<float>(value)));
  return result;
}

std::vector<double> wide(const std::vector<BFloat16>& values) {
  std::vector<double> result;
  for (const BFloat16 value : values) result.push_back(static_cast<float>(value));
  return result;
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "persistent kernel: %s\n", what);
  std::exit(1);
}

// What a call gives beside the output.
struct Results {
  std::vector<BFloat16> output, h, gates;
  std::vector<float> c, cells, maximum;
  std::vector<double> total;
  std::vector<int32_t> argmax;
  uint64_t status = 0;
};

template <int unit_tiles, int row_tiles, int warps>
Results run(const Shape& shape, const Sizes& s, const Arguments& a, int64_t most_polls, cuda::Epoch before_all) {
  const int64_t H = s.hidden, batch = s.batch;
  const cuda::PersistentTiles tiles{unit_tiles, row_tiles};
  std::vector<float> from_input(s.rows * 4 * H), bias(4 * H);
  for (int64_t n = 0; n < s.rows; ++n)
    for (int64_t row = 0; row < 4 * H; ++row)
      for (int64_t k = 0; k < kInputs; ++k)
        from_input[n * 4 * H + row] += static_cast<float>(a.input[n * kInputs + k] * a.weight_ih[row * kInputs + k]);
  for (int64_t row = 0; row < 4 * H; ++row) bias[row] = static_cast<float>(a.bias[row]);
  const std::vector<BFloat16> weight = narrow(a.weight_hh);
  std::vector<BFloat16> h0 = narrow(a.h0), exchange(2 * batch * H, BFloat16(NAN));
  Results r;
  r.output.resize(shape.pooled ? 0 : s.rows * H);
  r.gates.resize(s.rows * 4 * H);
  r.cells.resize(s.rows * H);
  r.h = h0;
  for (const double c : a.c0) r.c.push_back(static_cast<float>(c));
  std::vector<int64_t> count(batch, 10), pool_from(batch, 11);
  r.total.resize(batch * H);
  r.maximum.assign(batch * H, -INFINITY);
  r.argmax.assign(batch * H, -1);

  const int slices = static_cast<int>((H + tiles.units() - 1) / tiles.units());
  const int groups = static_cast<int>((batch + tiles.rows() - 1) / tiles.rows());
  std::vector<cuda::Epoch> flags(slices * groups, before_all);
  cuda::PersistentLaunch<BFloat16> launch{};
  launch.reversed = shape.reversed;
  launch.cell.hidden = H;
  launch.cell.from_input = from_input.data();
  launch.cell.bias = bias.data();
  launch.cell.c = r.c.data();
  launch.cell.output = shape.pooled ? nullptr : r.output.data();
  launch.cell.gates = r.gates.data();
  launch.cell.cells = r.cells.data();
  if (shape.pooled)
    launch.cell.pool = {r.total.data(), r.maximum.data(), r.argmax.data(), count.data(), pool_from.data()};
  launch.weight = weight.data();
  launch.seed_value = 7;
  launch.threshold = keep_threshold(shape.p);
  launch.scale = static_cast<float>(1 / (1 - shape.p));
  launch.h0 = h0.data();
  launch.h = r.h.data();
  launch.exchange = exchange.data();
  launch.batch = batch;
  launch.flags = flags.data();
  launch.before = before_all;
  launch.slices = slices;
  launch.most_polls = most_polls;
  launch.status = &r.status;

  // Launches of some steps each, as a call of many lengths needs them.
  std::vector<cuda::PackedRuns> launches;
  cuda::for_packed_runs(shape.batch_sizes.data(), s.steps, [&](const cuda::PackedRuns& runs) {
    if (shape.steps_of_launch == 0) return launches.push_back(runs);
    for (int run = 0; run < runs.count; ++run) {
      cuda::PackedRuns one{};
      one.first_row = runs.runs[run].first_row;
      one.end_row = runs.end_of(run);
      one.count = 1;
      one.runs[0] = runs.runs[run];
      launches.push_back(one);
    }
  });
  if (shape.reversed) std::reverse(launches.begin(), launches.end());
  const int64_t shared =
      cuda::PersistentPlan{.tiles = tiles, .slices = slices, .groups = groups, .hidden = H}.shared_bytes();
  for (const cuda::PackedRuns& runs : launches) {
    launch.runs = runs;
    const std::vector<BFloat16> begin = r.h;
    launch.h0 = begin.data();
    if (!cuda::launch_together(nullptr, cuda::persistent_forward_kernel<BFloat16, unit_tiles, row_tiles, warps>,
                               slices * groups, 32 * warps, shared, launch))
      fail("no room");
    for (int run = 0; run < runs.count; ++run)
      launch.before += static_cast<cuda::Epoch>((runs.end_of(run) - runs.runs[run].first_row) / runs.runs[run].rows);
  }
  return r;
}

template <int unit_tiles, int row_tiles, int warps>
void check(const Shape& shape) {
  const Problem problem{shape.batch_sizes, kInputs, shape.hidden, 0, shape.reversed, shape.p, {1, 1}, 1};
  const Sizes s(problem);
  std::mt19937 generator(42);
  const auto drawn = [&](int64_t count, double scale) {
    return wide(narrow(doubles(random_values<double>(generator, count, scale))));
  };
  Arguments a;
  a.input = drawn(s.rows * kInputs, 1);
  a.h0 = drawn(s.batch * s.hidden, 0.9);
  a.c0 = drawn(s.batch * s.hidden, 1);
  a.weight_ih = drawn(4 * s.hidden * kInputs, 0.5);
  a.weight_hh = drawn(4 * s.hidden * s.hidden, 1.5 / std::sqrt(s.hidden));
  a.bias = drawn(4 * s.hidden, 0.5);
  a.grad_output.resize(s.rows * s.hidden);
  a.grad_h_n.resize(s.batch * s.hidden);
  a.grad_c_n.resize(s.batch * s.hidden);
  const Expected expected = compute(problem, a);
  constexpr double kTolerance = 2e-2;  // h is rounded to eight bits, step by step
  for (const cuda::Epoch before : {0u, 1000u}) {
    const Results r = run<unit_tiles, row_tiles, warps>(shape, s, a, int64_t{1} << 40, before);
    if (r.status != 0) fail("a wake-up is lost");
    require_near("h_n", wide(r.h), expected.h_n, kTolerance);
    require_near("c_n", r.c, expected.c_n, kTolerance);
    if (!shape.pooled) {
      require_near("output", wide(r.output), expected.output, kTolerance);
      continue;
    }
    std::vector<double> total(s.batch * s.hidden);
    for (int64_t t = 1; t < s.steps; ++t)  // 10 steps before, pooled from 11 on
      for (int64_t j = 0; j < shape.batch_sizes[t] * s.hidden; ++j)
        total[j] += expected.output[s.offsets[t] * s.hidden + j];
    require_near("total", r.total, total, kTolerance);
    for (int64_t j = 0; j < s.batch * s.hidden; ++j)
      if ((r.argmax[j] < 0) != (s.steps < 2 || j / s.hidden >= shape.batch_sizes[1])) fail("argmax");
  }
}

// A block that never starts: the others give up, say so, and leave no numbers that could be taken for results.
void check_lost_block() {
  const Shape shape{{3, 3, 3}, 16, false, 0.0, false, 0};
  const Problem problem{shape.batch_sizes, kInputs, shape.hidden, 0, false, 0.0, {1, 1}, 1};
  const Sizes s(problem);
  Arguments a;
  a.input.resize(s.rows * kInputs);
  a.h0.resize(s.batch * s.hidden);
  a.c0.resize(s.batch * s.hidden);
  a.weight_ih.resize(4 * s.hidden * kInputs);
  a.weight_hh.resize(4 * s.hidden * s.hidden);
  a.bias.resize(4 * s.hidden);
  cuda_on_host::fault = cuda_on_host::kLostBlock;
  const Results r = run<1, 1, 2>(shape, s, a, cuda::kMostPolls, 0);
  cuda_on_host::fault = cuda_on_host::kNone;
  if (r.status == 0 || cuda::lost_slice(r.status) != 3 || cuda::lost_epoch(r.status) != 1)
    fail("a lost block unnoticed");
  for (int64_t row = 0; row < s.batch; ++row) {
    for (int64_t unit = 0; unit < 12; ++unit) {  // of the blocks that are there
      if (std::isnan(static_cast<float>(r.output[row * 16 + unit]))) fail("the first step, which nobody waits for");
      if (!std::isnan(static_cast<float>(r.output[(3 + row) * 16 + unit])) || !std::isnan(r.c[row * 16 + unit]) ||
          !std::isnan(static_cast<float>(r.h[row * 16 + unit])))
        fail("a number of a launch that gave up");
    }
  }
}

}  // namespace

int main() {
  check_persistent_plan();
  const Shape shapes[] = {
      {{1}, 8, false, 0.0, false, 0},
      {{5, 5, 5, 5, 5}, 16, false, 0.0, false, 0},
      {{7, 5, 5, 2, 1}, 16, false, 0.3, false, 0},
      {{7, 5, 5, 2, 1}, 8, true, 0.3, false, 0},
      {{6, 6, 3, 1}, 16, false, 0.4, true, 0},
      {{6, 6, 3, 3, 1}, 16, true, 0.0, false, 1},  // a launch for each length
      {{6, 6, 3, 3, 1}, 16, false, 0.5, false, 1},
  };
  for (const Shape& shape : shapes) check<1, 1, 2>(shape);              // up to four slices, one group
  check<2, 1, 2>({{11, 11, 9, 9, 4, 4, 1}, 16, false, 0.2, false, 0});  // two groups of two slices
  check<2, 1, 1>({{11, 11, 9, 9, 4, 4, 1}, 16, true, 0.2, false, 0});   // of which one begins late
  check<5, 2, 2>({{18, 18, 17, 3}, 40, false, 0.1, false, 0});          // two slabs of the depth
  check<5, 1, 4>({{3, 3, 3, 3}, 72, false, 0.3, false, 0});             // a last slice that is not full, a last slab
  check<3, 1, 8>({{2, 2}, 48, false, 0.0, false, 0});
  check_lost_block();
  std::printf("persistent_test: blocks as threads, %zu shapes and 5 of other tiles\n", std::size(shapes));
  return 0;
}
