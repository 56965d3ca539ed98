#include "thread-pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace sluice {
namespace {

/// Longer than the gaps between a step's ops, shorter than a scheduler's slice: a thread that waits
/// longer sleeps, and leaves its core to whoever was preempted.
constexpr auto spinTime = std::chrono::microseconds(50);
/// Chunks of one parallelFor have to fit into half a word.
constexpr int64_t chunksMax = int64_t{1} << 31;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until `ready()`, at most `spinTime`. Looks at the clock rarely: that costs as much as a
/// hundred looks at a cached word.
template <typename Ready>
bool spinUntil(Ready ready) {
  const auto deadline = std::chrono::steady_clock::now() + spinTime;
  do {
    for (int i = 0; i < 64; i++) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return ready();
}

uint32_t chunksLeft(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

/// Cores' worth of CPU time from `quota` and `period` in microseconds; 0 when unlimited.
int quotaThreads(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return 0;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

int cgroupThreads() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period) return quota == "max" ? 0 : quotaThreads(std::stod(quota), period);
  std::ifstream v1Quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1Period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double us = 0;
  if (v1Quota >> us && v1Period >> period) return quotaThreads(us, period);
  return 0;
}

int affinityThreads() {
#ifdef __linux__
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return std::max(1, CPU_COUNT(&mask));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

int availableThreads() {
  const int quota = cgroupThreads();
  const int cores = affinityThreads();
  return quota > 0 ? std::min(quota, cores) : cores;
}

struct ThreadPool::State {
  /// Generation in the upper half, chunks nobody has taken yet in the lower. One word, so that a
  /// chunk is only ever taken together with the knowledge of which job it belongs to.
  std::atomic<uint64_t> ticket{0};
  std::atomic<uint32_t> unfinished{0};
  std::atomic<uint32_t> sleepers{0};
  std::atomic<uint32_t> wakeups{0};
  std::atomic<bool> callerSleeps{false};
  std::atomic<bool> stopping{false};
  /// Of the current job; stable while any of its chunks is unfinished.
  int64_t count = 0;
  Body body = nullptr;
  const void* work = nullptr;
  std::vector<std::thread> workers;

  bool runOneChunk(int worker);
  void workerLoop(int worker);
  void waitForWork();
  void waitForOthers();
};

ThreadPool::ThreadPool(int threads)
    : threads_(threads > 0 ? threads : availableThreads()), state_(new State) {
  for (int worker = 1; worker < threads_; worker++) {
    state_->workers.emplace_back([this, worker] { state_->workerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true);
  state_->wakeups.fetch_add(1);
  state_->wakeups.notify_all();
  for (std::thread& thread : state_->workers) thread.join();
  delete state_;
}

void ThreadPool::dispatch(int64_t count, Body body, const void* work) {
  if (count > chunksMax) std::abort();
  State& state = *state_;
  state.count = count;
  state.body = body;
  state.work = work;
  state.unfinished.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
  const uint64_t generation = (state.ticket.load(std::memory_order_relaxed) >> 32) + 1;
  state.ticket.store(generation << 32 | static_cast<uint64_t>(count));
  if (state.sleepers.load() > 0) {
    state.wakeups.fetch_add(1);
    state.wakeups.notify_all();
  }
  while (state.runOneChunk(0)) {
  }
  state.waitForOthers();
}

/// Takes a chunk of the current job and runs it; false when none is left to take.
bool ThreadPool::State::runOneChunk(int worker) {
  uint64_t taken = ticket.load(std::memory_order_acquire);
  do {
    if (chunksLeft(taken) == 0) return false;
  } while (!ticket.compare_exchange_weak(taken, taken - 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire));
  body(work, count - chunksLeft(taken), worker);
  if (unfinished.fetch_sub(1) == 1 && callerSleeps.load()) unfinished.notify_one();
  return true;
}

void ThreadPool::State::workerLoop(int worker) {
  while (!stopping.load(std::memory_order_relaxed)) {
    if (!runOneChunk(worker)) waitForWork();
  }
}

void ThreadPool::State::waitForWork() {
  const auto ready = [this] {
    return chunksLeft(ticket.load(std::memory_order_relaxed)) > 0 ||
           stopping.load(std::memory_order_relaxed);
  };
  if (spinUntil(ready)) return;
  const uint32_t seen = wakeups.load();
  sleepers.fetch_add(1);
  // Between announcing itself and sleeping: work given out before the announcement is seen here,
  // work given out after it moves `wakeups` on, and then `wait` returns at once.
  if (chunksLeft(ticket.load()) == 0 && !stopping.load()) wakeups.wait(seen);
  sleepers.fetch_sub(1);
}

/// The caller gives up its core after a short spin: the chunk it waits for may belong to a thread
/// that lost its own core, and can then run here.
void ThreadPool::State::waitForOthers() {
  if (spinUntil([this] { return unfinished.load(std::memory_order_acquire) == 0; })) return;
  callerSleeps.store(true);
  for (uint32_t left = unfinished.load(); left != 0; left = unfinished.load()) {
    unfinished.wait(left);
  }
  callerSleeps.store(false);
}

}  // namespace sluice
