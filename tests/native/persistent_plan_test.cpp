// One launch computes a recurrence only where all blocks fit on the device at once; its tiles cover every unit and row;
// what a plan counts is what blocks do; and a launch goes through the steps that a packed batch has.
#include "../../csrc/cuda/persistent_plan.h"

#include <vector>

#include "../../csrc/cuda/persistent_flags.h"
#include "../../csrc/cuda/persistent_steps.h"
#include "checks.h"

namespace ulmfit_fast {
namespace {

using cuda::NotPersistent;
using cuda::persistent_plan;
using cuda::PersistentCall;
using cuda::PersistentDevice;
using cuda::PersistentPlan;

constexpr int64_t kKilobyte = 1024;
constexpr PersistentCall kCall{.rows = 64, .hidden = 1152, .half = true, .projected = false, .aligned = true};
constexpr PersistentDevice kH100{
    .capability = 90, .processors = 132, .shared_bytes = 227 * kKilobyte, .cooperative = true};
constexpr PersistentDevice kA100{
    .capability = 80, .processors = 108, .shared_bytes = 163 * kKilobyte, .cooperative = true};
constexpr PersistentDevice kRtx3090{
    .capability = 86, .processors = 82, .shared_bytes = 99 * kKilobyte, .cooperative = true};

constexpr PersistentCall call(const auto& change) {
  PersistentCall changed = kCall;
  change(changed);
  return changed;
}
constexpr PersistentDevice device(const auto& change) {
  PersistentDevice changed = kH100;
  change(changed);
  return changed;
}
constexpr NotPersistent why(const PersistentCall& of, const PersistentDevice& on = kH100) {
  return persistent_plan(of, on).why_not;
}

static_assert(why(kCall) == NotPersistent::kFits);
static_assert(why(kCall, kA100) == NotPersistent::kFits);
static_assert(why(kCall, kRtx3090) == NotPersistent::kRoom);  // 8 MB for 10.6 MB of weights
static_assert(why(call([](auto& c) { c.hidden = 400; }), kRtx3090) == NotPersistent::kFits);
static_assert(why(call([](auto& c) { c.half = false; })) == NotPersistent::kElements);
static_assert(why(call([](auto& c) { c.projected = true; })) == NotPersistent::kProjection);
static_assert(why(call([](auto& c) { c.hidden = 1150; })) == NotPersistent::kUnits);
static_assert(why(call([](auto& c) { c.hidden = 0; })) == NotPersistent::kUnits);
static_assert(why(call([](auto& c) { c.aligned = false; })) == NotPersistent::kAlignment);
static_assert(why(call([](auto& c) { c.rows = 0; })) == NotPersistent::kRows);
static_assert(why(call([](auto& c) { c.rows = cuda::kMostPersistentRows + 1; })) == NotPersistent::kRows);
static_assert(why(call([](auto& c) { c.hidden = 4096; })) == NotPersistent::kRoom);
static_assert(why(kCall, device([](auto& d) { d.capability = 75; })) == NotPersistent::kCapability);
static_assert(why(kCall, device([](auto& d) { d.cooperative = false; })) == NotPersistent::kNotAtOnce);
static_assert(why(kCall, device([](auto& d) { d.processors = 57; })) == NotPersistent::kRoom);  // a part of a GPU
static_assert(why(kCall, device([](auto& d) { d.shared_bytes = 48 * kKilobyte; })) == NotPersistent::kRoom);

// The layer this kernel is for. On an H100: 58 slices of 20 units, two groups of 32 rows.
constexpr PersistentPlan kPlan = persistent_plan(kCall, kH100);
static_assert(kPlan.tiles == cuda::PersistentTiles{5, 4} && kPlan.slices == 58 && kPlan.groups == 2);
static_assert(kPlan.blocks() == 116);
static_assert(kPlan.weight_bytes() == 20 * 4 * 1152 * 2);
static_assert(kPlan.sums_bytes() == 4 * 32 * 84 * 4);
static_assert(kPlan.shared_bytes() == 227328);
static_assert(kPlan.state_bytes_a_step() == 58 * 64 * 1152 * 2);  // 8.6 MB of h from L2
static_assert(kPlan.weight_bytes_spared_a_step() == 2 * 4 * 1152 * 1152 * 2);
// On an A100 a slice has 12 units, and all rows: 96 blocks.
constexpr PersistentPlan kOnA100 = persistent_plan(kCall, kA100);
static_assert(kOnA100.tiles == cuda::PersistentTiles{3, 8} && kOnA100.blocks() == 96);
static_assert(kOnA100.state_bytes_a_step() == 96 * 64 * 1152 * 2);

void require(bool holds, const char* what, int64_t rows, int64_t hidden, int processors) {
  if (holds) return;
  std::fprintf(stderr, "persistent plan: %s does not hold for %ld rows of %ld units on %d processors\n", what,
               static_cast<long>(rows), static_cast<long>(hidden), processors);
  std::exit(1);
}

// Counted block by block, row by row.
int64_t state_bytes(const PersistentPlan& plan) {
  int64_t bytes = 0;
  for (int64_t unit = 0; unit < plan.hidden; unit += plan.tiles.units())
    for (int64_t row = 0; row < plan.rows; ++row) bytes += plan.hidden * 2;
  return bytes;
}

void check_plans() {
  int planned = 0;
  for (const PersistentDevice& on : {kH100, kA100, kRtx3090, device([](auto& d) { d.processors = 4; })}) {
    for (const int64_t hidden : {8, 16, 24, 40, 72, 80, 200, 400, 512, 1024, 1152, 1600}) {
      for (int64_t rows = 1; rows <= cuda::kMostPersistentRows; ++rows) {
        const PersistentCall of = call([&](auto& c) { c.rows = rows, c.hidden = hidden; });
        const PersistentPlan plan = persistent_plan(of, on);
        const auto hold = [&](bool holds, const char* what) { require(holds, what, rows, hidden, on.processors); };
        for (const int row_tiles : cuda::kPersistentRowTiles) {
          for (int unit_tiles = 1; unit_tiles <= cuda::kMostUnitTiles; ++unit_tiles) {
            const PersistentPlan other = cuda::persistent_plan_with({unit_tiles, row_tiles}, of, on);
            hold(!other || plan, "a plan where one exists");
            hold(!other || plan.clocks_a_step() <= other.clocks_a_step(), "no plan with fewer clocks");
          }
        }
        if (!plan) continue;
        ++planned;
        hold(plan.blocks() <= on.processors, "a processor for each block");
        hold(plan.shared_bytes() + cuda::kPersistentStaticShared <= on.shared_bytes, "room in shared memory");
        hold(plan.slices * plan.tiles.units() >= hidden && (plan.slices - 1) * plan.tiles.units() < hidden, "slices");
        hold(plan.groups * plan.tiles.rows() >= rows && (plan.groups - 1) * plan.tiles.rows() < rows, "groups");
        hold(plan.state_bytes_a_step() == state_bytes(plan), "what it reads of h");
        hold(cuda::sums_stride(plan.tiles.unit_tiles) * 4 % 16 == 0, "aligned sums");
        hold(plan.weight_bytes() % 16 == 0, "aligned weights");
      }
    }
  }
  require(planned > 2000, "that most calls are planned", 0, 0, 0);
  for (const int row_tiles : cuda::kPersistentRowTiles) {
    for (int unit_tiles = 1; unit_tiles <= cuda::kMostUnitTiles; ++unit_tiles) {
      const cuda::PersistentTiles tiles{unit_tiles, row_tiles};
      if (!tiles.compiled()) continue;
      for (const int processors : {1, 2, 4, 14, 132}) {
        const cuda::PersistentTrial trial = cuda::persistent_trial(tiles, processors);
        const PersistentCall of = call([&](auto& c) { c.rows = trial.rows, c.hidden = trial.hidden; });
        const PersistentDevice on = device([&](auto& d) { d.processors = processors; });
        const PersistentPlan plan = cuda::persistent_plan_with(tiles, of, on);
        const bool enough = processors >= (unit_tiles == 1 ? 2 : 1);
        require(!enough || plan, "room for a trial", trial.rows, trial.hidden, processors);
        require(processors < 10 || (plan.groups == 2 && plan.slices > 2), "blocks that wait", trial.rows, trial.hidden,
                processors);
      }
    }
  }
}

// The steps of a launch, and what surrounds them, against the batch sizes themselves.
void check_steps() {
  const std::vector<int64_t> batches[] = {{1}, {4, 4, 4}, {7, 5, 5, 2, 1}, {3, 3, 2, 2, 2, 1, 1}};
  for (const std::vector<int64_t>& sizes : batches) {
    for (const bool reversed : {false, true}) {
      const auto count = static_cast<int64_t>(sizes.size());
      cuda::for_packed_runs(sizes.data(), count, [&](const cuda::PackedRuns& runs) {
        cuda::PersistentSteps steps(runs, reversed);
        int64_t s = 0;
        for (; steps.step().rows > 0; steps.advance(), ++s) {
          const int64_t t = reversed ? count - 1 - s : s, before = reversed ? t + 1 : t - 1,
                        after = reversed ? t - 1 : t + 1;
          int64_t first_row = 0;
          for (int64_t earlier = 0; earlier < t; ++earlier) first_row += sizes[earlier];
          const auto rows_at = [&](int64_t at) { return at >= 0 && at < count ? sizes[at] : 0; };
          const bool right = s < count && steps.step().rows == sizes[t] && steps.step().first_row == first_row &&
                             steps.step().time == t && steps.rows_before() == rows_at(before) &&
                             steps.rows_after() == rows_at(after);
          require(right, "a step's place", s, t, reversed);
        }
        require(s == count, "every step", s, count, reversed);
      });
    }
  }
}

void check_flags() {
  using namespace cuda;
  for (int64_t s = 1; s < 5; ++s) {
    require(awaited_before(7, s) == published_after(7, s - 1), "that the step before is awaited", s, 0, 0);
    require(half_read(s) == half_written(s - 1), "that what was written is read", s, 0, 0);
    require(half_written(s) != half_read(s), "that what is read is not written", s, 0, 0);
  }
  require(published_after(0, 0) > 0, "that nothing is published before the first step", 0, 0, 0);
  require(awaited_before(published_after(0, 9), 0) <= published_after(0, 9), "that launches go on", 0, 0, 0);
  const uint64_t status = lost_wake_up(57, 123456);
  require(status != 0 && lost_slice(status) == 57 && lost_epoch(status) == 123456, "what is lost", 57, 123456, 0);
}

}  // namespace

void check_persistent_plan() {
  check_plans();
  check_steps();
  check_flags();
}

}  // namespace ulmfit_fast
