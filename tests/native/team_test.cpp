// How a team divides its work: everything once, whoever is late.
#include <atomic>

#include "checks.h"

namespace ulmfit_fast {
namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "team: %s\n", what);
  std::exit(1);
}

// Slices of very different size, some empty, for as many rounds as reuse both sets of counters.
void check_everything_once() {
  const std::vector<int64_t> counts = {7, 0, 64, 1, 13};
  constexpr int64_t kRounds = 5;
  for (const int threads : {1, 2, 3, 5}) {
    std::vector<std::vector<std::atomic<int>>> done(counts.size() * kRounds);
    for (size_t i = 0; i < done.size(); ++i)
      done[i] = std::vector<std::atomic<int>>(static_cast<size_t>(counts[i % counts.size()]));
    run_team(0, static_cast<int64_t>(counts.size()), threads, [&](int, Member member) {
      for (int64_t round = 0; round < kRounds; ++round) {
        member.steal([&](int64_t slice) { return counts[slice]; },
                     [&](int64_t slice, int64_t first, int64_t last) {
                       for (int64_t i = first; i < last; ++i)
                         ++done[round * static_cast<int64_t>(counts.size()) + slice][i];
                     });
        member.wait();
      }
    });
    for (const auto& slice : done)
      for (const std::atomic<int>& times : slice) require(times == 1, "a piece was not done exactly once");
  }
}

// Of two members one never comes: the other does its own slice from the front and the late one's from the back.
void check_the_late_are_helped() {
  Barrier barrier(2);
  Member member(barrier, 0, 1);
  std::vector<std::vector<int64_t>> order(2);
  member.steal([](int64_t) { return 8; },
               [&](int64_t slice, int64_t first, int64_t) { order[slice].push_back(first); });
  require(order[0] == std::vector<int64_t>({0, 2, 4, 5, 6, 7}),
          "own pieces are not a quarter of the rest, from the front");
  require(order[1] == std::vector<int64_t>({6, 4, 3, 2, 1, 0}),
          "stolen pieces are not a quarter of the rest, from the back");
}

}  // namespace

void check_team() {
  check_everything_once();
  check_the_late_are_helped();
}

}  // namespace ulmfit_fast
