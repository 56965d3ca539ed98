#include "thread-pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

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

ThreadPool::ThreadPool(int threads) {
  const int wanted = threads > 0 ? threads : availableThreads();
  for (int worker = 1; worker < wanted; worker++) {
    workers_.emplace_back([this, worker] { workerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  wakeups_.fetch_add(1);
  wakeups_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::dispatch(int64_t count, Body body, const void* work) {
  if (count > chunksMax) std::abort();
  count_ = count;
  body_ = body;
  work_ = work;
  unfinished_.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
  const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(generation << 32 | static_cast<uint64_t>(count));
  if (sleepers_.load() > 0) {
    wakeups_.fetch_add(1);
    wakeups_.notify_all();
  }
  while (runOneChunk(0)) {
  }
  waitForOthers();
}

/// Takes a chunk of the current job and runs it; false when none is left to take.
bool ThreadPool::runOneChunk(int worker) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if (chunksLeft(ticket) == 0) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire));
  body_(work_, count_ - chunksLeft(ticket), worker);
  if (unfinished_.fetch_sub(1) == 1 && callerSleeps_.load()) unfinished_.notify_one();
  return true;
}

void ThreadPool::workerLoop(int worker) {
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (!runOneChunk(worker)) waitForWork();
  }
}

void ThreadPool::waitForWork() {
  const auto ready = [this] {
    return chunksLeft(ticket_.load(std::memory_order_relaxed)) > 0 ||
           stopping_.load(std::memory_order_relaxed);
  };
  if (spinUntil(ready)) return;
  const uint32_t seen = wakeups_.load();
  sleepers_.fetch_add(1);
  // Between announcing itself and sleeping: work given out before the announcement is seen here,
  // work given out after it moves `wakeups_` on, and then `wait` returns at once.
  if (chunksLeft(ticket_.load()) == 0 && !stopping_.load()) wakeups_.wait(seen);
  sleepers_.fetch_sub(1);
}

/// The caller gives up its core after a short spin: the chunk it waits for may belong to a thread
/// that lost its own core, and can then run here.
void ThreadPool::waitForOthers() {
  if (spinUntil([this] { return unfinished_.load(std::memory_order_acquire) == 0; })) return;
  callerSleeps_.store(true);
  for (uint32_t left = unfinished_.load(); left != 0; left = unfinished_.load()) {
    unfinished_.wait(left);
  }
  callerSleeps_.store(false);
}

}  // namespace sluice
