// The threads of one CUDA block on one thread of the host. ThreadSanitizer is told of each change from one to another:
// it then sees the block as one thread, and orders between blocks by what they do themselves.
#pragma once

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace cuda_on_host {

struct Place {
  unsigned x;
};

class Fibers {
 public:
  static Fibers& only() {
    static thread_local Fibers fibers;
    return fibers;
  }

  Place place() const { return {current_}; }

  // Runs `body` once for each thread. They run one after the other, until one waits: then all begin anew, as fibers. So
  // what a kernel does before it first waits must bear to be done twice.
  void run_block(unsigned threads, const std::function<void()>& body) {
    concurrent_ = false;
    try {
      for (current_ = 0; current_ < threads; ++current_) body();
    } catch (const Waits&) {
      run_concurrently(threads, body);
    }
  }

  void wait_for_block() {
    if (!concurrent_) throw Waits();
    wait(block_, threads_);
  }

  void wait_for_warp() {
    if (!concurrent_) throw Waits();
    wait(warps_[current_ / kWarp], kWarp);
  }

  // Called by a thread that waits for another block.
  void let_others_run() {
    if (!concurrent_) throw Waits();
    idle_ = 0;
    yield();
    std::this_thread::yield();
  }

  // use(of) with a function of lanes, which gives what each thread of the warp has given.
  template <typename T, typename Use>
  void share(const T& mine, const Use& use) {
    if (!concurrent_) throw Waits();
    const unsigned first = current_ / kWarp * kWarp;
    given_[current_] = &mine;  // on this fiber's stack, where it stays until all have used it
    wait(warps_[first / kWarp], kWarp);
    use([&](unsigned lane) -> const T& { return *static_cast<const T*>(given_[first + lane]); });
    wait(warps_[first / kWarp], kWarp);
  }

  // The value that the thread of the same warp has whose number differs in the bits `other`.
  template <typename T>
  T exchange(T value, unsigned other) {
    static_assert(sizeof(T) <= sizeof(Slot));
    if (!concurrent_) throw Waits();
    std::memcpy(&slots_[current_], &value, sizeof(T));
    Barrier& warp = warps_[current_ / kWarp];
    wait(warp, kWarp);
    std::memcpy(&value, &slots_[current_ ^ other], sizeof(T));
    wait(warp, kWarp);
    return value;
  }

 private:
  static constexpr unsigned kWarp = 32;
  static constexpr size_t kStackBytes = 64 * 1024;
  using Slot = double;
  struct Waits {};
  struct Barrier {
    unsigned arrived = 0, passed = 0;
  };
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool ended;
    void* watched = nullptr;  // by ThreadSanitizer
  };

  void run_concurrently(unsigned threads, const std::function<void()>& body) {
    concurrent_ = true;
    threads_ = threads;
    body_ = &body;
    block_ = {};
    warps_.assign((threads + kWarp - 1) / kWarp, {});
    slots_.resize(threads);
    given_.resize(threads);
    if (fibers_.size() < threads) fibers_.resize(threads);
    for (unsigned index = 0; index < threads; ++index) {
      Fiber& fiber = fibers_[index];
      if (!fiber.stack) fiber.stack = std::make_unique<char[]>(kStackBytes);
      fiber.ended = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = nullptr;  // nobody returns
      makecontext(&fiber.context, &Fibers::run_fiber, 0);
      watch(fiber);
    }
    for (unsigned left = 0; left < threads;) {
      if (fibers_[left].ended) {
        ++left;
        continue;
      }
      idle_ = 0;
      current_ = left;
      switch_to(outside_, fibers_[left]);  // back when some thread ended
    }
    concurrent_ = false;
    for (unsigned index = 0; index < threads; ++index) unwatch(fibers_[index]);
  }

  static void run_fiber() {
    Fibers& self = only();
    (*self.body_)();
    self.fibers_[self.current_].ended = true;
    switch_to(self.fibers_[self.current_], self.outside_);  // for good
  }

  static void switch_to(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(to.watched, 0);
#endif
    swapcontext(&from.context, &to.context);
  }

  void watch([[maybe_unused]] Fiber& fiber) {
#ifdef __SANITIZE_THREAD__
    outside_.watched = __tsan_get_current_fiber();
    fiber.watched = __tsan_create_fiber(0);
#endif
  }

  void unwatch([[maybe_unused]] Fiber& fiber) {
#ifdef __SANITIZE_THREAD__
    __tsan_destroy_fiber(fiber.watched);
#endif
  }

  void wait(Barrier& barrier, unsigned members) {
    idle_ = 0;
    const unsigned passed = barrier.passed;
    if (++barrier.arrived == members) {
      barrier.arrived = 0;
      ++barrier.passed;
      return;
    }
    while (barrier.passed == passed) yield();
  }

  // Lets the next thread run that has not ended.
  void yield() {
    const unsigned self = current_;
    unsigned next = self;
    do {
      next = (next + 1) % threads_;
    } while (fibers_[next].ended);
    if (++idle_ > threads_) {
      std::fprintf(stderr, "threads of a block wait at different places, or for one that has ended\n");
      std::abort();
    }
    if (next == self) return;
    current_ = next;
    switch_to(fibers_[self], fibers_[next]);
    current_ = self;
  }

  bool concurrent_ = false;
  unsigned current_ = 0, threads_ = 0, idle_ = 0;
  const std::function<void()>* body_ = nullptr;
  Barrier block_;
  std::vector<Barrier> warps_;
  std::vector<Slot> slots_;
  std::vector<const void*> given_;
  std::vector<Fiber> fibers_;
  Fiber outside_;
};

}  // namespace cuda_on_host
